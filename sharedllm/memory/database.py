"""The SQLite file of a tree memory: opening, transactions, and what its errors mean."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharedllm.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFormatError,
    StoreMismatchError,
)
from sharedllm.memory.orphans import remove_orphans
from sharedllm.memory.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION

FILE = "memory.sqlite"
AGAIN = "restore it from a copy, or index the documents again into a new folder"
WRITER = "writer.json"  # who holds the write lock, or held it last: for messages only
OWN = (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal", WRITER, "shards", "index")


class Database:
    """One connection to the file, used by one thread at a time.

    Reading sees one snapshot from the beginning to the end of a :meth:`read`. Writing is one
    transaction, and excludes other writers; readers go on with what they saw.

    Parameters
    ----------
    folder : of the tree memory; made here when it is not there
    create : a new memory may be made
    busy_s : seconds to wait for another writer

    Raises
    ------
    StoreFormatError
        If the folder holds something else or another version of the format. Nothing is written.
    StoreError
        If there is no memory and `create` is false, or the folder cannot be used.
    """

    def __init__(self, folder: Path, *, create: bool, busy_s: float) -> None:
        self.folder, self._busy_s = folder, busy_s
        self._lock = threading.RLock()
        self._depth = 0
        self._tidy = False  # no files are left that nothing names
        self.expected: str | None = None  # the manifest, once it is known
        self._left_to_parent: list[sqlite3.Connection] = []
        _require_own(folder, create=create)
        with self._meaning():
            if create:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "shards").mkdir(exist_ok=True)
            self._connection = self._connect(create=create)
        self._process = os.getpid()

    def close(self) -> None:
        """Let go of the file; harmless when done twice."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One snapshot; within a transaction of this thread, that one."""
        with self._lock, self._meaning():
            connection = self._here()
            if not self._depth:
                connection.execute("BEGIN")
            self._depth += 1
            try:
                if self._depth == 1:
                    self._require_expected(connection)
                yield connection
            finally:
                self._depth -= 1
                if not self._depth:
                    connection.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end of the block, undone by an error in it.

        Raises
        ------
        StoreBusyError
            If another writer does not finish in time.
        """
        with self._lock, self._meaning():
            connection = self._here()
            if self._depth:
                raise StoreError("a write was begun inside of another transaction of this memory")
            connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                self._require_expected(connection)
                self._sign()
                if not self._tidy:  # what a writer that was killed has left
                    remove_orphans(self.folder, connection)
                self._tidy = False
                yield connection
                connection.execute("COMMIT")
                self._tidy = True
            finally:
                self._depth = 0
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def vacuum(self) -> None:
        """Give the space of deleted rows back to the disk."""
        with self._lock, self._meaning():
            connection = self._here()
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _here(self) -> sqlite3.Connection:
        """The connection of this process: SQLite's do not survive a fork."""
        if os.getpid() != self._process:
            self._left_to_parent.append(self._connection)
            self._depth, self._process = 0, os.getpid()
            self._connection = self._connect(create=False)
        return self._connection

    def _connect(self, *, create: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.folder / FILE,
            timeout=self._busy_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(connection, create=create)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, *, create: bool) -> None:
        connection.execute("PRAGMA foreign_keys = OFF")  # verify checks them; deletes stay cheap
        if create and not _is_made(connection):
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if not _is_made(connection):  # another process may have been faster
                for statement in SCHEMA:
                    connection.execute(statement)
                connection.execute("INSERT INTO manifest VALUES ('generation', '0')")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        connection.execute("PRAGMA synchronous = FULL")
        _require_version(connection, self.folder)

    def manifest(self) -> str | None:
        """The manifest as it stands in the file; None in a memory that is new."""
        with self._lock, self._meaning():
            return _manifest(self._here())

    def found(self, manifest: str) -> str:
        """Give a new memory its manifest; return that of whoever was first."""
        with self.write() as connection:
            connection.execute("INSERT OR IGNORE INTO manifest VALUES ('manifest', ?)", (manifest,))
            return _manifest(connection) or manifest

    def _require_expected(self, connection: sqlite3.Connection) -> None:
        """Refuse to go on with a memory that somebody rebuilt since it was opened."""
        if self.expected is not None and _manifest(connection) != self.expected:
            raise StoreMismatchError(
                f"the memory in {str(self.folder)!r} was rebuilt with another model or other "
                "settings since it was opened; open it again"
            )

    @contextmanager
    def _meaning(self) -> Iterator[None]:
        """Say what an error of SQLite or of the disk means."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise StoreDamagedError(
                f"{FILE} in {str(self.folder)!r} is damaged ({error}); {AGAIN}"
            ) from error
        except OSError as error:
            raise StoreError(
                f"the memory in {str(self.folder)!r} cannot be used: {error.strerror or error}; "
                "nothing that was committed is lost. Free the disk or check the permissions"
            ) from error

    def _translated(self, error: sqlite3.Error) -> StoreError:
        where = repr(str(self.folder))
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreBusyError(
                f"the memory in {where} is being written by {self._writer()}; waited "
                f"{self._busy_s:g} s: try again when it is done, or raise busy_s"
            )
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
            return StoreError(f"the memory in {where} was closed; open it again")
        if code == sqlite3.SQLITE_NOTADB:
            return StoreFormatError(f"{FILE} in {where} is not an SQLite file, or is damaged")
        if code == sqlite3.SQLITE_CORRUPT:
            return StoreDamagedError(f"{FILE} in {where} is damaged ({error}); {AGAIN}")
        return StoreError(
            f"the memory in {where} cannot be used: {error}; nothing that was committed is lost. "
            "Free the disk or check the permissions"
        )

    def _sign(self) -> None:
        """Leave a note of who writes, for the message of those that wait; it may fail."""
        note = {"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        with suppress(OSError):
            (self.folder / WRITER).write_text(json.dumps(note), encoding="utf-8")

    def _writer(self) -> str:
        try:
            note = json.loads((self.folder / WRITER).read_text(encoding="utf-8"))
            return f"process {int(note['process'])} on {str(note['host'])[:100]!r}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def _manifest(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT value FROM manifest WHERE name = 'manifest'").fetchone()
    return None if row is None else str(row[0])


def _is_made(connection: sqlite3.Connection) -> bool:
    """Whether the file holds anything at all."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return bool(tables) or connection.execute("PRAGMA application_id").fetchone()[0] != 0


