"""A tree memory in the place of LangChain's retriever, document compressor and search tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    AsyncCallbackManagerForToolRun,
    CallbackManagerForRetrieverRun,
    CallbackManagerForToolRun,
    Callbacks,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.indexing import DeleteResponse, UpsertResponse
from langchain_core.indexing.base import DocumentIndex
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from sharedllm.arguments import checked
from sharedllm_integrations.documents import name_of
from sharedllm_integrations.engine import Engine
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain.documents import (
    from_memory,
    passage,
    retrieved,
    span,
    to_memory,
)
from sharedllm_integrations.memories import (
    Returns,
    find_hits,
    make_temporary,
    open_given,
    open_to_read,
    put,
    require_count,
    writer_for,
)
from sharedllm_integrations.references import Scope, neutral
from sharedllm_integrations.requests import GivenText
from sharedllm_integrations.settings import (
    MemoryField,
    ModelField,
    Reopened,
    SectionName,
    SelectionFields,
)

if TYPE_CHECKING:
    from sharedllm import TreeMemory

Content = Literal["documents", "references", "passages"]
PREVIEW = 300  # characters
NOTHING = "Nothing was found."


class TreeMemoryRetriever(Reopened, DocumentIndex):
    """Finds documents in a tree memory, and puts documents into it.

    It is a `DocumentIndex`: ``upsert``, ``delete`` and ``get`` work on whole documents, and
    ``langchain_core.indexing.index`` skips those that have not changed.

    Parameters
    ----------
    memory : TreeMemory, the path of one (``upsert`` makes it where there is none), or None for one
        that lasts as long as the process
    k : documents (or passages) to return at most
    filter : metadata filter, as ``TreeMemory.search`` takes it
    section : names the sections that are searched, by number ("chapter 3"), title or path ("Part
        II > Chapter 3"); documents that are found by them are returned whole all the same
    returns : "documents" (whole ones) or "passages" (the best, for chains with another model)
    references : put each whole document between the marks of its document reference. A
        ``ChatSharedLLM`` of the same memory knows its text without them, where both are in one
        process; other models then read the marks, too
    tenant : of the references
    llm : a SharedLLM that is loaded already, for a memory that is made here
    notes : ``upsert`` takes a note of each chunk, too, by `llm` or the memory's model: a first
        summary by the same model then needs no more reading

    Raises
    ------
    SetupError
        If `memory` cannot be one.
    SharedLLMError
        Of the core, if the memory cannot be used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    memory: MemoryField = None
    k: PositiveInt = 4
    filter: Mapping[str, Any] | None = None
    section: SectionName | None = None
    returns: Returns = "documents"
    references: bool = False
    tenant: str = ""
    llm: ModelField = Field(default=None, exclude=True, repr=False)
    notes: bool = False

    @cached_property
    def _memory(self) -> TreeMemory:
        """The memory to write to, made where there is none."""
        if self.memory is None:
            return make_temporary(self.llm)
        return open_given(self.memory, create=True, llm=self.llm)

    def _to_read(self) -> TreeMemory | None:
        """The memory, if it is there: reading makes none."""
        if self.memory is None or "_memory" in self.__dict__:
            return self._memory
        found = open_to_read(self.memory, llm=self.llm)
        if found is not None:
            self.__dict__["_memory"] = found
        return found

    def _given(self) -> dict[str, Any]:
        given = super()._given()
        if "_memory" in self.__dict__:  # which names its model
            return {**given, "memory": self._memory, "llm": None}
        return given

    # -- finding ---------------------------------------------------------------------------------

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,
        section: str | None = None,
    ) -> list[Document]:
        wanted = require_count("k", self.k if k is None else k)
        where = self.filter if filter is None else filter
        memory = self._to_read()
        if memory is None:
            return []
        inside = self.section if section is None else section
        hits = find_hits(memory, query, wanted, where, self.returns, inside)
        if self.returns == "passages":
            return [passage(hit) for hit in hits]
        scope = Scope.of(memory, self.tenant)
        return [retrieved(memory.get(hit.id), scope, references=self.references) for hit in hits]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,
        section: str | None = None,
    ) -> list[Document]:
        return await run_in_executor(
            None,
            self._get_relevant_documents,
            query,
            run_manager=run_manager.get_sync(),
            k=k,
            filter=filter,
            section=section,
        )

    # -- keeping ---------------------------------------------------------------------------------

    @checked(error=SetupError)
    def upsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:
        """Add documents, or change those that are there under their ids; only new text is read.

        A document without an id gets one that follows from its content. One that cannot be read
        (it is empty) is in ``failed``; ``index`` of langchain-core then raises.

        Raises
        ------
        SetupError
            For arguments that it does not know.
        DocumentValueError
            If a memory cannot hold a value of one; nothing is added then.
        TreeMemoryError
            Of the core, if the memory cannot be written.
        """
        _require_nothing("upsert", kwargs)
        failed = [item.id or "" for item in items if not item.page_content.strip()]
        documents = [to_memory(item) for item in items if item.page_content.strip()]
        writer = self.notes and documents and writer_for(self._memory, self.llm)
        for document in documents:
            put(self._memory, document, notes=writer or False)
        return UpsertResponse(succeeded=[one.id for one in documents], failed=failed)

    @checked(error=SetupError)
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
        memory = self._to_read()
        there = [] if memory is None else [id for id in dict.fromkeys(ids) if id in memory]
        if memory is not None and there:
            memory.delete(there)
        return DeleteResponse(num_deleted=len(there), succeeded=there, num_failed=0, failed=[])

    @checked(error=SetupError)
    def get(self, ids: Sequence[str], /, **kwargs: Any) -> list[Document]:
        """The documents with these ids as they were put in; those that are not there are left out.

        Raises
        ------
        TreeMemoryDamagedError
            Of the core.
        """
        _require_nothing("get", kwargs)
        memory = self._to_read()
        if memory is None:
            return []
        return [from_memory(memory.get(id)) for id in dict.fromkeys(ids) if id in memory]


