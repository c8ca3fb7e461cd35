"""The tables of a memory's SQLite file."""

from __future__ import annotations

import functools
import sqlite3
from contextlib import closing
from pathlib import Path

from sharedllm.errors import TreeMemoryFormatError

APPLICATION_ID = 0x53_4C_4C_4D  # "SLLM", in the header of the file
SCHEMA_VERSION = 4
OLDEST_VERSION = 3  # that is read, and gets what it lacks when it is written to

WORDS = """CREATE VIRTUAL TABLE words USING fts5 (
        text, detail=none, tokenize='unicode61 remove_diacritics 2'
    )"""
OUTLINES = """CREATE TABLE outlines (
        document INTEGER PRIMARY KEY REFERENCES documents,
        sections TEXT NOT NULL,          -- JSON
        checksum INTEGER NOT NULL
    )"""
NOTES = """CREATE TABLE notes (
        row INTEGER PRIMARY KEY,
        chunk INTEGER NOT NULL REFERENCES chunks,
        key BLOB NOT NULL,               -- a hash of reader, question and what it was asked of
        said TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        UNIQUE (chunk, key)
    )"""
ADDED = {4: (OUTLINES, NOTES)}  # by the version that came with them
# A text is kept once, whatever documents have it; a chunk once, whatever texts hold it. Row numbers
# are never used again (AUTOINCREMENT), so that what a search holds in memory cannot mistake a new
# chunk for an old one.
SCHEMA = (
    """CREATE TABLE manifest (
        name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE texts (
        text INTEGER PRIMARY KEY AUTOINCREMENT,
        hash BLOB NOT NULL UNIQUE,       -- of the text itself
        body BLOB NOT NULL,              -- UTF-8, deflated; checked by its hash
        characters INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    )""",
    """CREATE TABLE documents (
        document INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        source TEXT NOT NULL,
        metadata TEXT NOT NULL,          -- JSON
        text INTEGER NOT NULL REFERENCES texts,
        checksum INTEGER NOT NULL
    )""",
    "CREATE INDEX documents_by_text ON documents (text)",
    """CREATE TABLE chunks (
        chunk INTEGER PRIMARY KEY AUTOINCREMENT,
        key BLOB NOT NULL UNIQUE,        -- a hash of its tokens, its text and its makers
        tokens INTEGER NOT NULL,
        layout BLOB NOT NULL,            -- token ids and character spans, deflated
        words INTEGER NOT NULL,          -- checksum of its row in the table words
        checksum INTEGER NOT NULL
    )""",
    """CREATE TABLE placed (
        text INTEGER NOT NULL REFERENCES texts,
        ordinal INTEGER NOT NULL,
        chunk INTEGER NOT NULL REFERENCES chunks,
        char_start INTEGER NOT NULL,
        char_end INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (text, ordinal)
    ) WITHOUT ROWID""",
    "CREATE INDEX placed_by_chunk ON placed (chunk, text)",
    """CREATE TABLE vectors (
        chunk INTEGER PRIMARY KEY REFERENCES chunks,
        data BLOB NOT NULL,              -- a code, or float16 numbers, a token
        checksum INTEGER NOT NULL
    )""",
    """CREATE TABLE kv (
        row INTEGER PRIMARY KEY,
        chunk INTEGER NOT NULL REFERENCES chunks,
        node INTEGER NOT NULL,           -- its rank among the nodes that are kept; 0 is the root
        data BLOB NOT NULL,
        checksum INTEGER NOT NULL,
        UNIQUE (chunk, node)
    )""",
    # A codec that is fitted to the same model on another machine may differ in its last digits, so
    # the one that made the codes is kept.
    """CREATE TABLE codecs (
        made_by BLOB NOT NULL,           -- the manifest's digest
        name TEXT NOT NULL,
        shape TEXT NOT NULL,             -- JSON
        data BLOB NOT NULL,              -- float32
        checksum INTEGER NOT NULL,
        PRIMARY KEY (made_by, name)
    ) WITHOUT ROWID""",
    WORDS,
    OUTLINES,
    NOTES,
)
KINDS: dict[str, tuple[type, ...]] = {  # of the values in a row, its checksum left out
    "manifest": (str, str),
    "texts": (int, bytes, int, int),  # the body, which its hash checks, is left out as well
    "documents": (str, str, str, str, int),  # as they are read: without their own number
    "outlines": (int, str),
    "notes": (int, bytes, str),  # without their own number
    "chunks": (int, bytes, int, bytes, int),
    "placed": (int, int, int, int, int),
    "vectors": (int, bytes),
    "kv": (int, int, bytes),
    "codecs": (bytes, str, str, bytes),
}


def require_own_schema(connection: sqlite3.Connection, folder: Path) -> None:
    """Refuse a file that has anything but the tables of a memory.

    A view in the place of a table, a trigger or a computed column would run a stranger's SQL
    whenever the memory is read.

    Raises
    ------
    TreeMemoryFormatError
        Naming the first thing that is not a memory's.
    """
    found, own = _parts(connection), _own_parts(version_of(connection))
    if found == own:
        return
    kind, name = min((part[:2] for part in found ^ own), key=str)
    said = "is missing" if (kind, name) not in {part[:2] for part in found} else "is not a memory's"
    raise TreeMemoryFormatError(
        f"the {kind} {name!r} in the memory in {str(folder)!r} {said}: another program has changed "
        "the file; restore it from a copy, or index the documents again into a new folder"
    )


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the format of a file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Make the tables that a memory of an older version lacks, inside of a transaction."""
    version = version_of(connection)
    if version < SCHEMA_VERSION:
        for statement in _added_since(version):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _added_since(version: int) -> tuple[str, ...]:
    return tuple(one for since, new in ADDED.items() if since > version for one in new)


def _parts(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str, str]]:
    found = connection.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")
    return frozenset(found.fetchall())


@functools.cache
def _own_parts(version: int) -> frozenset[tuple[str, str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in SCHEMA:
            if statement not in _added_since(version):
                connection.execute(statement)
        return _parts(connection)
