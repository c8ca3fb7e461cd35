"""LangChain's documents <-> those of a memory, whole and in passages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from sharedllm.arguments import checked
from sharedllm_integrations.documents import (
    SOURCES,
    first_text,
    make_document,
    place_of,
    whole_files,
)
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.references import Scope, neutral, neutral_values
from sharedllm_integrations.resolution import held_texts

if TYPE_CHECKING:
    from sharedllm import Citation, Hit, MemoryDocument


def to_memory(document: Document) -> MemoryDocument:
    """`document` as one of a memory; its metadata's title and source are the memory's as well.

    Raises
    ------
    DocumentValueError
        If a memory cannot hold a value; the message names document and field.
    """
    metadata = document.metadata
    return make_document(
        id=document.id or "",
        text=document.page_content,
        title=first_text(metadata, ("title",)),
        source=first_text(metadata, ("source",)),
        metadata=metadata,
    )


def from_memory(document: MemoryDocument) -> Document:
    """A document of a memory, as it was put in."""
    return Document(id=document.id, page_content=document.text, metadata=_metadata(document))


def retrieved(document: MemoryDocument, scope: Scope, *, references: bool) -> Document:
    """A whole document that was found: its text, or that between the marks of its reference.

    Of its own, neither text nor metadata can refer to a document. Nothing in it depends on the
    query, so that retrievers that ask several see it once.
    """
    if references:
        text = scope.enclosed(document.id, document.text)
    else:
        text = neutral(document.text)
        held_texts.give_out(scope, document.id, document.text)
    return Document(id=document.id, page_content=text, metadata=neutral_values(_metadata(document)))


class Passage(Document):
    """A passage that was found: the same as that place found for another question.

    Score and matching sentence depend on the question, and retrievers that ask several in turn drop
    documents that are equal.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Passage) and self._place() == other._place()

    def _place(self) -> tuple[Any, ...]:
        found = self.metadata
        return found.get("document_id"), found.get("char_start"), self.page_content

    @classmethod
    def lc_id(cls) -> list[str]:
        """It is stored as any other document."""
        return Document.lc_id()


def passage(hit: Hit) -> Document:
    """A passage that was found, with its place in its document, its score and what matches."""
    own = {"document_id": hit.id, **place_of(hit)}
    metadata = {**neutral_values(_metadata(hit)), **own}
    return Passage(page_content=neutral(hit.text), metadata=metadata)


def span(citation: Citation, metadata: Mapping[str, Any]) -> Document:
    """A selected passage, with its document's own metadata and its place in it."""
    own = {"tree_level": citation.level, **place_of(citation)}
    return Document(
        page_content=neutral(citation.text), metadata={**neutral_values(metadata), **own}
    )


@checked(error=SetupError)
def whole_documents(documents: Iterable[Document]) -> list[Document]:
    """One document a file, of those that a loader such as ``PyPDFLoader`` made one a page.

    Its id is its source, so that ``upsert`` knows it again, and citations of it say their page.
    Pages are known by ``page_number`` (from 1), ``page`` (from 0 or from 1) or ``page_label`` in
    their metadata; documents without them stay as they are. Several documents of one page, as
    Unstructured's elements, are its paragraphs.
    """
    found = whole_files(Document, documents, lambda d: d.metadata, lambda d: d.page_content)
    return [
        page
        if text is None
        else Document(id=first_text(metadata, SOURCES), page_content=text, metadata=metadata)
        for page, metadata, text in found
    ]


def _metadata(document: MemoryDocument | Hit) -> dict[str, Any]:
    own = {"title": document.title, "source": document.source}
    return {**{name: value for name, value in own.items() if value}, **document.metadata}
