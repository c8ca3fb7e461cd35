"""Our logits equal those of the oracle, which shares no code with us."""

from __future__ import annotations

import pytest
import torch

from tests.equivalence import oracle
from tests.equivalence.prompts import CLOSE, SCENE, by_cache, prompt_of
from tests.models import FAMILIES, MODES, make_model, shared, stock


@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_is_the_stock_model_without_memory(family: str) -> None:
    ids = SCENE[0] + SCENE[2] + SCENE[4]
    found = oracle.logits(stock(family), [ids], mode="joint", layers=3, positions="ordinal")
    with torch.no_grad():
        expected = stock(family)(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("positions", ["ordinal", "chunk"])
@pytest.mark.parametrize(("family", "mode"), MODES)
def test_memory_in_all_layers(family: str, mode: str, positions: str) -> None:
    llm = shared(family, mode=mode, positions=positions)
    expected = oracle.logits(stock(family), SCENE, mode=mode, layers=3, positions=positions)
    prompt = prompt_of(llm, SCENE)
    with torch.no_grad():
        (found,) = llm.upper.logits([prompt])
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(by_cache(llm.upper, [prompt], [])[0][0], expected[-1], **CLOSE)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        *((f, m) for m in ("joint", "cross") for f in ("llama", "qwen2-mixed", "phi3-longrope")),
        *((f, "joint") for f in ("gemma3", "smollm3", "olmo2", "gpt-oss")),
    ],
)
def test_memory_in_the_bottom_layers_only(family: str, mode: str, layers: int) -> None:
    llm = shared(family, mode=mode, layers=layers)
    expected = oracle.logits(stock(family), SCENE, mode=mode, layers=layers, positions="ordinal")
    prompt = prompt_of(llm, SCENE)
    with torch.no_grad():
        (found,) = llm.upper.logits([prompt])
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(by_cache(llm.upper, [prompt], [])[0][0], expected[-1], **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        *((f, m) for m in ("joint", "cross") for f in ("llama-yarn", "mistral-sliding")),
        *((f, "joint") for f in ("phi3-partial", "gemma2", "gemma3", "olmo3", "gpt-oss")),
        ("smollm3", "cross"),
    ],
)
def test_half_precision_is_near(family: str, mode: str, dtype: torch.dtype) -> None:
    llm = shared(family, mode=mode)
    llm.model.to(dtype)
    expected = oracle.logits(stock(family), SCENE, mode=mode, layers=3, positions="ordinal")
    prompt = prompt_of(llm, SCENE)
    assert prompt.memory[0] is not None
    assert prompt.memory[0].keys.dtype == dtype
    with torch.no_grad():
        (found,) = llm.upper.logits([prompt])
    model = make_model(family).to(dtype)
    half = oracle.logits(model, SCENE, mode=mode, layers=3, positions="ordinal")
    rounding = float((half.float() - expected).abs().mean())
    assert float((found.float() - expected).abs().mean()) < 3 * rounding
    cached = by_cache(llm.upper, [prompt], [])[0][0].float()
    assert float((cached - expected[-1]).abs().mean()) < 6 * rounding  # one token's


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_changes_the_answer(family: str) -> None:
    """Guards the tests above: models that ignore their memory would pass a weaker one."""
    without = [piece for piece in SCENE if isinstance(piece, tuple)]
    a, b = (
        oracle.logits(make_model(family), s, mode="joint", layers=3, positions="ordinal")[-1]
        for s in (SCENE, without)
    )
    assert float((a - b).abs().max()) > 0.05
