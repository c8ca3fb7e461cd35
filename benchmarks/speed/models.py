"""Models of a shape, with random weights made on the device, and a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

WINDOW = 1 << 21  # so that baselines may read all of a long context
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 264,
    },
    "smollm2": {  # SmolLM2-135M
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama8b-shaped": {  # Llama-3-8B
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
}


def made(name: str, device: torch.device, dtype: torch.dtype, **changed: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a shape, with what is `changed` of it, or of the folder `name`."""
    if name in SHAPES:
        config = LlamaConfig(
            max_position_embeddings=WINDOW,
            bos_token_id=None,
            eos_token_id=256,
            **SHAPES[name] | changed,
        )
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="sdpa"
            )
    elif Path(name).is_dir():
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device)
    else:
        raise SystemExit(f"--model {name}: give {', '.join(SHAPES)}, or a folder")
    return model.eval().requires_grad_(False), byte_tokenizer()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that a text of any number of tokens is easily made."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    core.add_special_tokens([AddedToken("<|end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


def text(tokens: int, seed: int = 0) -> str:
    """Words of random letters; one byte a token."""
    random = torch.Generator().manual_seed(seed)
    letters = torch.randint(97, 123, (tokens,), generator=random, dtype=torch.uint8)
    letters[torch.rand(tokens, generator=random) < 0.17] = 32
    return bytes(letters.tolist()).decode("ascii")
