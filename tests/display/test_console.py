"""What a terminal shows of answers, searches, documents and trees."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sharedllm import Document, SharedLLM
from sharedllm.display.console import Results, strip
from sharedllm.display.picture import Picture, Span, ranked
from sharedllm.display.plain import in_section, told


def shown(*given: object, width: int = 80) -> list[str]:
    """The lines that rich prints."""
    console = Console(file=io.StringIO(), width=width)
    console.print(*given)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_everything_fits(tiny_llm: SharedLLM, story: Document, width: int) -> None:
    answer = tiny_llm.answer("Who rowed out?", story, budget=90, max_new_tokens=2)
    selection = tiny_llm.select("Who rowed out?", story, budget=90)
    for given in (answer, selection, story, story.forest):
        lines = shown(given, width=width)
        assert lines
        assert all(len(line) <= width for line in lines)


def test_an_answer_shows_passages_and_usage(tiny_llm: SharedLLM, story: Document) -> None:
    answer = tiny_llm.answer("Who rowed out?", story, budget=90, max_new_tokens=2)
    text = "\n".join(shown(answer, width=120))
    assert "The lighthouse" in text
    assert "where it lies" in text
    assert "tokens searched" in text
    assert "raise max_new_tokens" in text  # no option of the command line


def test_trees_are_drawn_to_scale(story: Document) -> None:
    lines = shown(story.forest, width=64)
    assert lines[0] == "chunk 1: tokens 0 to 64"
    assert [line.count("[") for line in lines[1:4]] == [1, 2, 4]
    assert all(len(line) == 64 for line in lines[1:4])
    assert "more tree" in lines[-1]


def test_a_strip_is_lit_by_what_was_chosen() -> None:
    picture = Picture(
        document="d",
        title="t",
        source="",
        characters=100,
        passages=(Span(start=90, end=100, level=3, score=1.0, chosen="fine"),),
        coarse=(Span(start=0, end=50, level=0, score=0.5, chosen="coarse"),),
    )
    assert strip(picture, 10).plain == "▒▒▒▒▒░░░░█"


def test_passages_of_pages_say_theirs(tiny_llm: SharedLLM) -> None:
    paged = tiny_llm.remember("\f".join(f"On day {n} she rowed out. " * 4 for n in range(9)))
    answer = tiny_llm.answer("day 7", paged, budget=90, max_new_tokens=2)
    assert any(f"1  p. {answer.citations[0].page}  " in line for line in shown(answer, width=120))


@pytest.mark.parametrize(
    ("section", "page", "said"),
    [
        ("Part I > CHAPTER II. The Boat", 3, "1  CHAPTER II. The Boat, p. 3  Tides"),
        ("Part I > CHAPTER II. The Boat", None, "1  CHAPTER II. The Boat  Tides"),
        ("4", None, "1  section 4  Tides"),
        ("", 3, "1  p. 3  Tides"),
        ("", None, "1  Tides"),
        ("x" * 80, None, f"1  {'x' * 35}\u2026  Tides"),
        ("\x1b[2J Evil\n\ftitle", None, "1  [2J Evil title  Tides"),
    ],
)
def test_a_passage_says_its_section_and_page(section: str, page: int | None, said: str) -> None:
    span = Span(start=0, end=5, level=1, score=1.0, chosen="fine", page=page, section=section)
    picture = Picture(document="d", title="Tides", source="", characters=100, passages=(span,))
    assert any(line.startswith(said) for line in shown(Results([picture]), width=160))
    (one,) = ranked([picture])
    told_first = told(one).partition(", ")[0]
    assert told_first == (in_section(span) or (f"page {page}" if page else "characters 0 to 5"))
