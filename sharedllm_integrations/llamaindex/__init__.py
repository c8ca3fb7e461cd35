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

from sharedllm_integrations.llamaindex.answers import answer_of
from sharedllm_integrations.llamaindex.citations import TreeMemoryCitationEngine
from sharedllm_integrations.llamaindex.events import DocumentsReadEvent
from sharedllm_integrations.llamaindex.index import TreeMemoryIndex
from sharedllm_integrations.llamaindex.llm import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.postprocessor import TreeMemoryPostprocessor
from sharedllm_integrations.llamaindex.query_engine import TreeMemoryQueryEngine
from sharedllm_integrations.llamaindex.react import react_grammar
from sharedllm_integrations.llamaindex.retriever import TreeMemoryRetriever
from sharedllm_integrations.llamaindex.transform import TreeMemoryTransform
from sharedllm_integrations.llamaindex.wholes import whole_documents

__all__ = [  # in reading order
    "LlamaIndexSharedLLM",
    "TreeMemoryIndex",
    "TreeMemoryRetriever",
    "TreeMemoryQueryEngine",
    "TreeMemoryCitationEngine",
    "TreeMemoryPostprocessor",
    "TreeMemoryTransform",
    "DocumentsReadEvent",
    "react_grammar",
    "whole_documents",
    "answer_of",
]
