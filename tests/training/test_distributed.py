"""Two processes train one adapter by DDP, each with batches of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.models import make_model, make_tokenizer
from tests.training.test_training import toml

pytest.importorskip("accelerate", reason="needs the extra [train]")


def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    make_model("llama", max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def start(processes: int, *module: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc_per_node", str(processes), "-m", *module],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_train_one_adapter(tmp_path: Path) -> None:
    settings = {
        "model": str(model(tmp_path)),
        "steps": 3,
        "minutes": 5,
        "batch": 1,
        "workers": 0,
        "tensorboard": False,
    }
    weights = []
    for processes in (1, 2):
        out = tmp_path / f"run{processes}"
        config = toml(tmp_path, out=str(out), **settings)
        start(processes, "sharedllm", "train", "--config", str(config))
        assert json.loads((out / "sharedllm.json").read_text())["notes"]["steps"] == 3
        weights.append(load_file(out / "upper" / "adapter_model.safetensors"))
    # the second process' examples counted too
    assert any(not weights[0][name].equal(tensor) for name, tensor in weights[1].items())
