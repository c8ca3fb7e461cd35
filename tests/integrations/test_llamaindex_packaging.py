"""LlamaIndex's adapter alone, light to import."""

from __future__ import annotations

import sharedllm_integrations.llamaindex as adapter
from tests.integrations.test_packaging import needed_by, run


def test_the_public_names() -> None:
    assert adapter.__all__ == [
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
    for name in adapter.__all__:
        assert getattr(adapter, name).__name__ == name
        assert getattr(adapter, name).__doc__


def test_importing_the_adapter_is_quick_and_loads_no_torch() -> None:
    code = """
        import sys, time
        import llama_index.core
        start = time.process_time()
        import sharedllm_integrations.llamaindex
        print(time.process_time() - start)
        print([name for name in ("torch", "transformers", "langchain_core", "llguidance")
               if name in sys.modules])
    """
    runs = [run(code).split("\n") for _ in range(3)]
    assert {loaded for _, loaded in runs} == {"[]"}
    assert min(float(seconds) for seconds, _ in runs) < 0.2


def test_without_the_framework_the_extra_is_named() -> None:
    code = """
        import sys
        sys.modules["llama_index"] = None
        try:
            import sharedllm_integrations.llamaindex
        except ImportError as error:
            print(error)
    """
    assert "pip install 'sharedllm[llamaindex]'" in run(code)


def test_the_extra_brings_no_other_framework() -> None:
    seen = needed_by("llamaindex")
    assert {"llama-index-core", "llguidance"} <= seen
    assert not [name for name in seen if "langchain" in name or "langgraph" in name]
    assert not [name for name in seen if "openai" in name]
