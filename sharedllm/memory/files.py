"""Files and folders -> documents of a memory; what did not change is left alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharedllm.errors import DocumentError
from sharedllm.memory.documents import MemoryDocument
from sharedllm.memory.tree_memory import TreeMemory
from sharedllm.progress import Progress
from sharedllm.text.loaders import STDIN, read_file

SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".html", ".htm", ".xhtml", ".pdf")
CHARACTERS_AT_ONCE = 400_000  # of files that are added together: small batches encode slowly


@dataclass
class Indexed:
    """The result of indexing, by path.

    Attributes
    ----------
    added, updated, unchanged : paths
    failed : paths, and why they were not read
    """

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def index(memory: TreeMemory, paths: Sequence[str], progress: Progress = None) -> Indexed:
    """Add what is new in `paths` and update what has changed.

    A file is known again by its path, and unchanged if its size and time of change are.

    Raises
    ------
    DocumentError
        If a path that was named cannot be read; of a folder's files it is noted.
    """
    out = Indexed()
    batch: list[tuple[str, MemoryDocument]] = []
    for path, named in walk(paths):
        try:
            document = _changed(memory, path)
        except DocumentError as error:
            if named:
                raise
            out.failed[path] = str(error)
            continue
        if document is None:
            out.unchanged.append(path)
            continue
        batch.append((path, document))
        if sum(len(d.text) for _, d in batch) >= CHARACTERS_AT_ONCE:
            _commit(memory, batch, out, progress)
            batch = []
    _commit(memory, batch, out, progress)
    return out


def walk(paths: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Every file once, and whether it was named itself; folders are searched for known endings.

    Hidden files and links are left out of folders: a link may lead anywhere.
    """
    seen: set[Path] = set()
    for given in paths:
        folder = Path(given)
        if given == STDIN or not folder.is_dir():
            found, named = [folder], True
        else:
            found, named = sorted(_readable(folder)), False
        for path in found:
            if path.absolute() not in seen:
                seen.add(path.absolute())
                yield (given if named else str(path)), named


def _readable(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir():
            yield from _readable(path)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def _changed(memory: TreeMemory, path: str) -> MemoryDocument | None:
    """The file as a document, or None if the memory holds it as it is."""
    if path == STDIN:
        given = read_file(path)
        own = MemoryDocument(text=given.text, title=given.title, source=given.source)
        return None if own.id in memory else own
    whole = str(Path(path).resolve())
    known = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    there = memory.list({"id": known})
    marks = _marks(path)
    if there and {name: there[0].metadata.get(name) for name in marks} == marks:
        return None
    given = read_file(path)
    return MemoryDocument(
        id=known, text=given.text, title=given.title, source=given.source, metadata=marks
    )


def _marks(path: str) -> dict[str, Any]:
    try:
        status = Path(path).stat()
    except OSError:
        return {}  # reading it says what is wrong
    return {"file_bytes": status.st_size, "file_modified": status.st_mtime_ns}


def _commit(
    memory: TreeMemory,
    batch: Sequence[tuple[str, MemoryDocument]],
    out: Indexed,
    progress: Progress,
) -> None:
    known = {document.id for _, document in batch if document.id in memory}
    old = [(path, document) for path, document in batch if document.id in known]
    new = [(path, document) for path, document in batch if document.id not in known]
    if old:
        memory.update([document for _, document in old], progress=progress)
    if new:
        memory.add([document for _, document in new], progress=progress)
    out.updated += [path for path, _ in old]
    out.added += [path for path, _ in new]
