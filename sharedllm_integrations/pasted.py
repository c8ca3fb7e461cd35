"""Long text in a prompt without marks -> running text at its edges, documents between them.

Where documents begin and end cannot be known. What stands first and last is left as it is, because
instructions and questions stand there; the rest is cut where its own content says so, so that a
document pasted again among others gives the same pieces, whose trees are known.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

EDGE = 600  # characters at either end that stay running text, at most
LEAST = 4000  # characters of a piece, about a chunk
ONE_IN = 8  # paragraphs end a piece
_PARAGRAPH = re.compile(r".*?(?:\n\s*\n|\f|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pasted:
    """A piece of text that becomes a document."""

    text: str


def cut(text: str, long_text: int) -> Iterator[str | Pasted]:
    """The pieces of `text`, which joined give it again but for blanks at a cut and form feeds.

    Parameters
    ----------
    long_text : characters up to which a text stays running text
    """
    if len(text) <= max(long_text, 2 * EDGE):
        if text:
            yield text
        return
    first, last = _head(text), _tail(text)
    if first:
        yield text[:first]
    for piece in _segments(text[first:last]):
        yield Pasted(piece.replace("\f", "\n"))  # what number its first page has is not known
    if last < len(text):
        yield text[last:]


def _head(text: str) -> int:
    """Where the first edge ends: after its last line, sentence or word."""
    edge = text[:EDGE]
    for boundary in ("\n", ". ", " "):
        at = edge.rfind(boundary)
        if at >= 0:
            return at + len(boundary)
    return EDGE


def _tail(text: str) -> int:
    """Where the last edge begins."""
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
