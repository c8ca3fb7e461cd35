"""The word lists of RULER: adjectives, nouns and verbs of the package wonderwords."""

from __future__ import annotations

import functools
from importlib.resources import files

from sharedllm.errors import MissingExtraError


@functools.cache
def listed(kind: str) -> tuple[str, ...]:
    """`kind` is "noun", "adjective" or "verb"; sorted, without repetition.

    Raises
    ------
    MissingExtraError
        If wonderwords is not installed.
    """
    try:
        folder = files("wonderwords") / "assets"
    except ModuleNotFoundError as error:
        raise MissingExtraError("wonderwords", "bench") from error
    text = (folder / f"{kind}list.txt").read_text(encoding="utf-8")
    return tuple(sorted({line.strip() for line in text.splitlines() if line.strip()}))


@functools.cache
def single() -> tuple[str, ...]:
    """All words: what common words extraction draws from."""
    return tuple(sorted({*listed("noun"), *listed("adjective"), *listed("verb")}))


def compound(index: int) -> str:
    """The `index`-th "adjective-noun": the keys of needles."""
    adjectives, nouns = listed("adjective"), listed("noun")
    return f"{adjectives[index // len(nouns)]}-{nouns[index % len(nouns)]}"


def compounds() -> int:
    """How many different compounds there are."""
    return len(listed("adjective")) * len(listed("noun"))
