"""A base that is divided among processes: the same model, the same losses, in step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sharedllm.errors import ConfigError, UnsupportedModelError
from sharedllm.hf import shards
from sharedllm.training.batch import losses
from sharedllm.training.config import read_config
from tests.models import make_model, make_tokenizer, shared
from tests.training.test_training import choices, gradients, toml, trainable

CPU = torch.device("cpu")


def elements(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", ["llama", "llama-biased", "qwen3", "phi3-partial"])
def test_parts_make_up_the_whole(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_model(family).requires_grad_(False)
    thirds = [make_model(family) for _ in range(3)]  # into which most matrices do not divide
    for rank, third in enumerate(thirds):
        group = SimpleNamespace(get_world_size=lambda: 3, get_rank=lambda rank=rank: rank)
        monkeypatch.setattr(shards, "distributed", group)
        shards.divide(third, CPU)
    all_parts: dict[int, list[Tensor]] = {}
    for parts in zip(*(third.parameters() for third in thirds), strict=True):
        all_parts |= {part.data_ptr(): list(parts) for part in parts}

    def gather(out: Tensor, part: Tensor) -> None:
        out.copy_(torch.cat(all_parts[part.data_ptr()]))

    monkeypatch.setattr(shards, "_gather", gather)
    assert elements(thirds[0]) < 0.36 * elements(whole)
    ids, states = torch.arange(12)[None], torch.randn(1, 5, whole.config.hidden_size)
    expected, gradients_of_whole = whole(ids).logits, gradient(whole, states)
    for third in thirds:
        torch.testing.assert_close(third(ids).logits, expected)
        torch.testing.assert_close(gradient(third, states), gradients_of_whole)


def gradient(model: Any, states: Tensor) -> Tensor | None:
    given = states.clone().requires_grad_()
    model(inputs_embeds=given).logits.square().mean().backward()
    return given.grad


@pytest.mark.parametrize("checkpointing", [False, True])
def test_empty_passes_change_nothing(tmp_path: Path, checkpointing: bool) -> None:
    llm = shared("llama")
    batch = [*choices(llm, tmp_path, "kv"), *choices(llm, tmp_path, "text")]
    adapter = trainable(llm)
    llm.model.train()
    each = losses(llm, batch, checkpointing=checkpointing)
    each.mean().backward()
    alone = gradients(adapter)
    in_step = losses(llm, batch, checkpointing=checkpointing, most=lambda own: own + 2)
    in_step.mean().backward()
    torch.testing.assert_close(in_step, each)
    for name, gradient in gradients(adapter).items():
        torch.testing.assert_close(gradient, alone.pop(name))
    assert not alone


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    from accelerate.utils import DistributedType

    from sharedllm.training.trainer import Trainer, _require_processes

    folder = tmp_path / "model"
    make_model("llama", max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    with pytest.raises(ConfigError, match="shard is true and mode is 'cross'"):
        read_config(toml(tmp_path, shard=True, mode="cross"))
    with pytest.raises(ConfigError, match="shard is true, and there is one process"):
        Trainer(read_config(toml(tmp_path, model=str(folder), shard=True)), device="cpu")
    started = SimpleNamespace(num_processes=2, distributed_type=DistributedType.FSDP)
    with pytest.raises(ConfigError, match="started for FSDP"):
        _require_processes(started, shard=True)  # type: ignore[arg-type]
    quantised = make_model("llama")
    quantised.is_quantized = True
    with pytest.raises(UnsupportedModelError, match="quantised weights cannot be divided"):
        shards.divide(quantised, CPU)
