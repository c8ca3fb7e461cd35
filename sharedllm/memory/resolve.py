"""Documents, memories and paths of memories that a question is asked about -> documents.

This is the one place where a path becomes a memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sharedllm.arguments import checked, shown
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder, HasEncoder
from sharedllm.encoding.parts import parts_in
from sharedllm.errors import InputError, SectionError
from sharedllm.memory.folder import file_of, kind_of
from sharedllm.memory.parted_memory import open_at
from sharedllm.memory.retrieval import FoundDocuments
from sharedllm.memory.tree_memory import TreeMemory
from sharedllm.text.outline import absent_section


@runtime_checkable
class Searchable(Protocol):
    """Something that finds the documents for a question itself, as a tree memory does."""

    def documents_for(self, query: str, llm: HasEncoder) -> Sequence[Document]:
        """Find what to search for `query`; parts of long documents count as documents."""
        ...


@runtime_checkable
class Large(Protocol):
    """Something searchable that may leave out documents, and finds more by what they name."""

    def leaves_out(self) -> bool:
        """Return True where a search looks at a part of the documents only."""
        ...

    def documents_for(
        self,
        query: str,
        llm: HasEncoder,
        *,
        names: Sequence[str] = (),
        section: str | None = None,
    ) -> Sequence[Document]:
        """Find what to search for `query`, and few documents that hold one of `names`.

        With a section only what lies in it; a SectionError where no document has it.
        """
        ...


@runtime_checkable
class Readable(Protocol):
    """Something that gives all of its documents, to be read as a whole."""

    def whole_documents(self, llm: HasEncoder) -> Sequence[Document]:
        """Return all documents, each of them whole."""
        ...


Source = Document | Searchable
Context = Source | str | os.PathLike[str] | Sequence[Source | str | os.PathLike[str]]


def resolve(
    context: Context,
    encoder: DocumentEncoder,
    query: str,
    names: Sequence[str] = (),
    section: str | None = None,
) -> FoundDocuments:
    """Give the documents of `context`, in each memory's place those that it finds for `query`.

    Parameters
    ----------
    names : that a large memory finds documents by, too
    section : names the sections that are searched, of those documents that have one

    Raises
    ------
    InputError
        If `context` is not made of documents and memories, or another model read a document.
    SectionError
        If no document has such a section.
    """
    out: dict[Any, Document] = {}
    whole: list[Document] = []
    absent: list[SectionError] = []
    away = dict[str, None]()
    for source in per_question(context, 1)[0]:
        try:
            found = _documents_of(source, encoder, query, names, section)
        except SectionError as error:
            absent.append(error)
            continue
        away |= dict.fromkeys(_away(found))
        if section is not None and not isinstance(source, Large):
            whole += found
            found = [part for one in found for part in parts_in(one, section, encoder.tree)]
        out |= {_name(document): document for document in found}
    for document in (*whole, *out.values()):
        encoder.require_own(document)
    if section is not None and not out and (whole or absent):
        own = [absent_section(section, [(one.title, one.outline) for one in whole])]
        raise [*absent, *(own if whole else ())][0]
    return FoundDocuments(out.values(), tuple(away))


def resolve_whole(context: Context, encoder: DocumentEncoder, query: str | None) -> FoundDocuments:
    """Give all documents of `context`, to be read as a whole.

    Something searchable that cannot give all of them gives those that it finds for `query`.

    Parameters
    ----------
    query : None where there is no question

    Raises
    ------
    InputError
        If `context` is not made of documents and memories, or another model read a document; or
        without a question, if something can only be searched.
    """
    out: dict[Any, Document] = {}
    away = dict[str, None]()
    for source in per_question(context, 1)[0]:
        found: Sequence[Document]
        if isinstance(source, Readable):
            found = source.whole_documents(encoder)
        elif query is None and not isinstance(source, Document):
            raise InputError(
                f"{type(source).__name__} finds documents for a question only; give documents of "
                "remember(), a TreeMemory, or something with a method whole_documents"
            )
        else:
            found = resolve(source, encoder, query or "")
        out |= {_name(document): document for document in found}
        away |= dict.fromkeys(_away(found))
    for document in out.values():
        encoder.require_own(document)
    return FoundDocuments(out.values(), tuple(away))


def _away(found: Sequence[Document]) -> tuple[str, ...]:
    """The parts of a memory that were away when it found these."""
    return found.away if isinstance(found, FoundDocuments) else ()


def _documents_of(
    source: Source,
    encoder: DocumentEncoder,
    query: str,
    names: Sequence[str],
    section: str | None,
) -> Sequence[Document]:
    """The documents of one source; of a memory that may be large, those that it finds."""
    if isinstance(source, Document):
        return [source]
    more: dict[str, Any] = {"names": names} if names else {}
    if section is not None:
        more["section"] = section
    if more and isinstance(source, Large):
        return source.documents_for(query, encoder, **more)
    return source.documents_for(query, encoder)


def leaves_out(context: Context) -> bool:
    """Return True where a search looks at a part of some memory only."""
    return any(isinstance(one, Large) and one.leaves_out() for one in per_question(context, 1)[0])


def require_some(documents: Sequence[Document]) -> None:
    """Refuse to search nothing.

    Raises
    ------
    InputError
    """
    if not documents:
        raise InputError("there is no document to search; give what remember() returned")


@checked()
def open_memory(
    path: str | os.PathLike[str], *, llm: HasEncoder | None = None, create: bool = False
) -> TreeMemory:
    """Open the memory in a folder, once a process: all who name the folder share it.

    A memory that was closed, or replaced by another one on disk, is opened again.

    Parameters
    ----------
    llm : reads for the memory where no other does yet; None loads the embedded model when needed
    create : make the memory where there is none

    Raises
    ------
    TreeMemoryError
        If there is no memory, or it cannot be used.
    """
    return _memories.at(Path(path), llm, create=create)


def per_question(context: Context | Sequence[Context], questions: int) -> list[Sequence[Source]]:
    """Give one sequence of documents and memories for each of so many `questions`.

    Raises
    ------
    InputError
        If `context` is neither of them, nor one sequence of them a question.
    """
    if _is_source(context):
        return [[_source(context)]] * questions
    if isinstance(context, str | os.PathLike):
        raise InputError(
            f"context is {shown(os.fspath(context))}, and there is no memory in a folder of "
            "that name; to ask about a text give what remember() returned for it"
        )
    if not isinstance(context, Iterable):
        raise InputError(f"context is {shown(context)}; give documents returned by remember()")
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
    return [per_question(entry, 1)[0] for entry in given]


def _is_source(given: object) -> bool:
    if isinstance(given, str | os.PathLike):
        return file_of(Path(given)) != (0, 0)
    return isinstance(given, Document | Searchable)


def _source(given: Any) -> Source:
    if isinstance(given, str | os.PathLike):
        return open_memory(given)
    source: Source = given
    return source


class _Memories:
    """Memories that were named by their path, each opened once a process."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[tuple[int, int], TreeMemory]] = {}
        self._lock = threading.Lock()

    def at(self, folder: Path, llm: HasEncoder | None, *, create: bool) -> TreeMemory:
        """Give the memory in `folder`; opened again where another one stands there now."""
        kind_of(folder)  # refuses what can be no path
        name = os.path.realpath(folder)
        with self._lock:
            found = self._open.get(name)
            if found is None or found[0] != file_of(folder) or not found[1].is_current():
                new = create and file_of(folder) == (0, 0)
                memory = TreeMemory(folder, llm=llm) if new else open_at(folder, llm=llm)
                self._open[name] = found = (file_of(folder), memory)
            if llm is not None:
                found[1]._use(llm.encoder)
            return found[1]


_memories = _Memories()


def _name(source: Source) -> object:
    """Give a key that equal documents, parts of documents and memories share."""
    if isinstance(source, Document):
        return (source.id, source.offset, len(source.text))
    return id(source)
