"""The rows of texts, chunks and documents in a memory's tables.

Every function here runs inside of a transaction of the caller's.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sharedllm.errors import DocumentError, TreeMemoryDamagedError
from sharedllm.memory.documents import (
    LONGEST_TEXT,
    MemoryDocument,
    StoredDocument,
    metadata_json,
)
from sharedllm.memory.records import REPAIR, batches, bump, checked, checksum, inflated, marks

HASH_BYTES = 20
MOST_UTF8 = 4  # bytes of a character
MOST_CHARACTERS = 4096  # of a token
UNCOVERED = 1 << 22  # characters of a text that no token covers: white space, for some tokenizers


class Place(NamedTuple):
    """One chunk of a text, by its key, and the characters where it stands."""

    key: bytes
    char_start: int
    char_end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkRows:
    """Everything that is stored of one chunk, as it stands in the tables.

    Attributes
    ----------
    words : str
        The words of its text as :func:`sharedllm.text.words.searchable` spells them.
    nodes : tuple of bytes
        KV of the nodes that are kept, in their order.
    """

    key: bytes
    tokens: int
    layout: bytes
    words: str
    vectors: bytes
    nodes: tuple[bytes, ...]


# -- texts -----------------------------------------------------------------------------------------


def text_hash(text: str) -> bytes:
    """The name of a text in the memory."""
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def text_of_hash(connection: sqlite3.Connection, text: str) -> int | None:
    """The row of `text`, if some document has it."""
    found = connection.execute("SELECT text FROM texts WHERE hash = ?", (text_hash(text),))
    row = found.fetchone()
    return None if row is None else int(row[0])


def insert_text(
    connection: sqlite3.Connection,
    text: str,
    tokens: int,
    places: Sequence[Place],
    chunks: Mapping[bytes, int],
) -> int:
    """Insert a new text, placed over chunks that are there."""
    row = connection.execute(
        "INSERT INTO texts (hash, body, characters, tokens, checksum) VALUES (?, ?, ?, ?, 0)",
        (text_hash(text), zlib.compress(text.encode(), 6), len(text), tokens),
    ).lastrowid
    place_text(connection, int(row or 0), len(text), tokens, places, chunks)
    return int(row or 0)


def place_text(
    connection: sqlite3.Connection,
    text: int,
    characters: int,
    tokens: int,
    places: Sequence[Place],
    chunks: Mapping[bytes, int],
) -> None:
    """Place the text of a row over chunks that are there, and nowhere else."""
    found = connection.execute("SELECT hash FROM texts WHERE text = ?", (text,))
    check = checksum(text, found.fetchone()[0], characters, tokens)
    connection.execute(
        "UPDATE texts SET characters = ?, tokens = ?, checksum = ? WHERE text = ?",
        (characters, tokens, check, text),
    )
    connection.execute("DELETE FROM placed WHERE text = ?", (text,))
    rows = [(text, i, chunks[p.key], p.char_start, p.char_end) for i, p in enumerate(places)]
    connection.executemany(
        "INSERT INTO placed VALUES (?, ?, ?, ?, ?, ?)", [(*row, checksum(*row)) for row in rows]
    )


def text_length(connection: sqlite3.Connection, text: int) -> int:
    """The characters of the text of a row.

    Raises
    ------
    TreeMemoryDamagedError
        If its entry is not what was written.
    """
    row = connection.execute(
        "SELECT text, hash, characters, tokens, checksum FROM texts WHERE text = ?", (text,)
    ).fetchone()
    if row is None:
        raise TreeMemoryDamagedError("its text is missing")
    return int(checked(row, "texts", "its text's entry")[2])


def text_body(connection: sqlite3.Connection, text: int) -> tuple[str, int]:
    """The text of a row, and how many tokens it has.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written.
    """
    row = connection.execute(
        "SELECT text, hash, characters, tokens, checksum, body FROM texts WHERE text = ?", (text,)
    ).fetchone()
    if row is None:
        raise TreeMemoryDamagedError("its text is missing")
    _, digest, characters, tokens = checked(row[:-1], "texts", "its text's entry")
    if characters > longest_text(tokens):
        raise TreeMemoryDamagedError(
            f"its text's entry says {characters:,} characters in {tokens:,} tokens"
        )
    return _inflated_text(row[-1], digest, MOST_UTF8 * characters), tokens


def text_that_hashes(connection: sqlite3.Connection, text: int) -> str:
    """The text of a row whose other values may be broken, as long as its hash is right.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written.
    """
    row = connection.execute(
        "SELECT text, hash, characters, tokens, checksum, body FROM texts WHERE text = ?", (text,)
    ).fetchone()
    try:
        characters = checked(row[:-1], "texts", "its text's entry")[2]
    except TreeMemoryDamagedError:
        characters = LONGEST_TEXT
    return _inflated_text(row[-1], row[1], MOST_UTF8 * min(characters, LONGEST_TEXT))


def longest_text(tokens: int) -> int:
    """Characters that a text of so many tokens has at most.

    Its tokens have to be stored, so that a small file cannot hold many long texts of nothing.
    """
    return min(LONGEST_TEXT, UNCOVERED + MOST_CHARACTERS * tokens)


def _inflated_text(body: object, digest: object, most: int) -> str:
    if not isinstance(body, bytes):
        raise TreeMemoryDamagedError("its text is not what was written")
    try:
        data = inflated(body, most)
        if hashlib.blake2b(data, digest_size=HASH_BYTES).digest() != digest:
            raise TreeMemoryDamagedError("its text is not what was written")
        return data.decode()
    except ValueError as error:
        raise TreeMemoryDamagedError(f"its text cannot be read: {error}") from error


def placed_chunks(
    connection: sqlite3.Connection, text: int, first: int, last: int
) -> list[tuple[int, int, int]]:
    """Chunk, first and end character of the chunks [first, last) of a text.

    Raises
    ------
    TreeMemoryDamagedError
        If one is missing, or is not what was written.
    """
    found = connection.execute(
        "SELECT * FROM placed WHERE text = ? AND ordinal >= ? AND ordinal < ? ORDER BY ordinal",
        (text, first, last),
    )
    rows = [checked(row, "placed", "the place of a chunk") for row in found]
    if [row[1] for row in rows] != list(range(first, last)):
        raise TreeMemoryDamagedError("the place of a chunk is missing")
    if any(not 0 <= start <= end <= LONGEST_TEXT for _, _, _, start, end in rows):
        raise TreeMemoryDamagedError("the place of a chunk is outside of its text")
    return [(chunk, start, end) for _, _, chunk, start, end in rows]


def require_findable(connection: sqlite3.Connection) -> None:
    """Compare every document's entry and every chunk's place with its checksum and its indexes.

    A search reads only the rows that it finds, and one that is broken may not be found. Takes
    about 5 microseconds a row.

    Raises
    ------
    TreeMemoryDamagedError
    """
    for table in ("documents", "placed"):
        for (found,) in connection.execute(f"PRAGMA integrity_check({table})"):
            if found != "ok":
                raise TreeMemoryDamagedError(f"the table {table} is damaged: {found}; {REPAIR}")
    for row in connection.execute(f"SELECT {DOCUMENT} FROM documents d"):
        checked_document(row)
    for row in connection.execute("SELECT * FROM placed"):
        try:
            checked(row, "placed", "the place of a chunk")
        except TreeMemoryDamagedError as error:
            ids = connection.execute("SELECT id FROM documents WHERE text = ?", (row[0],))
            whose = ", ".join(repr(one) for (one,) in ids) or "(none)"
            raise TreeMemoryDamagedError(f"document {whose}: {error}; {REPAIR}") from error


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
    drop_idle_chunks(connection, chunks)


# -- numbers of rows -------------------------------------------------------------------------------

NUMBERED = ("documents", "chunks")


def last_rows(connection: sqlite3.Connection) -> dict[str, int]:
    """The numbers of the last rows that were written, deleted ones included."""
    found = connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
    return {name: int(row) for name, row in found if name in NUMBERED}


def number_after(connection: sqlite3.Connection, last: Mapping[str, int]) -> None:
    """Number the rows to come after those that are `last` elsewhere, so that they are in order."""
    own = last_rows(connection)
    for name, row in last.items():
        if name not in own:
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, row))
        elif own[name] < row:
            connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (row, name))


# -- chunks ----------------------------------------------------------------------------------------


def chunks_of_keys(connection: sqlite3.Connection, keys: Iterable[bytes]) -> dict[bytes, int]:
    """The chunks that are there already, by key."""
    out: dict[bytes, int] = {}
    for some in batches(dict.fromkeys(keys)):
        out |= connection.execute(
            f"SELECT key, chunk FROM chunks WHERE key IN ({marks(some)})", some
        ).fetchall()
    return out


def insert_chunks(connection: sqlite3.Connection, new: Sequence[ChunkRows]) -> dict[bytes, int]:
    """Insert those of `new` that are not there; the rows of all, by key."""
    there = chunks_of_keys(connection, (one.key for one in new))
    missing = [one for one in new if one.key not in there]
    for one in missing:
        there[one.key] = _insert_chunk(connection, one)
    if missing:
        bump(connection)
    return there


def _insert_chunk(connection: sqlite3.Connection, new: ChunkRows) -> int:
    values = (new.key, new.tokens, new.layout, checksum(new.words))
    chunk = connection.execute(
        "INSERT INTO chunks (key, tokens, layout, words, checksum) VALUES (?, ?, ?, ?, 0)",
        values,
    ).lastrowid
    connection.execute(  # its checksum takes in its row number
        "UPDATE chunks SET checksum = ? WHERE chunk = ?", (checksum(chunk, *values), chunk)
    )
    insert_words(connection, int(chunk or 0), new.words)
    connection.execute(
        "INSERT INTO vectors VALUES (?, ?, ?)",
        (chunk, new.vectors, checksum(chunk, new.vectors)),
    )
    connection.executemany(
        "INSERT INTO kv (chunk, node, data, checksum) VALUES (?, ?, ?, ?)",
        ((chunk, node, data, checksum(chunk, node, data)) for node, data in enumerate(new.nodes)),
    )
    return int(chunk or 0)


def insert_words(connection: sqlite3.Connection, chunk: int, words: str) -> None:
    """Index the words of a chunk."""
    connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (chunk, words))


def chunk_rows(connection: sqlite3.Connection, chunk: int) -> ChunkRows:
    """Everything that is stored of a chunk.

    Raises
    ------
    TreeMemoryDamagedError
        If something of it is missing, or is not what was written.
    """
    _, key, tokens, layout, check = chunk_row(connection, chunk)
    words = connection.execute("SELECT text FROM words WHERE rowid = ?", (chunk,)).fetchone()
    if words is None or checksum(words[0]) != check:
        raise damaged_chunk(connection, chunk, "its words are not what was written")
    count = connection.execute("SELECT count(*) FROM kv WHERE chunk = ?", (chunk,)).fetchone()[0]
    nodes = [node_of(connection, chunk, node) for node in range(count)]
    return ChunkRows(
        key=key,
        tokens=tokens,
        layout=layout,
        words=words[0],
        vectors=vectors_of(connection, [chunk])[chunk],
        nodes=tuple(node for node in nodes if node is not None),
    )


def chunk_row(connection: sqlite3.Connection, chunk: int) -> tuple[Any, ...]:
    """Chunk, key, number of tokens, layout and the checksum of its words.

    Raises
    ------
    TreeMemoryDamagedError
        If the row is missing, or is not what was written.
    """
    row = connection.execute("SELECT * FROM chunks WHERE chunk = ?", (chunk,)).fetchone()
    return of_chunk(connection, chunk, row, "chunks", "its entry")


def vectors_of(connection: sqlite3.Connection, chunks: Sequence[int]) -> dict[int, bytes]:
    """The search vectors of `chunks`.

    Raises
    ------
    TreeMemoryDamagedError
        If one is missing, or is not what was written.
    """
    rows: dict[int, tuple[Any, ...]] = {}
    for some in batches(chunks):
        sql = f"SELECT * FROM vectors WHERE chunk IN ({marks(some)})"
        rows |= {row[0]: row for row in connection.execute(sql, some)}
    what = "its search vectors' row"
    return {
        chunk: of_chunk(connection, chunk, rows.get(chunk), "vectors", what)[1] for chunk in chunks
    }


def node_of(connection: sqlite3.Connection, chunk: int, node: int) -> bytes | None:
    """The KV of one kept node of a chunk; None where it is not there.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written.
    """
    row = node_row(connection, chunk, node)
    if row is None:
        return None
    data: bytes = of_chunk(connection, chunk, row, "kv", "its KV")[2]
    return data


def node_row(connection: sqlite3.Connection, chunk: int, node: int) -> tuple[Any, ...] | None:
    """The row of one kept node of a chunk, for :func:`node_data`; None where it is not there."""
    row: tuple[Any, ...] | None = connection.execute(
        "SELECT chunk, node, data, checksum FROM kv WHERE chunk = ? AND node = ?", (chunk, node)
    ).fetchone()
    return row


def node_data(row: tuple[Any, ...]) -> bytes:
    """The KV in a row of a node.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written.
    """
    data: bytes = checked(row, "kv", "its KV")[2]
    return data


def of_chunk(
    connection: sqlite3.Connection, chunk: int, row: Sequence[Any] | None, table: str, what: str
) -> tuple[Any, ...]:
    """The values of a row that is stored of `chunk`, without their checksum."""
    if row is None:
        raise damaged_chunk(connection, chunk, f"{what} is missing")
    try:
        return checked(row, table, what)
    except TreeMemoryDamagedError as error:
        raise damaged_chunk(connection, chunk, str(error)) from error


def damaged_chunk(connection: sqlite3.Connection, chunk: int, what: str) -> TreeMemoryDamagedError:
    """The error for one broken chunk, naming the documents that hold it."""
    whose = ", ".join(map(repr, documents_of(connection, chunk))) or "(none)"
    return TreeMemoryDamagedError(
        f"chunk {chunk} of document {whose} is broken: {what}; {REPAIR}. Nothing else is lost"
    )


def drop_idle_chunks(connection: sqlite3.Connection, chunks: Iterable[int]) -> None:
    """Remove those of `chunks` that no text holds."""
    held = "SELECT 1 FROM placed WHERE chunk = ? LIMIT 1"
    idle = [chunk for chunk in chunks if connection.execute(held, (chunk,)).fetchone() is None]
    drop_chunks(connection, idle)


def drop_chunks(connection: sqlite3.Connection, chunks: Iterable[int]) -> None:
    """Remove everything that is stored of `chunks`."""
    for chunk in chunks:
        for table in ("chunks", "vectors", "kv", "notes"):
            connection.execute(f"DELETE FROM {table} WHERE chunk = ?", (chunk,))
        connection.execute("DELETE FROM words WHERE rowid = ?", (chunk,))


# -- documents -------------------------------------------------------------------------------------


def put_document(connection: sqlite3.Connection, document: MemoryDocument, text: int) -> None:
    """Insert `document`, or let its row stand for what it is now."""
    metadata = metadata_json(document.metadata)
    values = (document.id, document.title, document.source, metadata, text)
    connection.execute(
        "INSERT INTO documents (id, title, source, metadata, text, checksum) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET title = excluded.title, "
        "source = excluded.source, metadata = excluded.metadata, text = excluded.text, "
        "checksum = excluded.checksum",
        (*values, checksum(*values)),
    )


DOCUMENT = "d.id, d.title, d.source, d.metadata, d.text, d.checksum"


def document_row(connection: sqlite3.Connection, document_id: str) -> tuple[Any, ...]:
    """Columns id, title, source, metadata and text of a document.

    Raises
    ------
    DocumentError
        If there is no such document.
    TreeMemoryDamagedError
        If its row is not what was written.
    """
    row = connection.execute(
        f"SELECT {DOCUMENT} FROM documents d WHERE d.id = ?", (document_id,)
    ).fetchone()
    if row is None:
        raise _absent(document_id)
    return checked_document(row)


def checked_document(row: Sequence[Any]) -> tuple[Any, ...]:
    """The values of the columns :data:`DOCUMENT` without the checksum.

    Raises
    ------
    TreeMemoryDamagedError
    """
    try:
        return checked(row, "documents", f"the entry of document {row[0]!r}")
    except TreeMemoryDamagedError as error:
        raise TreeMemoryDamagedError(f"{error}; delete it and add it again") from error


def names(row: Sequence[Any]) -> dict[str, Any]:
    """The fields of a document's row that the user gave.

    Raises
    ------
    TreeMemoryDamagedError
    """
    try:
        metadata = json.loads(row[3])
    except (ValueError, RecursionError) as error:
        raise TreeMemoryDamagedError(
            f"the metadata of document {row[0]!r} cannot be read: {error}; delete it and add it "
            "again"
        ) from error
    return {"id": row[0], "title": row[1], "source": row[2], "metadata": metadata}


def stored_documents(
    connection: sqlite3.Connection, where: str, values: Sequence[Any]
) -> list[StoredDocument]:
    """The documents (d) that a condition holds for, in the order of addition.

    Raises
    ------
    TreeMemoryDamagedError
        If an entry is not what was written.
    """
    found = connection.execute(
        f"""SELECT {DOCUMENT}, t.text, t.hash, t.characters, t.tokens, t.checksum,
        (SELECT count(*) FROM placed p WHERE p.text = d.text),
        length(t.body) + coalesce((SELECT sum(
            length(c.layout) + coalesce(length(v.data), 0)
            + coalesce((SELECT sum(length(k.data)) FROM kv k WHERE k.chunk = c.chunk), 0))
        FROM chunks c LEFT JOIN vectors v ON v.chunk = c.chunk
        WHERE c.chunk IN (SELECT chunk FROM placed p WHERE p.text = d.text)), 0)
        FROM documents d LEFT JOIN texts t ON t.text = d.text
        WHERE {where} ORDER BY d.document""",
        values,
    )
    out = []
    for row in found:
        document = checked_document(row[:6])
        if row[6] is None:
            raise TreeMemoryDamagedError(f"the text of document {row[0]!r} is missing; delete it")
        what = f"the text's entry of document {row[0]!r}"
        _, _, characters, tokens = checked(row[6:11], "texts", what)
        out.append(
            StoredDocument(
                **names(document),
                characters=characters,
                tokens=tokens,
                chunks=row[11],
                bytes=row[12],
            )
        )
    return out


def places_of_documents(connection: sqlite3.Connection) -> dict[str, int]:
    """The row of every document, by id: their order of addition."""
    return dict(connection.execute("SELECT id, document FROM documents").fetchall())


def held_documents(connection: sqlite3.Connection, ids: Iterable[str]) -> set[str]:
    """Those of `ids` that are there."""
    held: set[str] = set()
    for some in batches(ids):
        rows = connection.execute(f"SELECT id FROM documents WHERE id IN ({marks(some)})", some)
        held |= {row[0] for row in rows}
    return held


def delete_documents(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Remove documents and what only they had; one whose entry is broken as well.

    Raises
    ------
    DocumentError
        If one is not there.
    """
    texts = []
    for document_id in dict.fromkeys(ids):
        found = connection.execute(
            "SELECT text, document FROM documents WHERE id = ?", (document_id,)
        )
        row = found.fetchone()
        if row is None:
            raise _absent(document_id)
        texts.append(row[0])
        connection.execute("DELETE FROM outlines WHERE document = ?", (row[1],))
        connection.execute("DELETE FROM documents WHERE id = ?", (document_id,))
    bump(connection)
    drop_texts(connection, texts)


def _absent(document_id: str) -> DocumentError:
    return DocumentError(
        f"the memory holds no document {document_id!r}; list() names those it holds"
    )


def documents_of(connection: sqlite3.Connection, chunk: int) -> tuple[str, ...]:
    """Ids of the documents that hold `chunk`."""
    found = connection.execute(
        "SELECT DISTINCT d.id FROM placed p JOIN documents d ON d.text = p.text "
        "WHERE p.chunk = ? ORDER BY d.id",
        (chunk,),
    )
    return tuple(row[0] for row in found)
