"""The text in front of the first memory: reading it once is reading it every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sharedllm import SharedLLM
from sharedllm.hf.attention_interface import activate
from sharedllm.injection.positions import Prompt
from sharedllm.injection.prefix_cache import KEPT, PrefixCache, have_shared_prefix
from tests.equivalence.prompts import CLOSE, SCENE, memory_of, node, prompt_of
from tests.guard.counting import count
from tests.guard.test_hot_paths import LAYER, OUTPUT
from tests.models import MODES, shared, some_ids


def first(llm: SharedLLM, prompts: list[Prompt]) -> torch.Tensor:
    """Logits after `prompts`, and after one more token."""
    session = llm.upper.start(prompts)
    before = session.logits
    llm.upper.step(session, [7] * len(prompts))
    return torch.stack([before, session.logits])


def asked(llm: SharedLLM, head: int, tail: int) -> Prompt:
    memory = memory_of(llm, [node(15, 4, 0, 12)])
    return Prompt(text=(some_ids(9, head), some_ids(5, tail)), memory=(memory,))


@pytest.mark.parametrize(("family", "mode"), MODES)
def test_a_head_from_the_last_time_is_a_head_read_anew(family: str, mode: str) -> None:
    llm = shared(family, mode=mode, layers=2)
    fresh = PrefixCache(llm.upper.weights_state)
    for rows in ([1], [1, 2, 3]):
        llm.upper._prefix_cache = fresh
        prompts = [asked(llm, 40, tail) for tail in rows]
        expected = first(llm, prompts)
        assert len(fresh._kept) == llm.upper.fixed_rotation
        torch.testing.assert_close(first(llm, prompts), expected, **CLOSE)
        torch.testing.assert_close(first(llm, [asked(llm, 40, 1)])[:, 0], expected[:, 0], **CLOSE)


def test_a_head_that_is_known_costs_nothing() -> None:
    llm = shared("llama")
    llm.upper._prefix_cache = PrefixCache(llm.upper.weights_state)
    prompt = asked(llm, 41, 1)
    anew, again = (count(lambda: llm.upper.start([prompt])) for _ in range(2))
    assert anew.linear == 3 * 14 * LAYER + 2 * OUTPUT
    assert again.linear == 3 * 5 * LAYER + OUTPUT


@pytest.mark.parametrize("which", ["weights", "role", "attention"])
def test_what_changes_a_head_forgets_it(which: str) -> None:
    llm = shared("llama")
    prompt = asked(llm, 42, 1)
    llm.upper.start([prompt])
    assert llm.upper._prefix_cache._kept
    if which == "weights":
        with torch.no_grad():
            for weight in llm.model.parameters():
                weight += 0.01
    elif which == "role":
        prompt = replace(prompt, reads=True)
    else:
        activate(llm.model, "reference")
    found = first(llm, [prompt])
    llm.upper._prefix_cache = PrefixCache(llm.upper.weights_state)
    torch.testing.assert_close(found, first(llm, [prompt]), **CLOSE)


def test_a_few_heads_are_kept() -> None:
    llm = shared("llama")
    llm.upper._prefix_cache = PrefixCache(llm.upper.weights_state)
    for seed in range(KEPT + 3):
        llm.upper.start([asked(llm, 50 + seed, 1)])
    assert list(llm.upper._prefix_cache._kept) == [
        some_ids(9, 50 + seed) for seed in range(3, KEPT + 3)
    ]


def test_only_a_head_before_memory_that_all_share_is_kept() -> None:
    llm = shared("llama")
    scene = prompt_of(llm, SCENE)
    one, other = asked(llm, 1, 2), asked(llm, 2, 2)
    assert have_shared_prefix([one, one])
    assert have_shared_prefix([scene])
    assert not have_shared_prefix([one, other])
    assert not have_shared_prefix([one, scene])
    assert not have_shared_prefix([Prompt(text=(some_ids(5),))])
    assert not have_shared_prefix([replace(one, text=((), some_ids(3)))])


def test_weights_made_in_inference_mode_are_taken_as_they_are() -> None:
    with torch.inference_mode():
        llm = shared("llama")
    prompt = asked(llm, 43, 1)
    torch.testing.assert_close(first(llm, [prompt]), first(llm, [prompt]), **CLOSE)
