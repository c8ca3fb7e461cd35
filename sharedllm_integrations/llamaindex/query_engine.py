"""LlamaIndex's own query engine, whose responses say what happened, and one that cites passages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llama_index.core import Settings
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    StreamingResponse,
)
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer, ResponseMode
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from sharedllm.arguments import checked
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex.llm import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.messages import Calls, acollected, collected, collecting
from sharedllm_integrations.llamaindex.nodes import DocumentNode, span
from sharedllm_integrations.llamaindex.retriever import Referring
from sharedllm_integrations.report import PROVIDER

SILENT = {ResponseMode.NO_TEXT: NoText, ResponseMode.CONTEXT_ONLY: ContextOnly}
# The question is searched for with the words around it, so there are few of them.
QUESTION = PromptTemplate(
    "Text:\n{context_str}\n\nQuestion: {query_str}\nGive a short answer, using only the text."
)


class TreeMemoryQueryEngine(RetrieverQueryEngine):
    """Retrieves, asks, and says in ``response.metadata["sharedllm"]`` what became of the documents.

    That is a list with a dict for each call of the model: ``documents``, ``refused`` and
    ``citations``. Of a streaming response it is complete when the last token has come.

    Everything else is as in :class:`RetrieverQueryEngine`: any retriever, any synthesizer.
    """

    @classmethod
    @checked(error=SetupError)
    def from_args(  # type: ignore[override]  # fewer words than the base spells out
        cls, retriever: BaseRetriever, llm: LLM | None = None, **options: Any
    ) -> TreeMemoryQueryEngine:
        """Make one of a retriever and a model.

        Parameters
        ----------
        options : those of ``RetrieverQueryEngine.from_args``: response_mode, streaming,
            node_postprocessors, text_qa_template, response_synthesizer, ...

        A LlamaIndexSharedLLM is given documents of its own memory by their references, which
        nothing cuts short; every other model, and the modes that ask none, are given text.

        Raises
        ------
        SetupError
            If neither this call nor LlamaIndex's ``Settings`` name a model.
        """
        silent = SILENT.get(options.get("response_mode", ""))
        if options.get("response_synthesizer") is None and silent:
            # LlamaIndex would ask its settings for a model, and these ask none
            streaming = bool(options.get("streaming"))
            options["response_synthesizer"] = silent(llm=llm, streaming=streaming)
        if not options.get("text_qa_template"):
            options["text_qa_template"] = QUESTION
        reader = _reader(options.get("response_synthesizer"), llm)
        if reader is None and options.get("response_synthesizer") is None:
            raise SetupError(
                "the engine has no model; give llm=LlamaIndexSharedLLM(memory=...), or set "
                "LlamaIndex's Settings.llm"
            )
        if isinstance(reader, LlamaIndexSharedLLM):
            given = options.get("node_postprocessors") or []
            options["node_postprocessors"] = [*given, Referring(reader)]
        made = super().from_args(retriever, llm=llm, **options)
        if not isinstance(made, TreeMemoryQueryEngine):
            raise TypeError(f"{type(made).__name__} is not a {cls.__name__}")
        return made

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with collecting() as calls:
            response = super()._query(query_bundle)
        return self._finished(response, calls)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with collecting() as calls:
            response = await super()._aquery(query_bundle)
        return self._finished(response, calls)

    def _finished(self, response: RESPONSE_TYPE, calls: Calls) -> RESPONSE_TYPE:
        response.metadata = {**(response.metadata or {}), PROVIDER: calls}
        response.source_nodes = [  # which other models may read
            NodeWithScore(node=one.node.bare(), score=one.score)
            if isinstance(one.node, DocumentNode)
            else one
            for one in response.source_nodes
        ]
        if isinstance(response, StreamingResponse):  # the model may be asked as tokens are taken
            response.response_gen = collected(response.response_gen, calls)
        elif isinstance(response, AsyncStreamingResponse):
            response.response_gen = acollected(response.response_gen, calls)
        return response


def _reader(synthesizer: BaseSynthesizer | None, llm: LLM | None) -> Any:
    """The model that is given the nodes' content, or None."""
    if synthesizer is None:
        return llm or Settings._llm
    silent = isinstance(synthesizer, tuple(SILENT.values()))
    return None if silent else getattr(synthesizer, "_llm", None)


class TreeMemoryCitationEngine(TreeMemoryQueryEngine):
    """A query engine whose ``source_nodes`` are the selected evidence, best first.

    Each is a passage of a retrieved document: its text as it stands there, ``start_char_idx`` and
    ``end_char_idx`` in the document, the document's metadata with ``number``, ``title``,
    ``source`` and ``tree_level``, and the document's id as ``ref_doc_id``. What was selected was
    given to the model; that the model used it is not claimed, and nothing is written into the
    answer. Of a streaming response they are there when the last token has come.

    LlamaIndex's ``CitationQueryEngine`` cuts the texts of nodes before the model sees them, so
    that no document arrives whole; use this one in its place.
    """

    def _finished(self, response: RESPONSE_TYPE, calls: Calls) -> RESPONSE_TYPE:
        response = super()._finished(response, calls)
        retrieved = list(response.source_nodes)
        found: list[NodeWithScore] = []
        response.source_nodes = found

        def cite() -> None:
            found[:] = cited(calls, retrieved)

        if isinstance(response, StreamingResponse):
            response.response_gen = _then(response.response_gen, cite)
        elif isinstance(response, AsyncStreamingResponse):
            response.response_gen = _athen(response.response_gen, cite)
        else:
            cite()
        return response


def cited(calls: Calls, retrieved: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """The evidence of all calls of the model, each span once, best first."""
    spans: dict[tuple[str, int, int], dict[str, Any]] = {}
    for call in calls:
        for one in call["citations"]:
            key = (one["document"], one["char_start"], one["char_end"])
            if key not in spans or one["score"] > spans[key]["score"]:
                spans[key] = one
    out = []
    best_first = sorted(spans.values(), key=lambda one: -one["score"])
    for number, one in enumerate(best_first, start=1):
        origin = _origin(one, retrieved)
        id = one["document"] if origin is None else origin.node.ref_doc_id or origin.node_id
        metadata = {} if origin is None else origin.metadata
        out.append(NodeWithScore(node=span(one, id, metadata, number), score=one["score"]))
    return out


def _origin(citation: dict[str, Any], retrieved: Sequence[NodeWithScore]) -> NodeWithScore | None:
    """The retrieved node that a span comes from: by its id, else by what stands there."""
    start, end = citation["char_start"], citation["char_end"]
    for one in retrieved:
        if one.node_id == citation["document"]:
            return one
    for one in retrieved:
        if one.node.get_content()[start:end] == citation["text"]:
            return one
    return None  # text that stands in the prompt beside what was retrieved


def _then(tokens: Iterator[str], done: Any) -> Any:
    yield from tokens
    done()


async def _athen(tokens: AsyncIterator[str], done: Any) -> Any:
    async for token in tokens:
        yield token
    done()
