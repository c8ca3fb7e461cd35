"""The shape of the code: imports run one way, and habits that a linter does not see."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "sharedllm").rglob("*.py"))
NAMES = [str(file.relative_to(ROOT)) for file in FILES]


def test_the_import_contracts_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    assert command.exists(), "install the test extra"
    done = subprocess.run(
        [str(command), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_files_are_there() -> None:
    assert "sharedllm/hf/cross.py" in NAMES
    assert len(NAMES) > 30


@pytest.mark.parametrize("name", NAMES)
def test_no_assert_no_bare_except_no_print(name: str) -> None:
    found = []
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            found.append(f"line {node.lineno}: assert is no validation; raise a typed error")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: a bare except hides every error")
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id == "print" and name != "sharedllm/cli.py":
            found.append(f"line {node.lineno}: print belongs in the command line only")
    assert found == []


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_stay_short(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count("\n") < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = _lines(node)
            assert body < 60, f"{node.name} has {body} lines"


def _lines(node: ast.FunctionDef) -> int:
    """Lines of a function, its docstring aside."""
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring
