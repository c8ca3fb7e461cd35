"""TreeMemoryIndex: a tree memory in the place of a LlamaIndex index."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core import Settings
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.data_structs.data_structs import IndexStruct
from llama_index.core.data_structs.registry import INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS
from llama_index.core.indices.registry import INDEX_STRUCT_TYPE_TO_INDEX_CLASS
from llama_index.core.ingestion import run_transformations
from llama_index.core.llms import LLM
from llama_index.core.llms.utils import resolve_llm
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import BaseNode, TransformComponent
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.storage.storage_context import StorageContext

from sharedllm.arguments import checked, shown
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex.llm import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.nodes import PART_OF, to_memory
from sharedllm_integrations.llamaindex.query_engine import (
    TreeMemoryCitationEngine,
    TreeMemoryQueryEngine,
)
from sharedllm_integrations.llamaindex.retriever import (
    Referring,
    TreeMemoryRetriever,
    core_of,
    memory_for,
)
from sharedllm_integrations.llamaindex.vector_store import (
    FOLDER,
    TreeMemoryVectorStore,
    delete_with_parts,
    memory_of,
)
from sharedllm_integrations.memories import holds_memory, open_given, portable, put, save
from sharedllm_integrations.worker import in_thread

if TYPE_CHECKING:
    from sharedllm import SharedLLM, TreeMemory

RETRIEVER = ("similarity_top_k", "filters", "section", "returns", "references", "verbose")
MODES = ("context", "condense_plus_context", "condense_question", "simple")
AGENTS = ("react", "openai")  # modes that LlamaIndex itself has given up
HISTORY = 0.25  # of the trained window; the rest is for evidence, instructions and the answer
STRUCT = "tree_memory"  # its kind in LlamaIndex's storage
# what LlamaIndex's indices take that means nothing here
WITHOUT_MEANING = ("callback_manager", "insert_batch_size", "use_async", "store_nodes_override")
INSTEAD = {  # what to write in place of LlamaIndex's arguments and attributes
    "embed_model": "it searches without embeddings: leave embed_model out",
    "service_context": "LlamaIndex has no ServiceContext any more: give llm=",
    "docstore": "its documents are those of index.memory: index.memory.get(id), "
    "index.memory.list()",
}
logger = logging.getLogger(__name__)


@dataclass
class TreeMemoryStruct(IndexStruct):
    """A TreeMemoryIndex in LlamaIndex's index store: its id."""

    @classmethod
    def get_type(cls) -> Any:
        """Its kind."""
        return STRUCT


