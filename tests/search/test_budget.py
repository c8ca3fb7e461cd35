"""The budget that follows the question: what is decided, and the second look."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sharedllm import Document, SearchConfig, SharedLLM, TreeConfig
from sharedllm.errors import BudgetError, ConfigError
from sharedllm.generation import decoding
from sharedllm.search.budget import FEW, FIXED, MANY, Looks, asks_for_several, decide, is_unsure
from sharedllm.search.leaf_scores import Scores
from sharedllm.text.tree import Forest, cut, grow_trees
from tests.models import shared
from tests.texts import FERRY, GARDEN, STORY

LONG = "\n\n".join(f"{STORY}\n\nThe {n}th keeper had {n} lamps." for n in range(12))
ONE = "Who keeps the lamp?"
ALL = "List all keepers of the lamp."
ROOM = 6000


def forest(tokens: int = 4096, **tree: Any) -> Forest:
    config = TreeConfig(**tree)
    return grow_trees(cut(tokens, config.chunk), config)


def scored(one: Forest, leaves: Sequence[float]) -> Scores:
    """Scores of all nodes: those given for the first leaves, 0 for the others."""
    values = np.zeros(len(one.leaves), np.float32)
    values[: len(leaves)] = leaves
    return one.from_leaves(values)


def decided(question: str, best: Sequence[float], room: int = ROOM, **search: Any) -> Looks:
    one = forest()
    return decide(question, [one], [scored(one, best)], SearchConfig(**search), room=room)


def test_a_fixed_budget_stays_what_it_is() -> None:
    assert decided(ONE, [9.0], budget=777) == Looks(first=777)
    assert decided(ALL, [9.0], budget=777) == Looks(first=777, several=True)
    assert decided(ONE, [9.0], budget=5000, max_budget=100) == Looks(first=5000)


def test_one_place_that_stands_out_gets_few_tokens_and_a_second_look_more() -> None:
    looks = decided(ONE, [9.0])
    assert looks.first == FEW
    assert looks.second is not None
    assert looks.second > FEW


@pytest.mark.parametrize(("leaves", "first"), [(1, 192), (2, 384), (3, 512), (9, 512)])
def test_as_many_leaves_are_shown_as_are_close_to_the_best(leaves: int, first: int) -> None:
    far_apart = [9.0 if at % 4 == 0 and at < 4 * leaves else 0.0 for at in range(32)]
    assert decided(ONE, far_apart[:32] if leaves <= 8 else [1.0] * 32).first == first


def test_a_model_that_cannot_abstain_is_shown_more_at_once() -> None:
    one = forest()
    for best, first in (([9.0], 512), ([9.0, 0, 0, 0] * 4, MANY)):
        looks = decide(ONE, [one], [scored(one, best)], SearchConfig(), room=ROOM, twice=False)
        assert looks == Looks(first=first)


def test_several_things_get_more_than_one() -> None:
    assert decided(ALL, [9.0]) == Looks(first=MANY, second=2048, several=True)


@pytest.mark.parametrize(
    "question",
    [
        "Why did the keeper leave?",
        "how does the lamp work?",
        "Summarise the story.",
        "Write a one-sentence summary (TLDR) of this abstract.",
        "Can you explain the rule of the lamp?",
        "Do you have information about lamps?",
        "Please tell me about the ferry.",
    ],
)
def test_explanations_get_many_whole_leaves(question: str) -> None:
    assert decided(question, [9.0]) == Looks(first=MANY, second=2048)


@pytest.mark.parametrize(
    "question", ["How many lamps are there?", "How long is the pier?", "Who knows why?"]
)
def test_short_facts_are_no_explanations(question: str) -> None:
    assert decided(question, [9.0]).first == FEW


@pytest.mark.parametrize(
    "search",
    [{"scorer": "recency"}, {"leaves": "kv"}, {"selection": "path"}],
    ids=["recency", "kv", "path"],
)
def test_where_scores_say_nothing_the_budget_is_fixed(search: dict[str, Any]) -> None:
    assert decided(ONE, [9.0], **search) == Looks(first=FIXED)


def test_a_coarse_level_takes_its_share_of_a_fixed_budget() -> None:
    one = forest()
    looks = decide(ONE, [one], [scored(one, [9.0])], SearchConfig(), room=ROOM, compressed=True)
    assert looks == Looks(first=FIXED)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e37])
@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("leaves", [[9.0], [9.0, 8.5, 8.5, 8.0], [1.0] * 32, []])
def test_scores_have_no_unit(leaves: list[float], offset: float, scale: float) -> None:
    one = forest()
    moved = ((scored(one, leaves) + offset) * scale).astype(np.float32)
    plain = decide(ONE, [one], [scored(one, leaves)], SearchConfig(), room=ROOM)
    assert decide(ONE, [one], [moved], SearchConfig(), room=ROOM) == plain


def test_what_later_rounds_found_needs_several_places() -> None:
    one = forest()
    looks = decide(
        ONE, [one], [scored(one, [9.0])], SearchConfig(max_budget=1500), room=ROOM, followed=2
    )
    assert looks == Looks(first=384, second=1500, several=True)


def test_limits() -> None:
    assert decided(ONE, [9.0], max_budget=100) == Looks(first=100)
    assert decided(ALL, [9.0], max_budget=300) == Looks(first=300, several=True)
    narrow = decided(ONE, [9.0], room=160)
    assert narrow.first <= 160
    assert narrow.second is None
    assert decided(ONE, [9.0], room=1).first == 1
    titled = decide(
        ONE, [forest()], [scored(forest(), [9.0])], SearchConfig(), room=ROOM, overhead=[400]
    )
    assert titled.first == 528
    large = forest(8192, chunk=4096, height=1, ratios=(1,))  # leaves of 2,048 tokens
    looks = decide(ONE, [large], [scored(large, [9.0])], SearchConfig(max_budget=4096), room=9000)
    assert looks.first >= 2048


@pytest.mark.parametrize(
    "question",
    [
        "List the members of the crew.",
        "What are all the numbers for the lamp?",
        "Find all variables that are assigned the value 17.",
        "Which arguments does subnets take?",
        "Who are the parties to the agreement?",
        "Name every town that the ferry calls at.",
        "Who built the pier? And when was it closed?",
        "What are the numbers for amber, teal, and jade?",
        "Which public methods does the class define?",
    ],
)
def test_questions_for_several_things(question: str) -> None:
    assert asks_for_several(question)


@pytest.mark.parametrize(
    "question",
    [
        "Who keeps the lamp?",
        "What is the amount of permit 48013?",
        "In which town was Ulric Lanyon born?",
        "What does the witness say?",
        "Which bus goes to Penmor?",
        "When does the ferry leave, and for which place?",
        "reference H-5063N town",
        "Is Susan his wife?",
        "",
    ],
)
def test_questions_for_one_thing(question: str) -> None:
    assert not asks_for_several(question)


def test_a_refusal_is_unsure_and_a_sure_answer_is_not() -> None:
    assert is_unsure(0.9)
    assert not is_unsure(0.01)


@pytest.mark.parametrize(
    "value", ["Auto", "automatic", "", "512", 0, -1, True, None, 1.5, [], np.ones(2)]
)
def test_other_budgets_are_refused(value: Any) -> None:
    with pytest.raises(BudgetError, match=r"budget is .*'auto'"):
        SearchConfig(budget=value)
    with pytest.raises(BudgetError, match="max_budget is"):
        SearchConfig(max_budget=value)
    with pytest.raises(BudgetError, match="max_budget is"):
        SearchConfig(max_budget="auto")  # type: ignore[arg-type]


def test_selecting_needs_the_number() -> None:
    assert SearchConfig(budget=7).fixed_budget == 7
    with pytest.raises(ConfigError, match="give a whole number"):
        _ = SearchConfig().fixed_budget


# -- the second look -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm() -> Iterator[SharedLLM]:
    """A model that can abstain, as adapters do."""
    made = shared("llama", sizes={"max_position_embeddings": 8192})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made.decoder, "refusal_id", 7)
        yield made


@pytest.fixture(scope="module")
def document(llm: SharedLLM) -> Document:
    return llm.remember(LONG, title="Keepers")


Patch = Callable[[Callable[[float], bool]], None]


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Replaces the judgement of first looks."""
    return lambda judge: monkeypatch.setattr(decoding, "is_unsure", judge)


