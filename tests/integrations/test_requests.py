"""A question that stands only in front of its documents is repeated behind them."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.prompts import ChatPromptTemplate

from sharedllm import SharedLLM, TreeMemory
from sharedllm_integrations.errors import ContentError
from sharedllm_integrations.langchain import (
    ChatSharedLLM,
    SharedLLMCompletion,
    TreeMemoryRetriever,
)
from sharedllm_integrations.requests import LONGEST, Message, question_in, with_question_last
from sharedllm_integrations.resolution import Found
from tests.integrations.llamaindex.helpers import model
from tests.integrations.prompts import enclosed
from tests.texts import FERRY

ASK = "When does the ferry leave?"
AGAIN = f"\n\nQuestion: {ASK}"
FERRIES = Found(id="ferry", found_as="reference")
OTHER = Found(id="other", found_as="reference")
TUTORIAL = ChatPromptTemplate.from_template(
    "Answer with the context. Be concise.\nQuestion: {question} \nContext: {context} \nAnswer:"
)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([f"Question: {ASK} \nContext: ", FERRIES, " \nAnswer:"], [AGAIN, " \nAnswer:"]),
        ([f"{ASK}\n\n", FERRIES], [AGAIN]),
        ([f"Question: {ASK}\n", OTHER, "\n\n", FERRIES, "Be brief."], [f"{AGAIN}\n", "Be brief."]),
        ([f"Question: {ASK}\n", FERRIES, "\n"], [AGAIN, "\n"]),
    ],
)
def test_it_is_put_right_behind_the_last_document(parts: list[Any], expected: list[Any]) -> None:
    asked = [Message(role="system", parts=["Be kind."]), Message(role="user", parts=parts)]
    out, repeated = with_question_last(asked, question_in(asked))
    at = parts.index(FERRIES) + 1
    assert repeated
    assert out == [asked[0], Message(role="user", parts=(*parts[:at], *expected))]


@pytest.mark.parametrize(
    "turns",
    [
        [("user", [FERRIES, f"\n\nQuestion: {ASK}"])],
        [("user", [f"Question: {ASK}\n", FERRIES, f"\n\nQuestion:  {ASK}\n"])],
        [("user", [FERRIES, f"\n\n{ASK}\n\n", OTHER, f"\n\n{ASK} Be brief."])],
        [("user", [f"Question: {ASK}"])],
        [("user", [FERRIES, " "])],
        [("system", ["Context: ", FERRIES]), ("user", [ASK])],
        [("user", [FERRIES, ASK]), ("assistant", ["At seven."]), ("user", ["And on Sundays?"])],
        [("user", [ASK]), ("assistant", ["a call"]), ("tool", [FERRIES])],
        [("system", [ASK])],
        [],
    ],
)
def test_nothing_else_is_changed(turns: Any) -> None:
    asked = [Message(role=role, parts=parts) for role, parts in turns]
    assert with_question_last(asked, ASK) == (asked, False)


def test_a_long_question_is_not_repeated() -> None:
    asked = [Message(role="user", parts=["word " * LONGEST, FERRIES])]
    assert with_question_last(asked, question_in(asked)) == (asked, False)


@pytest.mark.parametrize(
    ("role", "parts", "message"),
    [
        ("system", [ASK], "hold no user message"),
        ("user", [FERRIES, " "], "has no text; ask something"),
    ],
)
def test_without_a_question(role: Any, parts: list[Any], message: str) -> None:
    with pytest.raises(ContentError, match=message):
        question_in([Message(role=role, parts=parts)])


def test_a_template_with_the_question_first(llm: SharedLLM, memory: TreeMemory) -> None:
    (found,) = TreeMemoryRetriever(memory=memory, k=1).invoke(ASK)
    given = {"question": ASK, "context": found.page_content}
    own: dict[str, Any] = {"llm": llm, "memory": memory, "max_tokens": 4}
    repeated = (TUTORIAL | ChatSharedLLM(**own)).invoke(given)
    assert repeated.response_metadata["sharedllm"]["question_repeated"] is True
    written = ChatPromptTemplate.from_template(
        "Answer with the context. Be concise.\nQuestion: {question} \nContext: {context}"
        "\n\nQuestion: {question} \nAnswer:"
    )
    by_hand = (written | ChatSharedLLM(**own)).invoke(given)
    assert by_hand.response_metadata["sharedllm"]["question_repeated"] is False
    assert by_hand.usage_metadata == repeated.usage_metadata
    assert by_hand.content == repeated.content
    off = (TUTORIAL | ChatSharedLLM(**own, repeat_question=False)).invoke(given)
    assert off.response_metadata["sharedllm"]["question_repeated"] is False
    assert off.usage_metadata["input_tokens"] < repeated.usage_metadata["input_tokens"]


def test_the_other_models_do_it_as_well(llm: SharedLLM) -> None:
    prompt = f"Question: {ASK}\n{enclosed(FERRY)}\nAnswer:"
    generation = SharedLLMCompletion(llm=llm, max_tokens=4).generate([prompt]).generations[0][0]
    assert (generation.generation_info or {})["sharedllm"]["question_repeated"] is True
    assert model(llm).complete(prompt).additional_kwargs["sharedllm"]["question_repeated"] is True


def test_response_caches_know_the_setting(llm: SharedLLM) -> None:
    ours, other = (ChatSharedLLM(llm=llm, repeat_question=on) for on in (True, False))
    assert ours._get_llm_string() != other._get_llm_string()
