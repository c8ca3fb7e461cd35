"""``sharedllm models``: what is cached, what fits, on terminals of any width."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from sharedllm.cli.main import main
from sharedllm.hf import loading, room
from sharedllm.hf.architectures import FAMILIES
from sharedllm.hf.models import BY_NAME, MODELS
from sharedllm.hf.room import Memory
from tests.hf.published import lay_out

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A machine with a cache that holds one model, and as much memory as is said."""
    hub = tmp_path / "hub"
    lay_out(BY_NAME["smollm3-3b"], hub)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(loading, "resolve_device", lambda device: torch.device("cpu"))

    def put(gib: float) -> None:
        memory = Memory(int(gib * GIB), GIB)
        monkeypatch.setattr(room, "memory_of", lambda device: memory)

    return put


def test_json_has_every_column(
    machine: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(12)
    assert main(["models", "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert (given["device"], given["dtype"]) == ("cpu", "float32")
    assert (given["total"], given["free"]) == (12 * GIB, GIB)
    rows = {row["name"]: row for row in given["models"]}
    assert list(rows) == [model.name for model in MODELS]
    assert [name for name, row in rows.items() if row["cached_bytes"]] == ["smollm3-3b"]
    assert rows["qwen3-1.7b"]["fits_with"] == ""
    assert rows["qwen3-4b"]["fits_with"] == "--dtype bfloat16"
    assert rows["mistral-7b"]["fits_with"] == "--quantize 4bit"
    assert (rows["gpt-oss-20b"]["fits"], rows["gpt-oss-20b"]["comes_in"]) == (False, "MXFP4")
    assert rows["gemma3-4b"]["gated"] is True
    assert rows["gemma3-4b"]["hub"] == "google/gemma-3-4b-it"
    assert rows["gemma3-4b"]["licence"] == "Gemma"
    for name, row in rows.items():
        assert row["injected"] == ("KV" if BY_NAME[name].kind in FAMILIES else "text")
        assert row["4bit_bytes"] < row["bf16_bytes"]


@pytest.mark.parametrize(("columns", "wide"), [(80, False), (118, False), (119, True), (200, True)])
def test_nothing_is_cut_off(
    columns: int,
    wide: bool,
    machine: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine(6.2)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    assert err == "looking at the cache\n" or err == ""
    assert "…" not in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for model in MODELS:
        line = lines[model.name].rstrip()
        assert len(line) <= columns
        assert (model.hub in line, model.licence in line) == (wide, wide)
    assert lines["smollm3-3b"].split()[-3:] == ["yes", "in", "4-bit"]
    assert lines["mistral-7b"].split()[-2:] == ["no", "4-bit+bf16"]
    assert lines["gpt-oss-20b"].split()[-2:] == ["no", "no"]
    assert ("a wider terminal, or --json" in " ".join(out.split())) is not wide


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--device", "tpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "device is 'tpu'" in line
