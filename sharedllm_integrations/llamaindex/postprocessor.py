"""TreeMemoryPostprocessor: what another retriever has found -> whole documents, or their spans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import Field, PrivateAttr

from sharedllm_integrations.engine import Engine
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.fields import ModelFields
from sharedllm_integrations.llamaindex.nodes import (
    DocumentNode,
    span,
    whole,
)
from sharedllm_integrations.names import SOURCES, TITLES, first_text
from sharedllm_integrations.spans import selected
from sharedllm_integrations.turns import Given


class TreeMemoryPostprocessor(ModelFields, BaseNodePostprocessor):
    """Brings what any retriever has found to the model as trees.

    Parameters
    ----------
    returns : {"documents", "spans"}
        "documents": each node becomes a whole one, which LlamaIndexSharedLLM reads as a tree. A
        node whose document (``ref_doc_id``, or its own id) is in `memory` becomes that document,
        so that a vector index finds and the whole document is read; others stay the text that
        they are. "spans": the spans of all nodes that answer the query, best first, for another
        model.
    budget : tokens of all spans together; None is the model's
    memory : TreeMemory or path
    model, adapter, device, dtype, llm, tenant, search : as for LlamaIndexSharedLLM

    Raises
    ------
    SetupError
        If spans are asked for without a query.
    SharedLLMError
        Of the core.
    """

    returns: Literal["documents", "spans"] = "documents"
    budget: int | None = None
    search: Mapping[str, Any] = Field(default_factory=dict)

    _engine: Engine = PrivateAttr()

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._engine = Engine(self._settings())

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows it."""
        return "TreeMemoryPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if self.returns == "documents":
            return self._documents(nodes)
        if query_bundle is None:
            raise SetupError("returns is 'spans', and there is no query; give query_str")
        return self._spans(nodes, query_bundle.query_str)

    def _documents(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        out: dict[str, NodeWithScore] = {}
        for one in nodes:
            if one.node.get_content().strip():
                node = self._whole(one)
                out.setdefault(node.node_id, NodeWithScore(node=node, score=one.score))
        return list(out.values())

    def _whole(self, one: NodeWithScore) -> DocumentNode:
        memory, node = self._engine.memory, one.node
        for id in (node.ref_doc_id, node.node_id):
            if memory is not None and id is not None and id in memory:
                return whole(memory.get(id), memory, self.tenant, tickets=True)
        text = node.get_content()
        made = DocumentNode(
            id_=node.node_id,
            text=text,
            extra_info=dict(node.metadata),
            relationships=dict(node.relationships),
        )
        return made.admit(self.tenant, _given(one))

    def _spans(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        options = {**self.search, **({} if self.budget is None else {"budget": self.budget})}
        found = selected(self._engine, [_given(one) for one in nodes], query, options)
        out = []
        for number, (citation, index) in enumerate(found, start=1):
            origin = nodes[index]
            id = origin.node.ref_doc_id or origin.node_id
            node = span(asdict(citation), id, origin.metadata, number)
            out.append(NodeWithScore(node=node, score=citation.score))
        return out


def _given(one: NodeWithScore) -> Given:
    return Given(
        text=one.node.get_content(),
        title=first_text(one.metadata, TITLES),
        source=first_text(one.metadata, SOURCES),
    )
