"""Notes of readers on chunks and on parts of them: the rows of the table that keeps them.

A memory that was made before notes were kept has no such table until it is written to. Every
function here runs inside of a transaction of the caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from sharedllm.memory import records, tables

NOTES_OF_CHUNK = 256  # that are kept, of each kind


def note_of(connection: sqlite3.Connection, chunk: int, key: bytes) -> str | None:
    """Return what a reader said of a chunk, or of a part of it; None if that is not kept.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written.
    """
    if not has_notes(connection):
        return None
    row = connection.execute(
        "SELECT chunk, key, said, checksum FROM notes WHERE chunk = ? AND key = ?", (chunk, key)
    ).fetchone()
    return (
        None if row is None else str(tables.of_chunk(connection, chunk, row, "notes", "a note")[2])
    )


def put_notes(connection: sqlite3.Connection, chunk: int, notes: Mapping[bytes, str]) -> None:
    """Keep what a reader said of a chunk; of each kind the oldest is dropped beyond a number.

    The first byte of a key is its kind.
    """
    if connection.execute("SELECT 1 FROM chunks WHERE chunk = ?", (chunk,)).fetchone() is None:
        return  # deleted while it was read
    for key, said in notes.items():
        values = (chunk, key, said)
        connection.execute(
            "INSERT OR REPLACE INTO notes (chunk, key, said, checksum) VALUES (?, ?, ?, ?)",
            (*values, records.checksum(*values)),
        )
    for kind in {key[:1] for key in notes}:
        own = "chunk = ?1 AND substr(key, 1, 1) = ?2"
        connection.execute(
            f"DELETE FROM notes WHERE {own} AND row NOT IN "
            f"(SELECT row FROM notes WHERE {own} ORDER BY row DESC LIMIT ?3)",
            (chunk, kind, NOTES_OF_CHUNK),
        )


def notes_of(connection: sqlite3.Connection, chunk: int) -> dict[bytes, str]:
    """Return all that is kept of what readers said of a chunk, the oldest first.

    Raises
    ------
    TreeMemoryDamagedError
        If something of it is not what was written.
    """
    if not has_notes(connection):
        return {}
    rows = connection.execute(
        "SELECT chunk, key, said, checksum FROM notes WHERE chunk = ? ORDER BY row", (chunk,)
    )
    found = [tables.of_chunk(connection, chunk, row, "notes", "a note") for row in rows]
    return {key: said for _, key, said in found}


def has_notes(connection: sqlite3.Connection) -> bool:
    """False of a memory that was made before notes were kept, and not written to since."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'notes'")
    return found.fetchone() is not None