def _require_own(folder: Path, *, create: bool) -> None:
    """Refuse a folder that is no memory before anything is written in it."""
    where = repr(str(folder))
    if not folder.exists():
        if create:
            return
        raise StoreError(f"there is no memory in {where}: the folder does not exist")
    if not folder.is_dir():
        raise StoreFormatError(f"{where} is a file; a memory is a folder: name another path")
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise StoreError(f"{where} cannot be read: {error.strerror or error}") from error
    for name in ("shards", "index", FILE):
        if (folder / name).is_symlink():
            raise StoreFormatError(
                f"{name} is a link in {where}, and a memory keeps to its own folder; link to the "
                "whole folder in place of its parts"
            )
    if FILE not in names:
        if create and set(names) <= set(OWN):
            return
        held = f"it holds {names[0]!r}" if names else "it is empty"
        raise StoreFormatError(
            f"{where} is no memory: {held} and no {FILE}; name the folder of a memory"
            + (", or one that is new or empty" if create else "")
        )


def _require_version(connection: sqlite3.Connection, folder: Path) -> None:
    where = repr(str(folder))
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise StoreFormatError(
            f"{FILE} in {where} belongs to another program (application id {application:#x}); "
            "name the folder of a memory"
        )
    if version != SCHEMA_VERSION:
        raise StoreFormatError(
            f"the memory in {where} has format version {version}; this sharedllm reads version "
            f"{SCHEMA_VERSION}: index the documents again into a new folder, or use the "
            "sharedllm that made it"
        )
