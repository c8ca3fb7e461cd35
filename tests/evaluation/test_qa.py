"""Question files are read as they come: the generic form, LongBench's and L-Eval's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sharedllm.errors import DocumentError
from sharedllm.evaluation.filler import Filler, read_texts
from sharedllm.evaluation.qa import Question, read
from tests.models import make_tokenizer


def one(**row: Any) -> Question:
    (found,) = read([row], "file")
    return found


def test_the_generic_form() -> None:
    found = one(context="C", question=" Q? ", answer="A", source="S")
    assert (found.context, found.question, found.answers) == ("C", "Q?", ("A",))
    assert found.source == "S"
    assert one(context="C", question="Q", answers=["A", "B"]).answers == ("A", "B")


@pytest.mark.parametrize("answer", ["two", "B", "(B)", 1, ["two"]])
def test_a_choice_is_named_by_text_letter_or_index(answer: object) -> None:
    found = one(context="C", question="Q", options=["one", "two", "three"], answer=answer)
    assert (found.answers, found.correct) == (("two",), (1,))
    assert found.options == ("one", "two", "three")


def test_longbench() -> None:
    row = {"input": "Q?", "context": "C", "answers": ["A"], "length": 3, "language": "en"}
    found = one(**row, dataset="hotpotqa", all_classes=None)
    assert (found.question, found.answers, found.source, found.code) == (
        "Q?",
        ("A",),
        "hotpotqa",
        False,
    )
    assert (
        one(**{**row, "input": ""}, dataset="gov_report").question == "Write a summary of the text."
    )
    code = one(**{**row, "input": "def f():"}, dataset="repobench-p")
    assert code.code
    assert code.context == "C\ndef f():"
    classes = one(**row, dataset="trec", all_classes=["A", "B"])
    assert (classes.options, classes.correct) == (("A", "B"), (0,))


def test_leval_gives_a_question_for_each_instruction() -> None:
    row = {"instructions": ["Q1", "Q2"], "outputs": ["A1", "A2"], "input": "C", "source": "S"}
    found = list(read([row | {"evaluation": "exam"}], "file"))
    assert [(q.question, q.answers, q.context) for q in found] == [
        ("Q1", ("A1",), "C"),
        ("Q2", ("A2",), "C"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "C", "question": "Q"}, "needed are context"),
        ({"context": " ", "question": "Q", "answer": "A"}, "empty context"),
        ({"context": "C", "question": "Q", "answer": ""}, "is empty"),
        (
            {"context": "C", "question": "Q", "answer": "D", "options": ["a", "b"]},
            "not among its 2",
        ),
        ({"context": "C", "question": "Q", "answer": "a", "options": ["a"]}, "two or more"),
        ({"instructions": ["Q"], "outputs": [], "input": "C"}, "1 instructions and 0 outputs"),
    ],
)
def test_rows_of_no_form_say_what_is_missing(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        list(read([row], "file"))


def test_filler_is_cut_at_sentences(filler_file: Path) -> None:
    filler, tokenizer = Filler([filler_file]), make_tokenizer()
    for seed in range(5):
        text = filler.cut(900, tokenizer, seed)
        assert 500 < len(text.encode()) <= 900
        assert text.rstrip("\u201d\"')")[-1] in ".!?"
        assert text == filler.cut(900, tokenizer, seed)
    assert filler.cut(900, tokenizer, 1) != filler.cut(900, tokenizer, 2)
    assert not filler.repeats
    many = filler.cut(60_000, tokenizer, 0)
    assert 59_000 < len(many.encode()) <= 60_000
    assert filler.repeats


def test_texts_of_rows_and_files(tmp_path: Path) -> None:
    rows, plain = tmp_path / "a.jsonl", tmp_path / "b.txt"
    rows.write_text('{"text": "One."}\n\n{"text": "Two."}\n{"other": 1}\n')
    plain.write_text("Three.")
    assert read_texts([str(rows), str(plain)], "--data") == ["One.", "Two.", "Three."]
    rows.write_text('{"other": 1}\n')
    with pytest.raises(DocumentError, match="--data"):
        read_texts([str(rows)], "--data")
