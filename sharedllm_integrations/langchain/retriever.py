"""TreeMemoryRetriever: whole documents of a tree memory, for a retriever's place in a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.indexing import DeleteResponse, UpsertResponse
from langchain_core.indexing.base import DocumentIndex
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field, PositiveInt

from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain.documents import (
    from_memory,
    passage,
    retrieved,
    to_memory,
)
from sharedllm_integrations.memories import opened, temporary
from sharedllm_integrations.ranking import best_documents, require_count
from sharedllm_integrations.saving import put

if TYPE_CHECKING:
    from sharedllm import TreeMemory


class TreeMemoryRetriever(DocumentIndex):
    """Finds documents in a tree memory, and puts documents into it.

    It is a `DocumentIndex`: ``upsert``, ``delete`` and ``get`` work on whole documents, and
    ``langchain_core.indexing.index`` skips those that have not changed.

    Parameters
    ----------
    memory : TreeMemory, the path of one (made where there is none), or None for one that lasts as
        long as the process
    k : documents (or passages) to return at most
    filter : metadata filter, as ``TreeMemory.search`` takes it
    returns : "documents" (whole ones) or "passages" (the best spans, for chains with another model)
    marks : put each whole document between the marks by which an adapter knows it
    tenant : of the marks
    llm : a SharedLLM that is loaded already, for a memory that is made here

    Raises
    ------
    SetupError
        If `memory` is neither.
    SharedLLMError
        Of the core, if the memory cannot be used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    memory: Any = None
    k: PositiveInt = 4
    filter: Mapping[str, Any] | None = None
    returns: Literal["documents", "passages"] = "documents"
    marks: bool = True
    tenant: str = ""
    llm: Any = Field(default=None, exclude=True, repr=False)

    @cached_property
    def _memory(self) -> TreeMemory:
        if self.memory is None:
            return temporary(self.llm)
        return opened(self.memory, create=True, llm=self.llm)

    # -- finding ---------------------------------------------------------------------------------

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> list[Document]:
        wanted = require_count("k", self.k if k is None else k)
        where = self.filter if filter is None else filter
        if not self._memory.list(where):
            return []
        if self.returns == "passages":
            return [passage(hit) for hit in self._memory.search(query, wanted, where)]
        return [
            retrieved(
                self._memory.get(hit.id), self._memory, self.tenant, hit.score, marks=self.marks
            )
            for hit in best_documents(self._memory, query, wanted, where)
        ]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> list[Document]:
        return await run_in_executor(
            None,
            self._get_relevant_documents,
            query,
            run_manager=run_manager.get_sync(),
            k=k,
            filter=filter,
        )

    # -- keeping ---------------------------------------------------------------------------------

    def upsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:
        """Add documents, or change those that are there under their ids; only new text is read.

        A document without an id gets one that follows from its content. One that cannot be read
        (it is empty) is in ``failed``; ``index`` of langchain-core then raises.

        Raises
        ------
        SetupError
            For arguments that it does not know.
        TreeMemoryError
            Of the core, if the memory cannot be written.
        """
        _require_nothing("upsert", kwargs)
        succeeded, failed = [], []
        for item in items:
            if not item.page_content.strip():
                failed.append(item.id or "")
                continue
            document = to_memory(item)
            put(self._memory, document)
            succeeded.append(document.id)
        return UpsertResponse(succeeded=succeeded, failed=failed)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:
        """Delete documents; ids that are not there are left out of the response.

        Raises
        ------
        SetupError
            Without ids.
        TreeMemoryError
            Of the core, if the memory cannot be written.
        """
        _require_nothing("delete", kwargs)
        if ids is None:
            raise SetupError("delete() was given no ids; name the documents to delete")
        there = [id for id in dict.fromkeys(ids) if id in self._memory]
        if there:
            self._memory.delete(there)
        return DeleteResponse(num_deleted=len(there), succeeded=there, num_failed=0, failed=[])

    def get(self, ids: Sequence[str], /, **kwargs: Any) -> list[Document]:
        """The documents with these ids as they were put in; those that are not there are left out.

        Raises
        ------
        TreeMemoryDamagedError
            Of the core.
        """
        _require_nothing("get", kwargs)
        there = (id for id in dict.fromkeys(ids) if id in self._memory)
        return [from_memory(self._memory.get(id)) for id in there]


def _require_nothing(name: str, given: Mapping[str, Any]) -> None:
    if given:
        raise SetupError(f"{name}() does not know {', '.join(given)}; leave it out")


__all__ = ["TreeMemoryRetriever"]
