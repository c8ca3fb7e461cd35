"""Pages of a text: a form feed stands where one ends and the next begins, as in pdftotext."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

BREAK = "\f"
MOST = 100_000  # pages; what has more form feeds has them for something else
_IN_A_SENTENCE = re.compile(r"\n\f(?=[a-z\u00df-\u00f6\u00f8-\u00ff])")  # a small letter follows


def page_starts(text: str) -> tuple[int, ...]:
    """The characters at which pages start; none where nothing says where they end."""
    if not 0 < text.count(BREAK) < MOST:
        return ()
    starts, at = [0], text.find(BREAK)
    while at >= 0:
        starts.append(at + 1)
        at = text.find(BREAK, at + 1)
    return tuple(starts)


def as_read(text: str) -> str:
    """What a model reads for `text`, exactly as long: the end of a page as a blank line.

    In the middle of a sentence it is the end of a line.
    """
    return _IN_A_SENTENCE.sub(" \n", text).replace(BREAK, "\n") if BREAK in text else text


def page_of(starts: Sequence[int], start: int, text: str) -> int | None:
    """The page, from 1, on which `text` begins, or None where there are no pages.

    Parameters
    ----------
    starts : what :func:`page_starts` gave for the document
    start : where in it `text` stands; white space that ends the page before does not count
    """
    if not starts:
        return None
    return bisect.bisect_right(starts, start + len(text) - len(text.lstrip()))
