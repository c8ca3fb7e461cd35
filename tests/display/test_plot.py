"""Figures: what stands on them, that no text covers another, and what is missing without them."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from sharedllm import Document, MemoryDocument, SharedLLM, TreeMemory
from sharedllm.display.picture import Picture, Span
from sharedllm.errors import MissingExtraError
from tests.models import shared
from tests.texts import FERRY, STORY


def texts(figure: Any) -> list[Any]:
    """All texts of a figure that show, drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(figure).draw()
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def test_an_answers_figure(tiny_llm: SharedLLM, story: Document) -> None:
    answer = tiny_llm.answer("Who rowed out?", story, budget=100, max_new_tokens=2)
    figure = answer.plot()
    words = [t.get_text() for t in texts(figure)]
    assert any("The lighthouse" in word for word in words)
    assert "score" in words
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


@pytest.mark.parametrize("documents", [0, 1, 3])
def test_no_text_covers_another(documents: int) -> None:
    from sharedllm.display import plot

    spans = tuple(
        Span(start=s, end=s + 500, level=s % 3, score=s / 7e4 - 0.3, chosen="fine")
        for s in (0, 400, 900, 1500, 40_000, 40_500, 98_000, 99_500)
    )
    pictures = [
        Picture(
            document=str(n),
            title="A title of $5 that goes on " * 5,
            source="",
            characters=100_000,
            passages=spans,
            coarse=(Span(start=0, end=50_000, level=0, chosen="coarse"),),
        )
        for n in range(documents)
    ]
    shown = [t for t in texts(plot.answer(pictures, "Yes. " * 50)) if t.get_text() != "characters"]
    boxes = [(t.get_text(), t.get_window_extent()) for t in shown]
    covering = [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.padded(-1).overlaps(y)]
    assert covering == []


def test_a_memorys_figure(tmp_path: Path) -> None:
    llm = shared("llama", sizes={"max_position_embeddings": 8192})
    with TreeMemory(tmp_path / "memory", llm=llm) as memory:
        assert memory.plot()
        memory.add([MemoryDocument(text=STORY, title="The lighthouse"), MemoryDocument(text=FERRY)])
        words = " ".join(t.get_text() for t in texts(memory.plot()))
    assert "The lighthouse" in words
    assert "2 documents" in words
    assert "tokens" in words


def test_without_matplotlib(
    tiny_llm: SharedLLM, story: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tiny_llm.answer("Who?", story, budget=60, max_new_tokens=1)
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "sharedllm.display.plot", raising=False)
    monkeypatch.delattr("sharedllm.display.plot", raising=False)
    with pytest.raises(MissingExtraError, match=r"sharedllm\[plot\]"):
        answer.plot()
