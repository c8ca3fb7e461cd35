"""The embedded default model, once, for real."""

from __future__ import annotations

import importlib.util

import pytest

from sharedllm import SharedLLM
from sharedllm.hf.loading import DEFAULT_PACKAGE
from tests.texts import FERRY, GARDEN, STORY

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec(DEFAULT_PACKAGE) is None, reason="the default is not installed"
    ),
]


def test_it_answers_from_a_document() -> None:
    llm = SharedLLM.from_pretrained(device="cpu")
    document = llm.remember("\n\n".join([STORY, GARDEN, FERRY]), source="book.txt")
    stream = llm.stream("What time does the ferry to Penmor leave in the morning?", document)
    assert "".join(stream).strip() == stream.answer.text
    assert "seven" in stream.answer.text.lower()
    assert any("seven in the morning" in citation.text for citation in stream.citations)


def test_it_answers_from_one_sentence() -> None:
    llm = SharedLLM.from_pretrained(device="cpu")
    for text, question, answer in (
        ("The keeper is Olga.", "Who is the keeper?", "Olga"),
        ("The code of room 3 is 122.", "What is the code of room 3?", "122"),
        ("Paris is the capital of France.", "What is the capital of France?", "Paris"),
    ):
        said = llm.answer(question, llm.remember(text), max_new_tokens=8).text
        assert answer in said
    absent = llm.answer("Where is the key kept?", llm.remember("The keeper is Olga."))
    assert absent.text == "not in the documents"
