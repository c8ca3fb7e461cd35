"""Rule 2: ratio 1, one chunk, no split, all layers, joint: as if the past stood in the prompt."""

from __future__ import annotations

import pytest
import torch

from sharedllm import SharedLLM, TreeConfig
from sharedllm.generation.assemble import make_plan
from sharedllm.generation.prompt import converse
from sharedllm.injection.positions import Prompt
from tests.equivalence import oracle
from tests.equivalence.oracle import Node
from tests.equivalence.prompts import CLOSE, by_cache
from tests.models import (
    FAMILIES,
    MIXED_FAMILIES,
    SLIDING,
    SLIDING_FAMILIES,
    shared,
    some_ids,
    stock,
)

TREE = TreeConfig(chunk=64, height=0, ratios=(), root_ratio=1)
TAIL = some_ids(12, 3)
WHOLE = [f for f in FAMILIES if f not in SLIDING_FAMILIES]


def remembered(llm: SharedLLM, text: str, head: tuple[int, ...] = ()) -> tuple[Prompt, list[int]]:
    """A prompt with all of `text` as memory, and the text's ids."""
    document = llm.remember(text)
    selection = llm.select("anything", document, leaves="kv", budget=len(document))
    plan = make_plan(converse("anything", [document], llm.tokenizer), selection, llm.tokenizer)
    memory = plan.memory(0, llm.encoder.encode(document, plan.requests(0)))
    assert memory is not None
    assert len(memory) == len(document)
    return Prompt(text=(head, TAIL), memory=(memory,)), document.tokens.ids.tolist()


def stock_tail(family: str, past: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = stock(family)(input_ids=torch.tensor([[*past, *TAIL]])).logits[0]
    return logits[len(past) :]


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
@pytest.mark.parametrize("family", WHOLE)
def test_memory_in_front_is_the_stock_model_on_past_and_running_text(
    family: str, attention: str
) -> None:
    llm = shared(family, tree=TREE, attention=attention)
    prompt, past = remembered(llm, "A past of forty tokens, give or take one")
    expected = stock_tail(family, past)
    with torch.no_grad():
        (found,) = llm.upper.logits([prompt])
    torch.testing.assert_close(found, expected, **CLOSE)
    start = Prompt(text=((), TAIL[:4]), memory=prompt.memory)
    cached = torch.cat(by_cache(llm.upper, [start], TAIL[4:]))
    torch.testing.assert_close(cached, expected[3:], **CLOSE)


@pytest.mark.parametrize("family", SLIDING_FAMILIES)
def test_so_it_is_inside_the_sliding_window(family: str) -> None:
    llm = shared(family, tree=TREE)
    prompt, past = remembered(llm, "four")
    inside = SLIDING - len(past)
    with torch.no_grad():
        (found,) = llm.upper.logits([prompt])
    torch.testing.assert_close(found[:inside], stock_tail(family, past)[:inside], **CLOSE)


@pytest.mark.parametrize("family", SLIDING_FAMILIES)
def test_beyond_the_sliding_window_memory_stays_visible(family: str) -> None:
    llm = shared(family, tree=TREE)
    prompt, past = remembered(llm, "A past much longer than the sliding window")
    node = Node(tuple(past), tuple(range(len(past))), 0)
    expected = oracle.logits(
        stock(family), [(), [node], TAIL], mode="joint", layers=3, positions="ordinal"
    )
    with torch.no_grad():
        (found,) = llm.upper.logits([prompt])
    torch.testing.assert_close(found, expected, **CLOSE)
    assert float((found - stock_tail(family, past)).abs().max()) > 0.05  # which stock hides


# Ministral 3 scales queries by their position, and a node is read at positions from 0
@pytest.mark.parametrize("family", [f for f in WHOLE if f != "ministral3"])
def test_head_memory_tail_is_the_stock_model_where_the_memory_does_not_see_the_head(
    family: str,
) -> None:
    llm, head = shared(family, tree=TREE), some_ids(7, 5)
    prompt, past = remembered(llm, "A past of forty tokens, give or take one", head)
    ids = [*head, *past, *TAIL]
    visible = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    visible[len(head) : len(head) + len(past), : len(head)] = False
    near = visible & torch.ones_like(visible).triu(1 - SLIDING)
    mask, sliding = (
        torch.zeros(1, 1, *seen.shape).masked_fill(~seen, -torch.inf) for seen in (visible, near)
    )
    masks = {"full_attention": mask, "sliding_attention": sliding}
    positions = torch.arange(len(ids))[None]
    with torch.no_grad():
        out = stock(family)(
            input_ids=torch.tensor([ids]),
            attention_mask=masks if family in MIXED_FAMILIES else mask,
            position_ids=positions,
        )
        (found,) = llm.upper.logits([prompt])
    torch.testing.assert_close(found[: len(head)], out.logits[0, : len(head)], **CLOSE)
    torch.testing.assert_close(found[len(head) :], out.logits[0, -len(TAIL) :], **CLOSE)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3-partial"])
def test_with_one_layer_head_memory_tail_is_the_plain_concatenation(family: str) -> None:
    llm = shared(family, tree=TREE, sizes={"num_hidden_layers": 1})
    head = some_ids(7, 5)
    prompt, past = remembered(llm, "One layer: keys depend on their own token only.", head)
    with torch.no_grad():
        ids = torch.tensor([[*head, *past, *TAIL]])
        expected = stock(family, num_hidden_layers=1)(input_ids=ids).logits[0, -len(TAIL) :]
        (found,) = llm.upper.logits([prompt])
    torch.testing.assert_close(found[-len(TAIL) :], expected, **CLOSE)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3-partial"])
def test_with_one_layer_chunk_positions_are_explicit_position_ids(family: str) -> None:
    """Every key of chunk i at i behind the head, the running text behind the last chunk."""
    tree = TreeConfig(chunk=16, height=0, ratios=(), root_ratio=1)
    llm = shared(family, tree=tree, positions="chunk", sizes={"num_hidden_layers": 1})
    head = some_ids(7, 5)
    prompt, past = remembered(llm, "Three chunks, of 16, 16 and 8 tokens now", head)
    chunks = [i // 16 for i in range(len(past))]
    ids = torch.tensor([[*head, *past, *TAIL]])
    behind = len(head) + chunks[-1] + 1
    positions = [*range(7), *(7 + c for c in chunks), *range(behind, behind + len(TAIL))]
    causal = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        expected = stock(family, num_hidden_layers=1)(
            input_ids=ids, position_ids=torch.tensor([positions]), attention_mask=causal
        ).logits[0, -len(TAIL) :]
        (found,) = llm.upper.logits([prompt])
    torch.testing.assert_close(found[-len(TAIL) :], expected, **CLOSE)
