"""TreeMemoryCompressor: the spans of documents that answer a question, for any other model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field

from sharedllm_integrations.engine import Engine, Settings
from sharedllm_integrations.finding import Found, title_of
from sharedllm_integrations.handles import handle_id, neutral
from sharedllm_integrations.langchain.documents import span, without_marks
from sharedllm_integrations.resolving import Resolver
from sharedllm_integrations.trees import process_cache


class TreeMemoryCompressor(BaseDocumentCompressor):
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

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    budget: int | None = None
    memory: Any = None
    model: str | None = None
    adapter: str | None = "default"
    device: str | None = None
    dtype: str | None = None
    llm: Any = Field(default=None, exclude=True, repr=False)
    tenant: str = ""
    search: Mapping[str, Any] = Field(default_factory=dict)

    @cached_property
    def _engine(self) -> Engine:
        return Engine(
            Settings(
                model=self.model,
                adapter=self.adapter,
                device=self.device,
                dtype=self.dtype,
                llm=self.llm,
                memory=self.memory,
                tenant=self.tenant,
            )
        )

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The spans of `documents` that answer `query`, best first.

        Documents without text are left out; equal texts count once.
        """
        own = [without_marks(document, self.tenant) for document in documents]
        given = {
            handle_id(neutral(one.page_content), self.tenant): one
            for one in own
            if one.page_content.strip()
        }
        if not given:
            return []
        resolver = Resolver(
            llm=self._engine.llm,
            cache=process_cache(),
            memory=self._engine.memory,
            tenant=self.tenant,
            keep=False,
        )
        trees: list[Any] = []
        metadata: dict[str, Mapping[str, Any]] = {}
        for handle, document in given.items():
            text = neutral(document.page_content)
            title = str(document.metadata.get("title") or title_of(text))
            found = Found(handle=handle, text=text, path="given", title=title)
            for tree in resolver.trees(found, query)[0]:
                trees.append(tree)
                metadata[tree.id] = document.metadata
        options = {**self.search, **({} if self.budget is None else {"budget": self.budget})}
        prepared = self._engine.llm.prepare(query, trees, max_new_tokens=1, **options)
        return [span(one, metadata[one.document]) for one in prepared.citations]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """:meth:`compress_documents` without holding up the event loop."""
        return await run_in_executor(None, self.compress_documents, documents, query, callbacks)
