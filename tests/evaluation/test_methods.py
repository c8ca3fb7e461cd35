"""Every method gives finite results under its budget; some are held to be exact."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from sharedllm import SharedLLM
from sharedllm.errors import ConfigError
from sharedllm.evaluation.baselines import (
    BASELINES,
    BM25Ranker,
    Choice,
    Full,
    Missing,
    Truncated,
    Windows,
    make_methods,
    parse_names,
)
from sharedllm.evaluation.items import Item, frame
from sharedllm.evaluation.methods import Case, DoesNotFitError, Losses, Method, Ready
from tests.evaluation.conftest import WINDOW
from tests.models import stock
from tests.texts import FERRY, GARDEN, STORY

TARGET = tuple(b"Ansel Byrd")
BUDGET = 600
NAMES = (
    "SharedLLM",
    "full attention",
    "truncated, middle",
    "truncated, middle",
    "truncated, left",
    "truncated, left",
    "BM25 windows",
)


def make_case(llm: SharedLLM, text: str, **changes: Any) -> Case:
    item = Item(
        id="1",
        task="t",
        text=text,
        before="Read:\n",
        after="\nWho kept the lamp?",
        query="Who kept the lamp?",
        new_tokens=5,
        target="Ansel Byrd",
    )
    item = dataclasses.replace(item, **changes)
    document = llm.remember(item.text) if item.text else None
    return Case(item=item, frame=frame(item, llm.tokenizer), document=document)


@pytest.fixture(scope="module")
def short(llm: SharedLLM) -> Case:
    return make_case(llm, STORY)


@pytest.fixture(scope="module")
def long(llm: SharedLLM) -> Case:
    return make_case(llm, f"{GARDEN} {FERRY} " * 8 + STORY + f" {FERRY}" * 2)


def every(llm: SharedLLM, **options: Any) -> list[Method]:
    return [m for m in make_methods(llm, Choice(batch=2, **options)) if not isinstance(m, Missing)]


def test_the_registered_methods_are_these(llm: SharedLLM) -> None:
    assert [m.name for m in every(llm)][: len(NAMES)] == list(NAMES)


@pytest.mark.parametrize("at", range(len(NAMES)))
@pytest.mark.parametrize("which", ["short", "long"])
def test_every_method_answers_within_its_budget(
    llm: SharedLLM, at: int, which: str, request: pytest.FixtureRequest
) -> None:
    case: Case = request.getfixturevalue(which)
    method = every(llm)[at]
    budget = BUDGET if method.budgeted else None
    if (method.name, which) == ("full attention", "long"):
        with pytest.raises(DoesNotFitError, match="window"):
            method.prepare(case, None)
        return
    ready = method.prepare(case, budget)
    if method.budgeted:
        assert 0 < ready.tokens <= BUDGET
    assert ready.flops > 0
    assert min(ready.stored, ready.ingest_flops) >= 0
    texts = method.generate([ready, ready], 5)
    assert len(texts) == 2
    assert texts[0] == texts[1]
    losses = method.losses([ready, ready], [TARGET, TARGET[:4]])
    assert [len(x) for x in losses] == [len(TARGET), 4]
    assert all(np.isfinite(x).all() and (x > 0).all() for x in losses)
    np.testing.assert_allclose(losses[0][:4], losses[1], atol=2e-4)


def stock_losses(ready: Ready, target: tuple[int, ...]) -> Losses:
    model = stock("llama", max_position_embeddings=WINDOW)
    ids = torch.tensor([[*ready.prompt.text[0], *target]])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0]
    chances = logits[-len(target) - 1 : -1].float().log_softmax(-1)
    return -chances.gather(1, torch.tensor(target)[:, None])[:, 0].numpy()


def test_full_attention_is_the_stock_model(llm: SharedLLM, short: Case) -> None:
    method = Full(llm)
    ready = method.prepare(short, None)
    assert ready.tokens == len(STORY.encode())
    losses = method.losses([ready], [TARGET])[0]
    np.testing.assert_allclose(losses, stock_losses(ready, TARGET), atol=1e-4)


def test_what_is_cut_and_kept(llm: SharedLLM, long: Case) -> None:
    ids = long.ids
    left = Truncated(llm, side="left", budgeted=True).body(long, 100)
    middle = Truncated(llm, side="middle", budgeted=True).body(long, 101)
    assert tuple(left) == ids[-100:]
    assert tuple(middle) == (*ids[:50], *ids[-51:])
    own = Truncated(llm, side="left", budgeted=False)
    ready = own.prepare(long, None)
    assert ready.prompt.text_tokens + len(TARGET) == WINDOW
    with pytest.raises(DoesNotFitError, match="beyond the trained window"):
        Truncated(llm, side="left", budgeted=True).body(long, WINDOW)


def test_the_best_window_stands_last(llm: SharedLLM, long: Case) -> None:
    method = Windows(llm, ranker=BM25Ranker())
    text = llm.tokenizer.decode(method.body(long, 2 * 256 + 5))
    first, last = text.split("\n...\n")
    assert "lamp" in last
    assert len(first.encode()) == len(last.encode()) == 256
    assert len(method.body(long, 400)) == 400  # of the worse one, what fits


def test_the_base_reads_for_baselines_unless_asked_otherwise(llm: SharedLLM, short: Case) -> None:
    assert not Full(llm).prepare(short, None).prompt.reads
    assert Full(llm, adapter=True).prepare(short, None).prompt.reads
    memory = make_methods(llm, Choice(baselines=()))[0]
    assert memory.prepare(short, BUDGET).prompt.reads
    with pytest.raises(ConfigError, match="none is loaded"):
        make_methods(llm, Choice(adapter=True))


def test_memory_may_be_injected(llm: SharedLLM, long: Case) -> None:
    method = every(llm, search={"leaves": "kv", "coarse": "all"}, baselines=())[0]
    ready = method.prepare(long, 300)
    assert 0 < ready.prompt.injected_tokens <= ready.tokens <= 300
    assert np.isfinite(method.losses([ready], [TARGET])[0]).all()


def test_a_prompt_that_fills_the_window_is_skipped_with_the_reason(
    llm: SharedLLM, long: Case
) -> None:
    case = make_case(llm, long.item.text, before="x" * (WINDOW - 200))
    for method in every(llm):
        if method.budgeted:
            with pytest.raises(DoesNotFitError, match="beyond the trained window"):
                method.prepare(case, 500)


def test_the_baselines_option() -> None:
    assert parse_names("all") == tuple(BASELINES)
    assert parse_names("none") == ()
    assert parse_names("bm25, full") == ("full", "bm25")
    with pytest.raises(ConfigError, match="--baselines"):
        parse_names("bm26")
