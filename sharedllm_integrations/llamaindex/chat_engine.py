"""LlamaIndex's chat engines over a retriever, with a history that the model can read."""

from __future__ import annotations

from typing import Any

from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
)
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms import LLM
from llama_index.core.memory import ChatMemoryBuffer

from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex.llm import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.query_engine import TreeMemoryQueryEngine
from sharedllm_integrations.llamaindex.retriever import TreeMemoryRetriever

MODES = ("context", "condense_plus_context", "condense_question")
HISTORY = 0.25  # of the trained window; the rest is for evidence, instructions and the answer


def chat_engine(
    mode: str, retriever: TreeMemoryRetriever, llm: LLM, options: dict[str, Any]
) -> BaseChatEngine:
    """The chat engine that LlamaIndex calls `mode`; "best" is "context".

    Raises
    ------
    SetupError
        If it is none that works over a retriever.
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
        f"chat_mode is {mode!r}; allowed: {', '.join(map(repr, MODES))}. For an agent, give "
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