QUICK: dict[str, Any] = {"max_new_tokens": 4, "scorer": "bm25"}


def test_a_sure_first_look_is_the_answer(llm: SharedLLM, document: Document, unsure: Patch) -> None:
    unsure(lambda refused: False)
    answer = llm.answer("Who had 7 lamps?", document, **QUICK)
    assert answer.usage.looks == 1
    assert answer.usage.budget == FEW
    assert answer.usage.evidence_tokens <= FEW
    fixed = llm.answer("Who had 7 lamps?", document, budget=FEW, **QUICK)
    assert (answer.text, answer.citations) == (fixed.text, fixed.citations)


def test_an_unsure_one_is_read_again_and_nothing_of_it_is_given_out(
    llm: SharedLLM, document: Document, unsure: Patch
) -> None:
    unsure(lambda refused: True)
    prepared = llm.prepare(ONE, document, **QUICK)
    assert prepared.again is not None
    larger = prepared.again()
    assert larger.again is None
    [expected] = llm.generate([larger], max_new_tokens=4)
    stream = llm.stream(ONE, document, **QUICK)
    first = stream.citations
    assert first == prepared.citations
    parts = list(stream)
    for answer in (stream.answer, llm.answer(ONE, document, **QUICK)):
        assert (answer.text, answer.citations) == (expected.text, larger.citations)
        assert (answer.usage.looks, answer.usage.budget) == (2, larger.selection.budget)
        assert answer.finish_reason in ("stop", "length")
        assert answer.timings.prefill_s > 0 < answer.timings.decode_s
    assert "".join(parts).strip() == expected.text
    assert stream.citations == larger.citations
    assert len(first) < len(larger.citations)
    assert "second look" in stream.answer.summary()
    assert stream.answer == stream.answer


