"""SharedLLM: whole long documents for a local LLM, through context trees and self-injection.

>>> from sharedllm import SharedLLM
>>> llm = SharedLLM.from_pretrained()
>>> document = llm.remember(open("book.txt").read(), title="A book")
>>> answer = llm.answer("Who is Dorothea's sister?", context=document)
>>> print(answer.text, answer.citations[0].text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharedllm.answer import Answer, Timings, Usage
    from sharedllm.config import GenerationConfig, InjectionConfig, SearchConfig, TreeConfig
    from sharedllm.encoding.document import Document
    from sharedllm.errors import SectionError, SharedLLMError
    from sharedllm.generation.prompt import Asked, ToolCall, ToolResult
    from sharedllm.generation.tool_format import ToolFormat
    from sharedllm.memory.documents import MemoryDocument
    from sharedllm.memory.hits import Hit
    from sharedllm.memory.part_searcher import PartSearcher
    from sharedllm.memory.parted_memory import PartedMemory
    from sharedllm.memory.resolve import open_memory
    from sharedllm.memory.tree_memory import TreeMemory
    from sharedllm.registry import loaded, loaded_for
    from sharedllm.search.citations import Citation
    from sharedllm.search.query import query_of
    from sharedllm.shared_llm import SharedLLM
    from sharedllm.text.headings import find_outline
    from sharedllm.text.loaders import read_file
    from sharedllm.text.outline import Section
    from sharedllm.text.pages import join_pages

__version__ = "0.1.0"
_HOMES = {
    "SharedLLM": "shared_llm",
    "loaded": "registry",
    "loaded_for": "registry",
    "Document": "encoding.document",
    "TreeMemory": "memory.tree_memory",
    "PartedMemory": "memory.parted_memory",
    "PartSearcher": "memory.part_searcher",
    "open_memory": "memory.resolve",
    "MemoryDocument": "memory.documents",
    "Hit": "memory.hits",
    "Answer": "answer",
    "Citation": "search.citations",
    "Usage": "answer",
    "Timings": "answer",
    "TreeConfig": "config",
    "InjectionConfig": "config",
    "SearchConfig": "config",
    "GenerationConfig": "config",
    "read_file": "text.loaders",
    "join_pages": "text.pages",
    "find_outline": "text.headings",
    "Section": "text.outline",
    "query_of": "search.query",
    "Asked": "generation.prompt",
    "ToolCall": "generation.prompt",
    "ToolResult": "generation.prompt",
    "ToolFormat": "generation.tool_format",
    "SharedLLMError": "errors",
    "SectionError": "errors",
}
__all__ = [  # in reading order
    "SharedLLM",
    "loaded",
    "loaded_for",
    "Document",
    "TreeMemory",
    "PartedMemory",
    "PartSearcher",
    "open_memory",
    "MemoryDocument",
    "Hit",
    "Answer",
    "Citation",
    "Usage",
    "Timings",
    "TreeConfig",
    "InjectionConfig",
    "SearchConfig",
    "GenerationConfig",
    "read_file",
    "join_pages",
    "find_outline",
    "Section",
    "query_of",
    "Asked",
    "ToolCall",
    "ToolResult",
    "ToolFormat",
    "SharedLLMError",
    "SectionError",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: importing this package loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
