"""TreeMemoryIndex: a tree memory in the place of a LlamaIndex index."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
)
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms import LLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.types import RefDocInfo

from sharedllm.arguments import checked, shown
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex.llm import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.nodes import to_memory
from sharedllm_integrations.llamaindex.query_engine import (
    TreeMemoryCitationEngine,
    TreeMemoryQueryEngine,
)
from sharedllm_integrations.llamaindex.retriever import TreeMemoryRetriever, core_of, memory_for
from sharedllm_integrations.memories import opened, put, save
from sharedllm_integrations.worker import in_thread

if TYPE_CHECKING:
    from sharedllm import TreeMemory

RETRIEVER = ("similarity_top_k", "filters", "returns", "references", "verbose")
MODES = ("context", "condense_plus_context", "condense_question")
HISTORY = 0.25  # of the trained window; the rest is for evidence, instructions and the answer
logger = logging.getLogger(__name__)


class TreeMemoryIndex:
    """Documents that were read once, with the methods that LlamaIndex's indices have.

    No embedding model, no vector store and no key is needed. Every change is on disk, and seen by
    every retriever and engine made here, when the method returns.

    >>> index = TreeMemoryIndex.from_documents(documents, llm=LlamaIndexSharedLLM())
    >>> index.as_query_engine().query("Who sells his wife?")

    Parameters
    ----------
    memory : TreeMemory, the path of one (made where there is none), or None for one that lasts as
        long as the process
    llm : the LlamaIndex model that answers; None is a LlamaIndexSharedLLM of the memory
        Of a LlamaIndexSharedLLM, the index uses a copy whose requests' own memory is the index's.
    tenant : of the references that its retrievers give out; None is the model's

    Raises
    ------
    SetupError
        If the model's tenant is another.
    SharedLLMError
        Of the core, if the memory cannot be used.
    """

    @checked(error=SetupError)
    def __init__(
        self, memory: Any = None, *, llm: LLM | None = None, tenant: str | None = None
    ) -> None:
        ours = llm if isinstance(llm, LlamaIndexSharedLLM) else None
        if memory is None and ours is not None:
            memory = ours.memory
        if ours is not None and tenant not in (None, ours.tenant):
            raise SetupError(
                f"tenant is {tenant!r} and that of the model {ours.tenant!r}; leave one out"
            )
        self.tenant = ours.tenant if ours else tenant or ""
        self.memory: TreeMemory = memory_for(memory, ours)
        self.llm: LLM = self._over(
            llm or LlamaIndexSharedLLM(memory=self.memory, tenant=self.tenant)
        )

    # -- making, keeping -------------------------------------------------------------------------

    @classmethod
    @checked(error=SetupError)
    def from_documents(
        cls,
        documents: Iterable[BaseNode],
        *,
        llm: LLM | None = None,
        memory: Any = None,
        tenant: str | None = None,
        show_progress: bool = False,
    ) -> TreeMemoryIndex:
        """Read documents; what the memory holds already is not read again.

        Documents without any text, such as blank pages, are left out with a warning in the log.

        Raises
        ------
        DocumentError
            Of the core, if one is in the memory under the same id with another content.
        """
        index = cls(memory, llm=llm, tenant=tenant)
        read = (to_memory(one) for one in documents if _has_text(one))
        index.memory.add(read, progress=show_progress or None)
        return index

    @classmethod
    @checked(error=SetupError)
    def load(
        cls,
        persist_dir: str | os.PathLike[str],
        *,
        llm: LLM | None = None,
        tenant: str | None = None,
    ) -> TreeMemoryIndex:
        """The index in a folder, which :meth:`persist` or ``sharedllm index`` has written.

        Raises
        ------
        TreeMemoryError
            Of the core, if there is none.
        """
        return cls(opened(persist_dir, llm=core_of(llm)), llm=llm, tenant=tenant)

    @checked(error=SetupError)
    def persist(self, persist_dir: str | os.PathLike[str]) -> None:
        """Write everything to a folder, and what has changed where it was written before.

        An index whose memory is that folder needs no persisting.

        Raises
        ------
        TreeMemoryError
            Of the core, if the folder holds something else or cannot be written.
        """
        save(self.memory, persist_dir)

    # -- documents -------------------------------------------------------------------------------

    @checked(error=SetupError)
    def insert(self, document: BaseNode) -> None:
        """Read one more document.

        Raises
        ------
        DocumentError
            Of the core, if it has no text, or is there under the same id with another content.
        """
        self.memory.add(to_memory(document))

    @checked(error=SetupError)
    def update_ref_doc(self, document: BaseNode) -> None:
        """Replace the document with the same id; only new text is read.

        Raises
        ------
        DocumentError
            Of the core, if it is not there.
        """
        self.memory.update(to_memory(document))

    @checked(error=SetupError)
    def delete_ref_doc(self, ref_doc_id: str) -> None:
        """Delete a document.

        Raises
        ------
        DocumentError
            Of the core, if it is not there.
        """
        self.memory.delete(ref_doc_id)

    @checked(error=SetupError)
    def refresh(self, documents: Sequence[BaseNode]) -> list[bool]:
        """Insert what is new and update what has changed; for each, whether it was read.

        Documents are known again by their ids: give ids of your own, or
        ``SimpleDirectoryReader(filename_as_id=True)``.
        """
        return [_has_text(one) and put(self.memory, to_memory(one)) for one in documents]

    refresh_ref_docs = refresh  # LlamaIndex's name

    async def ainsert(self, document: BaseNode) -> None:
        """:meth:`insert` without holding up the event loop."""
        await in_thread(lambda: self.insert(document))

    async def adelete_ref_doc(self, ref_doc_id: str) -> None:
        """:meth:`delete_ref_doc` without holding up the event loop."""
        await in_thread(lambda: self.delete_ref_doc(ref_doc_id))

    async def arefresh(self, documents: Sequence[BaseNode]) -> list[bool]:
        """:meth:`refresh` without holding up the event loop."""
        return await in_thread(lambda: self.refresh(documents))

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """Its documents, by id."""
        return {
            one.id: RefDocInfo(node_ids=[one.id], metadata=dict(one.metadata))
            for one in self.memory.list()
        }

    # -- asking ----------------------------------------------------------------------------------

    def as_retriever(self, **options: Any) -> TreeMemoryRetriever:
        """A retriever of its documents.

        Parameters
        ----------
        options : ``similarity_top_k``, ``filters``, ``returns``, ``references``, ``verbose``
        """
        return TreeMemoryRetriever(self.memory, tenant=self.tenant, **options)

    @checked(error=SetupError)
    def as_query_engine(
        self, *, llm: LLM | None = None, citations: bool = False, **options: Any
    ) -> TreeMemoryQueryEngine:
        """A query engine over its documents.

        Another model than LlamaIndexSharedLLM is given the best passages, unless `returns` says
        otherwise.

        Parameters
        ----------
        llm : the model that answers; None is the index's
        citations : whether ``source_nodes`` are the passages that the model was given
            (:class:`TreeMemoryCitationEngine`) instead of the documents
        options : those of :meth:`as_retriever` and of ``RetrieverQueryEngine.from_args``
        """
        kind = TreeMemoryCitationEngine if citations else TreeMemoryQueryEngine
        model = self._over(llm or self.llm)
        return kind.from_args(self._retriever(model, options), llm=model, **options)

    @checked("chat_mode", error=SetupError)
    def as_chat_engine(
        self, chat_mode: str = "context", *, llm: LLM | None = None, **options: Any
    ) -> BaseChatEngine:
        """A chat engine over its documents.

        Parameters
        ----------
        chat_mode : "context", "condense_plus_context" or "condense_question"
        llm : the model that answers; None is the index's
        options : those of :meth:`as_retriever` and of LlamaIndex's chat engine of that name

        Raises
        ------
        SetupError
            If `chat_mode` is none of these.
        """
        mode, model = str(getattr(chat_mode, "value", chat_mode)), self._over(llm or self.llm)
        return _chat_engine(mode, self._retriever(model, options), model, options)

    def _over(self, llm: LLM) -> LLM:
        """A model of ours with this index's memory as its own."""
        return llm.over(self.memory) if isinstance(llm, LlamaIndexSharedLLM) else llm

    def _retriever(self, llm: LLM, options: dict[str, Any]) -> TreeMemoryRetriever:
        """A retriever by its own among `options`, which are taken out of them."""
        own = {name: options.pop(name) for name in RETRIEVER if name in options}
        if not isinstance(llm, LlamaIndexSharedLLM):
            own.setdefault("returns", "passages")
        return self.as_retriever(**own)


