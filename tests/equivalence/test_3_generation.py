"""Rule 3: generating = recomputing step by step; stream = answer; batch rows = single rows."""

from __future__ import annotations

import pytest
import torch

from sharedllm import GenerationConfig, SharedLLM
from sharedllm.generation.logits_processors import Row
from sharedllm.hf.loading import end_ids
from sharedllm.injection.positions import Prompt
from tests.equivalence.oracle import Piece
from tests.equivalence.prompts import (
    CLOSE,
    SCENE,
    by_cache,
    by_keyword,
    continued,
    node,
    prompt_of,
)
from tests.models import MODES, shared, some_ids
from tests.texts import FERRY, STORY

# Rows of one batch: other heads, memories, tails, and 2, 1, 1, 0 and 1 places.
BATCH: list[list[Piece]] = [
    SCENE,
    [some_ids(2, 11), [node(15, 4, 0, 12), node(15, 4, 1, 13)], some_ids(19, 14)],
    [(), [node(3, 1, 0, 15)], some_ids(1, 16)],
    [some_ids(6, 17)],
    [some_ids(9, 18), [node(1, 8, 3, 19)], some_ids(4, 20)],
]


def greedy(llm: SharedLLM, prompt: Prompt, n: int) -> list[int]:
    """Each token from a recomputation of everything before it."""
    ids: list[int] = []
    with torch.no_grad():
        while len(ids) < n:
            token = int(llm.upper.logits([continued(prompt, ids)])[0][-1].argmax())
            if token in end_ids(llm.model, llm.tokenizer):
                break
            ids.append(token)
    return ids


def generate(llm: SharedLLM, prompts: list[Prompt], n: int) -> list[list[int]]:
    rows = [Row() for _ in prompts]
    for _ in llm.decoder.run(prompts, GenerationConfig(max_new_tokens=n), rows):
        pass
    return [row.ids for row in rows]


@pytest.mark.parametrize(("family", "mode"), MODES)
def test_generation_is_recomputation(family: str, mode: str) -> None:
    llm = shared(family, mode=mode)
    prompts = [prompt_of(llm, pieces) for pieces in BATCH[:2]]
    expected = [greedy(llm, prompt, 8) for prompt in prompts]
    assert generate(llm, prompts, 8) == expected
    assert [generate(llm, [prompt], 8)[0] for prompt in prompts] == expected


@pytest.mark.parametrize("positions", ["ordinal", "chunk"])
@pytest.mark.parametrize(("family", "mode"), MODES)
def test_batch_rows_are_single_rows(family: str, mode: str, positions: str) -> None:
    llm = shared(family, mode=mode, positions=positions)
    prompts, steps = [prompt_of(llm, pieces) for pieces in BATCH], some_ids(2, 30)
    together = by_cache(llm.upper, prompts, steps)
    for row, prompt in enumerate(prompts):
        for batch, single in zip(together, by_cache(llm.upper, [prompt], steps), strict=True):
            torch.testing.assert_close(batch[row], single[0], **CLOSE)
    with torch.no_grad():
        for prompt, found in zip(prompts, llm.upper.logits(prompts), strict=True):
            torch.testing.assert_close(found, llm.upper.logits([prompt])[0], **CLOSE)
    for batch, keyword in zip(together, by_keyword(llm.upper, prompts, steps), strict=True):
        torch.testing.assert_close(batch, keyword, **CLOSE)


@pytest.mark.parametrize("leaves", ["text", "kv"])
def test_the_stream_is_the_answer(tiny_llm: SharedLLM, leaves: str) -> None:
    documents = [tiny_llm.remember(STORY), tiny_llm.remember(FERRY)]
    options = {"leaves": leaves, "budget": 96, "max_new_tokens": 12, "coarse": "all"}
    answer = tiny_llm.answer("Who keeps the lamp?", documents, **options)
    stream = tiny_llm.stream("Who keeps the lamp?", documents, **options)
    assert stream.citations == answer.citations
    assert "".join(stream).strip() == answer.text
    assert stream.answer.text == answer.text
    assert stream.answer.usage == answer.usage
    assert answer.text


def test_batches_answer_like_single_questions(tiny_llm: SharedLLM) -> None:
    lighthouse, ferry = tiny_llm.remember(STORY, title="a"), tiny_llm.remember(FERRY, title="b")
    questions = ["Who rowed out?", "What does a ticket cost, and for whom?", "Hm?"]
    options = {"budget": 96, "max_new_tokens": 10, "coarse": "all", "leaves": "kv"}
    shared_context = tiny_llm.answer_batch(questions, [lighthouse, ferry], **options)
    contexts = [[lighthouse], [ferry, lighthouse], []]
    own_context = tiny_llm.answer_batch(questions, contexts, **options)
    for question, found in zip(questions, shared_context, strict=True):
        assert found.text == tiny_llm.answer(question, [lighthouse, ferry], **options).text
    for question, context, found in zip(questions, contexts, own_context, strict=True):
        expected = tiny_llm.answer(question, context, **options)
        assert (found.text, found.citations) == (expected.text, expected.citations)
        assert found.usage == expected.usage
