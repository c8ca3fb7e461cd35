"""Rows of JSON Lines files as endless streams: quick to start, shuffled, never held whole."""

from __future__ import annotations

import itertools
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from sharedllm.errors import ConfigError

Row = dict[str, Any]
T = TypeVar("T")
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
