"""Documents of a memory with their outlines: the rows of the table that keeps these.

A memory that was made before outlines were kept has no such table until it is written to. Every
function here runs inside of a transaction of the caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from sharedllm.errors import TreeMemoryDamagedError
from sharedllm.memory import records, tables
from sharedllm.memory.documents import MemoryDocument
from sharedllm.text.outline import Outline, outline_from_json, outline_to_json

REPAIR = "run sharedllm verify --repair, which looks for it again in the text"


def memory_document(connection: sqlite3.Connection, document_id: str) -> MemoryDocument:
    """A document with its text.

    Raises
    ------
    DocumentError
        If it is not there.
    TreeMemoryDamagedError
        If its entry or its text is broken.
    """
    row = tables.document_row(connection, document_id)
    try:
        text = tables.text_body(connection, row[4])[0]
    except TreeMemoryDamagedError as error:
        raise TreeMemoryDamagedError(
            f"document {document_id!r}: {error}; delete it and add it again"
        ) from error
    outline = outline_of(connection, document_id, len(text)) or ()
    return MemoryDocument(**tables.names(row), text=text, outline=outline)


def put_outline(connection: sqlite3.Connection, document: MemoryDocument) -> None:
    """Write the outline of a document that is there."""
    found = connection.execute("SELECT document FROM documents WHERE id = ?", (document.id,))
    values = (found.fetchone()[0], outline_to_json(document.outline or ()))
    connection.execute(
        "INSERT OR REPLACE INTO outlines VALUES (?, ?, ?)", (*values, records.checksum(*values))
    )


def has_outlines(connection: sqlite3.Connection) -> bool:
    """False of a memory that was made before outlines were kept, and not written to since."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'outlines'")
    return found.fetchone() is not None


def outline_json(connection: sqlite3.Connection, document_id: str) -> str | None:
    """The outline of a document as it is stored; None where none was looked for.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written.
    """
    if not has_outlines(connection):
        return None
    row = connection.execute(
        "SELECT o.* FROM outlines o JOIN documents d ON d.document = o.document WHERE d.id = ?",
        (document_id,),
    ).fetchone()
    return None if row is None else checked_outline(row, document_id)


def checked_outline(row: Sequence[Any], document_id: str) -> str:
    """The outline in a row of outlines.

    Raises
    ------
    TreeMemoryDamagedError
    """
    try:
        return str(records.checked(row, "outlines", f"the outline of document {document_id!r}")[1])
    except TreeMemoryDamagedError as error:
        raise TreeMemoryDamagedError(f"{error}; {REPAIR}") from error


def outline_checks(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """The checksum of every outline, by the row of its document."""
    if not has_outlines(connection):
        return []
    return connection.execute("SELECT document, checksum FROM outlines ORDER BY 1").fetchall()


def outline_check(connection: sqlite3.Connection, document_id: str) -> int | None:
    """The checksum of a document's outline, which changes with it; None without one."""
    if not has_outlines(connection):
        return None
    row = connection.execute(
        "SELECT o.checksum FROM outlines o JOIN documents d ON d.document = o.document "
        "WHERE d.id = ?",
        (document_id,),
    ).fetchone()
    return None if row is None else row[0]


def outline_of(connection: sqlite3.Connection, document_id: str, characters: int) -> Outline | None:
    """The outline of a document with a text of so many characters; None where none was looked for.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written.
    """
    text = outline_json(connection, document_id)
    return None if text is None else parsed_outline(text, document_id, characters)


def outlines(connection: sqlite3.Connection) -> dict[str, Outline]:
    """The outlines of all documents that have one, by the document's id.

    Raises
    ------
    TreeMemoryDamagedError
        If one is not what was written.
    """
    if not has_outlines(connection):
        return {}
    found = connection.execute(
        "SELECT d.id, t.characters, o.* FROM documents d JOIN outlines o ON "
        "o.document = d.document JOIN texts t ON t.text = d.text"
    )
    return {
        document: parsed_outline(checked_outline(row, document), document, characters)
        for document, characters, *row in found
    }


def parsed_outline(text: str, document_id: str, characters: int) -> Outline:
    """Read a stored outline.

    Raises
    ------
    TreeMemoryDamagedError
    """
    try:
        return outline_from_json(text, characters)
    except (ValueError, RecursionError) as error:
        raise TreeMemoryDamagedError(
            f"the outline of document {document_id!r} cannot be read: {error}; {REPAIR}"
        ) from error
