"""Finds texts that are known in a prompt without marks, as they stand, word for word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sharedllm_integrations.origins import KnownText

SHORTEST = 200  # characters; a shorter text stays running text


@dataclass(frozen=True, slots=True)
class Known:
    """A known text that stands in a prompt.

    Attributes
    ----------
    handle : str
        The handle of the whole document.
    text : str
    """

    handle: str
    text: str


def find(text: str, known: Iterable[KnownText]) -> Iterator[str | Known]:
    """The pieces of `text`, which joined give it again; the longer of two texts that overlap."""
    at = 0
    for start, one in sorted(_places(text, known), key=lambda p: (p[0], -p[1].length)):
        if start < at:
            continue
        if text[at:start]:
            yield text[at:start]
        at = start + one.length
        yield Known(one.handle, text[start:at])
    if text[at:]:
        yield text[at:]


def _places(text: str, known: Iterable[KnownText]) -> Iterator[tuple[int, KnownText]]:
    """Where known texts stand."""
    for one in known:
        if one.length < SHORTEST or one.length > len(text):
            continue
        start = text.find(one.anchor)
        while start >= 0:
            if one.is_at(text, start):
                yield start, one
            start = text.find(one.anchor, start + 1)
