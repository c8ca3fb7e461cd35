"""The rows of public question sets, as the default adapter's recipe cleans them."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("pydantic", reason="needs the extra [train]")

from benchmarks.default_adapter.data import clean


def row(**changes: Any) -> dict[str, Any]:
    given = {
        "context": "The mill burned down in 1911, and Ada Pell rebuilt it in 1913.",
        "question": "Who rebuilt the mill?",
        "answer": ["Ada Pell"],
    }
    return {**given, **changes}


def cleaned(**changes: Any) -> dict[str, Any] | None:
    return clean(row(**changes), random.Random(0))


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"answer": ["Ada Pell ."]}, "Ada Pell"),
        ({"answer": ["Who rebuilt the mill again? Ada Pell"]}, "Ada Pell"),
        ({"answer": ["It was Ada Pell, as is well known"], "short": "yes"}, "yes"),
        ({"answer": ["UNANSWERABLE"]}, "UNANSWERABLE"),
    ],
)
def test_answers_are_tidied(changes: dict[str, Any], answer: str) -> None:
    found = cleaned(**changes)
    assert found is not None
    assert found["answer"] == [answer]


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": []},
        {"answer": ["of"]},
        {"answer": ["..."]},
        {"answer": ["Ada " * 300]},
        {"answer": ["27.5 percent"]},
        {"question": "Why? " * 100},
        {"question": ""},
        {"context": " "},
    ],
)
def test_rows_of_no_use_are_left_out(changes: dict[str, Any]) -> None:
    assert cleaned(**changes) is None
    assert cleaned() is not None


@pytest.mark.parametrize(
    "wrapped",
    [
        'Question: "{q}"\nAnswer:',
        "Extract the answer to the question from the following context.\nQuestion: {q}",
        "Given the following context:\nanswer the following question:\n{q}",
        "{q}\nAnswer the above question based on the context below:",
        "The following article contains an answer for the question: {q} , can you please find it?",
        "What is the answer for the question: {q} from the following article ?",
        "Given the following passage\nanswer the following question. Note that the answer is "
        "present within the text.\nQuestion: {q}",
    ],
)
def test_prompts_around_questions_are_taken_off(wrapped: str) -> None:
    found = cleaned(question=wrapped.format(q="Who rebuilt the mill ?"))
    assert found is not None
    assert found["question"] == "Who rebuilt the mill?"
