"""Encoding all documents of a memory again, for another model or with other settings.

The new chunks are committed beside the old ones, under other keys; one transaction then puts every
text on its new chunks. Until that one the memory is the old one, whatever happens.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from sharedllm.memory import rows
from sharedllm.memory.database import Database
from sharedllm.memory.pieces import Piece, pieces
from sharedllm.memory.reading import MemoryReader
from sharedllm.memory.writer import insert_encoded
from sharedllm.text.tokens import tokenize


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where the new chunks of a text stand; their tokens are not kept in memory."""

    keys: tuple[bytes, ...]
    places: tuple[tuple[int, int], ...]
    tokens: int


def rebuild(database: Database, reader: MemoryReader) -> None:
    """Let the memory be what the manifest of `reader` says.

    Raises
    ------
    StoreDamagedError
        If a text is broken; nothing is changed then.
    StoreBusyError, StoreError
    """
    done: dict[int, _Cut] = {}
    while True:
        with database.read() as connection:
            texts = [row[0] for row in connection.execute("SELECT text FROM texts ORDER BY text")]
        for text in texts:
            if text not in done:
                done[text] = _encoded(database, reader, text)
        with database.write() as connection:
            lacking = _lacking(connection, done)
            if not lacking:
                _swap(connection, reader, done)
                return
        for text in lacking:  # added meanwhile, or its chunks were taken by a compaction
            done.pop(text, None)


def _encoded(database: Database, reader: MemoryReader, text: int) -> _Cut:
    """Encode the new chunks of one text and commit them."""
    with database.read() as connection:
        body = rows.text_body(connection, text)
    tokens = tokenize(body, reader.llm.tokenizer)
    cut: list[Piece] = pieces(body, tokens, reader.llm.tree.chunk, reader.manifest.digest)
    encoded = reader.writer.encode_missing(cut)
    if encoded:
        with database.write() as connection:
            insert_encoded(connection, database, encoded)
    return _Cut(
        keys=tuple(piece.key for piece in cut),
        places=tuple((piece.char_start, piece.char_end) for piece in cut),
        tokens=len(tokens),
    )


def _lacking(connection: sqlite3.Connection, done: dict[int, _Cut]) -> list[int]:
    """Texts whose new chunks are not all there."""
    out = []
    for (text,) in connection.execute("SELECT text FROM texts").fetchall():
        cut = done.get(text)
        if cut is None or len(rows.chunks_of_keys(connection, cut.keys)) < len(set(cut.keys)):
            out.append(int(text))
    return out


def _swap(connection: sqlite3.Connection, reader: MemoryReader, done: dict[int, _Cut]) -> None:
    old = [row[0] for row in connection.execute("SELECT DISTINCT chunk FROM placed")]
    connection.execute("DELETE FROM placed")
    for (text,) in connection.execute("SELECT text FROM texts").fetchall():
        cut = done[text]
        chunks = rows.chunks_of_keys(connection, cut.keys)
        connection.executemany(
            "INSERT INTO placed VALUES (?, ?, ?, ?, ?)",
            [
                (text, ordinal, chunks[key], *place)
                for ordinal, (key, place) in enumerate(zip(cut.keys, cut.places, strict=True))
            ],
        )
        connection.execute("UPDATE texts SET tokens = ? WHERE text = ?", (cut.tokens, text))
    rows.bump(connection)
    rows.drop_chunks(connection, old)
    connection.execute("DELETE FROM codecs WHERE made_by != ?", (reader.manifest.digest,))
    connection.execute(
        "UPDATE manifest SET value = ? WHERE name = 'manifest'", (reader.manifest.to_json(),)
    )
