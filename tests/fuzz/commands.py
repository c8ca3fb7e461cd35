"""Every command of the command line with good arguments, and bad values of its options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from sharedllm.cli.main import app
from tests.texts import FERRY, STORY

VALUES = (
    *("", " ", "x", "0", "-1", "1.5", "1e3", "nan", "inf", "-inf", "\u0663", "\uff11"),
    *("9" * 30, "9" * 5000, "true", "None", "a,b", ",", "K", "4KK", "4k", "a\0b", "\udcff"),
    *("\U0001f4a5", "x" * 300, "x" * 5000, ".", "..", "/dev/null", "/no/such/place", "-", "--"),
    *("-q", "cuda:99", "cuda:-1", "cpu:7", "a\nb", "\x1b[31m", "binary", "empty", "folder"),
)
CONFIG = """
out = "run"
model = {model}
steps = 1
batch = 1
workers = 0
tensorboard = false
[query_projection]
steps = 1
batch = 2
[data]
documents = ["rows.jsonl"]
past_tokens = [3000, 3000]
running_tokens = 16
[[data.sources]]
task = "planted"
weight = 1.0
"""


def make_files(folder: Path, model: Path) -> None:
    """Write into `folder` what the commands below read."""
    row = {"text": STORY, "context": STORY, "question": "Who?", "answer": "Mara", "source": "s"}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "story.txt").write_text(STORY)
    (folder / "ferry.txt").write_text(FERRY)
    (folder / "run.toml").write_text(CONFIG.format(model=json.dumps(str(model))))
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()


def good(model: Path) -> dict[str, list[str]]:
    """Give arguments with which each command works and ends soon, by its name."""
    named = ["--model", str(model)]
    evaluated = [*named, "--items", "1", "--budget", "2000", "--baselines", "none"]
    memory = ["--memory", "memory"]
    return {
        "ask": ["story.txt", "-q", "Who?", *named, "--max-new-tokens", "1", "--budget", "2000"],
        "chat": ["story.txt", *named, "--max-new-tokens", "1", "--budget", "2000"],
        "index": ["story.txt", *memory, *named],
        "docs": memory,
        "models": [],
        "remove": ["nothing", *memory],
        "verify": memory,
        "compact": memory,
        "parts": ["--memory", "library", "--attach", "memory"],
        "eval needle": ["--filler", "rows.jsonl", "--lengths", "1500", *evaluated],
        "eval qa": ["--data", "rows.jsonl", "--max-new-tokens", "1", *evaluated],
        "train": ["--config", "run.toml"],
        "serve": [*memory, *named, "--port", "0"],  # the test ends it once it has started
        "serve-key": ["acme", "--keys", "keys.json"],
        "train-search": ["--config", "run.toml", "--adapter", "run"],
    }


def parameters() -> dict[str, list[Any]]:
    """Give what each command takes, by its name."""
    out: dict[str, list[Any]] = {}
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        for below, one in inner.items() if inner else [("", command)]:
            out[f"{name} {below}".strip()] = one.params
    return out


def calls(model: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every command with every bad value of every option: its name, and the arguments."""
    known = good(model)
    for name, options in parameters().items():
        own = known[name]
        for option in options:
            if option.name == "help":
                continue
            for value in VALUES:
                if option.param_type_name == "argument":
                    first = 1 if own[0][:1] != "-" else 0
                    yield name, [value, *own[first:]]
                elif option.is_flag:
                    yield name, [*own, f"{option.opts[-1]}={value}"]
                else:
                    yield name, [*own, option.opts[-1], value]
