"""TreeMemoryQueryEngine: LlamaIndex's own query engine, whose responses say what happened."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    StreamingResponse,
)
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import QueryBundle

from sharedllm_integrations.details import PROVIDER
from sharedllm_integrations.llamaindex.events import Calls, acollected, collected, collecting

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
    def from_args(  # type: ignore[override]  # fewer words than the base spells out
        cls, retriever: BaseRetriever, llm: LLM | None = None, **options: Any
    ) -> TreeMemoryQueryEngine:
        """Make one of a retriever and a model.

        Parameters
        ----------
        options : those of ``RetrieverQueryEngine.from_args``: response_mode, streaming,
            node_postprocessors, text_qa_template, response_synthesizer, ...
        """
        silent = SILENT.get(options.get("response_mode", ""))
        if options.get("response_synthesizer") is None and silent:
            # LlamaIndex would ask its settings for a model, and these ask none
            streaming = bool(options.get("streaming"))
            options["response_synthesizer"] = silent(llm=llm, streaming=streaming)
        if not options.get("text_qa_template"):
            options["text_qa_template"] = QUESTION
        made = super().from_args(retriever, llm=llm, **options)
        if not isinstance(made, TreeMemoryQueryEngine):
            raise TypeError(f"{type(made).__name__} is no {cls.__name__}")
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
        if isinstance(response, StreamingResponse):  # the model may be asked as tokens are taken
            response.response_gen = collected(response.response_gen, calls)
        elif isinstance(response, AsyncStreamingResponse):
            response.response_gen = acollected(response.response_gen, calls)
        return response
