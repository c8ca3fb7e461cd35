"""Each adapter alone, and light to import."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sharedllm_integrations"
SHARED = [f"sharedllm_integrations.{file.stem}" for file in sorted(PACKAGE.glob("*.py"))]
HEAVY = ("torch", "transformers", "numpy", "llguidance")
NAMES = {
    "langchain": [
        "ChatSharedLLM",
        "SharedLLMCompletion",
        "TreeMemoryRetriever",
        "TreeMemoryVectorStore",
        "TreeMemoryCompressor",
        "create_tree_memory_tool",
        "whole_documents",
        "answer_of",
    ],
    "llamaindex": [
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
    ],
}
PARTS = {  # of the frameworks, imported before their adapters are timed
    "langchain": (
        "langchain_core.language_models.chat_models, langchain_core.language_models.llms, "
        "langchain_core.indexing, langchain_core.output_parsers, langchain_core.tools, "
        "langchain_core.documents.compressor"
    ),
    "llamaindex": "llama_index.core",
}
MODULES = {"langchain": "langchain_core", "llamaindex": "llama_index"}
OTHERS = {"langchain": "llama", "llamaindex": "lang"}
ADAPTERS = pytest.mark.parametrize("name", list(NAMES))


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@ADAPTERS
def test_the_public_names(name: str) -> None:
    adapter = importlib.import_module(f"sharedllm_integrations.{name}")
    assert adapter.__all__ == NAMES[name]
    for one in adapter.__all__:
        assert getattr(adapter, one).__name__ == one
        assert getattr(adapter, one).__doc__


@ADAPTERS
def test_importing_an_adapter_is_quick_and_loads_no_torch(name: str) -> None:
    (other,) = MODULES.keys() - {name}
    heavy = [one for one in HEAVY if (name, one) != ("llamaindex", "numpy")]  # LlamaIndex's own
    code = f"""
        import sys, time
        import {PARTS[name]}
        start = time.process_time()
        import sharedllm_integrations.{name}
        print(time.process_time() - start)
        print([name for name in {[*heavy, MODULES[other]]!r} if name in sys.modules])
    """
    runs = [run(code).split("\n") for _ in range(3)]
    assert {loaded for _, loaded in runs} == {"[]"}
    assert min(float(seconds) for seconds, _ in runs) < 0.2


def test_what_is_shared_loads_no_framework() -> None:
    code = f"""
        import importlib, sys
        for name in {SHARED!r}:
            importlib.import_module(name)
        print([name for name in {[*MODULES.values(), *HEAVY]!r} if name in sys.modules])
    """
    assert run(code) == "[]"


@ADAPTERS
def test_without_the_framework_the_extra_is_named(name: str) -> None:
    code = f"""
        import sys
        sys.modules[{MODULES[name]!r}] = None
        try:
            import sharedllm_integrations.{name}
        except ImportError as error:
            print(error)
    """
    assert f"pip install 'sharedllm[{name}]'" in run(code)


@ADAPTERS
def test_an_extra_brings_no_other_framework(name: str) -> None:
    seen = needed_by(name)
    assert {"langchain": "langchain-core", "llamaindex": "llama-index-core"}[name] in seen
    assert "llguidance" in seen
    assert not [one for one in seen if OTHERS[name] in one or "openai" in one]
    assert "langchain" not in seen  # what users build with, but no adapter needs


def needed_by(extra: str) -> set[str]:
    """Everything that the extra needs, and what that needs in turn, of what is installed."""
    seen: set[str] = set()
    waiting = _extra(extra)
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
    return seen


def _extra(name: str) -> list[str]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    out: list[str] = []
    for one in extras[name]:
        inner = re.fullmatch(r"sharedllm\[(.*)\]", one)
        out += [n for e in inner[1].split(",") for n in _extra(e)] if inner else [_name(one)]
    return out


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()
