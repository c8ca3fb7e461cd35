"""Documents from one memory to another of the same model, with all that is stored of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharedllm.errors import StoreDamagedError, StoreError
from sharedllm.memory import rows, shards
from sharedllm.memory.database import Database
from sharedllm.memory.identity import Manifest
from sharedllm.memory.records import MemoryDocument
from sharedllm.memory.shards import Stored
from sharedllm.memory.shelf import ArrayReader
from sharedllm.memory.writer import is_wanted

CHUNKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _Chunk:
    """All that is stored of a chunk."""

    row: tuple[Any, ...]  # key, tokens, layout, embedding, checksum
    words: str
    arrays: dict[str, Stored]


def export(source: Database, manifest: Manifest, folder: Path, ids: Sequence[str]) -> None:
    """Copy documents into a new memory in `folder`.

    Raises
    ------
    DocumentError
        If one is not there; the folder is not made then.
    StoreError, StoreFormatError, StoreDamagedError
    """
    with source.read() as connection:
        for document_id in ids:
            rows.document_row(connection, document_id)
    target = Database(folder, create=True, busy_s=0)
    try:
        if target.manifest() is not None:
            raise StoreError(
                f"there is a memory in {str(folder)!r} already; export into a new folder, or open "
                "that one and import_from() this one"
            )
        target.found(manifest.to_json())
        copy_codecs(source, target)
        copy(source, target, ids)
    finally:
        target.close()


def copy_codecs(source: Database, target: Database) -> None:
    """How search vectors became codes."""
    with source.read() as connection:
        found = connection.execute("SELECT * FROM codecs").fetchall()
    with target.write() as connection:
        connection.executemany("INSERT OR IGNORE INTO codecs VALUES (?, ?, ?, ?, ?)", found)


def same_codecs(one: Database, other: Database) -> bool:
    """Whether codes of both mean the same."""
    found = []
    for database in (one, other):
        with database.read() as connection:
            found.append(connection.execute("SELECT * FROM codecs ORDER BY 1, 2").fetchall())
    return found[0] == found[1]


def copy(source: Database, target: Database, ids: Sequence[str]) -> None:
    """Copy documents; one that is there with the same content is left alone.

    Raises
    ------
    DocumentError
        If the source has no such document, or the target has it with another content.
    StoreDamagedError
        If something that is copied is broken.
    """
    reader = ArrayReader(source)
    for document_id in ids:
        with source.read() as connection:
            document = rows.memory_document(connection, document_id)
        while not _copy(reader, source, target, document):
            pass  # another writer of the target took a chunk away


def _copy(
    reader: ArrayReader, source: Database, target: Database, document: MemoryDocument
) -> bool:
    """Copy one document; False if a chunk of it went from the target meanwhile."""
    with source.read() as connection:
        text = rows.document_row(connection, document.id)[4]
        kept = connection.execute(
            "SELECT hash, body, characters, tokens FROM texts WHERE text = ?", (text,)
        ).fetchone()
        placed = connection.execute(
            "SELECT c.key, p.chunk, p.ordinal, p.char_start, p.char_end FROM placed p "
            "JOIN chunks c ON c.chunk = p.chunk WHERE p.text = ? ORDER BY p.ordinal",
            (text,),
        ).fetchall()
    with target.read() as connection:
        there = rows.chunks_of_keys(connection, (row[0] for row in placed))
    missing = dict.fromkeys(row[1] for row in placed if row[0] not in there)
    for chunks in _read(reader, source, list(missing)):
        with target.write() as connection:
            _insert(connection, target, chunks)
    with target.write() as connection:
        if not is_wanted(connection, document, replace=False):
            return True
        own = rows.text_of_hash(connection, document.text)
        if own is None:
            there = rows.chunks_of_keys(connection, (row[0] for row in placed))
            if any(row[0] not in there for row in placed):
                return False
            own = connection.execute(
                "INSERT INTO texts (hash, body, characters, tokens) VALUES (?, ?, ?, ?)", kept
            ).lastrowid
            connection.executemany(
                "INSERT INTO placed VALUES (?, ?, ?, ?, ?)",
                [(own, ordinal, there[key], *span) for key, _, ordinal, *span in placed],
            )
        rows.put_document(connection, document, int(own or 0))
        rows.bump(connection)
    return True


def _read(reader: ArrayReader, source: Database, chunks: Sequence[int]) -> Iterator[list[_Chunk]]:
    for at in range(0, len(chunks), CHUNKS_AT_ONCE):
        some = chunks[at : at + CHUNKS_AT_ONCE]

        def work(some: Sequence[int] = some) -> list[_Chunk]:
            arrays = reader.read(some, "*")
            with source.read() as connection:
                return [
                    _chunk(connection, chunk, {n: Stored(*a) for n, a in arrays[chunk].items()})
                    for chunk in some
                ]

        yield reader.settled(work)


def _chunk(connection: sqlite3.Connection, chunk: int, arrays: dict[str, Stored]) -> _Chunk:
    row = connection.execute(
        "SELECT key, tokens, layout, embedding, checksum FROM chunks WHERE chunk = ?", (chunk,)
    ).fetchone()
    words = connection.execute("SELECT text FROM words WHERE rowid = ?", (chunk,)).fetchone()
    if row is None or words is None or not arrays or rows.checksum(*row[:4]) != row[4]:
        raise StoreDamagedError(
            f"chunk {chunk} of the memory is not what was written: run sharedllm verify --repair"
        )
    return _Chunk(tuple(row), words[0], arrays)


def _insert(connection: sqlite3.Connection, target: Database, chunks: Sequence[_Chunk]) -> None:
    there = rows.chunks_of_keys(connection, (chunk.row[0] for chunk in chunks))
    arrays: dict[tuple[int, str], Stored] = {}
    for chunk in chunks:
        if chunk.row[0] in there:
            continue
        own = connection.execute(
            "INSERT INTO chunks (key, tokens, layout, embedding, checksum) VALUES (?, ?, ?, ?, ?)",
            chunk.row,
        ).lastrowid
        connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (own, chunk.words))
        arrays |= {(int(own or 0), name): stored for name, stored in chunk.arrays.items()}
    if arrays:
        shards.insert(connection, *shards.write(target.folder, arrays))
        rows.bump(connection)
