"""Every script of benchmarks/ imports, so that what it takes from the library is still there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = sorted(
    ".".join(("benchmarks", *path.relative_to(BENCHMARKS).with_suffix("").parts))
    for path in BENCHMARKS.rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("module", MODULES)
def test_it_imports(module: str) -> None:
    for package in ("matplotlib", "psutil", "langchain_core", "llama_index"):
        pytest.importorskip(package, reason="needs the extra [bench]")
    importlib.import_module(module)
