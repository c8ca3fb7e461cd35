"""LlamaIndex's adapter alone, light to import."""

from __future__ import annotations

import importlib.metadata

import sharedllm_integrations.llamaindex as adapter
from tests.integrations.test_packaging import _extra, _name, run


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
    """Over what is installed: everything that the extra needs, and what that needs in turn."""
    seen: set[str] = set()
    waiting = _extra("llamaindex")
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        waiting += [_name(one) for one in needed if "extra ==" not in one]
    assert {"llama-index-core", "llguidance"} <= seen
    assert not [name for name in seen if "langchain" in name or "langgraph" in name]
    assert not [name for name in seen if "openai" in name]
