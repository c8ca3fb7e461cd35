"""benchmarks/quantized: all forms of a tiny shape on the CPU, and the table of what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.quantized import FORMS, measured, write_shape

pytest.importorskip("bitsandbytes", reason="needs the extra [quantize]")


def test_a_tiny_shape(tmp_path: Path) -> None:
    write_shape("tiny", tmp_path)
    sizes = {
        form: measured(
            tmp_path,
            None if form == "none" else form,
            device="cpu",
            prompt=256,
            new_tokens=4,
        ).weights_gib
        for form in FORMS
    }
    assert sizes["none"] >= sizes["8bit"] >= sizes["4bit"] > 0


@pytest.mark.slow
def test_the_command_and_its_table(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks.quantized", "--device=cpu"]
    done = subprocess.run(
        [*command, "--small", f"--out={out}"], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["form"] for row in rows] == list(FORMS)
    assert all(row["decode_tokens_s"] > 0 for row in rows)
    again = subprocess.run([*command, f"--table={out}"], capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
    assert "| 4 bits |" in done.stdout
