"""Tiny random models of every supported family, and a byte-level tokenizer, all made in code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    Ministral3Config,
    MinistralConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from sharedllm import InjectionConfig, SearchConfig, SharedLLM, TreeConfig
from sharedllm.encoding.document_encoder import DocumentEncoder

TREE = TreeConfig(chunk=64, height=2, ratios=(4, 1), root_ratio=8)
VOCABULARY = 264  # 256 bytes, the special tokens, and some that nothing produces
WINDOW = 512
SLIDING = 8
SPECIAL = ("<|end|>", "<|turn|>", "<|close|>")
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **settings}


LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
LONGROPE = rope(
    "longrope",
    short_factor=[1.0, 1.1, 1.3, 1.6],
    long_factor=[2.0, 3.0, 5.0, 9.0],
    original_max_position_embeddings=256,
)


# Multipliers, caps and bases are far from neutral: who forgets one is found out.
def yarn() -> dict[str, Any]:
    return rope("yarn", factor=4.0, original_max_position_embeddings=128)


def two_ropes() -> dict[str, Any]:
    return {"sliding_attention": rope("default", rope_theta=100.0), "full_attention": yarn()}


def mixed(sizes: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model in which every other layer, and the first, has a sliding window."""
    kinds = ["sliding_attention", "full_attention"] * sizes["num_hidden_layers"]
    return {
        "sliding_window": SLIDING,
        "layer_types": kinds[: sizes["num_hidden_layers"]],
        **sizes,
    }


CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **o: LlamaConfig(**o),
    "llama-biased": lambda **o: LlamaConfig(attention_bias=True, tie_word_embeddings=True, **o),
    "llama-llama3": lambda **o: LlamaConfig(rope_parameters=LLAMA3, **o),
    "llama-linear": lambda **o: LlamaConfig(rope_parameters=rope("linear", factor=4.0), **o),
    "llama-dynamic": lambda **o: LlamaConfig(rope_parameters=rope("dynamic", factor=4.0), **o),
    "llama-yarn": lambda **o: LlamaConfig(rope_parameters=yarn(), **o),
    "mistral-sliding": lambda **o: MistralConfig(sliding_window=SLIDING, head_dim=8, **o),
    "qwen2-mixed": lambda **o: Qwen2Config(
        use_sliding_window=True, sliding_window=SLIDING, max_window_layers=1, **o
    ),
    "qwen3": lambda **o: Qwen3Config(head_dim=16, **o),
    "phi3-partial": lambda **o: Phi3Config(
        rope_parameters=rope("default", partial_rotary_factor=0.5), sliding_window=None, **o
    ),
    "phi3-longrope": lambda **o: Phi3Config(
        rope_parameters=LONGROPE,
        original_max_position_embeddings=256,
        sliding_window=SLIDING,
        **{**o, "max_position_embeddings": 1024},
    ),
    "gemma2": lambda **o: Gemma2Config(
        head_dim=16,
        query_pre_attn_scalar=5,
        attn_logit_softcapping=0.7,
        final_logit_softcapping=3.0,
        **mixed(o),
    ),
    "gemma3": lambda **o: Gemma3TextConfig(
        head_dim=16, query_pre_attn_scalar=5, rope_parameters=two_ropes(), **mixed(o)
    ),
    "qwen3-moe": lambda **o: Qwen3MoeConfig(
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        norm_topk_prob=True,
        mlp_only_layers=[1],
        **o,
    ),
    "mixtral": lambda **o: MixtralConfig(num_local_experts=4, sliding_window=None, **o),
    "granite": lambda **o: GraniteConfig(
        attention_multiplier=0.6,
        embedding_multiplier=3.0,
        residual_multiplier=0.4,
        logits_scaling=0.5,
        **o,
    ),
    "olmo2": lambda **o: Olmo2Config(**o),
    "smollm3": lambda **o: SmolLM3Config(no_rope_layer_interval=2, **o),
    "olmo3": lambda **o: Olmo3Config(rope_parameters=two_ropes(), **mixed(o)),
    "ministral": lambda **o: MinistralConfig(head_dim=16, **mixed(o)),
    "ministral3": lambda **o: Ministral3Config(
        head_dim=16,
        rope_parameters=rope(
            "yarn", factor=16.0, original_max_position_embeddings=16, llama_4_scaling_beta=0.5
        ),
        **o,
    ),
    "gpt-oss": lambda **o: GptOssConfig(
        head_dim=16, num_local_experts=4, num_experts_per_tok=2, rope_parameters=yarn(), **mixed(o)
    ),
}
FAMILIES = tuple(CONFIGS)

JOINT_ONLY = ("gemma2", "gemma3", "granite", "olmo2", "olmo3", "ministral3", "gpt-oss")
CROSS_FAMILIES = tuple(family for family in FAMILIES if family not in JOINT_ONLY)
MODES = [
    (family, mode)
    for family in FAMILIES
    for mode in ("joint", "cross")
    if mode == "joint" or family in CROSS_FAMILIES
]
SLIDING_FAMILIES = ("mistral-sliding", "phi3-longrope")  # in all layers
MIXED_FAMILIES = ("qwen2-mixed", "gemma2", "gemma3", "olmo3", "ministral", "gpt-oss")


def make_model(family: str, *, attention: str = "eager", seed: int = 0, **sizes: Any) -> Any:
    """A random model of `family`, float32, whose logits differ visibly between tokens."""
    config = CONFIGS[family](**{**SIZES, **sizes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return randomise(model, seed).eval()


def randomise(model: Any, seed: int = 0) -> Any:
    """Draw all weights of `model` anew."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.normal_(0.0, 0.2, generator=random)
            if name.endswith(("norm.weight", "layernorm.weight")):
                weights += 1.0
    return model


def make_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte: token ids are easy to count and a character may take several."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(  # type: ignore[assignment]
        add_prefix_space=False, use_regex=False
    )
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    core.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=SPECIAL[0])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


@functools.cache
def stock(family: str, **sizes: Any) -> Any:
    """The untouched transformers model of `family`, made once."""
    return make_model(family, **sizes)


def shared(
    family: str,
    *,
    tree: TreeConfig = TREE,
    search: SearchConfig | None = None,
    attention: str = "sdpa",
    node_cache_bytes: int = 1 << 20,
    sizes: dict[str, Any] | None = None,
    device: str = "cpu",
    **injection: Any,
) -> SharedLLM:
    """The same weights as :func:`stock`, under our attention."""
    encoder = DocumentEncoder(
        make_model(family, **(sizes or {})).to(device),
        make_tokenizer(),
        tree=tree,
        injection=InjectionConfig(**injection),
        attention=attention,
        node_cache_bytes=node_cache_bytes,
    )
    return SharedLLM(encoder, search=search)


def some_ids(n: int, seed: int = 0) -> tuple[int, ...]:
    """`n` random byte tokens."""
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 256, (n,), generator=random).tolist())
