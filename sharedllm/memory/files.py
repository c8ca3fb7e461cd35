"""Files and folders -> documents of a memory; what did not change is left alone."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharedllm.errors import DocumentError
from sharedllm.memory.documents import MemoryDocument
from sharedllm.memory.tree_memory import TreeMemory
from sharedllm.progress import Progress
from sharedllm.text.loaders import STDIN, is_read, read_file, spelled

CHARACTERS_AT_ONCE = 400_000  # of files that are added together: small batches encode slowly
LINK, HIDDEN, NO_SUFFIX, NOT_A_FILE = "link", "hidden", "no suffix", "not a file"


@dataclass
class Indexed:
    """The result of indexing, by path.

    Attributes
    ----------
    added, updated, unchanged : paths
    failed : paths, and why they were not read
    left_out : suffixes of files in folders that were left out, and how many there are; also
        "no suffix", "hidden", "link" and "not a file" (a pipe or device)
    """

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def read(self) -> int:
        """The number of files that are in the memory now."""
        return len(self.added) + len(self.updated) + len(self.unchanged)


def index(
    memory: TreeMemory,
    paths: Sequence[str],
    progress: Progress = None,
    *,
    encoding: str | None = None,
) -> Indexed:
    """Add what is new in `paths` and update what has changed.

    A file is known again by its path, and unchanged if its size and time of change are. A file that
    cannot be read is noted in the result, and the others are read.

    Parameters
    ----------
    encoding : of the texts, as :func:`sharedllm.read_file` takes it

    Raises
    ------
    InputError
        If there is no such encoding.
    TreeMemoryBusyError, TreeMemoryError
    """
    search = Search()
    out = Indexed(failed=search.failed)
    batch: list[tuple[str, MemoryDocument]] = []
    for path in search.files(paths):
        name = spelled(path)
        try:
            document = _changed(memory, path, encoding)
        except DocumentError as error:
            out.failed[name] = str(error)
            continue
        if document is None:
            out.unchanged.append(name)
            continue
        batch.append((name, document))
        if sum(len(d.text) for _, d in batch) >= CHARACTERS_AT_ONCE:
            _add(memory, batch, out, progress)
            batch = []
    _add(memory, batch, out, progress)
    out.left_out = dict(search.left_out.most_common())
    return out


class Search:
    """Finds files in folders.

    Attributes
    ----------
    failed : folders that could not be searched, and why
    left_out : how many files were left out, by suffix or reason
    """

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.left_out: Counter[str] = Counter()
        self._seen: set[str] = set()

    def files(self, paths: Sequence[str]) -> Iterator[str]:
        """Yield every file once; folders are searched for the formats that are read.

        Hidden files and links are left out of folders: a link may lead anywhere, also back.
        """
        for given in paths:
            for path in self._inside(given) if _is_folder(given) else [given]:
                absolute = path if path == STDIN else str(Path(path).absolute())
                if absolute not in self._seen:
                    self._seen.add(absolute)
                    yield path

    def _inside(self, folder: str) -> Iterator[str]:
        """Yield the files of a folder and the folders in it, in order of their names."""
        waiting = [self._entries(folder)]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif (why := _left_out(entry)) != "":
                self.left_out[why] += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(self._entries(entry.path))
            else:
                yield entry.path

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as found:
                return iter(sorted(found, key=lambda entry: entry.name))
        except OSError as error:
            name = spelled(folder)
            self.failed[name] = f"{name!r} cannot be searched: {error.strerror or error}"
            return iter(())


def _is_folder(path: str) -> bool:
    return path != STDIN and Path(path).is_dir()


def _left_out(entry: os.DirEntry[str]) -> str:
    """The reason for leaving out an entry of a folder; "" if it is read."""
    if entry.name.startswith("."):
        return HIDDEN
    if entry.is_symlink():
        return LINK
    if entry.is_dir(follow_symlinks=False):
        return ""
    if not entry.is_file(follow_symlinks=False):
        return NOT_A_FILE
    path = Path(entry.name)
    return "" if is_read(path) else spelled(path.suffix.lower()) or NO_SUFFIX


def _changed(memory: TreeMemory, path: str, encoding: str | None) -> MemoryDocument | None:
    """The file as a document, or None if the memory holds it as it is."""
    if path == STDIN:
        given = read_file(path, encoding=encoding)
        own = MemoryDocument(
            text=given.text, title=given.title, source=given.source, outline=given.outline
        )
        return None if own.id in memory else own
    there = memory.list({"id": id_of_file(path)})
    if there and own_marks(there[0].metadata) == marks_of_file(path, encoding):
        return None
    return document_of_file(path, encoding)


def document_of_file(path: str, encoding: str | None = None) -> MemoryDocument:
    """Read a file as a document that is known again by its path.

    Raises
    ------
    DocumentError
        If it cannot be read.
    """
    marks = marks_of_file(path, encoding)  # before it is read: a change meanwhile is seen next time
    given = read_file(path, encoding=encoding)
    return MemoryDocument(
        id=id_of_file(path),
        text=given.text,
        title=given.title,
        source=given.source,
        metadata=marks,
        outline=given.outline,
    )


def id_of_file(path: str) -> str:
    """The id of a file's document."""
    return hashlib.sha256(os.fsencode(_whole(path))).hexdigest()[:16]


def _whole(path: str) -> str:
    """The path without links; of a path that cannot be followed, the path itself."""
    try:
        return str(Path(path).resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links; a NUL in the name
        return path


def own_marks(metadata: Any) -> dict[str, Any]:
    """The part of a document's metadata that tells whether its file has changed."""
    return {name: value for name, value in metadata.items() if name.startswith("file_")}


def marks_of_file(path: str, encoding: str | None = None) -> dict[str, Any]:
    """The metadata of a file's document by which a change of the file is seen."""
    return _status(path) | ({} if encoding is None else {"file_encoding": encoding})


def _status(path: str) -> dict[str, Any]:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return {}  # reading it says what is wrong
    return {"file_bytes": status.st_size, "file_modified": status.st_mtime_ns}


def _add(
    memory: TreeMemory,
    batch: Sequence[tuple[str, MemoryDocument]],
    out: Indexed,
    progress: Progress,
) -> None:
    """Commit a batch; where one document cannot be added, each by itself, to know which."""
    known = {document.id for _, document in batch if document.id in memory}
    try:
        _commit(memory, batch, known, progress)
        failed = set[str]()
    except DocumentError:
        failed = {path for path, one in batch if not _added(memory, path, one, known, out)}
    for path, document in batch:
        if path not in failed:
            (out.updated if document.id in known else out.added).append(path)


def _added(
    memory: TreeMemory, path: str, document: MemoryDocument, known: set[str], out: Indexed
) -> bool:
    try:
        _commit(memory, [(path, document)], known, None)
    except DocumentError as error:
        out.failed[path] = f"{path}: {error}"
        return False
    return True


def _commit(
    memory: TreeMemory,
    batch: Sequence[tuple[str, MemoryDocument]],
    known: set[str],
    progress: Progress,
) -> None:
    old = [(path, document) for path, document in batch if document.id in known]
    new = [(path, document) for path, document in batch if document.id not in known]
    if old:
        memory.update([document for _, document in old], progress=progress)
    if new:
        memory.add([document for _, document in new], progress=progress)
