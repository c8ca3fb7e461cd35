"""Weights that transformers quantises on loading."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.models import make_tokenizer

SCRIPT = """
import sys
from torchao.quantization import Int8WeightOnlyConfig
from transformers import TorchAoConfig
from sharedllm import InjectionConfig, SharedLLM
folder, mode = sys.argv[1:]
plain = SharedLLM.from_pretrained(folder, device="cpu", injection=InjectionConfig(mode=mode))
small = SharedLLM.from_pretrained(
    folder,
    device="cpu",
    injection=InjectionConfig(mode=mode),
    quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
)
assert "Int8" in type(small.model.get_decoder().layers[0].self_attn.q_proj.weight).__name__
text = "A river runs through the valley. " * 30
for leaves in ("text", "kv"):
    nll = []
    for llm in (plain, small):
        prepared = llm.prepare("What runs?", llm.remember(text), leaves=leaves, budget=400)
        nll += llm.upper.nll([prepared.prompt], [llm.tokenizer("A river").input_ids])
    assert 0 < abs(nll[0] - nll[1]) < 0.05 * nll[0], nll
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["joint", "cross"])
def test_int8_weights_answer_nearly_as_the_plain_ones(tmp_path: Path, mode: str) -> None:
    pytest.importorskip(
        "torchao", reason="torchao is not installed (it prints on import, so no extra does)"
    )
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # A process of its own: torchao warns on import, and warnings are errors here.
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
