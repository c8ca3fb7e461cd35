"""Files, folders, URIs and tables -> rows of a Ray dataset.

A row names a file (``path``) or holds a text (``text``, and what else a document has).
"""

from __future__ import annotations

import json
import posixpath
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sharedllm.errors import DocumentError, InputError
from sharedllm.memory.documents import MemoryDocument
from sharedllm.memory.files import Search, document_of_file
from sharedllm.text.loaders import is_read, read_file, spelled
from sharedllm.text.outline import outline_from_json, outline_to_json

TABLE = ".parquet"
COLUMNS = ("id", "text", "title", "source", "metadata", "outline")
Row = dict[str, Any]


def is_uri(path: str) -> bool:
    """True for what fsspec opens, such as ``s3://bucket/book.txt``."""
    return "://" in path


def found_in(paths: Iterable[str], search: Search) -> tuple[list[str], list[str]]:
    """The files in `paths`, those in their folders included: texts, and tables of texts.

    Raises
    ------
    InputError
        If a URI cannot be looked at.
    """
    files, tables, local = list[str](), list[str](), list[str]()
    for path in paths:
        if is_uri(path):
            for one in _in_uri(path):
                (tables if one.endswith(TABLE) else files).append(one)
        elif path.endswith(TABLE):
            tables.append(path)
        else:
            local.append(path)
    return [*search.files(local), *files], tables


def _in_uri(uri: str) -> list[str]:
    """The files under a URI: itself, or those of its folder that are read."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(uri)
        if not system.isdir(path):
            return [uri]
        found = [str(one) for one in system.find(path)]
    except Exception as error:  # each kind of storage has errors of its own
        raise InputError(f"{uri!r} cannot be read: {type(error).__name__}: {error}") from error
    read = [one for one in found if is_read(Path(one)) or one.endswith(TABLE)]
    return [str(system.unstrip_protocol(one)) for one in sorted(read)]


def document_of_uri(uri: str, encoding: str | None = None) -> MemoryDocument:
    """Read what a URI names; the document is known again by the URI.

    Raises
    ------
    DocumentError
        If it cannot be read.
    """
    import fsspec

    name = posixpath.basename(uri.rstrip("/")) or "document"
    with tempfile.TemporaryDirectory(prefix="sharedllm-") as folder:
        path = Path(folder) / name
        try:
            with fsspec.open(uri, "rb") as source:
                path.write_bytes(source.read())
        except Exception as error:  # each kind of storage has errors of its own
            raise DocumentError(
                f"{uri!r} cannot be read: {type(error).__name__}: {error}"
            ) from error
        given = read_file(str(path), encoding=encoding)
    return MemoryDocument(
        id=uri,
        text=given.text,
        title=given.title,
        source=uri,
        outline=given.outline,
    )


# -- rows ------------------------------------------------------------------------------------------


def parsed(row: Mapping[str, Any], encoding: str | None = None) -> Row:
    """Make a row with a document of a row that names a file, or holds a text.

    What cannot be read becomes a row with an ``error``.
    """
    name = str(row.get("path") or row.get("id") or row.get("source") or "a row without an id")
    try:
        if row.get("path"):
            path = str(row["path"])
            read = document_of_uri if is_uri(path) else document_of_file
            document = read(path, encoding)
        else:
            document = _of_table(row)
    except InputError as error:  # of documents, too
        return {"name": spelled(name), "error": str(error), **dict.fromkeys(COLUMNS, "")}
    return {"name": spelled(name), "error": "", **row_of(document)}


def _of_table(row: Mapping[str, Any]) -> MemoryDocument:
    """The document of a table's row.

    Raises
    ------
    InputError
        If it has no text, or a column is of another type.
    """
    if not isinstance(row.get("text"), str):
        raise DocumentError(
            f"a row has the columns {', '.join(map(repr, row))} and no text in 'text'; rows have "
            "'text', and if you like 'id', 'title', 'source' and 'metadata'"
        )
    metadata = row.get("metadata") or {}
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError as error:
            raise DocumentError(f"the metadata of a row is not JSON: {error}") from error
    named: dict[str, Any] = {name: row.get(name) or "" for name in ("id", "title", "source")}
    return MemoryDocument(text=row["text"], metadata=metadata, **named)


def row_of(document: MemoryDocument) -> Row:
    """A document as a row of plain values."""
    return {
        "id": document.id,
        "text": document.text,
        "title": document.title,
        "source": document.source,
        "metadata": json.dumps(dict(document.metadata)),
        "outline": outline_to_json(document.outline or ()),
    }


def document_of(row: Mapping[str, Any]) -> MemoryDocument:
    """The document of a row that :func:`row_of` made."""
    return MemoryDocument(
        id=row["id"],
        text=row["text"],
        title=row["title"],
        source=row["source"],
        metadata=json.loads(row["metadata"]),
        outline=outline_from_json(row["outline"], len(row["text"])),
    )
