"""The SQLite file of a memory: opening, transactions, and the meaning of its errors."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharedllm.errors import (
    TreeMemoryBusyError,
    TreeMemoryDamagedError,
    TreeMemoryError,
    TreeMemoryFormatError,
    TreeMemoryMismatchError,
)
from sharedllm.memory import MEMORY_FILE as FILE
from sharedllm.memory.tables import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, set_value, value_of

AGAIN = "restore it from a copy, or index the documents again into a new folder"
WRITER = "writer.json"  # names who holds the write lock, or held it last: for messages only
INDEX = "index"  # folder of the prefilter's FAISS index
OWN = (
    FILE,
    f"{FILE}-wal",
    f"{FILE}-shm",
    f"{FILE}-journal",
    WRITER,
    INDEX,
)
PAGE_BYTES = 16384  # search vectors of a chunk take 64 KB (docs/experiments.md, 30)
LARGEST_WAL = 64 << 20  # that is left on the disk after a checkpoint
DAMAGE = (  # what SQLite says of statements that are right, in a file that is not
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
)


class Database:
    """One connection to the file, used by one thread at a time.

    Reading sees one snapshot from the beginning to the end of a :meth:`read`. Writing is one
    transaction, and excludes other writers; readers go on with what they saw.

    Parameters
    ----------
    folder : of the memory; made here when it is not there
    create : a new memory may be made
    busy_s : seconds to wait for another writer

    Raises
    ------
    TreeMemoryFormatError
        If the folder holds something else or another version of the format. Nothing is written.
    TreeMemoryError
        If there is no memory and `create` is false, or the folder cannot be used.
    """

    def __init__(self, folder: Path, *, create: bool, busy_s: float) -> None:
        self.folder, self._busy_s = folder, busy_s
        self._lock = threading.RLock()
        self._depth = 0
        self.expected: str | None = None  # the manifest, once it is known
        self._closed = False
        _require_own(folder, create=create)
        with self._meaning():
            if create:
                new = [path for path in (folder, *folder.parents) if not path.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                for path in new:
                    _sync_folder(path.parent)
            self._connection: sqlite3.Connection | None = self._connect(create=create)
        _open.add(self)

    def close(self) -> None:
        """Let go of the file; harmless when done twice."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

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
        TreeMemoryBusyError
            If another writer does not finish in time.
        """
        with self._lock, self._meaning():
            connection = self._here()
            if self._depth:
                raise TreeMemoryError(
                    "a write was begun inside of another transaction of this memory"
                )
            connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                self._require_expected(connection)
                self._sign()
                yield connection
                connection.execute("COMMIT")
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

    def manifest(self) -> str | None:
        """The manifest as it stands in the file; None in a memory that is new."""
        with self._lock, self._meaning():
            return value_of(self._here(), "manifest")

    def found(self, manifest: str) -> str:
        """Give a new memory its manifest; return that of the first process to do so."""
        with self.write() as connection:
            there = value_of(connection, "manifest")
            if there is None:
                set_value(connection, "manifest", manifest)
            return there or manifest

    def _here(self) -> sqlite3.Connection:
        if self._closed:
            raise TreeMemoryError(f"the memory in {str(self.folder)!r} was closed; open it again")
        if self._connection is None:
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
        # not mapped: a file that another program cuts short would end the process
        connection.execute("PRAGMA mmap_size = 0").fetchall()
        connection.execute(f"PRAGMA journal_size_limit = {LARGEST_WAL}").fetchall()
        if create and not _is_made(connection):
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if not _is_made(connection):  # another process may have been faster
                for statement in SCHEMA:
                    connection.execute(statement)
                set_value(connection, "generation", "0")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        connection.execute("PRAGMA synchronous = FULL")
        _require_version(connection, self.folder)

    def _require_expected(self, connection: sqlite3.Connection) -> None:
        """Refuse to go on with a memory that was rebuilt since it was opened."""
        if self.expected is not None and value_of(connection, "manifest") != self.expected:
            raise TreeMemoryMismatchError(
                f"the memory in {str(self.folder)!r} was rebuilt with another model or other "
                "settings since it was opened; open it again"
            )

    # -- forks ---------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close the connection, which must not be carried over a fork; :meth:`read` opens it again.

        SQLite's locks belong to the process that took them. A child that used the connection would
        write into files that the parent believes to be its own. Transactions of other threads are
        waited for.
        """
        self._lock.acquire()
        if self._connection is not None and not self._depth:
            self._connection.close()
            self._connection = None

    def after_fork(self, *, child: bool) -> None:
        """Go on; a child of a fork inside of a transaction must open the memory itself."""
        if child and self._depth:
            _abandoned.append(self._connection)  # closing it would end the parent's transaction
            self._connection, self._closed, self._depth = None, True, 0
        self._lock.release()

    # -- errors --------------------------------------------------------------------------------

    @contextmanager
    def _meaning(self) -> Iterator[None]:
        """Say what an error of SQLite or of the disk means."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise self._damaged(error) from error
        except OSError as error:
            raise TreeMemoryError(
                f"the memory in {str(self.folder)!r} cannot be used: {error.strerror or error}; "
                "nothing that was committed is lost. Free the disk or check the permissions"
            ) from error

    def _translated(self, error: sqlite3.Error) -> TreeMemoryError:
        where = repr(str(self.folder))
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return TreeMemoryBusyError(
                f"the memory in {where} is being written by {self._writer()}; waited "
                f"{self._busy_s:g} s: try again when it is done, or raise busy_s"
            )
        if code == sqlite3.SQLITE_NOTADB:
            return TreeMemoryFormatError(f"{FILE} in {where} is not an SQLite file, or is damaged")
        # Python gives no code for a text that is not UTF-8
        if code in DAMAGE or "Could not decode" in str(error):
            return self._damaged(error)
        return TreeMemoryError(
            f"the memory in {where} cannot be used: {error}; nothing that was committed is lost. "
            "Free the disk or check the permissions"
        )

    def _damaged(self, error: Exception) -> TreeMemoryDamagedError:
        return TreeMemoryDamagedError(
            f"{FILE} in {str(self.folder)!r} is damaged ({error}); sharedllm verify --repair mends "
            f"its indexes; where that does not help, {AGAIN}"
        )

    def _sign(self) -> None:
        """Leave a note naming this writer, for the message of those that wait; it may fail."""
        note = {"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with suppress(OSError):
            file = os.open(self.folder / WRITER, flags, 0o666)
            try:
                os.write(file, json.dumps(note).encode())
            finally:
                os.close(file)

    def _writer(self) -> str:
        try:
            note = json.loads((self.folder / WRITER).read_text(encoding="utf-8"))
            return f"process {int(note['process'])} on {str(note['host'])[:100]!r}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


# -- folders ---------------------------------------------------------------------------------------


def _is_made(connection: sqlite3.Connection) -> bool:
    """True when the file holds anything at all."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return bool(tables) or connection.execute("PRAGMA application_id").fetchone()[0] != 0


