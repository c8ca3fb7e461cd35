"""What cannot be exact is refused: other models, other attention, masks, and too long prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaModel,
    PretrainedConfig,
)

from sharedllm import InjectionConfig, SharedLLM, TreeConfig
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.errors import ConfigError, ModelError, UnsupportedModelError, WindowError
from sharedllm.hf.architectures import inspect
from sharedllm.injection.positions import Prompt
from tests.equivalence.prompts import memory_of, node
from tests.models import make_model, make_tokenizer, shared, some_ids

SMALL: dict[str, Any] = {"vocab_size": 264, "bos_token_id": None, "eos_token_id": 256}


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=32, n_layer=2, n_head=4, **SMALL),
        GPTNeoXConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            **SMALL,
        ),
    ],
)
def test_other_architectures_are_refused(config: PretrainedConfig) -> None:
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match=f"{config.model_type}.*llama, mistral"):
        SharedLLM(DocumentEncoder(model, make_tokenizer()))


def test_an_unknown_rope_type_is_refused() -> None:
    model = make_model("llama")
    model.config.rope_parameters["rope_type"] = "spiral"
    with pytest.raises(UnsupportedModelError, match=r"'spiral'.*longrope"):
        SharedLLM(DocumentEncoder(model, make_tokenizer()))


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="not a causal language model"):
        inspect(LlamaModel(make_model("llama").config))


def test_changed_attention_is_refused() -> None:
    llm = shared("llama")
    document = llm.remember("some text")
    llm.model.set_attn_implementation("sdpa")
    for use in (
        lambda: llm.answer("What?", document),
        lambda: llm.remember("other text"),
        lambda: llm.upper.logits([Prompt(text=(some_ids(3),))]),
        lambda: llm.upper.start([Prompt(text=(some_ids(3),))]),
    ):
        with pytest.raises(ModelError, match="changed to 'sdpa'"):
            use()


@pytest.mark.parametrize("masked", [False, True])
def test_a_stock_call_under_our_attention_is_refused(masked: bool) -> None:
    ids = torch.tensor([some_ids(6)])
    options = {"attention_mask": torch.ones_like(ids)} if masked else {}
    with pytest.raises(ModelError, match="set_attn_implementation"):
        shared("llama").model(input_ids=ids, **options)
    if masked:
        with pytest.raises(ModelError, match="attention_mask"):
            shared("llama").model.generate(ids, max_new_tokens=2, pad_token_id=0, **options)


def test_more_injection_layers_than_the_model_has() -> None:
    with pytest.raises(ConfigError, match="4; this model has 3"):
        shared("llama", layers=4)


@pytest.mark.parametrize(
    ("mode", "positions", "tail", "allowed"),
    [
        ("joint", "ordinal", 482, True),  # 20 entries + 482 running + 10 new = 512
        ("joint", "ordinal", 483, False),
        ("joint", "chunk", 499, True),  # 3 chunks
        ("joint", "chunk", 500, False),
        ("cross", "ordinal", 483, False),
        ("cross", "chunk", 502, True),  # apart from the running text
        ("cross", "chunk", 503, False),
    ],
)
def test_the_window(mode: str, positions: str, tail: int, allowed: bool) -> None:
    llm = shared("llama", mode=mode, positions=positions)
    memory = memory_of(llm, [node(12, 1, 0, 1), node(8, 1, 2, 2)])
    prompt = Prompt(text=((), some_ids(tail)), memory=(memory,))
    if allowed:
        llm.upper.require_room(prompt, 10)
    else:
        with pytest.raises(WindowError, match="trained on 512"):
            llm.upper.require_room(prompt, 10)


def test_longrope_keeps_to_the_length_where_its_frequencies_are_constant() -> None:
    llm = shared("phi3-longrope")
    assert llm.encoder.shape.window == 256
    with pytest.raises(WindowError, match="trained on 256"):
        llm.answer("x" * 260)


def test_the_lower_model_keeps_to_the_window_too(tiny_llm: SharedLLM) -> None:
    document = tiny_llm.remember("some text")
    with pytest.raises(WindowError, match="512"):
        tiny_llm.select("x" * 513, document)


def test_two_cross_injections_on_one_model_do_not_add_up() -> None:
    model = make_model("llama")
    tree, tokenizer = TreeConfig(chunk=64), make_tokenizer()

    def logits(layers: int) -> torch.Tensor:
        config = InjectionConfig(mode="cross", layers=layers)
        llm = SharedLLM(DocumentEncoder(model, tokenizer, tree=tree, injection=config))
        prompt = Prompt(text=((), some_ids(5)), memory=(memory_of(llm, [node(12, 1, 0, 1)]),))
        with torch.no_grad():
            return llm.upper.logits([prompt])[0]

    one, two = logits(1), logits(2)
    torch.testing.assert_close(logits(1), one)
    torch.testing.assert_close(logits(2), two)
    assert float((one - two).abs().max()) > 1e-3
