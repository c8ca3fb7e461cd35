"""Whole documents of a reader's pages, and the core's answer behind a response."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import Document, MetadataMode

from sharedllm_integrations.answers import kept
from sharedllm_integrations.details import PROVIDER
from sharedllm_integrations.names import SOURCES, first_text
from sharedllm_integrations.wholes import files, joined, of_whole

if TYPE_CHECKING:
    from sharedllm import Answer


def whole_documents(documents: Iterable[Document]) -> list[Document]:
    """One document a file, of those that ``SimpleDirectoryReader`` made one a page of a PDF.

    Its id is its path, so that ``refresh`` knows it again, and citations of it say their page.
    Documents that are no pages (no ``page_label`` in their metadata) stay as they are.
    """
    out = []
    for pages in files(documents, lambda one: one.metadata):
        first = pages[0]
        metadata = of_whole(first.metadata)
        if len(pages) == 1 and metadata == first.metadata:
            out.append(first)
            continue
        text = joined((one.get_content(MetadataMode.NONE), None) for one in pages)
        name = first_text(metadata, SOURCES)
        excluded = {
            "excluded_embed_metadata_keys": first.excluded_embed_metadata_keys,
            "excluded_llm_metadata_keys": first.excluded_llm_metadata_keys,
        }
        out.append(Document(id_=name, text=text, metadata=metadata, **excluded))
    return out


def answer_of(response: Any) -> Answer:
    """The core's answer behind the response of an engine or a model: ``to_html(path)``, ``plot()``.

    Of several calls of the model it is the last one's. The last 64 of a process are kept.

    Raises
    ------
    SetupError
        If no SharedLLM wrote the response, or its answer is not kept any more.
    """
    fields = getattr(response, "additional_kwargs", None) or getattr(response, "metadata", None)
    found = (fields or {}).get(PROVIDER)
    return kept(found[-1] if isinstance(found, list) and found else found)
