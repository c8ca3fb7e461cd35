"""LangChain's documents <-> those of a memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from sharedllm_integrations.handles import MARK, closing, fenced, handle_id
from sharedllm_integrations.names import page_label
from sharedllm_integrations.origins import issue

if TYPE_CHECKING:
    from sharedllm import Citation, Hit, MemoryDocument, TreeMemory

HANDLE = "sharedllm_handle"


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


def retrieved(
    document: MemoryDocument, memory: TreeMemory, tenant: str, score: float, *, marks: bool
) -> Document:
    """A whole document that was found, between its marks unless `marks` is false."""
    handle = issue(memory, document, tenant)
    text = fenced(document.text, tenant) if marks else document.text
    metadata = {**_metadata(document), "score": score, HANDLE: handle}
    return Document(id=document.id, page_content=text, metadata=metadata)


def passage(hit: Hit) -> Document:
    """A passage that was found, with its place in its document."""
    own = {
        "document_id": hit.id,
        "char_start": hit.char_start,
        "char_end": hit.char_end,
        "score": hit.score,
        **page_label(hit.page),
    }
    return Document(page_content=hit.text, metadata={**_metadata(hit), **own})


def span(citation: Citation, metadata: Mapping[str, Any]) -> Document:
    """A selected span of a document, with the document's own metadata and its place in it."""
    own = {
        "char_start": citation.char_start,
        "char_end": citation.char_end,
        "tree_level": citation.level,
        "score": citation.score,
        **page_label(citation.page),
    }
    return Document(page_content=citation.text, metadata={**metadata, **own})


def without_marks(document: Document, tenant: str) -> Document:
    """`document` without the marks around it, if they are genuine."""
    text = document.page_content
    mark = MARK.match(text)
    if mark is None or mark["close"] or not text.endswith(closing(mark["id"])):
        return document
    body = text[mark.end() : len(text) - len(closing(mark["id"]))]
    if handle_id(body, tenant) != mark["id"]:
        return document
    return document.model_copy(update={"page_content": body})


def _metadata(document: MemoryDocument | Hit) -> dict[str, Any]:
    own = {"title": document.title, "source": document.source}
    return {**{name: value for name, value in own.items() if value}, **document.metadata}
