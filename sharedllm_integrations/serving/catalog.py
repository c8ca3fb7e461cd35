"""A tenant's files and vector stores: what was uploaded, and what is to be read, on disk.

An upload is acknowledged when its bytes and its row are on disk. A vector store is a folder of a
memory; the rows here say what it is called, and which files it is to hold. What it does hold, its
memory says. Several processes may use a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from sharedllm.memory.disks import journal_of
from sharedllm_integrations.serving.faults import ServingError, not_found

MAIN = "vs_main"  # the tenant's own memory, which lies in its folder
DATABASE = "server.sqlite"
UPLOADED = re.compile(r"file-[0-9a-f]{24}\Z")  # an upload's id, and that of its documents
SUFFIX = re.compile(r"\.[a-z0-9]{1,8}\Z")
PIECE = 1 << 20
UNFINISHED = ".part"
UNFINISHED_S = 3600  # seconds after which nobody writes to bytes that have no row
BUSY_S = 30.0  # seconds to wait for another process that writes
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, filename TEXT NOT NULL, suffix TEXT NOT NULL, bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL, purpose TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS stores (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL, metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL, active_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, store TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    store TEXT NOT NULL, file TEXT NOT NULL, attributes TEXT NOT NULL, status TEXT NOT NULL,
    code TEXT, message TEXT, batch TEXT, created_at INTEGER NOT NULL, PRIMARY KEY (store, file));
CREATE INDEX IF NOT EXISTS unread ON members (status) WHERE status = 'in_progress';
CREATE TABLE IF NOT EXISTS readings (
    store TEXT NOT NULL, file TEXT NOT NULL, tokens_read INTEGER NOT NULL, tokens INTEGER,
    PRIMARY KEY (store, file));
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, previous TEXT, input TEXT NOT NULL, response TEXT NOT NULL,
    created_at INTEGER NOT NULL);
"""
ACTIVE_S = 60  # seconds within which a vector store's use is noted once
KEPT_S = 30 * 86_400  # seconds that responses are kept, as OpenAI keeps them


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An uploaded file."""

    id: str
    filename: str
    suffix: str
    bytes: int
    sha256: str
    purpose: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Store:
    """A vector store.

    Attributes
    ----------
    active_at : when it was last searched, or changed; exact to a minute
    """

    id: str
    name: str
    description: str
    metadata: dict[str, str]
    created_at: int
    active_at: int


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a vector store.

    Attributes
    ----------
    status : "in_progress", "completed", "failed" or "cancelled"
    code, message : why it failed
    """

    store: str
    file: str
    attributes: dict[str, Any]
    status: str
    code: str | None
    message: str | None
    batch: str | None
    created_at: int


