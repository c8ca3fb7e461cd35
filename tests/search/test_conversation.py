"""A follow-up question is searched for with the turns before it, and no other question is."""

from __future__ import annotations

import pytest

from sharedllm import Asked, SharedLLM
from sharedllm.generation.prompt import ABSENT, converse, parse
from sharedllm.search.conversation import in_conversation, refers_back
from tests.models import make_tokenizer

EARLIER = [("Who kept the lighthouse?", "Ansel Byrd, from Hull.")]
FOLLOW_UPS = (
    "Was it successful?",
    "When did he die?",
    "And in which year?",
    "What about the ferry?",
    "Why?",
    "Did they have any other children?",
    "What happened after that?",
    "Where did Byrd come from?",  # shares a name
    "What else is known?",
    "Tell me more about his wife.",
    "Who lived there?",
    "How long was she ill?",
    "What does this mean?",
    "What is the secret ingredient of the soup that he cooks?",  # a soup is no "he"
)
ALONE = (
    "What is the capital of France?",
    "How much does the sailor pay for his wife Susan?",
    "How long does it take to cross the strait by boat?",
    "Is it true that cats sleep all day?",
    "Did Henchard regret that he sold Susan?",
    "Which town has a market where they sell hay?",
    "What did the young keeper give for the horse that he sold?",
    "In which town did the teacher hide the lamp that she had found?",
    "Wie heißt die Hauptstadt von Frankreich?",
    "法国的首都是哪里",
    "invoice 48013",
)


@pytest.mark.parametrize("question", FOLLOW_UPS)
def test_a_follow_up_takes_what_it_refers_to(question: str) -> None:
    assert refers_back(question, EARLIER)
    assert in_conversation(question, EARLIER) == (
        f"{question} Who kept the lighthouse? Ansel Byrd, from Hull."
    )
    assert in_conversation(question, []) == question  # there is nothing before it


@pytest.mark.parametrize("question", ALONE)
def test_a_question_that_stands_alone_stays_alone(question: str) -> None:
    assert in_conversation(question, EARLIER) == question


def test_long_turns_are_cut_and_old_ones_left_out() -> None:
    earlier = [(f"q{n}", f"word{n} " * 999) for n in range(9)]
    found = in_conversation("And then?", earlier).split()
    assert len(found) == 2 + 3 * 61
    assert "word5" not in found
    pasted = in_conversation("And then?", [("text " * 5000 + "Who came?", "")])
    assert pasted.endswith("text Who came?")
    assert len(pasted.split()) == 62


def test_messages_are_searched_for_with_their_turns() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Question: Who kept the light?"},
        {"role": "assistant", "content": f"{ABSENT.capitalize()}."},
        {"role": "user", "content": "Who was Ansel Byrd?"},
        {"role": "assistant", "content": "The keeper."},
        {"role": "user", "content": "When did he come?"},
        {"role": "assistant", "content": "not said yet"},
    ]
    asked = parse(messages)
    assert asked.query == "When did he come?"
    assert asked.sought == ("When did he come? Who kept the light? Who was Ansel Byrd? The keeper.")
    made = converse(asked, (), make_tokenizer())
    assert (made.question, made.query) == (asked.query, asked.sought)
    assert parse("When did he come?").sought == "When did he come?"
    assert Asked(turns=(("user", ("Why?",)),), query="Why?").sought == "Why?"


def test_a_follow_up_finds_its_evidence(tiny_llm: SharedLLM) -> None:
    people = ("Ansel Byrd kept the lamp", "Olga Reed sold the boats", "Ivo Marsh wrote of birds")
    text = "\n\n".join(f"{who}. Nothing else was ever said about that life." * 3 for who in people)
    document = tiny_llm.remember(text)
    messages = [
        {"role": "user", "content": "Who sold the boats?"},
        {"role": "assistant", "content": "Olga Reed."},
        {"role": "user", "content": "What did she do?"},
    ]
    made = tiny_llm.prepare(messages, document, budget=90, scorer="bm25")
    assert made.question == "What did she do?"
    assert "sold the boats" in made.citations[0].text
