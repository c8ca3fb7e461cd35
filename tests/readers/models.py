"""Tiny random models of architectures that no line of the code knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.models import VOCABULARY, make_tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 4096},
    "gpt_neox": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mamba": {"state_size": 4},
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
}


def make(kind: str, **more: Any) -> Any:
    """A random model whose logits differ visibly between tokens."""
    config = AutoConfig.for_model(kind, **{**SMALL, **KINDS.get(kind, {}), **more})
    model = AutoModelForCausalLM.from_config(config)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += torch.empty_like(weights).normal_(0.0, 0.05, generator=random)
    return model.eval()


def save(kind: str, folder: Path, *, template: str | None = "", **more: Any) -> Path:
    """A folder with a model of `kind`; an empty template is the tests' own, None is none."""
    make(kind, **more).save_pretrained(folder)
    tokenizer = make_tokenizer(chat=template is not None)
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
