"""SharedLLM for LangChain: whole documents in an unchanged chain.

>>> from sharedllm_integrations.langchain import ChatSharedLLM, TreeMemoryRetriever
>>> llm, retriever = ChatSharedLLM(memory="memory"), TreeMemoryRetriever(memory="memory", k=3)
"""

from __future__ import annotations

from sharedllm_integrations.errors import MissingFrameworkError

try:
    import langchain_core  # noqa: F401  # its absence is named before anything else needs it
except ImportError as error:
    raise MissingFrameworkError("langchain-core", "langchain") from error

from sharedllm_integrations.langchain.documents import whole_documents
from sharedllm_integrations.langchain.models import ChatSharedLLM, SharedLLMCompletion
from sharedllm_integrations.langchain.retriever import (
    TreeMemoryCompressor,
    TreeMemoryRetriever,
    create_tree_memory_tool,
)
from sharedllm_integrations.langchain.vector_store import TreeMemoryVectorStore
from sharedllm_integrations.report import answer_of

__all__ = [
    "ChatSharedLLM",
    "SharedLLMCompletion",
    "TreeMemoryRetriever",
    "TreeMemoryVectorStore",
    "TreeMemoryCompressor",
    "create_tree_memory_tool",
    "whole_documents",
    "answer_of",
]
