"""LangChain's documents <-> those of a memory, whole and in passages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from sharedllm.arguments import checked
from sharedllm_integrations.documents import SOURCES, first_text, page_label, whole_files
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.references import Scope, neutral, neutral_values

if TYPE_CHECKING:
    from sharedllm import Citation, Hit, MemoryDocument


def to_memory(document: Document) -> MemoryDocument:
    """`document` as one of a memory; its metadata's title and source are the memory's as well."""
    from sharedllm import MemoryDocument

    title, source = document.metadata.get("title"), document.metadata.get("source")
    return MemoryDocument(
        id=document.id or "",
        text=document.page_content,
        title=title if isinstance(title, str) else "",
        source=source if isinstance(source, str) else "",
        metadata=document.metadata,
    )


def from_memory(document: MemoryDocument) -> Document:
    """A document of a memory, as it was put in."""
    return Document(id=document.id, page_content=document.text, metadata=_metadata(document))


def retrieved(document: MemoryDocument, scope: Scope | None, score: float) -> Document:
    """A whole document that was found, between the marks of its reference if there is a `scope`.

    Of its own, neither text nor metadata can refer to a document.
    """
    enclosed = scope.enclosed(document.id, document.text) if scope else neutral(document.text)
    metadata = {**neutral_values(_metadata(document)), "score": score}
    return Document(id=document.id, page_content=enclosed, metadata=metadata)


def passage(hit: Hit) -> Document:
    """A passage that was found, with its place in its document."""
    own = {
        "document_id": hit.id,
        "char_start": hit.char_start,
        "char_end": hit.char_end,
        "score": hit.score,
        **page_label(hit.page),
    }
    metadata = {**neutral_values(_metadata(hit)), **own}
    return Document(page_content=neutral(hit.text), metadata=metadata)


def span(citation: Citation, metadata: Mapping[str, Any]) -> Document:
    """A selected passage, with its document's own metadata and its place in it."""
    own = {
        "char_start": citation.char_start,
        "char_end": citation.char_end,
        "tree_level": citation.level,
        "score": citation.score,
        **page_label(citation.page),
    }
    return Document(page_content=neutral(citation.text), metadata={**metadata, **own})


@checked(error=SetupError)
def whole_documents(documents: Iterable[Document]) -> list[Document]:
    """One document a file, of those that a loader such as ``PyPDFLoader`` made one a page.

    Its id is its source, so that ``upsert`` knows it again, and citations of it say their page.
    Documents that are no pages (no ``page`` in their metadata) stay as they are.
    """
    found = whole_files(
        documents, lambda d: d.metadata, lambda d: (d.page_content, d.metadata.get("page"))
    )
    return [
        page
        if text is None
        else Document(id=first_text(metadata, SOURCES), page_content=text, metadata=metadata)
        for page, metadata, text in found
    ]


def _metadata(document: MemoryDocument | Hit) -> dict[str, Any]:
    own = {"title": document.title, "source": document.source}
    return {**{name: value for name, value in own.items() if value}, **document.metadata}
