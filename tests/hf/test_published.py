"""Configurations as they are published, in old and new spellings, with fewer layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from sharedllm.hf.architectures import inspect
from sharedllm.hf.loading import _auto_class
from sharedllm.hf.rope import Rotation

FULL, SLIDING = "full_attention", "sliding_attention"
SEEING = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "image_size": 28}
SEEING |= {"num_attention_heads": 2, "patch_size": 14}
YARN_OLMO = {
    "rope_type": "yarn",
    "factor": 8.0,
    "attention_factor": 1.2079441541679836,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 8192,
}
YARN_GPT = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}
YARN_MINISTRAL = {
    "rope_type": "yarn",
    "type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384,
    "llama_4_scaling_beta": 0.1,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0] * 48,
    "long_factor": [4.0] * 48,
}

# name: configuration, trained window, rotations, sliding windows
PUBLISHED: dict[str, tuple[dict[str, Any], int, list[str | None], list[int | None]]] = {
    "gemma-3-270m-it": (
        {
            "model_type": "gemma3_text",
            "hidden_size": 640,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "max_position_embeddings": 32768,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "sliding_window": 512,
            "_sliding_window_pattern": 6,
            "num_hidden_layers": 6,
        },
        32768,
        [*[SLIDING] * 5, FULL],
        [*[512] * 5, None],
    ),
    "gemma-3-4b-it": (
        {
            "model_type": "gemma3",
            "mm_tokens_per_image": 4,
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "num_hidden_layers": 6,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
                "vocab_size": 512,
            },
            "vision_config": {"model_type": "siglip_vision_model", **SEEING},
        },
        131072,
        [*[SLIDING] * 5, FULL],
        [*[1024] * 5, None],
    ),
    "gemma-2-2b-it": (
        {
            "model_type": "gemma2",
            "num_hidden_layers": 2,
            "cache_implementation": "hybrid",
            "query_pre_attn_scalar": 256,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
        },
        8192,
        ["", ""],
        [4096, None],
    ),
    "Qwen3-30B-A3B": (
        {
            "model_type": "qwen3_moe",
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "max_window_layers": 48,
            "num_experts": 2,
            "num_hidden_layers": 2,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        },
        40960,
        ["", ""],
        [None, None],
    ),
    "Mixtral-8x7B-Instruct-v0.1": (
        {
            "model_type": "mixtral",
            "max_position_embeddings": 32768,
            "num_hidden_layers": 1,
            "num_local_experts": 2,
            "rope_theta": 1000000.0,
            "sliding_window": None,
        },
        32768,
        [""],
        [None],
    ),
    "Mistral-7B-Instruct-v0.1": (
        {
            "model_type": "mistral",
            "max_position_embeddings": 32768,
            "num_hidden_layers": 2,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
        },
        32768,
        ["", ""],
        [4096, 4096],
    ),
    "Ministral-3-3B-Instruct-2512": (
        {
            "model_type": "mistral3",
            "image_token_index": 10,
            "text_config": {
                "model_type": "ministral3",
                "hidden_size": 3072,
                "head_dim": 128,
                "max_position_embeddings": 262144,
                "num_hidden_layers": 2,
                "rope_parameters": YARN_MINISTRAL,
                "sliding_window": None,
                "vocab_size": 512,
            },
            "vision_config": {"model_type": "pixtral", "head_dim": 16, **SEEING},
        },
        262144,
        ["", ""],
        [None, None],
    ),
    "granite-3.3-2b-instruct": (
        {
            "model_type": "granite",
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "max_position_embeddings": 131072,
            "num_hidden_layers": 1,
            "num_key_value_heads": 8,
            "residual_multiplier": 0.22,
            "rope_scaling": None,
            "rope_theta": 10000000.0,
        },
        131072,
        [""],
        [None],
    ),
    "OLMo-2-0425-1B-Instruct": (
        {
            "model_type": "olmo2",
            "hidden_size": 2048,
            "max_position_embeddings": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 1,
            "num_key_value_heads": 16,
            "rope_scaling": None,
            "rope_theta": 500000,
        },
        4096,
        [""],
        [None],
    ),
    "Olmo-3-7B-Instruct": (
        {
            "model_type": "olmo3",
            "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
            "max_position_embeddings": 65536,
            "num_hidden_layers": 4,
            "rope_scaling": YARN_OLMO,
            "rope_theta": 500000,
            "sliding_window": 4096,
        },
        65536,
        [SLIDING, SLIDING, SLIDING, FULL],
        [4096, 4096, 4096, None],
    ),
    "SmolLM3-3B": (
        {
            "model_type": "smollm3",
            "layer_types": [FULL] * 4,
            "max_position_embeddings": 65536,
            "max_window_layers": 28,
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0],
            "num_hidden_layers": 4,
            "rope_scaling": None,
            "rope_theta": 5000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        },
        65536,
        ["", "", "", None],
        [None] * 4,
    ),
    "gpt-oss-20b": (
        {
            "model_type": "gpt_oss",
            "experts_per_token": 4,
            "initial_context_length": 4096,
            "layer_types": [SLIDING, FULL],
            "max_position_embeddings": 131072,
            "num_hidden_layers": 2,
            "num_local_experts": 4,
            "rope_scaling": YARN_GPT,
            "rope_theta": 150000,
            "sliding_window": 128,
        },
        131072,
        ["", ""],
        [128, None],
    ),
    "Phi-3.5-mini-instruct": (
        {
            "model_type": "phi3",
            "max_position_embeddings": 131072,
            "num_hidden_layers": 1,
            "original_max_position_embeddings": 4096,
            "rope_scaling": LONGROPE,
            "sliding_window": 262144,
        },
        4096,
        [""],
        [262144],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_is_understood(name: str) -> None:
    values, window, rotations, sliding = PUBLISHED[name]
    config = AutoConfig.for_model(**values)
    with torch.device("meta"):
        model = _auto_class(config).from_config(config)
    shape = inspect(model)
    assert shape.window == window
    assert list(shape.rotations) == rotations
    assert list(shape.sliding) == sliding


def test_gemma_3_4b_rotates_local_and_global_layers_by_their_own_base() -> None:
    values, *_ = PUBLISHED["gemma-3-4b-it"]
    text = {**values["text_config"], "hidden_size": 64, "intermediate_size": 64}
    config = AutoConfig.for_model(**text)
    model = _auto_class(config).from_config(config)
    rotation = Rotation(model.model.rotary_emb, inspect(model).rotations)
    keys = torch.zeros(6, 1, 1, 1, config.head_dim)
    keys[..., 1] = 1.0  # the second pair of dims, of 128
    turned = rotation.rotate_layers(keys, torch.tensor([[800]]))
    for layer, base, stretch in ((0, 10000.0, 1), (5, 1000000.0, 8)):
        angle = torch.tensor(800 / stretch * base ** (-2 / config.head_dim))
        torch.testing.assert_close(turned[layer, 0, 0, 0, 1], angle.cos(), rtol=0, atol=1e-4)
