"""Adapters: they change their own role alone, survive the disk, and are PEFT's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sharedllm import InjectionConfig, SharedLLM
from sharedllm.attention.context import AttentionContext
from sharedllm.attention.visibility import Keys, Visibility
from sharedllm.config import AdapterConfig
from sharedllm.errors import AdapterError, InputError
from sharedllm.hf import lora_io
from sharedllm.hf.lora import Adapter, acting
from sharedllm.injection.positions import Prompt
from tests.models import FAMILIES, MODES, make_model, make_tokenizer, shared
from tests.texts import STORY

IDS = tuple(range(20, 60))


def with_adapter(family: str, **settings: Any) -> SharedLLM:
    """A tiny model with an adapter that changes something."""
    llm = shared(family, **settings)
    adapter = Adapter(llm.model, AdapterConfig(rank=2, alpha=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    llm.adapt(adapter)
    return llm


def logits(llm: SharedLLM, *, reads: bool) -> torch.Tensor:
    with torch.no_grad():
        return llm.upper.logits([Prompt(text=(IDS,), reads=reads)])[0]


def roots(llm: SharedLLM) -> torch.Tensor:
    document = llm.remember(STORY)
    llm.encode(document)
    return torch.stack([kv.keys[-1, 0, 0] for kv in document.nodes._nodes.values()])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_adapter_changes_nothing(family: str) -> None:
    llm = shared(family)
    before, keys = logits(llm, reads=True), roots(llm)
    llm.adapt(Adapter(llm.model, AdapterConfig(rank=2)))
    torch.testing.assert_close(logits(llm, reads=True), before)
    torch.testing.assert_close(roots(llm), keys)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_role_is_changed_by_its_own_matrices_alone(family: str) -> None:
    base, llm = shared(family), with_adapter(family)
    torch.testing.assert_close(logits(llm, reads=False), logits(base, reads=False))
    assert not torch.allclose(logits(llm, reads=True), logits(base, reads=True), atol=1e-3)
    assert not torch.allclose(roots(llm), roots(base), atol=1e-3)
    document = llm.remember(STORY)
    torch.testing.assert_close(document.vectors, base.remember(STORY).vectors)  # search: the base
    assert llm.adapter is not None
    upper = logits(llm, reads=True)
    keys = roots(llm)
    with torch.no_grad():
        for name, parameter in llm.adapter.parameters().items():
            if ".upper." in name:
                parameter.zero_()
    torch.testing.assert_close(roots(llm), keys)
    assert not torch.allclose(logits(llm, reads=True), upper, atol=1e-3)


@pytest.mark.parametrize(("family", "mode"), MODES)
def test_saved_and_loaded_it_is_the_same(family: str, mode: str, tmp_path: Path) -> None:
    llm = with_adapter(family, mode=mode)
    assert llm.adapter is not None
    llm.save_pretrained(tmp_path / "adapter", dtype=torch.float32)
    make_model(family).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    again = SharedLLM.from_pretrained(
        tmp_path / "base", adapter=tmp_path / "adapter", device="cpu", generation=llm.generation
    )
    assert again.injection == llm.injection
    assert again.tree == llm.tree
    torch.testing.assert_close(logits(again, reads=True), logits(llm, reads=True))
    torch.testing.assert_close(roots(again), roots(llm))
    options: dict[str, Any] = {"leaves": "kv", "budget": 60, "max_new_tokens": 8}
    first = llm.answer("Who?", llm.remember(STORY), **options)
    assert again.answer("Who?", again.remember(STORY), **options).text == first.text


def test_int8_rounds_each_rank(tmp_path: Path) -> None:
    llm = with_adapter("llama")
    assert llm.adapter is not None
    llm.save_pretrained(tmp_path, dtype=torch.int8)
    weights = tmp_path / "lower/adapter_model.safetensors"
    kept = load_file(weights)
    matrices = [tensor for name, tensor in kept.items() if not name.endswith(".scale")]
    assert all(tensor.dtype is torch.int8 for tensor in matrices)
    assert len(kept) == 2 * len(matrices)
    loaded = lora_io.load(make_model("llama"), tmp_path).weights()
    for name, tensor in llm.adapter.weights().items():
        axis = 1 if name.endswith("down") else 0
        step = tensor.abs().amax(dim=axis, keepdim=True) / 127
        assert ((loaded[name] - tensor).abs() <= 0.51 * step + 1e-4 * tensor.abs()).all(), name
    missing = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight.scale"
    save_file({name: tensor for name, tensor in kept.items() if name != missing}, weights)
    with pytest.raises(AdapterError, match="scale"):
        lora_io.load(make_model("llama"), tmp_path)


def forward(llm: SharedLLM, role: str) -> torch.Tensor:
    """Logits of the whole model playing `role`."""
    with torch.no_grad(), acting(role):
        order = torch.arange(len(IDS))[None].int()
        seen = Visibility(
            query_order=order,
            query_position=order,
            keys=Keys(order=order, position=order),
            in_order=True,
        )
        context = AttentionContext(layers=0, injected=seen, plain=seen)
        out: torch.Tensor = llm.model(torch.tensor([IDS]), use_cache=False, shared=context).logits
    return out


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_each_role(family: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra [train]")
    llm = with_adapter(family)
    llm.save_pretrained(tmp_path, dtype=torch.float32)
    for role in ("lower", "upper"):
        model = peft.PeftModel.from_pretrained(make_model(family), tmp_path / role).eval()
        with torch.no_grad():
            theirs = model(torch.tensor([IDS])).logits
        torch.testing.assert_close(forward(llm, role), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_it_is_one_ordinary_model_a_role(family: str, tmp_path: Path) -> None:
    llm = with_adapter(family)
    llm.save_pretrained(tmp_path, merged=True)
    for role in ("lower", "upper"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / role).eval()
        with torch.no_grad():
            theirs = model(torch.tensor([IDS])).logits
        # sums in another order; the adapter itself changes logits by whole units
        torch.testing.assert_close(forward(llm, role), theirs, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter to save"):
        shared("llama").save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="ordinary model"):
        with_adapter("llama", mode="cross").save_pretrained(tmp_path, merged=True)


def test_documents_read_without_it_are_refused() -> None:
    llm = shared("llama")
    document = llm.remember(STORY)
    llm.adapt(Adapter(llm.model, AdapterConfig(rank=2)))
    with pytest.raises(InputError, match="read it again"):
        llm.answer("Who?", document)


def test_wrong_adapters_are_refused(tmp_path: Path) -> None:
    llm = with_adapter("llama")
    with pytest.raises(AdapterError, match="already has"):
        Adapter(llm.model, AdapterConfig())
    llm.save_pretrained(tmp_path / "good")
    model = make_model("qwen3")
    with pytest.raises(AdapterError, match="do not fit"):
        lora_io.load(model, tmp_path / "good")
    Adapter(model, AdapterConfig())  # nothing was left on it
    with pytest.raises(AdapterError, match=r"sharedllm\.json is missing"):
        lora_io.load(make_model("llama"), tmp_path)
    manifest = tmp_path / "good" / "sharedllm.json"
    changed = json.loads(manifest.read_text())
    for key, value in (("adapter", {"rank": 0}), ("search", {"budgte": 1}), ("tree", 3)):
        manifest.write_text(json.dumps({**changed, key: value}))
        with pytest.raises(AdapterError, match="not the manifest"):
            lora_io.load(make_model("llama"), tmp_path / "good")
    manifest.write_text(json.dumps(changed))
    (tmp_path / "good" / "upper" / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="cannot be read"):
        lora_io.load(make_model("llama"), tmp_path / "good")


def test_the_default_adapter_is_for_the_default_model_and_its_injection() -> None:
    shipped = lora_io.find("default", None, None)
    assert shipped is not None
    assert lora_io.find("default", None, InjectionConfig(layers=3)) == shipped
    assert lora_io.find("default", None, InjectionConfig(mode="cross")) is None
    assert lora_io.find("default", "another/model", None) is None
    assert lora_io.find(None, None, None) is None


def test_matrices_in_float32_act_on_a_base_in_bfloat16() -> None:
    """As they stand after training, before they are saved."""
    llm = with_adapter("llama")
    expected = logits(llm, reads=True)
    for name, weight in llm.model.named_parameters():
        if "low_rank" not in name:
            weight.data = weight.data.bfloat16()
    found = logits(llm, reads=True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.3)
