"""YaRN and StreamingLLM, held against the stock model where they must be equal to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.quality.baselines import streaming, yarn
from benchmarks.quality.streaming import SINKS, Stream, Streaming
from benchmarks.quality.yarn import Yarn, extended
from sharedllm import SharedLLM
from sharedllm.errors import ConfigError
from sharedllm.evaluation.baselines import Choice, Full
from sharedllm.evaluation.methods import Case, DoesNotFitError
from sharedllm.injection.positions import Prompt
from tests.evaluation.conftest import WINDOW
from tests.evaluation.test_methods import TARGET, make_case
from tests.models import make_model, shared, stock
from tests.texts import FERRY, GARDEN, STORY


@pytest.fixture(scope="module")
def short(llm: SharedLLM) -> Case:
    return make_case(llm, STORY)


@pytest.fixture(scope="module")
def long(llm: SharedLLM) -> Case:
    return make_case(llm, f"{GARDEN} {FERRY} " * 8 + STORY + f" {FERRY}" * 2)


def test_both_answer_a_text_beyond_the_window(llm: SharedLLM, long: Case) -> None:
    for method in (*yarn(llm, Choice(batch=2)), *streaming(llm, Choice(batch=2))):
        ready = method.prepare(long, None)
        first, second = method.generate([ready, ready], 5)
        assert first == second
        (losses,) = method.losses([ready], [TARGET])
        assert np.isfinite(losses).all()
        assert len(losses) == len(TARGET)


def test_streaming_is_full_attention_while_nothing_is_dropped(llm: SharedLLM, short: Case) -> None:
    full, stream = Full(llm), Streaming(llm)
    text = len(stream.prepare(short, None).prompt.text[0])
    assert text > 512  # more than one block
    other = make_case(llm, STORY[:300])  # a shorter row beside it
    ready = [stream.prepare(c, None) for c in (short, other)]
    wanted = full.losses([full.prepare(c, None) for c in (short, other)], [TARGET] * 2)
    np.testing.assert_allclose(stream.losses(ready, [TARGET] * 2), wanted, atol=2e-4)
    answers = full.generate([full.prepare(c, None) for c in (short, other)], 12)
    assert stream.generate(ready, 12) == answers


@pytest.mark.parametrize("family", ["llama", "qwen2-mixed", "llama-llama3"])
def test_streaming_sees_sinks_and_window_at_positions_in_the_cache(family: str) -> None:
    """Against a direct computation: the last block over exactly the entries that are kept."""
    llm = shared(family, sizes={"max_position_embeddings": 64, "num_hidden_layers": 1})
    window, block = 16, 8
    method = Streaming(llm, window=window)
    text = tuple(range(40, 80))  # five blocks
    stream = Stream(llm, 1, window)
    ((_, (_, pieces)),) = method._read(stream, [text], [len(text) - 1])
    logits = pieces[-1]
    kept = (*text[:SINKS], *text[-(window):])
    assert len(kept) == SINKS + window
    model = stock(family, max_position_embeddings=64, num_hidden_layers=1)
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([kept])).logits[0, -1]
    torch.testing.assert_close(logits, wanted, atol=2e-4, rtol=1e-4)  # one layer: no older trace
    assert block == window // 2


def test_streaming_rows_do_not_depend_on_their_batch(llm: SharedLLM, long: Case) -> None:
    method = Streaming(llm, window=64)
    other = make_case(llm, STORY)
    ready = [method.prepare(c, None) for c in (long, other)]
    together = method.losses(ready, [TARGET, TARGET[:6]])
    alone = [method.losses([r], [t])[0] for r, t in zip(ready, (TARGET, TARGET[:6]), strict=True)]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    answers = method.generate(ready, 6)
    assert answers == [method.generate([r], 6)[0] for r in ready]
    assert ready[0].tokens == 64 + SINKS


def test_streaming_refuses_a_window_beyond_the_models(llm: SharedLLM) -> None:
    with pytest.raises(ConfigError, match="a window of"):
        Streaming(llm, window=WINDOW)


def test_yarn_is_applied_on_the_same_weights(llm: SharedLLM, long: Case) -> None:
    model = extended(llm, 4)
    assert model.window == 4 * WINDOW
    rope = model.model.config.rope_parameters
    assert (rope["rope_type"], rope["factor"]) == ("yarn", 4.0)
    assert rope["original_max_position_embeddings"] == WINDOW
    weights = llm.model.get_input_embeddings().weight
    assert model.model.get_input_embeddings().weight.data_ptr() == weights.data_ptr()
    assert llm.model.config.rope_parameters["rope_type"] == "default"
    own = make_model(
        "llama",
        max_position_embeddings=4 * WINDOW,
        rope_parameters={**rope},
    )
    method = Yarn(llm, limit=2)
    ready = method.prepare(long, None)
    assert method.factor(long) == math.ceil(len(ready.prompt.text[0]) / WINDOW)
    ids = torch.tensor([[*b"A text of some bytes, repeated. " * 4]])
    with torch.inference_mode():
        wanted = own(input_ids=ids).logits[0]
        got = model.upper.logits([Prompt(text=(tuple(ids[0].tolist()),))])[0]
    torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)
    with pytest.raises(DoesNotFitError, match="the limit is 1"):
        Yarn(llm, limit=1).prepare(long, None)


def test_yarn_leaves_scaled_rotations_alone() -> None:
    llm = shared("llama-llama3")
    with pytest.raises(DoesNotFitError, match="scaled already"):
        Yarn(llm).prepare(make_case(llm, STORY), None)
