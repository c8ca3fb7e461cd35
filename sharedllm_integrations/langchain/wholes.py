"""Whole documents of a loader's pages, and the core's answer behind a message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from langchain_core.documents import Document
from langchain_core.messages import AIMessage

from sharedllm_integrations.answers import kept
from sharedllm_integrations.details import PROVIDER
from sharedllm_integrations.names import SOURCES, first_text
from sharedllm_integrations.wholes import files, joined, of_whole

if TYPE_CHECKING:
    from sharedllm import Answer


def whole_documents(documents: Iterable[Document]) -> list[Document]:
    """One document a file, of those that a loader such as ``PyPDFLoader`` made one a page.

    Its id is its source, so that ``upsert`` knows it again, and citations of it say their page.
    Documents that are no pages (no ``page`` in their metadata) stay as they are.
    """
    out = []
    for pages in files(documents, lambda one: one.metadata):
        first = pages[0]
        metadata = of_whole(first.metadata)
        if len(pages) == 1 and metadata == first.metadata:
            out.append(first)
            continue
        text = joined((one.page_content, one.metadata.get("page")) for one in pages)
        name = first_text(metadata, SOURCES)
        out.append(Document(id=name, page_content=text, metadata=metadata))
    return out


def answer_of(message: AIMessage) -> Answer:
    """The core's answer that `message` brought: ``to_html(path)``, ``plot()``, citations.

    The last 64 of a process are kept.

    Raises
    ------
    SetupError
        If no SharedLLM wrote the message, or its answer is not kept any more.
    """
    return kept(getattr(message, "response_metadata", {}).get(PROVIDER))
