"""Pages of a text: a form feed stands where one ends and the next begins, as in pdftotext."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

BREAK = "\f"


def page_starts(text: str) -> tuple[int, ...]:
    """The characters at which pages start; none where nothing says where they end."""
    if BREAK not in text:
        return ()
    starts, at = [0], text.find(BREAK)
    while at >= 0:
        starts.append(at + 1)
        at = text.find(BREAK, at + 1)
    return tuple(starts)


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
