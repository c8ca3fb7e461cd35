"""Families: models of text and pictures, what is refused and why, and the table in the docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralVisionConfig,
    SiglipVisionConfig,
)

from sharedllm import InjectionConfig, SharedLLM
from sharedllm.config import AdapterConfig
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.errors import ConfigError, UnsupportedModelError
from sharedllm.hf.architectures import FAMILIES, WRAPPERS, inspect, why_not
from sharedllm.hf.lora import Adapter
from sharedllm.injection.positions import Prompt
from tests.equivalence import oracle
from tests.equivalence.prompts import CLOSE, SCENE, by_cache, prompt_of
from tests.models import (
    CONFIGS,
    JOINT_ONLY,
    MIXED_FAMILIES,
    SIZES,
    SLIDING,
    SLIDING_FAMILIES,
    TREE,
    make_model,
    make_tokenizer,
    randomise,
    shared,
    some_ids,
    stock,
)
from tests.texts import STORY

TABLE = Path("docs/howto/own-model.md")
SEEING: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


def gemma3() -> Any:
    vision = SiglipVisionConfig(**SEEING)
    config = Gemma3Config(
        text_config=CONFIGS["gemma3"](**SIZES),
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=260,
        boi_token_index=261,
        eoi_token_index=262,
    )
    return Gemma3ForConditionalGeneration(config)


def mistral3(text: str) -> Any:
    config = Mistral3Config(
        text_config=CONFIGS[text](**SIZES),
        vision_config=PixtralVisionConfig(head_dim=8, **SEEING),
        image_token_index=260,
    )
    return Mistral3ForConditionalGeneration(config)


PICTURES = [
    (gemma3, "gemma3_text"),
    (lambda: mistral3("ministral3"), "ministral3"),
    (lambda: mistral3("mistral-sliding"), "mistral"),
]


@pytest.mark.parametrize(("make", "kind"), PICTURES)
def test_models_of_text_and_pictures_read_text(make: Any, kind: str, tmp_path: Path) -> None:
    model, ids = randomise(make()).eval(), some_ids(30)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0]
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    llm = SharedLLM.from_pretrained(tmp_path, device="cpu", dtype="float32", tree=TREE)
    assert llm.encoder.shape.kind == kind
    with torch.no_grad():
        (found,) = llm.upper.logits([Prompt(text=(ids,))])
    torch.testing.assert_close(found, expected, **CLOSE)
    cached = by_cache(llm.upper, [Prompt(text=(ids[:20],))], ids[20:])
    torch.testing.assert_close(torch.cat(cached), expected[19:], **CLOSE)
    adapter = Adapter(llm.model, AdapterConfig(rank=2))
    assert {name.split("/")[1] for name in adapter.parameters()} == {"language_model"}
    llm.adapt(adapter)
    used = llm.answer("Who?", llm.remember(STORY), leaves="kv", budget=60, max_new_tokens=2).usage
    assert used.injected_tokens > 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (AutoConfig.for_model("qwen3_next"), "linear_attention.*cannot be injected"),
        (AutoConfig.for_model("qwen3_5"), "linear_attention.*cannot be injected"),
        (
            AutoConfig.for_model(
                "lfm2", num_hidden_layers=2, layer_types=["conv", "full_attention"]
            ),
            "conv.*cannot be injected",
        ),
        (AutoConfig.for_model("granitemoehybrid"), "granitemoehybrid"),
        (AutoConfig.for_model("falcon_h1"), "hybrid.*cannot be injected"),
        (AutoConfig.for_model("gemma4"), "gemma4.*supported: llama"),
        (LlavaConfig(), "llava.*supported: llama"),
        (AutoConfig.for_model("gemma2", use_bidirectional_attention=True), "bidirectional"),
        (AutoConfig.for_model("gemma3_text", use_bidirectional_attention=True), "bidirectional"),
        (
            AutoConfig.for_model(
                "qwen2", num_hidden_layers=2, layer_types=["full_attention", "chunked_attention"]
            ),
            "'chunked_attention' is not supported.*sliding_attention",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused_by_its_configuration(config: Any, reason: str) -> None:
    assert re.search(reason, why_not(config))


def test_each_layer_type_s_rotation_is_looked_at() -> None:
    config = CONFIGS["gemma3"](**SIZES)
    assert not why_not(config)
    config.rope_parameters["full_attention"]["rope_type"] = "spiral"
    assert "'spiral'" in why_not(config)
    config.rope_parameters["full_attention"] = {
        "rope_type": "longrope",
        "original_max_position_embeddings": 64,
    }
    assert not why_not(config)
    model = make_model("gemma3")
    model.config.rope_parameters = config.rope_parameters
    assert inspect(model).window == 64


def test_attention_with_more_weights_than_known_is_refused() -> None:
    model = make_model("qwen3")
    model.model.layers[1].self_attn.gate_proj = nn.Linear(4, 4)
    with pytest.raises(UnsupportedModelError, match="not known: gate_proj; known: k_norm"):
        inspect(model)


@pytest.mark.parametrize("family", JOINT_ONLY)
def test_cross_injection_is_refused_where_layers_add_attention_otherwise(family: str) -> None:
    model = make_model(family)
    with pytest.raises(ConfigError, match=r"mode is 'cross'.*llama, mistral.*use 'joint'"):
        DocumentEncoder(model, make_tokenizer(), tree=TREE, injection=InjectionConfig(mode="cross"))
    assert not hasattr(model.get_decoder(), "cross_injection")


def test_windows_hide_memory_only_where_other_layers_see_it() -> None:
    for family in MIXED_FAMILIES:
        shape = inspect(stock(family))
        assert set(shape.sliding) == {SLIDING, None}, family
        assert shape.mixes_windows(shape.layers)
        assert not shape.mixes_windows(1)
    for family in (*SLIDING_FAMILIES, "llama"):
        assert not inspect(stock(family)).mixes_windows(3)


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe", "gpt-oss"])
def test_adapters_of_a_mixture_of_experts_are_for_attention(family: str) -> None:
    adapter = Adapter(shared(family).model, AdapterConfig(rank=2))
    names = {name.split(".")[0].split("/")[-2] for name in adapter.parameters()}
    assert names == {"self_attn"}


@pytest.mark.gpu
@pytest.mark.parametrize("family", tuple(CONFIGS))
def test_every_family_in_bfloat16_on_a_card(family: str) -> None:
    """Its kernels, by the attention that is chosen there, against float32 on the CPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    ids = some_ids(40)
    model = make_model(family).to("cuda", torch.bfloat16)
    llm = SharedLLM(DocumentEncoder(model, make_tokenizer(), tree=TREE))
    expected = oracle.logits(stock(family), SCENE, mode="joint", layers=3, positions="ordinal")
    with torch.no_grad():
        plain = stock(family)(input_ids=torch.tensor([ids])).logits[0]
        half = make_model(family).bfloat16()(input_ids=torch.tensor([ids])).logits[0]
        (found,) = llm.upper.logits([Prompt(text=(ids,))])
        (with_memory,) = llm.upper.logits([prompt_of(llm, SCENE)])
    rounding = float((half.float() - plain).abs().mean())
    assert float((found.float().cpu() - plain).abs().mean()) < 3 * rounding
    assert float((with_memory.float().cpu() - expected).abs().mean()) < 6 * rounding
    used = llm.answer("Who?", llm.remember(STORY), leaves="kv", budget=60, max_new_tokens=20).usage
    assert used.injected_tokens > 0


def test_the_table_of_families_is_that_of_the_code() -> None:
    rows = re.findall(
        r"^\| [^|]* \| ((?:`\w+`(?:, )?)+) \| (yes|joint only) \|", TABLE.read_text(), re.M
    )
    said = {kind: kv for kinds, kv in rows for kind in re.findall(r"`(\w+)`", kinds)}
    assert set(said) == {*FAMILIES, *WRAPPERS}
    for kind, family in FAMILIES.items():
        assert said[kind] == ("yes" if family.cross else "joint only"), kind
