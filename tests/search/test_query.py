"""What is searched for is the question, not the instructions around it."""

from __future__ import annotations

import pytest

from sharedllm import MemoryDocument, SharedLLM
from sharedllm.errors import InputError
from sharedllm.generation.prompt import parse
from sharedllm.search.query import query_of
from tests.conftest import Make
from tests.texts import STORY

WHO = "Who is the captain: Ann or Bob?"


@pytest.mark.parametrize(
    "text",
    [
        WHO,
        f"\n{WHO}\n",
        f"Question: {WHO}\nAnswer:",
        f"Answer from this context:\nIt rained.\n\nQuestion: {WHO}\n",
        f"Be concise.\nQuestion: {WHO}\nContext: \nAnswer:",
        f"Question:\n{WHO}\n\nContext:\n\nAnswer:",
        f"Given the context, answer the query.\nQuery: {WHO}\nAnswer: ",
        f"The original query is as follows: {WHO}\nWe have an existing answer: Ann",
        f"**User question:** {WHO}",
        "User's question: Who is the captain: Ann\nor Bob?\n\nAnswer the question: ",
    ],
)
def test_the_question_is_taken_out(text: str) -> None:
    assert query_of(text) == WHO


@pytest.mark.parametrize(
    "text",
    [
        "What does the input: field mean?",
        "Tell me of the storm.\n\nThen of the harbour.",
        "Question:",
        "The question is open: why?",
        "questions: how many are there?",
    ],
)
def test_what_has_no_label_is_searched_for_as_it_is(text: str) -> None:
    assert query_of(text) == text


def test_a_document_in_the_message_is_no_part_of_it() -> None:
    content = [{"type": "text", "text": f"Question: {WHO}\nText:"}, {"type": "text", "text": ""}]
    assert parse([{"role": "user", "content": content}]).query == WHO
    assert parse(WHO).query == WHO


def test_an_empty_question_is_refused_wherever_one_is_asked(llm: SharedLLM, make: Make) -> None:
    memory = make()
    memory.add(MemoryDocument(id="story", text=STORY))
    document = llm.remember(STORY)
    for ask in (
        lambda: memory.search(" \n"),
        lambda: llm.select(" ", document),
        lambda: llm.score("", document),
        lambda: llm.answer("", document),
    ):
        with pytest.raises(InputError, match="the question is empty"):
            ask()
