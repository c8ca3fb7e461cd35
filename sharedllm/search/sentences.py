"""A node that is pasted as text -> the tokens that stand there: whole sentences where it can be.

Leaves are cut after so many tokens, wherever that falls. A name or a number of which a half is
pasted is read as something else, and a citation that begins within a word looks broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from sharedllm.encoding.document import Document

ABBREVIATIONS = ("Mr", "Mrs", "Ms", "Dr", "St", "Prof", "No", "Fig", "vs", "e.g", "i.e", "cf")
# The space behind what ends, the best kind first: a sentence or paragraph, a line, a word.
ENDS = (
    re.compile(
        r"[.!?\u2026]"
        + "".join(rf"(?<!\b{re.escape(word)}\.)" for word in ABBREVIATIONS)
        + r"[.!?\u2026\"'\u201d\u2019)\]*_]*(\s+)|(\n[^\S\n]*\n\s*)"
    ),
    re.compile(r"(\n\s*)"),
    re.compile(r"(\s+)"),
)
BEHIND = 8  # tokens that are looked at beyond an edge, for what ends there


def widened(document: Document, node: int, reach: int) -> tuple[int, int]:
    """Tokens [start, end) of `node` and of the sentences that its edges cut.

    Either edge moves outwards by at most `reach` tokens: to the end of a sentence or paragraph;
    where none is so near, of a line; else of a word.
    """
    start, end = int(document.forest.start[node]), int(document.forest.end[node])
    if not reach:
        return start, end
    return _before(document, start, reach), _after(document, end, reach)


def _before(document: Document, at: int, reach: int) -> int:
    """The best place to cut among tokens [at - reach, at]."""
    first = max(at - reach, 0)
    for spaces in _spaces(document, max(first - BEHIND, 0), at):
        places = [place for space in spaces for place in space if first <= place <= at]
        if places or not first:
            return max(places, default=0)
    return at


def _after(document: Document, at: int, reach: int) -> int:
    """The best place to cut among tokens [at, at + reach]."""
    last = min(at + reach, len(document))
    for spaces in _spaces(document, max(at - BEHIND, 0), last):
        places = [end for _, end in spaces if at <= end <= last]
        if places or last == len(document):
            return min(places, default=last)
    return at


def _spaces(document: Document, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
    """Tokens [start, end) of the spaces about here, a list for each of ENDS.

    A token that begins with its space stands behind both ends of it.
    """
    spans = document.tokens.spans
    beyond = min(end, len(spans) - 1)
    first, ends = int(spans[start, 0]), spans[start : beyond + 1, 1]
    text = document.text[first : int(spans[beyond, 1])]
    for kind in ENDS:
        found = [match.span(match.lastindex or 0) for match in kind.finditer(text)]
        places = first + np.asarray(found, dtype=np.int64).reshape(-1, 2)
        tokens = start + np.searchsorted(ends, places, side="right")
        yield [(int(a), int(b)) for a, b in tokens]
