"""Rows of the tables: putting documents, texts and chunks in, and taking them out again.

Every function here runs inside of a transaction of the caller's.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from sharedllm.errors import DocumentError, StoreDamagedError
from sharedllm.memory.pieces import Piece, packed
from sharedllm.memory.records import MemoryDocument, StoredDocument, metadata_json

AT_ONCE = 500  # values in one SQL statement
HASH_BYTES = 20


def text_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def checksum(*values: object) -> bytes:
    """What shows that a row is the one that was written."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def batches(values: Iterable[Any]) -> Iterator[list[Any]]:
    """`values` in lists short enough for one SQL statement."""
    given = list(values)
    for at in range(0, len(given), AT_ONCE):
        yield given[at : at + AT_ONCE]


def marks(values: Sequence[object]) -> str:
    """As many question marks as there are `values`."""
    return ", ".join("?" * len(values))


def bump(connection: sqlite3.Connection) -> int:
    """Count this change; an index knows by the number whether it is behind."""
    connection.execute(
        "UPDATE manifest SET value = CAST(value AS INTEGER) + 1 WHERE name = 'generation'"
    )
    return generation(connection)


def generation(connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT value FROM manifest WHERE name = 'generation'").fetchone()
    return int(found[0])


def chunks_of_keys(connection: sqlite3.Connection, keys: Iterable[bytes]) -> dict[bytes, int]:
    """The chunks that are there already, by key."""
    out: dict[bytes, int] = {}
    for some in batches(dict.fromkeys(keys)):
        out |= connection.execute(
            f"SELECT key, chunk FROM chunks WHERE key IN ({marks(some)})", some
        ).fetchall()
    return out


def text_of_hash(connection: sqlite3.Connection, text: str) -> int | None:
    """The row of `text`, if some document has it."""
    found = connection.execute("SELECT text FROM texts WHERE hash = ?", (text_hash(text),))
    row = found.fetchone()
    return None if row is None else int(row[0])


def insert_chunk(connection: sqlite3.Connection, piece: Piece, embedding: Any) -> int:
    """A new chunk without its arrays."""
    layout = packed(piece.ids, piece.spans)
    vector = np.asarray(embedding, "<f2").tobytes()
    check = checksum(piece.key, len(piece), layout, vector)
    chunk = connection.execute(
        "INSERT INTO chunks (key, tokens, layout, embedding, checksum) VALUES (?, ?, ?, ?, ?)",
        (piece.key, len(piece), layout, vector, check),
    ).lastrowid
    connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (chunk, piece.text))
    return int(chunk or 0)


def insert_text(
    connection: sqlite3.Connection, text: str, pieces: Sequence[Piece], chunks: dict[bytes, int]
) -> int:
    """A new text, placed over chunks that are there."""
    row = connection.execute(
        "INSERT INTO texts (hash, body, characters, tokens) VALUES (?, ?, ?, ?)",
        (text_hash(text), zlib.compress(text.encode(), 6), len(text), sum(map(len, pieces))),
    ).lastrowid
    place(connection, int(row or 0), pieces, chunks)
    return int(row or 0)


def place(
    connection: sqlite3.Connection,
    text: int,
    pieces: Sequence[Piece],
    chunks: dict[bytes, int],
) -> None:
    connection.executemany(
        "INSERT INTO placed VALUES (?, ?, ?, ?, ?)",
        [(text, i, chunks[p.key], p.char_start, p.char_end) for i, p in enumerate(pieces)],
    )


def put_document(connection: sqlite3.Connection, document: MemoryDocument, text: int) -> None:
    """Insert `document`, or let its row stand for what it is now."""
    metadata = metadata_json(document.metadata)
    values = (document.id, document.title, document.source, metadata)
    connection.execute(
        "INSERT INTO documents (id, title, source, metadata, text, checksum) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET title = excluded.title, "
        "source = excluded.source, metadata = excluded.metadata, text = excluded.text, "
        "checksum = excluded.checksum",
        (*values, text, checksum(*values, text)),
    )


def drop_texts(connection: sqlite3.Connection, texts: Iterable[int]) -> None:
    """Remove those of `texts` that no document has, and the chunks that only they had."""
    gone = [
        text
        for text in set(texts)
        if connection.execute("SELECT 1 FROM documents WHERE text = ?", (text,)).fetchone() is None
    ]
    chunks: set[int] = set()
    for text in gone:
        rows = connection.execute("SELECT chunk FROM placed WHERE text = ?", (text,))
        chunks |= {chunk for (chunk,) in rows}
        connection.execute("DELETE FROM placed WHERE text = ?", (text,))
        connection.execute("DELETE FROM texts WHERE text = ?", (text,))
    drop_chunks(connection, chunks)