class TreeMemoryIndex:
    """Documents that were read once, with the methods that LlamaIndex's indices have.

    No embedding model, no vector store and no key is needed. Every change is on disk, and seen by
    every retriever and engine made here, when the method returns.

    >>> index = TreeMemoryIndex.from_documents(documents, llm=LlamaIndexSharedLLM())
    >>> index.as_query_engine().query("Who sells his wife?")

    Parameters
    ----------
    memory : TreeMemory, the path of one (made where there is none if there are nodes), or None for
        one that lasts as long as the process; or LlamaIndex nodes to read, as LlamaIndex's indices
        take them
    nodes : LlamaIndex nodes to read
    llm : the LlamaIndex model that answers; None is that of LlamaIndex's ``Settings`` where one is
        set, else a LlamaIndexSharedLLM of the memory. Of a LlamaIndexSharedLLM, the index uses a
        copy whose requests' own memory is the index's.
    tenant : of the references that its retrievers give out; None is the model's
    storage_context : one with a TreeMemoryVectorStore, whose memory is the index's, or a new one;
        its ``persist`` writes the index as well
    index_struct : what LlamaIndex's ``load_index_from_storage`` has found in it
    transformations : steps that nodes go through first; a splitter makes every part a document
    notes : take a note of each chunk of what is read here, too, for summaries by the same `llm`,
        which has to be a LlamaIndexSharedLLM
    others : what LlamaIndex's indices take; refused where it would mean something else here

    Raises
    ------
    SetupError
        If the model's tenant is another, or for arguments that it cannot follow.
    SharedLLMError
        Of the core, if the memory cannot be used.
    """

    @checked(error=SetupError)
    def __init__(
        self,
        memory: Any = None,
        *,
        nodes: Sequence[BaseNode] | None = None,
        llm: LLM | None = None,
        tenant: str | None = None,
        storage_context: StorageContext | None = None,
        index_struct: TreeMemoryStruct | None = None,
        transformations: Sequence[TransformComponent] | None = None,
        notes: bool = False,
        show_progress: bool = False,
        **others: Any,
    ) -> None:
        _require_meant("TreeMemoryIndex()", others)
        if isinstance(memory, list | tuple):
            nodes, memory = [*memory, *(nodes or ())], None
        if not (llm is None or isinstance(llm, LLM)):
            llm = resolve_llm(llm)
        chosen = llm or Settings._llm
        ours = chosen if isinstance(chosen, LlamaIndexSharedLLM) else None
        if storage_context is not None:
            _require_free(storage_context, index_struct)
            memory = memory_of(storage_context, core_of(ours)) if memory is None else memory
        if memory is None and ours is not None:
            memory = ours.memory
        if ours is not None and tenant not in (None, ours.tenant):
            raise SetupError(
                f"tenant is {tenant!r} and that of the model {ours.tenant!r}; leave one out"
            )
        self.tenant = ours.tenant if ours else tenant or ""
        self.memory: TreeMemory = memory_for(memory, ours, create=nodes is not None)
        self.index_struct = index_struct or TreeMemoryStruct()
        self._llm, self._over_memory = llm, dict[int, tuple[LLM, LLM]]()
        self._storage = storage_context or StorageContext.from_defaults()
        self._storage.index_store.add_index_struct(self.index_struct)
        store = TreeMemoryVectorStore(memory=self.memory, tenant=self.tenant)
        self._storage.add_vector_store(store, "default")
        self._transformations, self._notes = list(transformations or ()), notes
        self._add(nodes or (), show_progress=show_progress)

    @property
    def llm(self) -> LLM:
        """The model that answers, over the memory where it is ours."""
        model = self._llm or Settings._llm
        if model is None:
            model = self._llm = LlamaIndexSharedLLM(memory=self.memory, tenant=self.tenant)
        return self._over(model)

    # -- making, keeping -------------------------------------------------------------------------

    @classmethod
    @checked(error=SetupError)
    def from_documents(
        cls,
        documents: Iterable[BaseNode],
        storage_context: StorageContext | None = None,
        *,
        llm: LLM | None = None,
        memory: Any = None,
        tenant: str | None = None,
        transformations: Sequence[TransformComponent] | None = None,
        notes: bool = False,
        show_progress: bool = False,
        **others: Any,
    ) -> TreeMemoryIndex:
        """Read documents; what the memory holds already is not read again.

        Documents without any text, such as blank pages, are left out with a warning in the log.

        Raises
        ------
        DocumentError
            Of the core, if one is in the memory under the same id with another content.
        DocumentValueError
            If a memory cannot hold a value of one; nothing is read then.
        """
        return cls(
            memory,
            nodes=list(documents),
            llm=llm,
            tenant=tenant,
            storage_context=storage_context,
            transformations=transformations,
            notes=notes,
            show_progress=show_progress,
            **others,
        )

    @classmethod
    def from_vector_store(
        cls, vector_store: Any, *, llm: LLM | None = None, **others: Any
    ) -> TreeMemoryIndex:
        """The index of a :class:`TreeMemoryVectorStore`.

        Raises
        ------
        SetupError
            For any other vector store.
        """
        context = StorageContext.from_defaults(vector_store=vector_store)
        return cls(llm=llm, storage_context=context, **others)

    @classmethod
    @checked(error=SetupError)
    def load(
        cls,
        persist_dir: str | os.PathLike[str],
        *,
        llm: LLM | None = None,
        tenant: str | None = None,
    ) -> TreeMemoryIndex:
        """The index in a folder, of :meth:`persist`, ``sharedllm index`` or a storage context.

        Raises
        ------
        TreeMemoryError
            Of the core, if there is none.
        """
        inner = Path(persist_dir) / FOLDER
        folder = inner if holds_memory(inner) else persist_dir
        return cls(open_given(folder, llm=core_of(llm)), llm=llm, tenant=tenant)

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

    @property
    def storage_context(self) -> StorageContext:
        """LlamaIndex's, whose ``persist`` writes the index as ``load_index_from_storage`` reads it.

        The storage names the folder of its memory: after moving it, use :meth:`load`.
        """
        return self._storage

    @property
    def vector_store(self) -> TreeMemoryVectorStore:
        """The memory in the place of a vector store."""
        return TreeMemoryVectorStore(memory=self.memory, tenant=self.tenant)

    @property
    def index_id(self) -> str:
        """Its name in a storage context."""
        return self.index_struct.index_id

    def set_index_id(self, index_id: str) -> None:
        """Change its name in a storage context."""
        self._storage.index_store.delete_index_struct(self.index_id)
        self.index_struct.index_id = index_id
        self._storage.index_store.add_index_struct(self.index_struct)

    @property
    def docstore(self) -> Any:
        """LlamaIndex's store of documents, which is not used.

        Raises
        ------
        SetupError
            Always: it says what to write.
        """
        raise SetupError(f"TreeMemoryIndex has no docstore; {INSTEAD['docstore']}")

    def __getstate__(self) -> dict[str, Any]:
        """Return what it was made of; its memory is opened again when it is needed."""
        return {
            "memory": portable(self.memory),
            "llm": self._llm,
            "tenant": self.tenant,
            "index_id": self.index_id,
            "notes": self._notes,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        struct = TreeMemoryStruct(index_id=state["index_id"])
        own = {name: state[name] for name in ("llm", "tenant", "notes")}
        TreeMemoryIndex.__init__(self, state["memory"], index_struct=struct, **own)

    def __deepcopy__(self, memo: dict[int, Any]) -> TreeMemoryIndex:
        made = object.__new__(type(self))
        made.__setstate__({**self.__getstate__(), "memory": self.memory})
        memo[id(self)] = made
        return made

    # -- documents -------------------------------------------------------------------------------

    def _add(self, nodes: Sequence[BaseNode], *, show_progress: bool = False) -> None:
        given: Sequence[BaseNode] = [one for one in nodes if _has_text(one)]
        if self._transformations and given:
            given = run_transformations(given, self._transformations, show_progress=show_progress)
        if given:
            self.memory.add(
                [to_memory(one) for one in given],
                notes=self._writer(),
                progress=show_progress or None,
            )

    def _writer(self) -> SharedLLM | Literal[False]:
        """Give what takes notes; False where none are wanted.

        Raises
        ------
        SetupError
            If the model that answers is not ours.
        """
        if not self._notes:
            return False
        model = core_of(self.llm)
        if model is None:
            raise SetupError(
                f"notes is True, and {type(self.llm).__name__} answers, which reads no notes: give "
                "llm=LlamaIndexSharedLLM(), or leave notes out"
            )
        return model

    @checked(error=SetupError)
    def insert(self, document: BaseNode, **insert_kwargs: Any) -> None:
        """Read one more document.

        Raises
        ------
        DocumentError
            Of the core, if it has no text, or is there under the same id with another content.
        """
        if self._transformations:
            self._add([document])
        else:
            self.memory.add(to_memory(document), notes=self._writer())

    @checked(error=SetupError)
    def insert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Read LlamaIndex nodes, each as a document; :meth:`delete_ref_doc` knows whose parts.

        Raises
        ------
        DocumentError
            Of the core, if one is there under the same id with another content.
        """
        given = [to_memory(one) for one in nodes if _has_text(one)]
        self.memory.add(given, notes=self._writer())

    @checked(error=SetupError)
    def update_ref_doc(self, document: BaseNode, **update_kwargs: Any) -> None:
        """Replace the document with the same id; only new text is read.

        Raises
        ------
        DocumentError
            Of the core, if it is not there.
        """
        if self._transformations and delete_with_parts(self.memory, document.node_id):
            self._add([document])
        else:
            self.memory.update(to_memory(document), notes=self._writer())

    @checked(error=SetupError)
    def delete_ref_doc(
        self, ref_doc_id: str, delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Delete a document, with all parts of it.

        Parameters
        ----------
        delete_from_docstore : taken for the sake of programs that give it

        Raises
        ------
        DocumentError
            Of the core, if it is not there.
        """
        if not delete_with_parts(self.memory, ref_doc_id):
            self.memory.delete(ref_doc_id)  # which says that it is not there

    @checked(error=SetupError)
    def delete_nodes(self, node_ids: list[str], **delete_kwargs: Any) -> None:
        """Delete what was read under these ids.

        Raises
        ------
        DocumentError
            Of the core, if one is not there.
        """
        self.memory.delete(node_ids)

    @checked(error=SetupError)
    def refresh(self, documents: Sequence[BaseNode], **update_kwargs: Any) -> list[bool]:
        """Insert what is new and update what has changed; for each, whether it was read.

        Documents are known again by their ids: give ids of your own, or
        ``SimpleDirectoryReader(filename_as_id=True)``.

        Raises
        ------
        SetupError
            If the index has transformations: what they make has no lasting ids.
        """
        if self._transformations:
            raise SetupError(
                "refresh() of an index with transformations; leave transformations out, so that "
                "documents are read whole, or use update_ref_doc() for what has changed"
            )
        given = [to_memory(one) if _has_text(one) else None for one in documents]
        writer = self._writer()
        return [one is not None and put(self.memory, one, notes=writer) for one in given]

    refresh_ref_docs = refresh  # LlamaIndex's name

    async def ainsert(self, document: BaseNode, **insert_kwargs: Any) -> None:
        """:meth:`insert` without holding up the event loop."""
        await in_thread(lambda: self.insert(document))

    async def adelete_ref_doc(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """:meth:`delete_ref_doc` without holding up the event loop."""
        await in_thread(lambda: self.delete_ref_doc(ref_doc_id))

    async def arefresh(self, documents: Sequence[BaseNode], **update_kwargs: Any) -> list[bool]:
        """:meth:`refresh` without holding up the event loop."""
        return await in_thread(lambda: self.refresh(documents))

    arefresh_ref_docs = arefresh

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """Its documents, by id; parts under the document that they are parts of."""
        out: dict[str, RefDocInfo] = {}
        for one in self.memory.list():
            metadata = dict(one.metadata)
            id = str(metadata.pop(PART_OF, one.id))
            out.setdefault(id, RefDocInfo(metadata=metadata)).node_ids.append(one.id)
        return out

    # -- asking ----------------------------------------------------------------------------------

    def as_retriever(self, **options: Any) -> TreeMemoryRetriever:
        """A retriever of its documents.

        Parameters
        ----------
        options : ``similarity_top_k``, ``filters``, ``section``, ``returns``, ``references``,
            ``verbose``

        Raises
        ------
        SetupError
            For others.
        """
        _require_known("as_retriever", options, (*RETRIEVER, "callback_manager"))
        return TreeMemoryRetriever(self.memory, tenant=self.tenant, **options)

    @checked(error=SetupError)
    def as_query_engine(
        self, llm: LLM | None = None, *, citations: bool = False, **options: Any
    ) -> TreeMemoryQueryEngine:
        """A query engine over its documents.

        Another model than LlamaIndexSharedLLM is given the best passages, unless `returns` says
        otherwise, and always text.

        Parameters
        ----------
        llm : the model that answers; None is the index's
        citations : whether ``source_nodes`` are the passages that the model was given
            (:class:`TreeMemoryCitationEngine`) instead of the documents
        options : those of :meth:`as_retriever` and of ``RetrieverQueryEngine.from_args``: see
            :class:`TreeMemoryQueryEngine`

        Raises
        ------
        SetupError
            For others.
        """
        _require_known("as_query_engine", options, (*RETRIEVER, *_ENGINE))
        kind = TreeMemoryCitationEngine if citations else TreeMemoryQueryEngine
        model = self._over(llm or self.llm)
        return kind.from_args(self._retriever(model, options), llm=model, **options)

    @checked("chat_mode", error=SetupError)
    def as_chat_engine(
        self, chat_mode: Any = "context", llm: LLM | None = None, **options: Any
    ) -> BaseChatEngine:
        """A chat engine over its documents.

        Parameters
        ----------
        chat_mode : "context" (also "best"), "condense_plus_context", "condense_question" or
            "simple", which reads no documents
        llm : the model that answers; None is the index's
        options : those of :meth:`as_retriever` and of LlamaIndex's chat engine of that name

        Raises
        ------
        SetupError
            If `chat_mode` is none of these.
        """
        mode, model = getattr(chat_mode, "value", chat_mode), self._over(llm or self.llm)
        mode = mode if isinstance(mode, str) else shown(mode)
        return _chat_engine(mode, self._retriever(model, options), model, options)

    def _over(self, llm: Any) -> LLM:
        """A model of ours with this index's memory as its own."""
        model: LLM = llm if isinstance(llm, LLM) else resolve_llm(llm)
        if not isinstance(model, LlamaIndexSharedLLM):
            return model
        held = self._over_memory.get(id(model))
        if held is None or held[0] is not model:
            held = self._over_memory[id(model)] = (model, model.over(self.memory))
        return held[1]

    def _retriever(self, llm: LLM, options: dict[str, Any]) -> TreeMemoryRetriever:
        """A retriever by its own among `options`, which are taken out of them."""
        own = {name: options.pop(name) for name in RETRIEVER if name in options}
        if not isinstance(llm, LlamaIndexSharedLLM):
            own.setdefault("returns", "passages")
            if own.get("references"):
                raise SetupError(
                    f"references=True for {type(llm).__name__}, which cannot read them; leave it "
                    "out, and it is given text"
                )
        return self.as_retriever(**own)


# so that LlamaIndex's load_index_from_storage finds it
INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS[STRUCT] = TreeMemoryStruct  # type: ignore[index]
INDEX_STRUCT_TYPE_TO_INDEX_CLASS[STRUCT] = TreeMemoryIndex  # type: ignore[index, assignment]
_ENGINE = tuple(inspect.signature(RetrieverQueryEngine.from_args).parameters)


def _require_free(storage_context: StorageContext, own: IndexStruct | None) -> None:
    """Refuse a storage context that holds another index, whose documents would be this one's."""
    held = storage_context.index_store.index_structs()
    others = [one for one in held if one.get_type() == STRUCT]
    if own is None and others:
        raise SetupError(
            f"storage_context holds the index {others[0].index_id!r} already, and a memory is one "
            "index; give each its own StorageContext, or insert() into that one"
        )


def _require_meant(name: str, others: Mapping[str, Any]) -> None:
    """Refuse arguments that would mean something else here."""
    for one, value in others.items():
        if value is None or one in WITHOUT_MEANING:
            continue
        instead = INSTEAD.get(one, "leave it out; see help(TreeMemoryIndex)")
        raise SetupError(f"{name} was given {one}={value!r}; {instead}")


def _require_known(name: str, options: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        known = ", ".join(one for one in allowed if one not in ("retriever", "llm", "kwargs"))
        raise SetupError(f"{name}() does not know {', '.join(unknown)}; allowed: {known}")


def _has_text(document: BaseNode) -> bool:
    if not isinstance(document, BaseNode):
        raise SetupError(f"{shown(document)} is no document; give LlamaIndex's documents or nodes")
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
    if mode in AGENTS:
        raise SetupError(
            f"chat_mode is {mode!r}, which LlamaIndex has given up; write "
            "ReActAgent(tools=[QueryEngineTool.from_defaults(index.as_query_engine())], llm=llm), "
            "from llama_index.core.agent.workflow and llama_index.core.tools"
        )
    if isinstance(llm, LlamaIndexSharedLLM):
        if options.get("memory") is None:
            options["memory"] = _history(llm, options.pop("chat_history", None))
        if mode in ("context", "best", "condense_plus_context"):
            given = options.get("node_postprocessors") or []
            options["node_postprocessors"] = [*given, Referring(llm)]
    if mode in ("context", "best"):
        return ContextChatEngine.from_defaults(retriever=retriever, llm=llm, **options)
    if mode == "condense_plus_context":
        return CondensePlusContextChatEngine.from_defaults(retriever=retriever, llm=llm, **options)
    if mode == "condense_question":
        engine = TreeMemoryQueryEngine.from_args(retriever, llm=llm)
        return CondenseQuestionChatEngine.from_defaults(query_engine=engine, llm=llm, **options)
    if mode == "simple":
        return SimpleChatEngine.from_defaults(llm=llm, **options)
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
