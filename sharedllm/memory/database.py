"""The SQLite file of a memory: opening, transactions, and the meaning of its errors."""

from __future__ import annotations

import atexit
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from sharedllm.errors import (
    TreeMemoryBusyError,
    TreeMemoryDamagedError,
    TreeMemoryError,
    TreeMemoryFormatError,
    TreeMemoryMismatchError,
)
from sharedllm.memory import MEMORY_FILE as FILE
from sharedllm.memory import folder as folders
from sharedllm.memory.disks import journal_of
from sharedllm.memory.records import set_value, value_of
from sharedllm.memory.schema import (
    APPLICATION_ID,
    OLDEST_VERSION,
    SCHEMA,
    SCHEMA_VERSION,
    bring_up_to_date,
    require_own_schema,
    version_of,
)

AGAIN = "restore it from a copy, or index the documents again into a new folder"
PAGE_BYTES = 16384  # search vectors of a chunk take 64 KB (docs/experiments.md, 30)
LARGEST_WAL = 64 << 20  # that is left on the disk after a checkpoint
AT_EXIT_S = 1  # that the end of the process waits for a transaction of another thread
UNREADABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
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

    Where the file cannot be written, it is read as it stands if nobody has it open; SQLite's locks
    would need files beside it. Should it change meanwhile, the reader is told.

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
        self._process = os.getpid()  # that made the connection
        self._writable = True
        self._state: tuple[int, ...] | None = None  # of a file that is read as it stands
        folders.require_own(folder, create=create)
        with self._meaning():
            if create:
                new = [path for path in (folder, *folder.parents) if not path.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                for path in new:
                    folders.sync(path.parent)
            self._connection: sqlite3.Connection | None = self._connect(create=create)
        _open.add(self)

    def close(self) -> None:
        """Let go of the file; harmless when done twice.

        The last one to do so, of all processes, leaves nothing beside the file.
        """
        if self._connection is not None and self._process != os.getpid():
            return  # it is the parent's
        with self._lock:
            self._closed = True
            self._disconnect()

    def close_at_exit(self) -> None:
        """As :meth:`close`, unless another thread is at work."""
        if self._process == os.getpid() and self._lock.acquire(timeout=AT_EXIT_S):
            try:
                self._disconnect()
            finally:
                self._lock.release()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One snapshot; within a transaction of this thread, that one.

        Raises
        ------
        TreeMemoryBusyError
            Where the memory cannot be written, and was changed by others meanwhile.
        """
        self._require_own_process()
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
                    self._require_unchanged()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end of the block, undone by an error in it.

        Raises
        ------
        TreeMemoryBusyError
            If another writer does not finish in time.
        TreeMemoryError
            Where the memory can only be read.
        """
        self._require_own_process()
        with self._lock, self._meaning():
            connection = self._here()
            self._require_writable()
            if self._depth:
                raise TreeMemoryError(
                    "a write was begun inside of another transaction of this memory"
                )
            connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                self._require_expected(connection)
                folders.sign(self.folder)
                bring_up_to_date(connection)
                yield connection
                connection.execute("COMMIT")
            finally:
                self._depth = 0
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def vacuum(self) -> None:
        """Give the space of deleted rows back to the disk."""
        self._require_own_process()
        with self._lock, self._meaning():
            connection = self._here()
            self._require_writable()
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def manifest(self) -> str | None:
        """The manifest as it stands in the file; None in a memory that is new."""
        self._require_own_process()
        with self._lock, self._meaning():
            return value_of(self._here(), "manifest")

    def found(self, manifest: str) -> str:
        """Give a new memory its manifest; return that of the first process to do so."""
        with self.write() as connection:
            there = value_of(connection, "manifest")
            if there is None:
                set_value(connection, "manifest", manifest)
            return there or manifest

    @property
    def is_writable(self) -> bool:
        """False where the memory can only be read."""
        return self._writable

    def _here(self) -> sqlite3.Connection:
        if self._closed:
            raise TreeMemoryError(f"the memory in {str(self.folder)!r} was closed; open it again")
        if self._state is not None and not self._depth and self._state != self._now():
            self._disconnect()  # it was changed since: what SQLite remembers of it is wrong
        if self._connection is None:
            self._connection = self._connect(create=False)
        return self._connection

    def _connect(self, *, create: bool) -> sqlite3.Connection:
        _require_not_inherited(self.folder)
        file = self.folder / FILE
        self._writable = (create and not file.exists()) or folders.is_writable(self.folder)
        self._process, self._state = os.getpid(), None
        name, uri = str(file), not self._writable
        if uri:
            name = f"{file.resolve().as_uri()}?mode=ro"
            if not folders.is_unfinished(self.folder):
                self._state = self._now()
                name += "&immutable=1"
        elif file.exists():
            folders.require_one_name(self.folder)
        connection = sqlite3.connect(
            name, uri=uri, timeout=self._busy_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection, create=create and self._writable)
        except BaseException:
            connection.close()
            raise
        return connection

    def _now(self) -> tuple[int, ...]:
        return folders.state_of(self.folder)

    def _require_unchanged(self) -> None:
        if self._state is not None and self._state != self._now():
            raise TreeMemoryBusyError(
                f"the memory in {str(self.folder)!r} was changed while it was read, and cannot be "
                "locked here, where it cannot be written; try again"
            )

    def _require_writable(self) -> None:
        if not self._writable:
            raise TreeMemoryError(
                f"the memory in {str(self.folder)!r} cannot be written here (permissions, or a "
                "read-only disk) and was not changed; copy the folder to where you can write, and "
                "change the copy"
            )

    def _require_own_process(self) -> None:
        """Refuse a connection of the parent's, after a fork that :meth:`before_fork` missed."""
        if self._connection is not None and self._process != os.getpid():
            raise _inherited(self.folder)

    def _prepare(self, connection: sqlite3.Connection, *, create: bool) -> None:
        # the file may be a stranger's: https://sqlite.org/security.html
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA foreign_keys = OFF")  # verify checks them; deletes stay cheap
        # not mapped: a file that another program cuts short would end the process
        connection.execute("PRAGMA mmap_size = 0").fetchall()
        connection.execute(f"PRAGMA journal_size_limit = {LARGEST_WAL}").fetchall()
        if create and not _is_made(connection):
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute(f"PRAGMA journal_mode = {journal_of(self.folder)}").fetchall()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if not _is_made(connection):  # another process may have been faster
                for statement in SCHEMA:
                    connection.execute(statement)
                set_value(connection, "generation", "0")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        elif self._writable and journal_of(self.folder) == "DELETE":  # it may have been moved here
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        if not self._writable:
            connection.execute("PRAGMA temp_store = MEMORY")  # there may be no other place
        _require_version(connection, self.folder)
        require_own_schema(connection, self.folder)

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
        if not self._depth:
            self._disconnect()

    def after_fork(self, *, child: bool) -> None:
        """Go on; a child of a fork inside of a transaction cannot use the memory."""
        if child and self._depth:
            # kept: closing it would end the parent's transaction
            _abandoned.append((self._connection, folders.file_of(self.folder)))
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
                f"the memory in {where} is being written by {folders.signed(self.folder)}; waited "
                f"{self._busy_s:g} s: try again when it is done, or raise busy_s"
            )
        if code in UNREADABLE and not self._writable and folders.is_unfinished(self.folder):
            return TreeMemoryError(
                f"the memory in {where} was not closed when it was last written: its last changes "
                "are in a log, which cannot be read where nothing can be written. Copy the folder "
                "to where you can write, open it there once (sharedllm docs), and copy it back"
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


# -- files -----------------------------------------------------------------------------------------


def _is_made(connection: sqlite3.Connection) -> bool:
    """True when the file holds anything at all."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return bool(tables) or connection.execute("PRAGMA application_id").fetchone()[0] != 0


def _require_version(connection: sqlite3.Connection, folder: Path) -> None:
    where = repr(str(folder))
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = version_of(connection)
    if application != APPLICATION_ID:
        raise TreeMemoryFormatError(
            f"{FILE} in {where} belongs to another program (application id {application:#x}); "
            "name the folder of a memory"
        )
    if not OLDEST_VERSION <= version <= SCHEMA_VERSION:
        raise TreeMemoryFormatError(
            f"the memory in {where} has format version {version}; this sharedllm reads versions "
            f"{OLDEST_VERSION} to {SCHEMA_VERSION}: index the documents again into a new folder, "
            "or use the sharedllm that made it"
        )


# -- forks -----------------------------------------------------------------------------------------

# SQLite's locks are those of a process, and it remembers by file which it holds. A child believes
# to hold the locks of a connection that it has from its parent, so it must not use the file at all:
# the parent would take the log away in which the child writes.

_open: weakref.WeakSet[Database] = weakref.WeakSet()
_forks = threading.RLock()  # one fork at a time
_forking: list[Database] | None = None  # those whose locks the forking thread holds
_abandoned: list[tuple[object, tuple[int, int]]] = []  # connections of a parent, and their files


@contextmanager
def read_all(databases: Sequence[Database]) -> Iterator[list[sqlite3.Connection]]:
    """One snapshot of each.

    A fork takes the locks of all databases, too: it waits until these are taken, or each would wait
    for the other.
    """
    with ExitStack() as held:
        with _forks if len(databases) > 1 else nullcontext():
            connections = [held.enter_context(one.read()) for one in databases]
        yield connections


def _require_not_inherited(folder: Path) -> None:
    """Refuse a file of which this process has a connection that its parent made."""
    file = folders.file_of(folder)
    inherited = [own for _, own in _abandoned]
    for database in list(_open):
        if database._connection is not None and database._process != os.getpid():
            inherited.append(folders.file_of(database.folder))
    if file != (0, 0) and file in inherited:
        raise _inherited(folder)


def _inherited(folder: Path) -> TreeMemoryError:
    return TreeMemoryError(
        f"the memory in {str(folder)!r} was in use when this process was forked from its parent, "
        "and cannot be used here: what is written could be lost. Fork before the memory is opened "
        "or while it is at rest, or begin processes by multiprocessing's 'spawn'"
    )


def _before_fork() -> None:
    global _forking
    _forks.acquire()
    _forking = list(_open)
    for database in _forking:
        database.before_fork()


def _after_fork(*, child: bool) -> None:
    global _forking
    if _forking is None:  # C code forked, and told Python only afterwards
        return
    for database in _forking:
        database.after_fork(child=child)
    _forking = None
    _forks.release()


def _close_all() -> None:
    """Leave no log beside a memory that nobody closed, so that it can be copied and read."""
    for database in list(_open):
        database.close_at_exit()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(child=False),
        after_in_child=lambda: _after_fork(child=True),
    )
