"""What a question is asked about: documents, memories, or paths of memories -> documents."""

from __future__ import annotations

import os
import reprlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sharedllm.encoding.document import Document
from sharedllm.errors import InputError

if TYPE_CHECKING:
    from sharedllm.memory.tree_memory import TreeMemory
    from sharedllm.shared_llm import SharedLLM

MEMORY_FILE = "memory.sqlite"


@runtime_checkable
class Searchable(Protocol):
    """Something that finds the documents for a question itself, as a tree memory does."""

    def documents_for(self, query: str, llm: SharedLLM) -> Sequence[Document]:
        """What `llm` should search for `query`; parts of long documents count as documents."""
        ...


Source = Document | Searchable
Context = Source | str | os.PathLike[str] | Sequence[Source | str | os.PathLike[str]]


def contexts(context: Context | Sequence[Context], questions: int) -> list[Sequence[Source]]:
    """One sequence of documents and memories for each of so many `questions`.

    Raises
    ------
    InputError
        If `context` is neither of them, nor one sequence of them a question.
    """
    if _is_source(context):
        return [[_source(context)]] * questions
    if isinstance(context, str | os.PathLike):
        raise InputError(
            f"context is {reprlib.repr(os.fspath(context))}, and there is no memory in a folder of "
            "that name; to ask about a text give what remember() returned for it"
        )
    if not isinstance(context, Iterable):
        raise InputError(f"context is {context!r}; give documents returned by remember()")
    given: list[Any] = list(context)
    if all(map(_is_source, given)):
        shared = {_name(source): source for source in map(_source, given)}  # the same one once
        return [list(shared.values())] * questions
    if len(given) != questions or any(isinstance(c, str) for c in given):
        raise InputError(
            f"context is {type(context).__name__} of {len(given)}; give documents returned by "
            f"remember(), a TreeMemory or the folder of one, or one list of them for each of the "
            f"{questions} questions"
        )
    return [contexts(entry, 1)[0] for entry in given]


def owned(context: Context, llm: SharedLLM, query: str) -> Sequence[Document]:
    """The documents of `context` that `query` is about.

    Raises
    ------
    InputError
        If there is none, or one was not made by `llm`.
    """
    documents = found(context, llm, query)
    if not documents:
        raise InputError("there is no document to search; give what remember() returned")
    identity = llm.identity
    for document in documents:
        if document.made_by != identity:
            raise InputError(
                f"the document {document.title!r} was read by another model, or with another "
                "adapter or other tree settings; read it again with this one's remember()"
            )
    return documents


def one(document: object, llm: SharedLLM) -> Document:
    """`document` itself, if it is one that `llm` made.

    Raises
    ------
    InputError
    """
    if not isinstance(document, Document):
        raise InputError(
            f"{type(document).__name__} was given; give a document returned by remember(). A "
            "TreeMemory encodes what it keeps when documents are added (keep=...)"
        )
    return owned(document, llm, "")[0]


def found(context: Context, llm: SharedLLM, query: str) -> list[Document]:
    """The documents of `context`, in each memory's place those that it finds for `query`."""
    out: dict[Any, Document] = {}
    for source in contexts(context, 1)[0]:
        parts = [source] if isinstance(source, Document) else source.documents_for(query, llm)
        out |= {_name(part): part for part in parts}
    return list(out.values())


def _is_source(given: object) -> bool:
    if isinstance(given, str | os.PathLike):
        try:
            return (Path(given) / MEMORY_FILE).is_file()
        except OSError:  # a text too long to be a path
            return False
    return isinstance(given, Document | Searchable)


def _source(given: Any) -> Source:
    if isinstance(given, str | os.PathLike):
        return _memories.at(Path(given))
    source: Source = given
    return source


class _Memories:
    """Memories that were named by their path, each opened once a process."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[tuple[int, int], TreeMemory]] = {}
        self._lock = threading.Lock()

    def at(self, folder: Path) -> TreeMemory:
        """The memory in `folder`; opened again where another one stands there now."""
        from sharedllm import TreeMemory  # the public name, which is loaded when it is needed

        status = (folder / MEMORY_FILE).stat()
        name, file = str(folder.resolve()), (status.st_dev, status.st_ino)
        with self._lock:
            found = self._open.get(name)
            if found is None or found[0] != file or not found[1].is_current():
                self._open[name] = found = (file, TreeMemory(folder, create=False))
            return found[1]


_memories = _Memories()


def _name(source: Source) -> object:
    """What makes a document, a part of one or a memory the same as another."""
    if isinstance(source, Document):
        return (source.id, source.offset, len(source.text))
    return id(source)
