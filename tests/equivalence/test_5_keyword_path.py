"""Rule 5: keyword path = cache path, gradients flow through it, with and without checkpointing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sharedllm import SharedLLM
from sharedllm.errors import ModelError
from sharedllm.injection.positions import Prompt
from tests.equivalence.prompts import CLOSE, SCENE, by_cache, by_keyword, prompt_of
from tests.models import MODES, shared, some_ids


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("positions", ["ordinal", "chunk"])
@pytest.mark.parametrize(("family", "mode"), MODES)
def test_keyword_path_is_the_cache_path(
    family: str, mode: str, positions: str, layers: int
) -> None:
    llm = shared(family, mode=mode, positions=positions, layers=layers)
    prompts, steps = [prompt_of(llm, SCENE)], some_ids(3, 8)
    pairs = zip(
        by_cache(llm.upper, prompts, steps), by_keyword(llm.upper, prompts, steps), strict=True
    )
    for cached, keyword in pairs:
        torch.testing.assert_close(cached, keyword, **CLOSE)


@pytest.mark.parametrize(("family", "mode"), MODES)
def test_backends_agree(family: str, mode: str) -> None:
    found = []
    for attention in ("reference", "sdpa", "auto"):
        llm = shared(family, mode=mode, attention=attention)
        prompts = [prompt_of(llm, SCENE), prompt_of(llm, SCENE[2:])]
        found.append(torch.stack(by_cache(llm.upper, prompts, some_ids(3, 8))))
    torch.testing.assert_close(found[0], found[1], **CLOSE)
    torch.testing.assert_close(found[1], found[2], rtol=0, atol=0)


def checkpoint(model: Any) -> None:
    """Turn gradient checkpointing on, by its name in this version of transformers."""
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    assert all(layer.gradient_checkpointing for layer in model.model.layers)


def gradients(llm: SharedLLM, prompts: list[Prompt]) -> dict[str, Tensor]:
    """Of a loss over all running tokens: by parameter, and of the memory's keys and values."""
    memory: dict[str, Tensor] = {}
    tracked = []
    for row, prompt in enumerate(prompts):
        places = []
        for place, entry in enumerate(prompt.memory):
            assert entry is not None
            keys, values = (x.clone().requires_grad_() for x in (entry.keys, entry.values))
            memory |= {f"keys {row}.{place}": keys, f"values {row}.{place}": values}
            places.append(replace(entry, keys=keys, values=values))
        tracked.append(Prompt(text=prompt.text, memory=tuple(places)))
    llm.model.zero_grad()
    loss = sum(row.log_softmax(-1)[:, 65].mean() for row in llm.upper.logits(tracked))
    loss.backward()  # type: ignore[union-attr]
    named = [*llm.model.named_parameters(), *memory.items()]
    return {name: x.grad.clone() for name, x in named if x.grad is not None}


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        *((f, m) for m in ("joint", "cross") for f in ("llama-biased", "qwen3", "phi3-longrope")),
        *((f, "joint") for f in ("qwen2-mixed", "gemma2", "gemma3", "olmo2", "gpt-oss")),
        ("smollm3", "cross"),
    ],
)
def test_gradients_flow_with_and_without_checkpointing(
    family: str, mode: str, attention: str
) -> None:
    llm = shared(family, mode=mode, attention=attention)
    prompts = [prompt_of(llm, SCENE), prompt_of(llm, SCENE[2:])]
    llm.model.train()
    plain = gradients(llm, prompts)
    names = {name for name, _ in llm.model.named_parameters()}
    assert names <= set(plain)
    assert sum(name.startswith(("keys", "values")) for name in plain) == 6
    weak = [n for n, g in plain.items() if not float(g.abs().max()) > 0]
    assert [n for n in weak if "k_proj.bias" not in n] == []  # softmax ignores a shared offset
    if mode == "cross":
        assert any("cross_injection" in name for name in names)
    checkpoint(llm.model)
    checkpointed = gradients(llm, prompts)
    assert set(checkpointed) == set(plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_memory_gradient_is_the_finite_difference() -> None:
    llm = shared("llama", attention="reference")
    llm.model.double()
    prompt = prompt_of(llm, SCENE[:3])
    entry = prompt.memory[0]
    assert entry is not None

    def loss(keys: Tensor) -> Any:
        changed = Prompt(text=prompt.text, memory=(replace(entry, keys=keys),))
        return llm.upper.logits([changed])[0][-1, 65]

    keys = entry.keys.clone().requires_grad_()
    loss(keys).backward()
    assert keys.grad is not None
    step = torch.zeros_like(entry.keys)
    step[1, 0, 2, 3] = 1e-2
    with torch.no_grad():
        slope = (loss(entry.keys + step) - loss(entry.keys - step)) / 2e-2
    assert float(slope) == pytest.approx(float(keys.grad[1, 0, 2, 3]), rel=1e-2)


def test_a_cache_under_gradient_checkpointing_is_refused() -> None:
    llm = shared("llama")
    document = llm.remember("some text to read")
    checkpoint(llm.model)
    llm.model.train()
    with pytest.raises(ModelError, match=r"model\.eval\(\)"):
        llm.answer("What?", document)
    with pytest.raises(ModelError, match=r"model\.eval\(\)"):
        llm.upper.start([Prompt(text=(some_ids(4),))])
    llm.model.eval()
    assert llm.answer("What?", document, max_new_tokens=2).usage.new_tokens <= 2
