"""Code blocks and command lines of Markdown pages, with the place where they stand.

A block of Python runs unless the line above it is ``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from sharedllm.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    # experiments.md keeps the commands of its time
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name != "experiments.md"),
]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`((?:sharedllm|python -m|accelerate|make) [^`]+)`")
SHELL = ("", "bash", "console", "sh", "shell", "text")
PROGRAMS = ("sharedllm", "python", "make", "pip", "accelerate")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block; `reason` says why it is compiled and not run, "" where it runs."""

    page: Path
    line: int
    language: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in one of `languages`; "" for those that name none."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text[: match.start("code")].count("\n"),
            language=match["language"],
            code=match["code"],
            reason=match["reason"] or "",
        )
        for match in BLOCK.finditer(text)
        if match["language"] in languages
    ]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of the pages as words: of blocks, and of inline code."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in blocks(page, *SHELL):
            for line in block.code.replace("\\\n", " ").splitlines():
                for part in re.split(r" && | \| ", re.sub(r"^\$ |\.venv/bin/", "", line)):
                    if part.split(" ")[0] in PROGRAMS and not part.endswith("..."):
                        yield str(block), shlex.split(part, comments=True)
        for match in INLINE.finditer(BLOCK.sub("", text)):
            if "..." not in match[1] and "|" not in match[1]:
                yield name(page), shlex.split(match[1].replace("\n", " "))


def parsed(words: list[str]) -> None:
    """Parse a command line as the program does, without running it."""
    command: Any = typer.main.get_command(app)
    context = None
    while words and words[0] in getattr(command, "commands", {}):
        context = typer.Context(command, parent=context, info_name=command.name)
        command, words = command.commands[words[0]], words[1:]
    if words:  # a command's name alone, as in "sharedllm train", needs nothing
        command.make_context(command.name, words, parent=context)
