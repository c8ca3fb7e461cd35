"""TreeMemoryRetriever: whole documents of a tree memory, for a retriever's place in a pipeline."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex.filters import where
from sharedllm_integrations.llamaindex.llm import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.nodes import passage, whole
from sharedllm_integrations.memories import opened, temporary
from sharedllm_integrations.ranking import best_documents, require_count
from sharedllm_integrations.worker import in_thread

if TYPE_CHECKING:
    from sharedllm import SharedLLM, TreeMemory

TOP_K = 4
Returns = Literal["documents", "passages"]


class TreeMemoryRetriever(BaseRetriever):
    """Finds documents in a tree memory.

    Parameters
    ----------
    memory : TreeMemory, the path of one (made where there is none), or None for one that lasts as
        long as the process
    similarity_top_k : documents (or passages) to return at most
    filters : MetadataFilters, or a metadata filter as ``TreeMemory.search`` takes it
    returns : "documents" (whole ones) or "passages" (the best spans, for another model)
    tickets : whether a document's content in LLM mode is a ticket, which LlamaIndexSharedLLM in
        this process reads as the whole document; otherwise it is the text
    tenant : of the tickets
    llm : LlamaIndexSharedLLM or SharedLLM that a new memory is made by

    Raises
    ------
    SetupError
        If one of these cannot be used.
    SharedLLMError
        Of the core, if the memory cannot be used.
    """

    def __init__(
        self,
        memory: Any = None,
        *,
        similarity_top_k: int = TOP_K,
        filters: MetadataFilters | Mapping[str, Any] | None = None,
        returns: Returns = "documents",
        tickets: bool = True,
        tenant: str = "",
        llm: LlamaIndexSharedLLM | SharedLLM | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        if returns not in get_args(Returns):
            raise SetupError(f"returns is {returns!r}; allowed: 'documents', 'passages'")
        self.similarity_top_k = require_count("similarity_top_k", similarity_top_k)
        self.returns, self.tickets, self.tenant = returns, tickets, tenant
        self._given, self._llm, self._where = memory, llm, where(filters)
        super().__init__(callback_manager=callback_manager, verbose=verbose)

    @cached_property
    def memory(self) -> TreeMemory:
        """The memory, opened when it is first needed."""
        return memory_for(self._given, self._llm)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query, k, memory = query_bundle.query_str, self.similarity_top_k, self.memory
        if not (memory.list(self._where) if self._where else len(memory)):
            return []
        if self.returns == "passages":
            hits = memory.search(query, k, self._where)
            return [NodeWithScore(node=passage(hit), score=hit.score) for hit in hits]
        return [
            NodeWithScore(
                node=whole(memory.get(hit.id), memory, self.tenant, tickets=self.tickets),
                score=hit.score,
            )
            for hit in best_documents(memory, query, k, self._where)
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await in_thread(lambda: self._retrieve(query_bundle), threading.Event())


def memory_for(memory: Any, llm: LlamaIndexSharedLLM | SharedLLM | None) -> TreeMemory:
    """The open memory that `memory` is or names; None is a new one for the process."""
    if memory is None:
        return temporary(core_of(llm))
    return opened(memory, create=True, llm=core_of(llm))


def core_of(llm: Any) -> SharedLLM | None:
    """The model behind `llm`, or None where it is none of ours."""
    from sharedllm import SharedLLM

    if isinstance(llm, LlamaIndexSharedLLM):
        return llm.engine.llm
    return llm if isinstance(llm, SharedLLM) else None
