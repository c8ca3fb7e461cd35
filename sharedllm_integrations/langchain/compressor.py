"""TreeMemoryCompressor: the spans of documents that answer a question, for any other model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables.config import run_in_executor
from pydantic import Field

from sharedllm_integrations.engine import Engine
from sharedllm_integrations.fields import ModelFields
from sharedllm_integrations.langchain.documents import span, without_marks
from sharedllm_integrations.names import name_of
from sharedllm_integrations.spans import selected
from sharedllm_integrations.turns import Given


class TreeMemoryCompressor(ModelFields, BaseDocumentCompressor):
    """Selects the spans that answer a query, under one budget for all documents.

    For pipelines that keep another model: what it returns are documents with the metadata of those
    they come from, and ``char_start``, ``char_end``, ``tree_level`` and ``score``.

    Parameters
    ----------
    budget : tokens of all spans together; None is the model's
    memory : TreeMemory or path; documents that it holds are not read again
    model, adapter, device, dtype, llm, tenant, search : as for ``ChatSharedLLM``

    Raises
    ------
    SetupError, SharedLLMError
    """

    budget: int | None = None
    search: Mapping[str, Any] = Field(default_factory=dict)

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self._settings())

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The spans of `documents` that answer `query`, best first.

        Documents without text are left out; equal texts count once.
        """
        own = [without_marks(document, self.tenant) for document in documents]
        texts = [
            Given(text=one.page_content, title=name_of(one.metadata, one.page_content))
            for one in own
        ]
        options = {**self.search, **({} if self.budget is None else {"budget": self.budget})}
        found = selected(self._engine, texts, query, options)
        return [span(citation, own[index].metadata) for citation, index in found]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """:meth:`compress_documents` without holding up the event loop."""
        return await run_in_executor(None, self.compress_documents, documents, query, callbacks)
