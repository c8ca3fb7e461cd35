from __future__ import annotations

import pytest

from benchmarks.quality.whole_scope import labelled, taken
from sharedllm.whole.scope import kind_of, scope_of
from sharedllm.whole.wording import counted_words, event_of, item_question, sides_of, wanted


def test_questions_for_passages_are_hardly_ever_taken_for_the_whole() -> None:
    rows = labelled()
    assert len(rows) == 400
    passages = [taken(q) == "passages" for scope, _, q in rows if scope == "passages"]
    whole = [taken(q) == "whole" for scope, _, q in rows if scope == "whole"]
    assert sum(passages) >= 0.95 * len(passages)
    assert sum(whole) >= 0.9 * len(whole)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Summarise chapter 3.", "summary"),
        ("List the characters.", "list"),
        ("How many times is London mentioned?", "count"),
        ("What do these two documents disagree about?", "comparison"),
        ("Give me a chronology of the war.", "timeline"),
        ("Who buys the house?", "passages"),
        ("Summarise the discussion about prices.", "passages"),
        ("Can you please summarise the transcript?", "summary"),
        ("How many employees does the company have?", "passages"),
        ("x " * 5000, "passages"),
        ("(" * 500, "passages"),
        ("", "passages"),
    ],
)
def test_kinds(question: str, kind: str) -> None:
    assert scope_of(question).kind == kind


def test_a_question_that_has_to_read_the_whole_finds_a_way() -> None:
    assert kind_of("Which ships were built at the yard?") == "list"
    assert kind_of("Who is older, Ada or Boris?") == "comparison"
    assert kind_of("Why did the war begin?") == "summary"


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("How many different ships are mentioned?", "Which ships are mentioned?"),
        ("Count the members of the club.", "List all members of the club."),
        ("In how many chapters does Ann appear?", "In which chapters does Ann appear?"),
    ],
)
def test_a_number_of_things_is_asked_for_as_the_things(question: str, asked: str) -> None:
    assert item_question(question) == asked


def test_what_is_counted() -> None:
    assert counted_words("How many times is London mentioned?") == "London"
    assert counted_words('How often does the word "risk" appear?') == "risk"
    assert counted_words("How many times did the bell ring?") is None
    assert event_of("How many times did the bell ring?") == "did the bell ring"


@pytest.mark.parametrize(
    ("question", "first", "second"),
    [
        (
            "Which is higher, the tower of Ashby or Corwen?",
            "the tower of Ashby",
            "the tower of Corwen",
        ),
        ("Does Ann or Ben have more sheep?", "Ann", "Ben"),
        ("Compare chapter 2 and chapter 9.", "chapter 2", "chapter 9"),
        ("What is the difference between part one and part two?", "part one", "part two"),
    ],
)
def test_sides(question: str, first: str, second: str) -> None:
    sides = sides_of(question)
    assert sides is not None
    assert (sides.first, sides.second) == (first, second)


@pytest.mark.parametrize(
    ("question", "numbers", "index"),
    [
        ("Which is higher?", (3, 4), 1),
        ("Which has fewer bells?", (3, 4), 0),
        ("Who is older?", (1849, 1850), 0),
        ("Who is older?", (49, 50), 1),
        ("Who is younger?", (1849, 1850), 1),
        ("Who is younger?", (49, 50), 0),
        ("Which is redder?", (3, 4), None),
        ("Which is higher?", (4, 4), None),
    ],
)
def test_which_number_is_wanted(
    question: str, numbers: tuple[float, float], index: int | None
) -> None:
    assert wanted(question, numbers) == index
