"""Names and numbers of answers are found in the passages that were read, or named as missing."""

from __future__ import annotations

import dataclasses

import pytest

from sharedllm import Answer
from sharedllm.answer import Answer as CoreAnswer
from tests.models import TREE, shared

TEXT = (
    "The keeper of the lamp is Olga Lund. She bought 48,013 lamps on 3 March 1907 for five guineas "
    "from Mr. Henchard.\fThe code is GBS-65-146, kept by MÜLLER & Co. The ship's name is Star of "
    "the Sea. The parse_config function returns 12.5 at 7:30."
)


@pytest.fixture(scope="module")
def answer() -> Answer:
    llm = shared("llama", tree=TREE)
    document = llm.remember(TEXT, title="notes", source="notes.txt")
    found: CoreAnswer = llm.answer("Who is the keeper?", document, budget=4000, max_new_tokens=2)
    return found


def said(answer: Answer, text: str) -> Answer:
    return dataclasses.replace(answer, text=text)


@pytest.mark.parametrize(
    "text",
    [
        "Olga Lund",
        "Lund, Olga",
        "OLGA LUND",
        "She bought 48013 lamps.",
        "On March 3rd, 1907.",
        "For 5 guineas.",
        "For five guineas and one lamp.",
        "GBS-65-146",
        "gbs-65-146 it is",
        "Müller & Co.",
        "Mr Henchard's lamps",
        "It is the Star of the Sea.",
        "parse_config gives 12.5 at 7:30",
        "Yes",
        "Not in the documents.",
        "Unfortunately I cannot say.",
        "",
    ],
)
def test_what_a_passage_holds_is_supported(answer: Answer, text: str) -> None:
    assert said(answer, text).unsupported == ()


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("Anna Lund", ("Anna Lund",)),
        ("The keeper is Bob.", ("Bob",)),
        ("She bought 48,014 lamps in 1907.", ("48,014",)),
        ("GBS-65-147", ("GBS-65-147",)),
        ("It was 12.6, not 12.5.", ("12.6",)),
        ("He paid $95.50 in Paris.", ("95.50", "Paris")),
        ("parse_text does it.", ("parse_text",)),
        ("Seven of them: 7 in New York", ("Seven", "7", "New York")),
        ("On 13 March", ("13",)),
        ("She bought twelve lamps.", ("twelve",)),
    ],
)
def test_what_no_passage_holds_is_named(
    answer: Answer, text: str, missing: tuple[str, ...]
) -> None:
    assert said(answer, text).unsupported == missing


def test_what_the_question_says_is_not_looked_up(answer: Answer) -> None:
    asked = dataclasses.replace(answer, question="Did Bob buy 99 lamps?", text="Bob bought 99.")
    assert asked.unsupported == ()
    assert asked.statements == ()


def test_a_place_is_that_of_the_word_and_names_its_citation(answer: Answer) -> None:
    for text, page in (("Olga Lund", 1), ("GBS-65-146", 2)):
        [statement] = said(answer, text).statements
        assert (statement.start, statement.end) == (0, len(text))
        place = statement.places[0]
        assert TEXT[place.char_start : place.char_end] == text
        assert (place.page, place.title, place.source) == (page, "notes", "notes.txt")
        if place.citation is not None:
            assert text in answer.citations[place.citation].text


def test_it_is_told_wherever_an_answer_is_shown(answer: Answer) -> None:
    wrong = said(answer, "Bob & Anna <b> have 77.")
    assert wrong.to_dict()["unsupported"] == ["Bob", "Anna", "77"]
    shown = wrong.answered()
    assert shown.warning == "In none of the passages: Bob, Anna, 77"
    assert "".join(text for text, _ in shown.pieces) == wrong.text
    page = wrong.to_html()
    assert 'title="in none of the passages">Bob</span> &amp; ' in page
    assert "In none of the passages: Bob, Anna, 77" in page
    assert "In none of the passages" not in said(answer, "Olga Lund").to_html()


def test_without_documents_nothing_is_claimed() -> None:
    llm = shared("llama", tree=TREE)
    assert llm.answer("Who is Bob?", max_new_tokens=2).unsupported == ()
