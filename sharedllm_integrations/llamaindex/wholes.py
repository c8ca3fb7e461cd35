"""Whole documents of a reader's pages."""

from __future__ import annotations

from collections.abc import Iterable

from llama_index.core.schema import Document, MetadataMode

from sharedllm_integrations.names import SOURCES, first_text
from sharedllm_integrations.wholes import wholes


def whole_documents(documents: Iterable[Document]) -> list[Document]:
    """One document a file, of those that ``SimpleDirectoryReader`` made one a page of a PDF.

    Its id is its path, so that ``refresh`` knows it again, and citations of it say their page.
    Documents that are no pages (no ``page_label`` in their metadata) stay as they are.
    """
    out = []
    for page, metadata, text in wholes(
        documents, lambda d: d.metadata, lambda d: (d.get_content(MetadataMode.NONE), None)
    ):
        if text is None:
            out.append(page)
            continue
        excluded = {
            "excluded_embed_metadata_keys": page.excluded_embed_metadata_keys,
            "excluded_llm_metadata_keys": page.excluded_llm_metadata_keys,
        }
        name = first_text(metadata, SOURCES)
        out.append(Document(id_=name, text=text, metadata=metadata, **excluded))
    return out