def drop_chunks(connection: sqlite3.Connection, chunks: Iterable[int]) -> None:
    """Remove those of `chunks` that no text holds."""
    now = generation(connection)
    for chunk in chunks:
        held = connection.execute("SELECT 1 FROM placed WHERE chunk = ? LIMIT 1", (chunk,))
        if held.fetchone() is None:
            for table, column in (("arrays", "chunk"), ("chunks", "chunk"), ("words", "rowid")):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (chunk,))
            connection.execute("INSERT OR REPLACE INTO dropped VALUES (?, ?)", (chunk, now))


def text_body(connection: sqlite3.Connection, text: int) -> str:
    """The text of row `text`.

    Raises
    ------
    StoreDamagedError
        If it is not what was written.
    """
    row = connection.execute("SELECT hash, body FROM texts WHERE text = ?", (text,)).fetchone()
    if row is None:
        raise StoreDamagedError("its text is missing")
    try:
        body = zlib.decompress(row[1]).decode()
    except (zlib.error, UnicodeDecodeError, TypeError) as error:
        raise StoreDamagedError(f"its text cannot be read: {error}") from error
    if text_hash(body) != row[0]:
        raise StoreDamagedError("its text is not what was written")
    return body


def document_row(connection: sqlite3.Connection, document_id: str) -> tuple[Any, ...]:
    """Columns id, title, source, metadata, text, checksum.

    Raises
    ------
    DocumentError
        If there is no such document.
    """
    row = connection.execute(
        "SELECT id, title, source, metadata, text, checksum FROM documents WHERE id = ?",
        (document_id,),
    ).fetchone()
    if row is None:
        raise DocumentError(
            f"the memory holds no document {document_id!r}; list() names those it holds"
        )
    return tuple(row)


def checked_document(row: Sequence[Any]) -> None:
    """Refuse a document's row that is not the one that was written.

    Raises
    ------
    StoreDamagedError
    """
    if checksum(*row[:5]) != row[5]:
        raise StoreDamagedError(
            f"the entry of document {row[0]!r} is not what was written; delete it and add it again"
        )


INFO = """SELECT d.id, d.title, d.source, d.metadata, t.characters, t.tokens,
    (SELECT count(*) FROM placed p WHERE p.text = d.text),
    length(t.body) + coalesce((
        SELECT sum(length(c.layout) + length(c.embedding) + coalesce((
            SELECT sum(a.bytes) FROM arrays a WHERE a.chunk = c.chunk), 0))
        FROM chunks c WHERE c.chunk IN (SELECT chunk FROM placed p WHERE p.text = d.text)), 0)
    FROM documents d JOIN texts t ON t.text = d.text"""


def stored_document(row: Sequence[Any]) -> StoredDocument:
    """From the columns of :data:`INFO`."""
    return StoredDocument(
        **names(row),
        characters=row[4],
        tokens=row[5],
        chunks=row[6],
        bytes=row[7],
    )


def delete_documents(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Remove documents and what only they had.

    Raises
    ------
    DocumentError
        If one is not there.
    """
    texts = []
    for document_id in dict.fromkeys(ids):
        texts.append(document_row(connection, document_id)[4])
        connection.execute("DELETE FROM documents WHERE id = ?", (document_id,))
    bump(connection)
    drop_texts(connection, texts)


def memory_document(connection: sqlite3.Connection, document_id: str) -> MemoryDocument:
    """A document with its text.

    Raises
    ------
    DocumentError
        If it is not there.
    StoreDamagedError
        If its entry or its text is broken.
    """
    row = document_row(connection, document_id)
    checked_document(row)
    try:
        text = text_body(connection, row[4])
    except StoreDamagedError as error:
        raise StoreDamagedError(
            f"document {document_id!r}: {error}; delete it and add it again"
        ) from error
    return MemoryDocument(**names(row), text=text)


def names(row: Sequence[Any]) -> dict[str, Any]:
    """The fields of a document's row that the user gave."""
    return {"id": row[0], "title": row[1], "source": row[2], "metadata": json.loads(row[3])}


def documents_of(connection: sqlite3.Connection, chunk: int) -> tuple[str, ...]:
    """Ids of the documents that hold `chunk`."""
    found = connection.execute(
        "SELECT DISTINCT d.id FROM placed p JOIN documents d ON d.text = p.text "
        "WHERE p.chunk = ? ORDER BY d.id",
        (chunk,),
    )
    return tuple(row[0] for row in found)