class Catalog:
    """The rows and uploads in a folder. It may be used from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._uploads = folder / "files"
        self._uploads.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            folder / DATABASE, check_same_thread=False, isolation_level=None, timeout=BUSY_S
        )
        self._connection.execute(f"PRAGMA journal_mode={journal_of(folder)}")
        self._connection.execute("PRAGMA synchronous=FULL")  # acknowledged is on disk
        self._connection.executescript(SCHEMA)
        self._remove_unacknowledged()

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._connection.close()

    # -- files -----------------------------------------------------------------------------------

    def keep(self, data: IO[bytes], filename: str, purpose: str, most: int) -> StoredFile:
        """Write an upload to disk; when this returns, a crash does not lose it.

        Raises
        ------
        ServingError
            If it is empty, or has more than `most` bytes.
        """
        id = f"file-{secrets.token_hex(12)}"
        found = SUFFIX.search(filename.lower())
        suffix = found[0] if found else ""
        part = self._uploads / f"{id}{UNFINISHED}"
        digest, size = hashlib.sha256(), 0
        try:
            with part.open("xb") as out:
                while piece := data.read(PIECE):
                    size += len(piece)
                    if size > most:
                        raise ServingError(
                            f"the file has more than {most:,} bytes, which is the most that this "
                            "server takes; divide it",
                            status=413,
                            code="file_too_large",
                            param="file",
                        )
                    digest.update(piece)
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            if not size:
                raise ServingError("the file is empty; upload one with text", param="file")
            part.replace(self._uploads / f"{id}{suffix}")
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(self._uploads)
        made = StoredFile(id, filename, suffix, size, digest.hexdigest(), purpose, int(time.time()))
        row = [getattr(made, name) for name in StoredFile.__slots__]
        self._write("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return made

    def file(self, id: str) -> StoredFile:
        """The file called `id`.

        Raises
        ------
        ServingError
            With 404, if it is not there.
        """
        rows = self._rows("SELECT * FROM files WHERE id = ?", [id])
        if not rows:
            raise not_found("file", id)
        return StoredFile(*rows[0])

    def files(self, purpose: str | None = None) -> list[StoredFile]:
        """All files, the oldest first."""
        rows = self._rows("SELECT * FROM files ORDER BY rowid")
        found = [StoredFile(*row) for row in rows]
        return [one for one in found if purpose in (None, one.purpose)]

    def path(self, file: StoredFile) -> Path:
        """The place of an upload's bytes."""
        return self._uploads / f"{file.id}{file.suffix}"

    def forget_file(self, id: str) -> list[str]:
        """Remove an upload, and give the stores that held it."""
        file = self.file(id)
        with self._lock, self._transaction():
            stores = [row[0] for row in self._rows("SELECT store FROM members WHERE file=?", [id])]
            self._connection.execute("DELETE FROM members WHERE file = ?", [id])
            self._connection.execute("DELETE FROM files WHERE id = ?", [id])
        self.path(file).unlink(missing_ok=True)
        return stores

    # -- vector stores ---------------------------------------------------------------------------

    def add_store(self, name: str, description: str, metadata: Mapping[str, str]) -> Store:
        """Make a vector store; its memory is made when the first file is read."""
        id, now = f"vs_{secrets.token_hex(12)}", int(time.time())
        row = [id, name, description, json.dumps(dict(metadata)), now, now]
        self._write("INSERT INTO stores VALUES (?, ?, ?, ?, ?, ?)", row)
        return self.store(id)

    def add_main(self, name: str) -> None:
        """Name the tenant's own memory, where that was not done before."""
        now = int(time.time())
        row = [MAIN, name, "", "{}", now, now]
        self._write("INSERT OR IGNORE INTO stores VALUES (?, ?, ?, ?, ?, ?)", row)

    def note_active(self, stores: Sequence[str]) -> None:
        """Note that vector stores are used now, once a minute at most: it writes to disk."""
        now = int(time.time())
        old = [id for id in stores if self.store(id).active_at < now - ACTIVE_S]
        for id in old:
            self._write("UPDATE stores SET active_at = ? WHERE id = ?", [now, id])

    def store(self, id: str) -> Store:
        """The vector store called `id`.

        Raises
        ------
        ServingError
            With 404, if it is not there.
        """
        rows = self._rows("SELECT * FROM stores WHERE id = ?", [id])
        if not rows:
            raise not_found("vector store", id)
        id, name, description, metadata, *times = rows[0]
        return Store(id, name, description, json.loads(metadata), *times)

    def stores(self) -> list[Store]:
        """All vector stores, the oldest first."""
        return [self.store(row[0]) for row in self._rows("SELECT id FROM stores ORDER BY rowid")]

    def change_store(self, id: str, **changes: Any) -> Store:
        """Give a vector store another name, description or other metadata; None leaves it."""
        new = replace(self.store(id), **{k: v for k, v in changes.items() if v is not None})
        row = [new.name, new.description, json.dumps(new.metadata), int(time.time()), id]
        sql = (
            "UPDATE stores SET name = ?, description = ?, metadata = ?, active_at = ? WHERE id = ?"
        )
        self._write(sql, row)
        return self.store(id)

    def forget_store(self, id: str) -> None:
        """Remove a vector store's rows.

        Raises
        ------
        ServingError
            If it is the tenant's own memory, or not there.
        """
        self.store(id)
        if id == MAIN:
            raise ServingError(
                f"{MAIN} is the memory that this server was started with; delete its files, or "
                "another vector store"
            )
        with self._lock, self._transaction():
            for table, column in (("members", "store"), ("batches", "store"), ("stores", "id")):
                self._connection.execute(f"DELETE FROM {table} WHERE {column} = ?", [id])

    # -- files of vector stores ------------------------------------------------------------------

    def add_members(
        self, store: str, files: Sequence[tuple[str, Mapping[str, Any]]], *, batch: bool = False
    ) -> str | None:
        """Have files read into a vector store, all of them or (if one is not there) none.

        Returns the id of their batch, if they are one.
        """
        self.store(store)
        for id, _ in files:
            self.file(id)
        now, name = int(time.time()), f"vsfb_{secrets.token_hex(12)}" if batch else None
        with self._lock, self._transaction():
            if name:
                self._connection.execute("INSERT INTO batches VALUES (?, ?, ?)", [name, store, now])
            for id, attributes in files:
                self._connection.execute(
                    "INSERT OR REPLACE INTO members VALUES "
                    "(?, ?, ?, 'in_progress', NULL, NULL, ?, ?)",
                    [store, id, json.dumps(dict(attributes)), name, now],
                )
        return name

    def member(self, store: str, file: str) -> Member | None:
        """The row of a file in a vector store, or None."""
        rows = self._rows("SELECT * FROM members WHERE store = ? AND file = ?", [store, file])
        return _member(rows[0]) if rows else None

    def members(self, store: str, batch: str | None = None) -> list[Member]:
        """The files of a vector store, or of a batch of them, the oldest first."""
        rows = self._rows("SELECT * FROM members WHERE store = ? ORDER BY rowid", [store])
        return [one for one in map(_member, rows) if batch in (None, one.batch)]

    def next_unread(self) -> Member | None:
        """The oldest file that is still to be read."""
        sql = "SELECT * FROM members WHERE status = 'in_progress' ORDER BY rowid LIMIT 1"
        rows = self._rows(sql)
        return _member(rows[0]) if rows else None

    def count_unread(self) -> int:
        """The number of files that are still to be read."""
        [[count]] = self._rows("SELECT count(*) FROM members WHERE status = 'in_progress'")
        return int(count)

    def note_progress(self, member: Member, tokens_read: int, tokens: int | None) -> None:
        """Note how far a file is read, for all processes; `tokens` is None until it is counted."""
        row = [member.store, member.file, tokens_read, tokens]
        self._write("INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?)", row)

    def progress(self, store: str, file: str) -> tuple[int, int | None]:
        """The tokens of a file that are read, of all; None before they are counted."""
        sql = "SELECT tokens_read, tokens FROM readings WHERE store = ? AND file = ?"
        rows = self._rows(sql, [store, file])
        return (int(rows[0][0]), rows[0][1]) if rows else (0, None)

    def settle(
        self, member: Member, status: str, code: str | None = None, message: str | None = None
    ) -> bool:
        """Note how the reading of a file ended; False if it is not wanted any more."""
        key = [member.store, member.file]
        with self._lock, self._transaction():
            changed = self._connection.execute(
                "UPDATE members SET status = ?, code = ?, message = ? "
                "WHERE store = ? AND file = ? AND status = 'in_progress'",
                [status, code, message, *key],
            ).rowcount
            self._connection.execute("DELETE FROM readings WHERE store = ? AND file = ?", key)
        return changed > 0

    def set_attributes(self, store: str, file: str, attributes: Mapping[str, Any]) -> None:
        """Keep other attributes of a file that is read already, or is still to be read."""
        row = [json.dumps(dict(attributes)), store, file]
        self._write("UPDATE members SET attributes = ? WHERE store = ? AND file = ?", row)

    def forget_member(self, store: str, file: str) -> bool:
        """Remove a file from a vector store; False if it was not there."""
        row = [store, file]
        return self._write("DELETE FROM members WHERE store = ? AND file = ?", row) > 0

    def batch(self, store: str, id: str) -> int:
        """The time when a batch was made.

        Raises
        ------
        ServingError
            With 404, if it is not there.
        """
        rows = self._rows("SELECT created_at FROM batches WHERE id=? AND store=?", [id, store])
        if not rows:
            raise not_found("file batch", id)
        return int(rows[0][0])

    # -- responses -------------------------------------------------------------------------------

    def keep_response(self, response: Mapping[str, Any], items: Sequence[Any]) -> None:
        """Keep a response with the items of its input, and forget those that are too old."""
        now, previous = int(time.time()), response["previous_response_id"]
        row = [response["id"], previous, json.dumps(items), json.dumps(response), now]
        with self._lock, self._transaction():
            self._connection.execute("DELETE FROM responses WHERE created_at < ?", [now - KEPT_S])
            self._connection.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", row)

    def response(self, id: str) -> tuple[dict[str, Any], list[Any], str | None]:
        """A response, the items of its input, and the id of the one before it.

        Raises
        ------
        ServingError
            With 404, if it is not there.
        """
        sql = "SELECT response, input, previous FROM responses WHERE id = ?"
        rows = self._rows(sql, [id])
        if not rows:
            raise not_found("response", id)
        return json.loads(rows[0][0]), json.loads(rows[0][1]), rows[0][2]

    def conversation(self, id: str | None) -> list[Any]:
        """The items of a response and of those before it, inputs and outputs, the oldest first.

        Raises
        ------
        ServingError
            With 404, if one of them is not there.
        """
        turns: list[list[Any]] = []
        while id is not None:
            response, items, id = self.response(id)
            turns.append([*items, *response["output"]])
        return [item for turn in reversed(turns) for item in turn]

    def forget_response(self, id: str) -> None:
        """Remove a response.

        Raises
        ------
        ServingError
            With 404, if it is not there.
        """
        if not self._write("DELETE FROM responses WHERE id = ?", [id]):
            raise not_found("response", id)

    # -- the database ----------------------------------------------------------------------------

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def _write(self, sql: str, values: Sequence[Any]) -> int:
        with self._lock, self._transaction():
            return self._connection.execute(sql, values).rowcount

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _remove_unacknowledged(self) -> None:
        """Remove the bytes of uploads that a crash cut off before they were acknowledged.

        Young ones may be another process's, which is about to acknowledge them.
        """
        known = {self.path(file).name for file in self.files()}
        for path in self._uploads.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process did the same
                old = time.time() - path.stat().st_mtime > UNFINISHED_S
                if old and path.name not in known:
                    path.unlink()


def _member(row: Sequence[Any]) -> Member:
    return Member(row[0], row[1], json.loads(row[2]), *row[3:])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
