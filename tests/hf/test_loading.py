"""Loading models: what transformers gives, but faster, quietly, and never half."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharedllm.errors import ModelNotFoundError, UnsupportedModelError
from sharedllm.hf import loading
from tests.models import make_model, make_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tiny model that a test may spoil."""
    make_model("llama").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_loading_writes_nothing_to_the_terminal(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loading.load(folder, device=CPU, dtype=torch.float32)
    assert capfd.readouterr() == ("", "")


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"lack 1 tensors .*layers\.1\.mlp\.up_proj"):
        loading.load(folder, device=CPU, dtype=torch.float32)


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
    with pytest.raises(ModelNotFoundError, match="cannot load a model"):
        loading.load(folder, device=CPU, dtype=torch.float32)


def test_damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ModelNotFoundError, match="cannot load a model"):
        loading.load(folder, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no such folder"),
        ("nothing.gguf", "no such file"),
        (".", r"has no config\.json"),
    ],
)
def test_no_model_there(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        loading.load(tmp_path / name, device=CPU, dtype=torch.float32)


@pytest.mark.slow
def test_converted_default_is_what_transformers_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default model, read by transformers without our shortcuts, is the same to the bit."""
    gguf = loading.default_gguf()
    stock = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    stock_tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    monkeypatch.setenv("SHAREDLLM_CACHE", str(tmp_path))
    model, tokenizer = loading.load(None, device=CPU, dtype=torch.float32)
    ours, theirs = model.state_dict(), stock.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert tokenizer.get_vocab() == stock_tokenizer.get_vocab()
    assert tokenizer.chat_template == stock_tokenizer.chat_template
    for text in (
        "Plain words.",
        "naïve \u27e6 \U0001f600\n\n\tdef f(x): return 1_000",
        "<|im_end|>",
    ):
        assert tokenizer(text)["input_ids"] == stock_tokenizer(text)["input_ids"]


def test_every_mark_of_the_chat_format_ends_an_answer() -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    marks = {"<|end|>", "<|turn|>", "<|close|>"}
    assert loading.end_ids(model, tokenizer) == {
        tokenizer.convert_tokens_to_ids(mark) for mark in marks
    }
    model.generation_config.eos_token_id = [7, 8]
    assert loading.end_ids(model, tokenizer) >= {7, 8}


@pytest.mark.parametrize("has", [True, False])
def test_a_processor_that_multiplies_bfloat16_is_given_it(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "multiplies_bf16", lambda: has)
    assert loading.resolve_dtype(None, CPU) == (torch.bfloat16 if has else torch.float32)
    assert loading.resolve_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert loading.resolve_dtype("fp32", CPU) == torch.float32
