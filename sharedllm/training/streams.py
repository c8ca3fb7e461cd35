"""Endless streams of rows of JSON Lines files, and of stretches of text; no file is held whole."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sharedllm.errors import ConfigError
from sharedllm.text.loaders import read_rows

Row = dict[str, Any]
T = TypeVar("T")
HELD = 64  # documents held at once, from which stretches are drawn
AT_START = 4  # documents of each file that are read before the first example
FRUITLESS = 1000  # rows, or examples, of no use before a run is stopped
SKIPPED = 30_000_000  # characters skipped at the start, at most: less than a second


def endless(path: Path, rng: random.Random) -> Iterator[Row]:
    """Yield rows for ever, from a random place on, so that workers start with different rows."""
    skip = rng.randrange(SKIPPED)
    while True:
        empty = True
        for row in read_rows(path, skip=skip):
            empty = False
            yield row
        if empty and not skip:
            raise ConfigError(f"{path} holds no row")
        skip = 0


def texts_of(path: Path, rng: random.Random) -> Iterator[str]:
    """Yield the texts of a file's rows for ever; rows without one are left out.

    Raises
    ------
    ConfigError
        If a long run of rows has none.
    """
    without = 0
    for row in endless(path, rng):
        text = row.get("text")
        if isinstance(text, str) and text.strip():
            without = 0
            yield text
            continue
        without += 1
        if without == FRUITLESS:
            raise ConfigError(
                f'{FRUITLESS:,} rows of {path} in a row have no "text"; give rows with real text '
                "in data.documents"
            )


def shuffle(stream: Iterator[T], rng: random.Random, buffer: int) -> Iterator[T]:
    """Shuffle an endless stream with a buffer of `buffer` items."""
    held = list(itertools.islice(stream, buffer))
    for item in stream:
        at = rng.randrange(buffer)
        held[at], item = item, held[at]
        yield item


class Texts:
    """Draws stretches of real text of any length from documents."""

    def __init__(self, paths: Sequence[Path], rng: random.Random) -> None:
        self._rng = rng
        self._streams = [shuffle(texts_of(path, rng), rng, AT_START) for path in paths]
        self._held: list[str] = []

    def stretch(self, characters: int) -> str:
        """Return `characters` characters from one document, or from several in a row."""
        out: list[str] = []
        while (missing := characters - sum(map(len, out))) > 0:
            text = self._next()
            start = self._rng.randrange(max(1, len(text) - missing))
            out.append(text[start : start + missing])
        return "\n\n".join(out)

    def _next(self) -> str:
        # a document serves several stretches before it is replaced, because books are long
        if len(self._held) < 8 or self._rng.random() < 0.05:
            self._held.append(next(self._rng.choice(self._streams)))
            if len(self._held) > HELD:
                self._held.pop(self._rng.randrange(len(self._held)))
        return self._rng.choice(self._held)
