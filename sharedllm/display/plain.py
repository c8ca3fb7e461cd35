"""Text of strangers, and numbers, -> text that can be shown: no control characters in it."""

from __future__ import annotations

import re
from itertools import pairwise

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
LONG_LINE = 50  # characters from which on a line end was made by a line breaker
GOES_ON = re.compile(r"[^\W\d_],?$")  # how a line ends in the middle of a sentence
OWN_LINE = re.compile(r"[\s\-*+•#>|=`\d]|$")  # a list, a table, a heading, an indented line


def printable(text: str) -> str:
    """`text` without control characters: a document must not steer the terminal."""
    return CONTROL.sub("", text)


def one_line(text: str) -> str:
    """`text` without control characters, line ends and page ends."""
    return " ".join(printable(text.replace("\n", " ").replace("\f", " ")).split())


def flowing(text: str) -> str:
    """`text` with the line ends inside paragraphs as spaces; exactly as long.

    Books come with lines of 70 characters, which look torn on a narrow screen. A line end counts
    as a line breaker's where the next word would not have fitted, or the sentence goes on. Lists,
    tables, code and short lines (verse, addresses) keep theirs.
    """
    lines = text.split("\n")
    lengths = sorted(len(line) for line in lines if len(line) >= LONG_LINE)
    width = lengths[len(lengths) * 9 // 10] if lengths else 0  # a few lines may stand out
    out = [lines[0]]
    for before, line in pairwise(lines):
        word = len(line.split(" ", 1)[0])
        full = LONG_LINE <= len(before) <= width + 2 < len(before) + 4 + word
        goes_on = len(before) >= LONG_LINE and GOES_ON.search(before) and line[:1].islower()
        out += [" " if (full or goes_on) and not OWN_LINE.match(line) else "\n", line]
    return "".join(out)


def counted(number: int, what: str) -> str:
    """A number with its noun: "1 chunk", "1,024 chunks"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def scored(score: float | None) -> str:
    """A score as it is shown."""
    return "" if score is None else f"{score:.2f}"
