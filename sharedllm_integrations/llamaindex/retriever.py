"""Whole documents in a LlamaIndex pipeline: found in a memory, or by another retriever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters
from pydantic import PrivateAttr

from sharedllm.arguments import checked
from sharedllm_integrations.documents import SOURCES, TITLES, first_text
from sharedllm_integrations.engine import Engine
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex.llm import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.nodes import DocumentNode, passage, span, where, whole
from sharedllm_integrations.memories import (
    Returns,
    find_hits,
    make_temporary,
    open_given,
    open_to_read,
    portable,
    require_count,
)
from sharedllm_integrations.references import Scope
from sharedllm_integrations.requests import GivenText
from sharedllm_integrations.resolution import held_texts
from sharedllm_integrations.settings import SelectionFields
from sharedllm_integrations.worker import in_thread

if TYPE_CHECKING:
    from sharedllm import SharedLLM, TreeMemory

TOP_K = 4


class TreeMemoryRetriever(BaseRetriever):
    """Finds documents in a tree memory.

    Parameters
    ----------
    memory : TreeMemory, the path of one, or None for one that lasts as long as the process
    similarity_top_k : documents (or passages) to return at most
    filters : MetadataFilters, or a metadata filter as ``TreeMemory.search`` takes it
    section : names the sections that are searched, by number ("chapter 3"), title or path ("Part
        II > Chapter 3"); documents that are found by them are returned whole all the same
    returns : "documents" (whole ones) or "passages" (the best, for another model)
    references : let a document's content in LLM mode be its reference, which only a
        LlamaIndexSharedLLM of the same memory and tenant reads as the whole document; otherwise it
        is the text, which every model reads, and which a LlamaIndexSharedLLM of the same memory
        knows where both are in one process. Engines of a :class:`TreeMemoryIndex` choose it
        themselves
    tenant : of the references
    llm : LlamaIndexSharedLLM or SharedLLM that a new memory is made by

    Raises
    ------
    SetupError
        If one of these cannot be used.
    SharedLLMError
        Of the core, if the memory cannot be used.
    """

    @checked("llm", error=SetupError)
    def __init__(
        self,
        memory: Any = None,
        *,
        similarity_top_k: int = TOP_K,
        filters: MetadataFilters | Mapping[str, Any] | None = None,
        section: str | None = None,
        returns: Returns = "documents",
        references: bool = False,
        tenant: str = "",
        llm: LlamaIndexSharedLLM | SharedLLM | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        if returns not in get_args(Returns):
            raise SetupError(f"returns is {returns!r}; allowed: 'documents', 'passages'")
        self.similarity_top_k = require_count("similarity_top_k", similarity_top_k)
        self.returns, self.references, self.tenant = returns, references, tenant
        self._given, self._llm, self._where = memory, llm, where(filters)
        self.section = section
        super().__init__(callback_manager=callback_manager, verbose=verbose)

    @cached_property
    def memory(self) -> TreeMemory:
        """The memory, opened when it is first needed.

        Raises
        ------
        TreeMemoryError
            Of the core, if there is none: reading makes none.
        """
        return memory_for(self._given, self._llm, create=False)

    def __getstate__(self) -> dict[str, Any]:
        """Its settings and the folder of its memory, which is opened again when needed."""
        state = dict(self.__dict__)
        given = state.pop("memory", self._given)
        return {**state, "_given": portable(given), "_llm": None, "callback_manager": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "callback_manager": CallbackManager()})

    def __deepcopy__(self, memo: dict[int, Any]) -> TreeMemoryRetriever:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)  # settings are not changed; the memory is shared
        memo[id(self)] = made
        return made

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query, k = query_bundle.query_str, self.similarity_top_k
        if self._given is not None and "memory" not in self.__dict__:
            found = open_to_read(self._given, llm=core_of(self._llm))
            if found is None:
                return []
            self.__dict__["memory"] = found
        memory = self.memory
        scope = Scope.of(memory, self.tenant)
        return [
            NodeWithScore(
                node=passage(hit)
                if self.returns == "passages"
                else whole(memory.get(hit.id), scope, refers=self.references),
                score=hit.score,
            )
            for hit in find_hits(memory, query, k, self._where, self.returns, self.section)
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await in_thread(lambda: self._retrieve(query_bundle))


class TreeMemoryPostprocessor(SelectionFields, BaseNodePostprocessor):
    """Brings what any retriever has found to the model as trees.

    Parameters
    ----------
    returns : {"documents", "passages"}
        "documents": each node becomes a whole one, which a LlamaIndexSharedLLM of the same memory
        reads as a tree and every other model as text. A node whose document (``ref_doc_id``, or
        its own id) is in `memory` becomes that document, so that a vector index finds and the whole
        document is read; others stay the text that they are, which is held for the process.
        "passages": the passages
        of all nodes that answer the query, best first, for another model.
    budget : tokens of all passages together, or "auto"; None is the model's
    section : names the sections that passages are taken from
    memory : TreeMemory or path
    model, adapter, device, dtype, llm, tenant, search : as for LlamaIndexSharedLLM

    Raises
    ------
    SetupError
        If passages are asked for without a query.
    SharedLLMError
        Of the core.
    """

    returns: Returns = "documents"

    _engine: Engine = PrivateAttr()

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._engine = Engine(self)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows it."""
        return "TreeMemoryPostprocessor"

    @checked(error=SetupError)
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if self.returns == "documents":
            return self._documents(nodes)
        if query_bundle is None:
            raise SetupError("returns is 'passages', and there is no query; give query_str")
        return self._passages(nodes, query_bundle.query_str)

    def _documents(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        out: dict[str, NodeWithScore] = {}
        for one in nodes:
            if one.node.get_content().strip():
                node = self._whole(one)
                out.setdefault(node.node_id, NodeWithScore(node=node, score=one.score))
        return list(out.values())

    def _whole(self, one: NodeWithScore) -> DocumentNode:
        memory, node = self._engine.memory, one.node
        scope = Scope.of(memory, self.tenant)
        if isinstance(node, DocumentNode) and node.reference is not None:
            return node
        for id in (node.ref_doc_id, node.node_id):
            if memory is not None and id is not None and id in memory:
                return whole(memory.get(id), scope, refers=False)
        made = DocumentNode(
            id_=node.node_id,
            text=node.get_content(),
            extra_info=dict(node.metadata),
            relationships=dict(node.relationships),
        )
        return made.refer(held_texts.hold(scope, _given(one)), scope, refers=False)

    def _passages(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        selected = self._engine.select([_given(one) for one in nodes], query, self._selection)
        out = []
        for number, (citation, index) in enumerate(selected, start=1):
            origin = nodes[index]
            id = origin.node.ref_doc_id or origin.node_id
            node = span(asdict(citation), id, origin.metadata, number)
            out.append(NodeWithScore(node=node, score=citation.score))
        return out


class Referring(BaseNodePostprocessor):
    """Lets whole documents be their references in the prompts of one model of ours.

    It is the last step before the model, so that other models, such as that of a reranker, are
    given the text. References of other memories and tenants are not used, nor those that no longer
    stand for their text.
    """

    _scope: Scope = PrivateAttr()

    def __init__(self, llm: LlamaIndexSharedLLM) -> None:
        super().__init__()
        self._scope = Scope.of(llm.engine.memory, llm.tenant)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows it."""
        return "Referring"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=one.node.referring(self._scope), score=one.score)
            if isinstance(one.node, DocumentNode)
            else one
            for one in nodes
        ]


def _given(one: NodeWithScore) -> GivenText:
    """The text of a node, between the marks of its reference if it has one."""
    node, text = one.node, one.node.get_content()
    if isinstance(node, DocumentNode) and node.reference is not None:
        text = node.reference.around(text)
    title, source = (first_text(one.metadata, names) for names in (TITLES, SOURCES))
    return GivenText(text=text, title=title, source=source)


def memory_for(
    memory: Any, llm: LlamaIndexSharedLLM | SharedLLM | None, *, create: bool = False
) -> TreeMemory:
    """The open memory that `memory` is or names; None is a new one for the process."""
    if memory is None:
        return make_temporary(core_of(llm))
    return open_given(memory, create=create, llm=core_of(llm))


def core_of(llm: Any) -> SharedLLM | None:
    """The model behind `llm`, or None where it is not ours."""
    from sharedllm import SharedLLM

    if isinstance(llm, LlamaIndexSharedLLM):
        return llm.engine.llm
    return llm if isinstance(llm, SharedLLM) else None
