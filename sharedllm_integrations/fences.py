"""A prompt's text -> plain text, fenced documents and bare handles, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sharedllm_integrations.handles import MARK, closing, handle_id, neutral


@dataclass(frozen=True, slots=True)
class Fenced:
    """A document whose marks are genuine: the id is that of the text between them."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Bare:
    """A handle without its text."""

    id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A mark that was made plain text.

    Attributes
    ----------
    id : str
    why : str
    """

    id: str
    why: str


Piece = str | Fenced | Bare | Refused
FORGED = "the marks are not those of the text between them"
STRAY = "a closing mark without its opening one"
INSIDE = "a handle inside of forged marks"


def parse(text: str, tenant: str) -> Iterator[Piece]:
    """The pieces of `text`; strings hold no marks, and those refused follow their text.

    A fence counts only if its id is the keyed hash of what stands in it. Other marks become plain
    text, and what stands between them is read on, so that a forged pair hides no genuine fence.
    """
    at = 0
    forged_until = 0
    for mark in MARK.finditer(text):
        if mark.start() < at:
            continue  # inside of a document that was just taken
        id = mark["id"]
        plain, at = text[at : mark.start()], mark.end()
        if plain:
            yield neutral(plain)
        if mark["close"]:
            if mark.end() != forged_until:
                yield Refused(id, STRAY)
            yield neutral(mark[0])
            continue
        end = text.find(closing(id), mark.end())
        body = text[mark.end() : end] if end >= 0 else None
        if body is not None and handle_id(body, tenant) == id:
            at = end + len(closing(id))
            yield Fenced(id, body)
        elif body is not None:
            forged_until = max(forged_until, end + len(closing(id)))
            yield neutral(mark[0])
            yield Refused(id, FORGED)
        elif mark.start() < forged_until:
            yield neutral(mark[0])
            yield Refused(id, INSIDE)
        else:
            yield Bare(id)
    if text[at:]:
        yield neutral(text[at:])
