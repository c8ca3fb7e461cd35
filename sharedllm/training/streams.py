"""Rows of JSON Lines files as endless streams, and stretches of their texts; never held whole."""

from __future__ import annotations

import itertools
import json
import lzma
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sharedllm.errors import ConfigError

Row = dict[str, Any]
T = TypeVar("T")
HELD = 64  # documents held at once: what is drawn from together
AT_START = 4  # documents of each file that are read before the first example
SKIPPED = 30_000_000  # characters at most that are passed over at the start: under a second


def rows(path: Path, skip: int = 0) -> Iterator[Row]:
    """Rows of a .jsonl or .jsonl.xz file, once, but for the first `skip` characters or so."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if skip > 0:
                skip -= len(line)
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path}, line {number}: no JSON object ({error})") from error


def endless(path: Path, rng: random.Random) -> Iterator[Row]:
    """Rows for ever, from a random place on, so that workers do not begin with the same ones."""
    skip = rng.randrange(SKIPPED)
    while True:
        empty = True
        for row in rows(path, skip):
            empty = False
            yield row
        if empty and not skip:
            raise ConfigError(f"{path} holds no row")
        skip = 0


def shuffled(stream: Iterator[T], rng: random.Random, buffer: int) -> Iterator[T]:
    """The items of an endless stream, drawn from `buffer` of them at a time."""
    held = list(itertools.islice(stream, buffer))
    for item in stream:
        at = rng.randrange(buffer)
        held[at], item = item, held[at]
        yield item


class Texts:
    """Stretches of real text from documents, of any length."""

    def __init__(self, paths: Sequence[Path], rng: random.Random) -> None:
        self._rng = rng
        self._streams = [shuffled(endless(path, rng), rng, AT_START) for path in paths]
        self._held: list[str] = []

    def stretch(self, characters: int) -> str:
        """So many characters from one document, or from several one after another."""
        out: list[str] = []
        while (missing := characters - sum(map(len, out))) > 0:
            text = self._next()
            start = self._rng.randrange(max(1, len(text) - missing))
            out.append(text[start : start + missing])
        return "\n\n".join(out)

    def _next(self) -> str:
        # A document is drawn from several times before it goes: books are long.
        if len(self._held) < 8 or self._rng.random() < 0.05:
            self._held.append(str(next(self._rng.choice(self._streams))["text"]))
            if len(self._held) > HELD:
                self._held.pop(self._rng.randrange(len(self._held)))
        return self._rng.choice(self._held)