def test_a_dropped_stream_gives_back_the_model_at_once(
    llm: SharedLLM, document: Document, unsure: Patch
) -> None:
    unsure(lambda refused: True)
    gc.disable()  # a cycle of references would keep it
    try:
        stream = llm.stream(ONE, document, **QUICK)
        next(stream)
        alive = weakref.ref(stream._parts)
        del stream
        assert alive() is None
    finally:
        gc.enable()


def test_only_the_unsure_questions_of_a_batch_are_read_again(
    llm: SharedLLM, document: Document, unsure: Patch
) -> None:
    questions = [ONE, "Who has 7 lamps?", "Where is the ferry?", "Who has 9 lamps?"]
    judged = iter([True, False, True, False])
    unsure(lambda refused: next(judged))
    answers = llm.answer_batch(questions, document, **QUICK)
    assert [answer.usage.looks for answer in answers] == [2, 1, 2, 1]
    assert [answer.question for answer in answers] == questions
    for question, answer in zip(questions, answers, strict=True):
        prepared = llm.prepare(question, document, **QUICK)
        if answer.usage.looks == 2:
            assert prepared.again is not None
            prepared = prepared.again()
        [alone] = llm.generate([replace(prepared, again=None)], max_new_tokens=4)
        assert (answer.text, answer.citations) == (alone.text, alone.citations)


def test_there_is_no_second_look_at_everything_and_under_a_fixed_budget(
    llm: SharedLLM, document: Document, unsure: Patch
) -> None:
    unsure(lambda refused: True)
    short = llm.remember(FERRY[:200])
    assert llm.answer(ONE, short, **QUICK).usage.looks == 1
    assert llm.answer(ONE, document, budget=100, **QUICK).usage.looks == 1
    plain = llm.answer("Hello", **QUICK)
    assert (plain.usage.looks, plain.usage.budget) == (0, None)
    mixed = llm.answer_batch([ONE, "Hello", ONE], [document, (), short], **QUICK)
    assert [answer.usage.looks for answer in mixed] == [2, 0, 1]


def test_the_budget_fits_a_small_window(monkeypatch: pytest.MonkeyPatch, unsure: Patch) -> None:
    unsure(lambda refused: True)
    small = shared("llama")
    monkeypatch.setattr(small.decoder, "refusal_id", 7)
    documents = [small.remember(text) for text in (LONG, FERRY, GARDEN)]
    for question in (ONE, ALL):
        answer = small.answer(question, documents, scope="passages", **QUICK)
        used = answer.usage
        assert used.prompt_tokens + QUICK["max_new_tokens"] <= small.window
        assert answer.citations


def test_questions_for_several_things_read_more_places_of_each_less(
    llm: SharedLLM, document: Document
) -> None:
    whole = llm.select("Who has lamps?", document, budget=200, scorer="bm25")
    cut = llm.select("List all who have lamps.", document, budget=200, scorer="bm25")
    assert len(cut.nodes) > len(whole.nodes)
    for node in cut.nodes:
        assert document.text_of(node.start, node.end).strip()
    injected = llm.select("List all who have lamps.", document, budget=200, leaves="kv")
    leaf = document.forest
    assert all((n.start, n.end) == (leaf.start[n.node], leaf.end[n.node]) for n in injected.nodes)


def test_the_sentence_that_a_later_round_searched_for_is_shown(llm: SharedLLM) -> None:
    rain = "It rained on the hill, and nobody came by. " * 12
    said = "The teacher of Anna Lund was Olga Brandt."
    then = "In her youth Olga Brandt had come down from Penmor."
    document = llm.remember(f"{rain}{said} {rain}{rain}{then} {rain}", title="Hill")
    question = "From which town did the teacher of Anna Lund come?"
    chosen = llm.select(question, document, budget=300)
    assert chosen.rounds == 2
    found = {node.round: document.text_of(node.start, node.end) for node in chosen.nodes}
    assert "Olga Brandt" in found[2]
    assert any("Olga" in document.text_of(n.start, n.end) for n in chosen.nodes if n.round == 1)


@pytest.mark.parametrize("scorer", ["fused", "maxsim", "bm25", "embedding", "recency"])
@pytest.mark.parametrize("leaves", ["text", "kv"])
@pytest.mark.parametrize("coarse", ["none", "ready", "all"])
def test_every_choice_answers_under_auto(
    llm: SharedLLM, document: Document, scorer: str, leaves: str, coarse: str
) -> None:
    answer = llm.answer(
        ONE, document, scorer=scorer, leaves=leaves, coarse=coarse, max_new_tokens=2
    )
    assert answer.citations
    assert answer.usage.budget is not None
    assert answer.usage.evidence_tokens + answer.usage.injected_tokens <= answer.usage.budget