def _require_own(folder: Path, *, create: bool) -> None:
    """Refuse a folder that is not a memory before anything is written in it."""
    where = repr(str(folder))
    if not folder.exists():
        if create:
            return
        raise TreeMemoryError(f"there is no memory in {where}: the folder does not exist")
    if not folder.is_dir():
        raise TreeMemoryFormatError(f"{where} is a file; a memory is a folder: name another path")
    try:
        held = {path.name: path.lstat().st_mode for path in sorted(folder.iterdir())}
    except OSError as error:
        raise TreeMemoryError(f"{where} cannot be read: {error.strerror or error}") from error
    for name in OWN:
        plain = stat.S_ISDIR if name == INDEX else stat.S_ISREG
        if name in held and not plain(held[name]):
            kind = "a link" if stat.S_ISLNK(held[name]) else "something else"
            raise TreeMemoryFormatError(
                f"{name} is {kind} in {where}, and a memory keeps to its own folder; link to the "
                "whole folder in place of its parts"
            )
    if FILE not in held:
        if create and set(held) <= set(OWN):
            return
        found = f"it holds {min(held)!r}" if held else "it is empty"
        raise TreeMemoryFormatError(
            f"{where} is no memory: {found} and no {FILE}; name the folder of a memory"
            + (", or one that is new or empty" if create else "")
        )


def _require_version(connection: sqlite3.Connection, folder: Path) -> None:
    where = repr(str(folder))
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise TreeMemoryFormatError(
            f"{FILE} in {where} belongs to another program (application id {application:#x}); "
            "name the folder of a memory"
        )
    if version != SCHEMA_VERSION:
        raise TreeMemoryFormatError(
            f"the memory in {where} has format version {version}; this sharedllm reads version "
            f"{SCHEMA_VERSION}: index the documents again into a new folder, or use the "
            "sharedllm that made it"
        )


def _sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


# -- forks -----------------------------------------------------------------------------------------

_open: weakref.WeakSet[Database] = weakref.WeakSet()
_forks = threading.RLock()  # one fork at a time
_forking: list[Database] = []  # whose locks the forking thread holds
_abandoned: list[object] = []  # connections of a parent, which a child never closes


def _before_fork() -> None:
    _forks.acquire()
    _forking[:] = list(_open)
    for database in _forking:
        database.before_fork()


def _after_fork(*, child: bool) -> None:
    for database in _forking:
        database.after_fork(child=child)
    _forking.clear()
    _forks.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(child=False),
        after_in_child=lambda: _after_fork(child=True),
    )