def _has_text(document: BaseNode) -> bool:
    if document.get_content().strip():
        return True
    logger.warning("document %r has no text and is left out", document.node_id)
    return False


def _chat_engine(
    mode: str, retriever: TreeMemoryRetriever, llm: LLM, options: dict[str, Any]
) -> BaseChatEngine:
    """The chat engine that LlamaIndex calls `mode`; "best" is "context".

    Raises
    ------
    SetupError
        If it cannot work over a retriever.
    """
    if options.get("memory") is None and isinstance(llm, LlamaIndexSharedLLM):
        options["memory"] = _history(llm, options.pop("chat_history", None))
    if mode in ("context", "best"):
        return ContextChatEngine.from_defaults(retriever=retriever, llm=llm, **options)
    if mode == "condense_plus_context":
        return CondensePlusContextChatEngine.from_defaults(retriever=retriever, llm=llm, **options)
    if mode == "condense_question":
        engine = TreeMemoryQueryEngine.from_args(retriever, llm=llm)
        return CondenseQuestionChatEngine.from_defaults(query_engine=engine, llm=llm, **options)
    raise SetupError(
        f"chat_mode is {shown(mode)}; allowed: {', '.join(map(repr, MODES))}. For an agent, give "
        "as_query_engine() to a QueryEngineTool"
    )


def _history(llm: LlamaIndexSharedLLM, messages: Any) -> ChatMemoryBuffer:
    """A history that fits the trained window; LlamaIndex would size it by the trees' capacity.

    Kept in memory: LlamaIndex's default leaves a connection to SQLite open.
    """
    return ChatMemoryBuffer.from_defaults(
        chat_history=messages,
        token_limit=int(llm.engine.llm.window * HISTORY),
        tokenizer_fn=llm.count,
    )
