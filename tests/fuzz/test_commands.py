"""Bad values of every option of every command: a code, one plain line, never a traceback.

pytest -m slow tests/fuzz
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sharedllm.cli.main import main
from sharedllm_integrations.serving import create_app, running
from tests.conftest import WIDE
from tests.fuzz.commands import calls, good, make_files
from tests.models import make_model, make_tokenizer

REAL = 12  # calls that are made as processes of their own, too


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, and files to read in the folder below, in which the commands run."""
    folder, here = tmp_path / "model", tmp_path / "here"
    make_model("llama", **WIDE).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    here.mkdir()
    make_files(here, folder)
    monkeypatch.chdir(here)
    monkeypatch.setenv("SHAREDLLM_DATA", str(tmp_path / "data"))  # of chats, not the user's own
    for name in ("index", "train"):
        assert main([name, *good(folder)[name]]) == 0
    return folder


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server end once it has started."""

    def start_and_end(config: Any, llm: Any, bound: Any) -> None:
        with TestClient(create_app(config, llm)):
            pass

    monkeypatch.setattr(running, "run", start_and_end)


def problem(code: int, error: str) -> str:
    """Say what is wrong with the end of a command."""
    last = error.strip().splitlines()[-1:]
    if code not in (0, 1, 2):
        return f"code {code}"
    if "Traceback" in error:
        return "a traceback"
    if code == 2 and not (last and last[0].startswith("sharedllm: ")):
        return f"the last line is {last}"
    return ""


def short(arguments: Sequence[str]) -> list[str]:
    return [ascii(one if len(one) < 40 else f"{one[:40]}...") for one in arguments]


@pytest.mark.slow
@pytest.mark.parametrize("command", list(good(Path())))
def test_no_traceback(
    model: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = []
    for name, arguments in calls(model):
        if name != command:
            continue
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"A text.")))
        capsys.readouterr()
        try:
            wrong = problem(main([*name.split(), *arguments]), capsys.readouterr().err)
        except Exception as error:
            wrong = f"{type(error).__name__}: {str(error)[:100]}"
        if wrong:
            raw.append(f"{name} {short(arguments)}: {wrong}")
    assert not raw, f"{len(raw)} of {command}:\n" + "\n".join(raw)


@pytest.mark.slow
def test_processes_end_as_calls_do(model: Path) -> None:
    every = [
        [*name.split(), *arguments]
        for name, arguments in calls(model)
        if name != "serve" and not any("\0" in one or "\udcff" in one for one in arguments)
    ]
    for arguments in random.Random(0).sample(every, REAL):
        done = subprocess.run(
            [sys.executable, "-m", "sharedllm", *arguments],
            input=b"A text.",
            capture_output=True,
            timeout=120,
        )
        error = done.stderr.decode("utf-8", "replace")
        assert problem(done.returncode, error) == "", short(arguments)
