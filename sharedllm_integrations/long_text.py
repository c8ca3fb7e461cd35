"""Text in a prompt without references -> documents that stand in it, and running text.

First the texts of documents that are known, word for word: those that a retriever has given out,
and in long text all of the memory. Where other documents begin and end cannot be known. The text's
first and last characters stay as they are, because instructions and questions stand there; the rest
is cut where its own content says so, so that a document pasted again among others gives the same
pieces, whose trees are there already.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sharedllm_integrations.references import neutral

LONG_TEXT = 4000  # characters up to which text stays running text, by default
SHORTEST = 200  # characters of a known text; a shorter one may stand in a sentence by chance
SHORTEST_RETRIEVED = 12  # characters of one that a retriever gave out, which stands on its own
ANCHOR = 64  # characters by which a known text is looked for
EDGE = 600  # characters at either end that stay running text, at most
LEAST = 4000  # characters of a piece, about a chunk
ONE_IN = 8  # paragraphs end a piece
_BEFORE = re.compile(r"(?:\A|[\n:>\"'`\])}])[ \t]*\Z")  # a text that stands on its own
_AFTER = re.compile(r"[ \t]*(?:\Z|[\r\n<\"'`\[({])")
_ASKED = re.compile(r"(?:question|query|input)[ \t]*:\s*\Z", re.IGNORECASE)
_PARAGRAPH = re.compile(r".*?(?:\n\s*\n|\f|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class KnownText:
    """A document's text, as it may stand in a prompt.

    Attributes
    ----------
    anchor : str
        How it begins, without the blanks in front of it.
    length : int
        Characters, without the blanks around it.
    digest : bytes
        Of these characters.
    document : object
        Whose text it is.
    around : tuple of str
        The blanks in front of it and behind it, which belong to it where they stand in a prompt.
    """

    anchor: str
    length: int
    digest: bytes
    document: Any
    around: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, text: str, document: Any) -> KnownText:
        """`text` without the blanks around it, which templates take away."""
        whole = neutral(text)
        bare = whole.strip()
        front, back = whole[: len(whole) - len(whole.lstrip())], whole[len(whole.rstrip()) :]
        return cls(bare[:ANCHOR], len(bare), _digest(bare), document, (front, back))

    def whole_place(self, text: str, start: int) -> tuple[int, int]:
        """Return its place with its blanks, if its first other character is at `start`."""
        front, back = self.around
        end = start + self.length
        first = start - len(front)
        if first < 0 or not text.startswith(front, first):
            first = start
        return first, end + len(back) if text.startswith(back, end) else end

    def is_at(self, text: str, start: int) -> bool:
        """Compare the whole of it with `text` from `start` on."""
        return _digest(text[start : start + self.length]) == self.digest


@dataclass(frozen=True, slots=True)
class LongText:
    """A piece of text that is a document; `known` says which one, where that is known."""

    text: str
    known: KnownText | None = None


def documents_in(
    text: str,
    long_text: int | None,
    known: Iterable[KnownText],
    retrieved: Iterable[KnownText] = (),
) -> Iterator[str | LongText]:
    """Running text and documents, which joined give `text` again.

    Blanks at a cut are left out, and form feeds become line feeds in documents that are not known:
    the number of their first page is not known.

    Parameters
    ----------
    long_text : characters up to which a text stays running text; None finds nothing
    known : texts to look for in long text
    retrieved : texts to look for in any text; a short one must stand on its own
    """
    if long_text is None:
        if text:
            yield text
        return
    places = [*_places(text, retrieved, SHORTEST_RETRIEVED)]
    if len(text) > long_text:
        places += _places(text, known, SHORTEST)
    at = 0
    for start, one in sorted(places, key=lambda p: (p[0], -p[1].length)):
        if start < at:
            continue
        first, end = one.whole_place(text, start)
        yield from _cut(text[at : max(at, first)], long_text)
        yield LongText(text[max(at, first) : end], one)
        at = end
    yield from _cut(text[at:], long_text)


def _places(
    text: str, known: Iterable[KnownText], shortest: int
) -> Iterator[tuple[int, KnownText]]:
    """The places where known texts stand."""
    for one in known:
        if one.length < shortest or one.length > len(text):
            continue
        start = text.find(one.anchor)
        while start >= 0:
            is_long = one.length >= SHORTEST
            if (is_long or _is_alone(text, start, start + one.length)) and one.is_at(text, start):
                yield start, one
            start = text.find(one.anchor, start + 1)


def _is_alone(text: str, start: int, end: int) -> bool:
    """Tell a text between line ends, marks or behind a label from a part of a sentence.

    What is asked is no document, though one may read the same.
    """
    before = text[max(0, start - ANCHOR) : start]
    alone = _BEFORE.search(before) and _AFTER.match(text, end)
    return bool(alone) and not _ASKED.search(before)


def _cut(text: str, long_text: int) -> Iterator[str | LongText]:
    """Running text at both ends, and pieces of what stands between them."""
    if len(text) <= max(long_text, 2 * EDGE):
        if text:
            yield text
        return
    first, last = _head(text), _tail(text)
    if first:
        yield text[:first]
    for piece in _segments(text[first:last]):
        yield LongText(piece.replace("\f", "\n"))
    if last < len(text):
        yield text[last:]


def _head(text: str) -> int:
    """The end of the first edge: after its last line, sentence or word."""
    edge = text[:EDGE]
    for boundary in ("\n", ". ", " "):
        at = edge.rfind(boundary)
        if at >= 0:
            return at + len(boundary)
    return EDGE


def _tail(text: str) -> int:
    """The beginning of the last edge."""
    start = len(text) - EDGE
    for boundary in ("\n", ". ", " "):
        at = text.find(boundary, start)
        if 0 <= at < len(text) - len(boundary):
            return at + len(boundary)
    return start


def _segments(text: str) -> Iterator[str]:
    """Whole paragraphs, cut after those whose own hash says so."""
    start = end = 0
    for paragraph in _PARAGRAPH.finditer(text):
        end = paragraph.end()
        ends_here = zlib.crc32(paragraph[0].strip().encode("utf-8", "surrogatepass")) % ONE_IN == 0
        if end - start >= LEAST and ends_here:
            yield text[start:end]
            start = end
    if text[start:].strip():
        yield text[start:]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
