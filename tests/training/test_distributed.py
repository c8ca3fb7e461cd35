"""Two processes train one adapter, each with the whole base or with half of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sharedllm import SharedLLM
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


# layers 2 of 3; some batches have no nodes to encode
PLAIN: dict[str, Any] = {"batch": 1, "layers": 2, "selection.rest": 0.0}
# some batches are to compute activations again and others not, and some have no lessons
AGAIN: dict[str, Any] = {"batch": 3, "checkpoint_above": 1200, "distil": 1.0}


def train_both(tmp_path: Path, *runs: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """What two processes saw in each of several runs."""
    folder = model(tmp_path)
    paths = []
    for number, changes in enumerate(runs):
        settings = {"model": str(folder), "steps": 4, "workers": 0, "tensorboard": False}
        out = {"out": str(tmp_path / f"out{number}")}
        config = toml(tmp_path, **{**settings, **out, **changes})
        paths.append(config.rename(tmp_path / f"{number}.toml"))
    start(2, "tests.training.ranks", str(tmp_path), *map(str, paths))
    return [
        [json.loads(path.with_suffix(f".{rank}.json").read_text()) for rank in (0, 1)]
        for path in paths
    ]


def assert_the_same(whole: list[dict[str, Any]], half: list[dict[str, Any]]) -> None:
    """The losses and the adapter of both runs are, and the second had half of the base."""
    for one, other in zip(half, whole, strict=True):
        assert one["held"] < 0.51 * other["held"]
        for mine, expected in zip(one["losses"], other["losses"], strict=True):
            assert mine == pytest.approx(expected, rel=1e-4)
        for name, trained in one["weights"].items():
            given = torch.tensor(other["weights"][name])
            torch.testing.assert_close(torch.tensor(trained), given, rtol=1e-3, atol=1e-5)


def differing(runs: list[dict[str, Any]], kind: int, kinds: int) -> list[tuple[int, int]]:
    """How many passes of the `kind`-th of `kinds` the processes had, where not equally many."""
    passes = (run["passes"][kind::kinds] for run in runs)
    return [(one, other) for one, other in zip(*passes, strict=True) if one != other]


def test_half_of_the_base_in_each_process_trains_the_same_adapter(tmp_path: Path) -> None:
    whole, half = train_both(tmp_path, AGAIN, {"shard": True, **AGAIN})
    assert_the_same(whole, half)
    for kind in range(4):  # computing again, nodes, prompts, lessons
        assert differing(half, kind, 4), kind
    llm = SharedLLM.from_pretrained(tmp_path / "model", adapter=tmp_path / "out1", device="cpu")
    for name, trained in (llm.adapter.weights() if llm.adapter else {}).items():
        given = torch.tensor(half[0]["weights"][name])
        torch.testing.assert_close(trained.float(), given.bfloat16().float())


@pytest.mark.slow
def test_halves_of_the_base_go_on_and_train_one_role(tmp_path: Path) -> None:
    on = {"out": str(tmp_path / "out1"), "steps": 6}
    lower = {"batch": 1, "adapter.roles": ["lower"], "selection.rest": 0.0}
    whole, half, further, _ = train_both(
        tmp_path, PLAIN, *({"shard": True, **more} for more in (PLAIN, {**PLAIN, **on}, lower))
    )
    assert_the_same(whole, half)
    assert any(0 in both for both in differing(half, 1, 3))
    assert len(further[0]["losses"]) == 2
    assert json.loads((tmp_path / "out1" / "sharedllm.json").read_text())["notes"]["steps"] == 6
    assert load_file(tmp_path / "out3" / "lower" / "adapter_model.safetensors")
