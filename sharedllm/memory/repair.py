"""Encoding broken chunks again from the texts that hold them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sharedllm.errors import StoreDamagedError
from sharedllm.memory import rows, shards
from sharedllm.memory.encoding import EncodedPiece
from sharedllm.memory.pieces import Piece, packed, pieces
from sharedllm.text.tokens import tokenize

if TYPE_CHECKING:
    from sharedllm.memory.reading import MemoryReader


def encode_again(reader: MemoryReader, chunks: Sequence[int]) -> None:
    """Encode `chunks` and replace what is stored of them; those without a sound text are left."""
    wanted = _pieces_of(reader, set(chunks))
    batch: list[tuple[int, Piece]] = []
    tokens = 0
    for chunk, piece in wanted.items():
        batch.append((chunk, piece))
        tokens += len(piece)
        if tokens >= reader.encoder.batch_tokens:
            _replace(reader, batch)
            batch, tokens = [], 0
    if batch:
        _replace(reader, batch)


def _pieces_of(reader: MemoryReader, chunks: set[int]) -> dict[int, Piece]:
    """The pieces of `chunks`, cut anew from a text that holds each."""
    out: dict[int, Piece] = {}
    with reader.database.read() as connection:
        placed = {
            chunk: connection.execute(
                "SELECT text, ordinal FROM placed WHERE chunk = ? ORDER BY text", (chunk,)
            ).fetchall()
            for chunk in chunks
        }
        cut: dict[int, list[Piece]] = {}
        for text in sorted({row[0] for found in placed.values() for row in found}):
            try:
                body = rows.text_body(connection, text)
            except StoreDamagedError:
                continue  # verify has named it: only its owner can give it again
            tokens = tokenize(body, reader.llm.tokenizer)
            cut[text] = pieces(body, tokens, reader.llm.tree.chunk, reader.manifest.digest)
        for chunk, found in placed.items():
            for text, ordinal in found:
                if text in cut and ordinal < len(cut[text]):
                    out[chunk] = cut[text][ordinal]
                    break
    return out


def _replace(reader: MemoryReader, batch: Sequence[tuple[int, Piece]]) -> None:
    encoded = reader.encoder.encode([piece for _, piece in batch])
    with reader.database.write() as connection:
        arrays: dict[tuple[int, str], shards.Stored] = {}
        for (chunk, _), one in zip(batch, encoded, strict=True):
            held = connection.execute("SELECT 1 FROM placed WHERE chunk = ?", (chunk,))
            if held.fetchone() is None:
                continue  # deleted meanwhile
            connection.execute("DELETE FROM arrays WHERE chunk = ?", (chunk,))
            arrays |= {(chunk, name): stored for name, stored in one.arrays.items()}
            _rewrite(connection, chunk, one)
        if arrays:
            shards.insert(connection, *shards.write(reader.database.folder, arrays))
            rows.bump(connection)


def _rewrite(connection: sqlite3.Connection, chunk: int, one: EncodedPiece) -> None:
    """The chunk's own row and its words."""
    layout = packed(one.piece.ids, one.piece.spans)
    vector = np.asarray(one.embedding, "<f2").tobytes()
    check = rows.checksum(one.piece.key, len(one.piece), layout, vector)
    connection.execute(
        "INSERT OR REPLACE INTO chunks (chunk, key, tokens, layout, embedding, checksum) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (chunk, one.piece.key, len(one.piece), layout, vector, check),
    )
    connection.execute(
        "INSERT OR REPLACE INTO words (rowid, text) VALUES (?, ?)", (chunk, one.piece.text)
    )
