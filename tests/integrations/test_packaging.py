"""Each adapter alone, light to import, in short files."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import sharedllm_integrations.langchain as adapter
from tests.architecture import test_architecture as core

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sharedllm_integrations"
FILES = sorted(str(file.relative_to(ROOT)) for file in PACKAGE.rglob("*.py"))
FRAMEWORKS = ("langchain_core", "langchain", "llama_index", "pydantic", "torch", "transformers")


def test_the_public_names() -> None:
    assert adapter.__all__ == [
        "ChatSharedLLM",
        "SharedLLMCompletion",
        "TreeMemoryRetriever",
        "TreeMemoryCompressor",
        "create_tree_memory_tool",
        "whole_documents",
        "answer_of",
    ]
    for name in adapter.__all__:
        assert getattr(adapter, name).__name__ == name
        assert getattr(adapter, name).__doc__


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


def test_importing_the_adapter_is_quick_and_loads_no_torch() -> None:
    code = """
        import sys, time
        import langchain_core.language_models.chat_models, langchain_core.language_models.llms
        import langchain_core.indexing, langchain_core.output_parsers, langchain_core.tools
        import langchain_core.documents.compressor
        start = time.process_time()
        import sharedllm_integrations.langchain
        print(time.process_time() - start)
        print([name for name in ("torch", "transformers", "numpy", "llama_index", "llguidance")
               if name in sys.modules])
    """
    seconds, loaded = min(run(code) for _ in range(3)).split("\n")
    assert loaded == "[]"
    assert float(seconds) < 0.2


def test_what_is_shared_loads_no_framework() -> None:
    shared = [file for file in FILES if file.count("/") == 1]
    names = [file.removesuffix(".py").replace("/", ".") for file in shared]
    names.remove("sharedllm_integrations.fields")  # pydantic, which both frameworks bring
    code = f"""
        import importlib, sys
        for name in {names!r}:
            importlib.import_module(name)
        print([name for name in {FRAMEWORKS!r} if name in sys.modules])
    """
    assert run(code) == "[]"


def test_without_the_framework_the_extra_is_named() -> None:
    code = """
        import sys
        sys.modules["langchain_core"] = None
        try:
            import sharedllm_integrations.langchain
        except ImportError as error:
            print(error)
    """
    assert "pip install 'sharedllm[langchain]'" in run(code)


def test_the_extra_brings_no_other_framework() -> None:
    seen = needed_by("langchain")
    assert "langchain-core" in seen
    assert "llguidance" in seen
    assert not [name for name in seen if "llama" in name]
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


def test_every_shared_file_is_in_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (own,) = (c for c in contracts["contracts"] if c["name"].startswith("What the frameworks"))
    shared = {
        f"sharedllm_integrations.{Path(file).stem}"
        for file in FILES
        if file.count("/") == 1 and not file.endswith("__init__.py")
    }
    assert set(own["source_modules"]) == shared


@pytest.mark.parametrize("name", FILES)
def test_habits(name: str) -> None:
    core.test_no_assert_no_bare_except_no_print(name)
    core.test_files_and_functions_stay_short(name)
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
