"""Text -> the text as it is read: what looks alike is spelled alike, the unseen is left out.

A soft hyphen, a character of no width or a NUL inside of a word, a full-width letter, a ligature or
an accent that stands as a character of its own make another word of it, for the model and for the
index of words. The text that is cited stays what it was: every character of the normalised text
knows its place in it.

Left as they are: what changes the sense (superscripts, fractions, circled digits), quotation marks
and dashes, the joiners that Persian, Indian scripts and emoji need, and the full-width punctuation
of Chinese and Japanese.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharedllm.text.pages import as_read

UNSEEN = (
    "\0\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
WIDE_SPACES = "\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
LINE_ENDS = "\x85\u2028\u2029"
HYPHENS = "\u2010\u2011"
# Compatibility characters: radicals for ideographs, ligatures, Arabic and Hebrew presentation
# forms, full-width and half-width forms without the punctuation of Chinese, letters of mathematics.
COMPATIBLE = (
    "\u2e80-\u2fd5\uf900-\ufaff\ufb00-\ufb4f\ufb50-\ufd3d\ufd50-\ufdff\ufe50-\ufe6b\ufe70-\ufefc"
    "\uff02-\uff07\uff0a\uff0b\uff0d-\uff19\uff1c-\uff1e\uff20-\uff5d\uff61-\uffdc\uffe0-\uffee"
    "\U0001d400-\U0001d7ff"
)
MARKS = "\u0300-\u034e\u0350-\u036f"  # a long row of them takes the square of its length to order
CHANGED = re.compile(
    rf"(?P<soft>\xad(?:[ \t]*\n[ \t]*(?=\S))?)|(?P<unseen>[{UNSEEN}]+)|(?P<space>[{WIDE_SPACES}])"
    rf"|(?P<line>[{LINE_ENDS}])|(?P<hyphen>[{HYPHENS}])"
    rf"|(?P<form>[^\s{MARKS}][{MARKS}]{{1,8}}|[\u3041-\u30fe][\u3099\u309a]"
    rf"|[\u1100-\u1112][\u1161-\u1175][\u11a8-\u11c2]?|[\uff66-\uff9d][\uff9e\uff9f]|[{COMPATIBLE}])"
)
FORMS = re.compile(f"[{COMPATIBLE}]")
SPELLED = {"soft": "", "unseen": "", "space": " ", "line": "\n", "hyphen": "-"}


@dataclass(frozen=True, slots=True)
class Normalised:
    """A text as it is read.

    Attributes
    ----------
    text : str
    starts, ends : int32 array, shape (characters,), or None
        What each character stands for: characters [start, end) of the original text. None where
        both are the same characters.
    """

    text: str
    starts: NDArray[np.int32] | None = None
    ends: NDArray[np.int32] | None = None

    def original(self, spans: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return what `spans` (n, 2) of this text are in the original one."""
        if self.starts is None or self.ends is None or not len(spans):
            return spans
        last = len(self.starts) - 1
        first = self.starts[np.minimum(spans[:, 0], last)]
        ends = np.where(spans[:, 1] > spans[:, 0], self.ends[np.maximum(spans[:, 1] - 1, 0)], first)
        return np.stack([first, ends], axis=1).astype(np.int32)


def normalise(text: str) -> Normalised:
    """Normalise `text`; ends of pages become line ends (:func:`sharedllm.text.pages.as_read`)."""
    read = as_read(text)
    if read.isascii() and "\0" not in read:
        return Normalised(read)
    parts: list[str] = []
    rows: list[tuple[int, int, int]] = []  # place, length, length of what it becomes; -1: itself
    at = 0
    for found in CHANGED.finditer(read):
        kind = found.lastgroup or ""
        new = _form(found.group()) if kind == "form" else SPELLED[kind]
        if new == found.group():
            continue
        if found.start() > at:
            parts.append(read[at : found.start()])
            rows.append((at, found.start() - at, -1))
        parts.append(new)
        rows.append((found.start(), len(found.group()), len(new)))
        at = found.end()
    if not rows:
        return Normalised(read)
    parts.append(read[at:])
    rows.append((at, len(read) - at, -1))
    return Normalised("".join(parts), *_places(np.asarray(rows, dtype=np.int64)))


def _form(given: str) -> str:
    """One spelling for what looks alike; the letters stay those of the text."""
    if not FORMS.match(given) and len(given) > 1:
        return unicodedata.normalize("NFC", given)
    return unicodedata.normalize("NFKC", given)


def _places(rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return start and end in the original text of every character that `rows` give."""
    start, length, new = rows.T
    same = new < 0
    counts = np.where(same, length, new)
    firsts = np.repeat(start, counts)
    within = np.arange(len(firsts)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = firsts + np.where(np.repeat(same, counts), within, 0)
    ends = np.where(np.repeat(same, counts), starts + 1, firsts + np.repeat(length, counts))
    return starts.astype(np.int32), ends.astype(np.int32)
