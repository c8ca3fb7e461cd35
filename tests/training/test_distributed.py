"""Two processes train one adapter."""

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


@pytest.mark.slow
def test_two_processes_train_one_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_model("llama", max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    settings = {
        "model": str(folder),
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
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(processes), "-m", "sharedllm", "train"]
        done = subprocess.run(
            [*command, "--config", str(config)],
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "sharedllm.json").read_text())["notes"]["steps"] == 3
        weights.append(load_file(out / "upper" / "adapter_model.safetensors"))
    # the second process' examples counted too
    assert any(not weights[0][name].equal(tensor) for name, tensor in weights[1].items())
