"""Every notebook of cookbooks/ runs from top to bottom, and is committed as somebody ran it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.running import LIMIT, execute, notebooks, places, tidy

QUICK = ("01", "07")  # `make test` runs these, `make test-all` all
BOOKS = notebooks()
PRIVATE = re.compile(r"^\s*(from|import) sharedllm(_integrations\.\w+)?\.", re.MULTILINE)


def marked(path: Path) -> object:
    quick = path.name.startswith(QUICK)
    return pytest.param(path, id=path.stem, marks=() if quick else pytest.mark.notebook)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebooks of one run share what they have read."""
    return tmp_path_factory.mktemp("kept")


@pytest.mark.parametrize("path", [marked(path) for path in BOOKS])
def test_it_runs(path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(kept))
    book = tidy(execute(path))
    assert len(nbformat.writes(book)) < LIMIT
    assert not places(book)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_is_committed_as_it_ran(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert sum(bool(cell.outputs) for cell in code) >= len(code) / 2
    assert path.stat().st_size < LIMIT
    assert not places(book)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_says_what_it_is_and_where_it_ran(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    first = book.cells[0].source
    assert first.startswith(f"# {int(path.name[:2])}. ")
    assert "AMD EPYC" in first
    for cell in book.cells:
        if cell.cell_type == "code":
            assert not PRIVATE.search(cell.source), "a notebook uses public names only"


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#:]+)", cell.source):
                assert (path.parent / target).exists(), target
