"""SharedLLM for LangChain: whole documents in an unchanged chain.

>>> from sharedllm_integrations.langchain import ChatSharedLLM, TreeMemoryRetriever
>>> llm, retriever = ChatSharedLLM(memory="library"), TreeMemoryRetriever(memory="library", k=3)
"""

from __future__ import annotations

from sharedllm_integrations.errors import MissingFrameworkError

try:
    import langchain_core  # noqa: F401  # its absence is named before anything else needs it
except ImportError as error:
    raise MissingFrameworkError("langchain-core", "langchain") from error

from sharedllm_integrations.langchain import citations  # noqa: F401  # tells LangChain of them
from sharedllm_integrations.langchain.answers import answer_of
from sharedllm_integrations.langchain.chat import ChatSharedLLM
from sharedllm_integrations.langchain.completion import SharedLLMCompletion
from sharedllm_integrations.langchain.compressor import TreeMemoryCompressor
from sharedllm_integrations.langchain.retriever import TreeMemoryRetriever
from sharedllm_integrations.langchain.tool import create_tree_memory_tool
from sharedllm_integrations.langchain.wholes import whole_documents

__all__ = [
    "ChatSharedLLM",
    "SharedLLMCompletion",
    "TreeMemoryRetriever",
    "TreeMemoryCompressor",
    "create_tree_memory_tool",
    "whole_documents",
    "answer_of",
]