def _require_nothing(name: str, given: Mapping[str, Any]) -> None:
    if given:
        raise SetupError(f"{name}() does not know {', '.join(given)}; leave it out")


class TreeMemoryCompressor(SelectionFields, BaseDocumentCompressor):
    """Selects the passages that answer a query, under one budget for all documents.

    For pipelines that keep another model: each passage is a document with the metadata of the one
    it comes from, and ``char_start``, ``char_end``, ``tree_level`` and ``score``.

    Parameters
    ----------
    budget : tokens of all passages together, or "auto"; None is the model's
    memory : TreeMemory or path; documents that it holds are not read again
    model, adapter, device, dtype, llm, tenant, search : as for ``ChatSharedLLM``

    Raises
    ------
    SetupError, SharedLLMError
    """

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self)

    @checked(error=SetupError)
    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The passages of `documents` that answer `query`, best first.

        Documents without text are left out; equal texts count once.
        """
        texts = [
            GivenText(text=one.page_content, title=name_of(one.metadata, "")) for one in documents
        ]
        selected = self._engine.select(texts, query, self._selection)
        return [span(citation, documents[index].metadata) for citation, index in selected]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """:meth:`compress_documents` without holding up the event loop."""
        return await run_in_executor(None, self.compress_documents, documents, query, callbacks)


class _Query(BaseModel):
    query: str = Field(description="what to look for, as a question or in key words")


@checked("k", error=SetupError)
def create_tree_memory_tool(
    memory: Any,
    *,
    name: str = "search_documents",
    description: str = "Searches the documents, and returns those that answer the query.",
    k: int = 3,
    content: Content = "documents",
    filter: Mapping[str, Any] | None = None,
    section: str | None = None,
    tenant: str = "",
) -> BaseTool:
    """A tool that searches a tree memory.

    Parameters
    ----------
    memory : TreeMemory, or the path of one
    name, description : for the model that calls it
    k : documents or passages to return
    content : {"documents", "references", "passages"}
        The result that the model reads: the texts of whole documents, which a ``ChatSharedLLM`` of
        the same memory reads as trees; or a preview of each with its reference, which only a
        ``ChatSharedLLM`` of the same memory and tenant reads as the whole document and which keeps
        histories short; or the best passages, for a model with a small window.
    filter : metadata filter, as ``TreeMemory.search`` takes it
    section : names the sections that are searched, as ``TreeMemory.search`` takes it
    tenant : of the references

    Raises
    ------
    SetupError
        If `content` is none of these.
    """
    if content not in get_args(Content):
        raise SetupError(f"content is {content!r}; allowed: {', '.join(get_args(Content))}")
    retriever = TreeMemoryRetriever(
        memory=memory,
        k=k,
        filter=filter,
        section=section,
        tenant=tenant,
        returns="passages" if content == "passages" else "documents",
    )
    return _SearchTool(name=name, description=description, retriever=retriever, content=content)


class _SearchTool(BaseTool):
    """Searches with a retriever; a class, so that it can be pickled."""

    retriever: TreeMemoryRetriever
    content: Content
    args_schema: type[BaseModel] = _Query
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"

    def _run(
        self, query: str, run_manager: CallbackManagerForToolRun | None = None
    ) -> tuple[str, list[dict[str, Any]]]:
        callbacks = run_manager.get_child() if run_manager else None
        return self._shown(self.retriever.invoke(query, config={"callbacks": callbacks}))

    async def _arun(
        self, query: str, run_manager: AsyncCallbackManagerForToolRun | None = None
    ) -> tuple[str, list[dict[str, Any]]]:
        callbacks = run_manager.get_child() if run_manager else None
        return self._shown(await self.retriever.ainvoke(query, config={"callbacks": callbacks}))

    def _shown(self, found: list[Document]) -> tuple[str, list[dict[str, Any]]]:
        texts = [
            _preview(one, self.retriever) if self.content == "references" else one.page_content
            for one in found
        ]
        return "\n\n".join(texts) or NOTHING, [{"id": one.id, **one.metadata} for one in found]


def _preview(document: Document, retriever: TreeMemoryRetriever) -> str:
    """The name of a document that was found, how it begins, and its reference."""
    memory, id = retriever._memory, document.id or ""
    name = name_of(document.metadata, document.page_content)
    begins = " ".join(document.page_content[:PREVIEW].split())
    reference = Scope.of(memory, retriever.tenant).reference(id, memory.get(id).text)
    return f"{neutral(name)}: {begins}...\n{reference}"
