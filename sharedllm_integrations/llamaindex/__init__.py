"""SharedLLM for LlamaIndex: whole documents in an unchanged pipeline.

>>> from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM, TreeMemoryIndex
>>> index = TreeMemoryIndex.from_documents(documents, llm=LlamaIndexSharedLLM())
>>> index.as_query_engine().query("Who sells his wife?")
"""

from __future__ import annotations

from sharedllm_integrations.errors import MissingFrameworkError

try:
    import llama_index.core  # noqa: F401  # its absence is named before anything else needs it
except ImportError as error:
    raise MissingFrameworkError("llama-index-core", "llamaindex") from error

from sharedllm_integrations.llamaindex.index import TreeMemoryIndex
from sharedllm_integrations.llamaindex.llm import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.messages import DocumentsReadEvent
from sharedllm_integrations.llamaindex.nodes import whole_documents
from sharedllm_integrations.llamaindex.query_engine import (
    TreeMemoryCitationEngine,
    TreeMemoryQueryEngine,
)
from sharedllm_integrations.llamaindex.retriever import (
    TreeMemoryPostprocessor,
    TreeMemoryRetriever,
)
from sharedllm_integrations.llamaindex.transform import TreeMemoryTransform
from sharedllm_integrations.llamaindex.vector_store import TreeMemoryVectorStore
from sharedllm_integrations.report import answer_of
from sharedllm_integrations.tool_calling import react_grammar

__all__ = [  # in reading order
    "LlamaIndexSharedLLM",
    "TreeMemoryIndex",
    "TreeMemoryRetriever",
    "TreeMemoryQueryEngine",
    "TreeMemoryCitationEngine",
    "TreeMemoryPostprocessor",
    "TreeMemoryTransform",
    "TreeMemoryVectorStore",
    "DocumentsReadEvent",
    "react_grammar",
    "whole_documents",
    "answer_of",
]
