"""Whole documents of a loader's pages."""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.documents import Document

from sharedllm_integrations.names import SOURCES, first_text
from sharedllm_integrations.wholes import wholes


def whole_documents(documents: Iterable[Document]) -> list[Document]:
    """One document a file, of those that a loader such as ``PyPDFLoader`` made one a page.

    Its id is its source, so that ``upsert`` knows it again, and citations of it say their page.
    Documents that are no pages (no ``page`` in their metadata) stay as they are.
    """
    found = wholes(
        documents, lambda d: d.metadata, lambda d: (d.page_content, d.metadata.get("page"))
    )
    return [
        page
        if text is None
        else Document(id=first_text(metadata, SOURCES), page_content=text, metadata=metadata)
        for page, metadata, text in found
    ]
