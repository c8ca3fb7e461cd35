"""Words of what is shown: text of strangers without control characters, numbers, places."""

from __future__ import annotations

import re
from itertools import pairwise

from sharedllm.display.picture import Ranked, Span

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
LONG_LINE = 50  # characters from which on a line end was made by a line breaker
GOES_ON = re.compile(r"[^\W\d_],?$")  # how a line ends in the middle of a sentence
OWN_LINE = re.compile(r"[\s\-*+•#>|=`\d]|$")  # a list, a table, a heading, an indented line

BEGINS = 200  # characters of a passage in a list of passages
LEAD = 40  # of those, before the sentence that matches
CUT_OFF = " .,:;!?)]\u201d\u2019"  # what a passage that begins between two words may begin with


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


def begins(one: Ranked) -> tuple[str, str, str]:
    """The first words of a passage, on one line: before, in and after the matching sentence.

    Of what stands before that sentence, only the last words are shown.
    """
    picture, span = one.picture, one.span
    start, end = span.start, min(span.end, span.start + 2 * BEGINS)
    if span.match_start is None or span.match_end is None:
        line = one_line(picture.text(start, end)).lstrip(CUT_OFF)
        shown = _cut(line, BEGINS)
        return ("\u2026" if start else "") + (shown or line[:BEGINS]), "", ""
    before = one_line(picture.text(start, span.match_start))
    if len(before) > LEAD:
        before = before[-LEAD:].partition(" ")[2]
    if span.match_start > 0 and before != one_line(picture.text(0, span.match_start)):
        before = "\u2026" + before
    match = _cut(one_line(picture.text(span.match_start, span.match_end)), BEGINS)
    after = _cut(one_line(picture.text(span.match_end, span.end)), max(0, BEGINS - len(match)))
    return before and f"{before} ", match, after and f" {after}"


def _cut(line: str, most: int) -> str:
    """Return `line`, cut between two words where it has more than `most` characters."""
    if len(line) <= most:
        return line
    return (line[: most + 1].rpartition(" ")[0] or line[:most]) + "\u2026"


def place(span: Span, unit: str = "characters") -> str:
    """The place, level and score of a passage or node, and what found it besides the question."""
    score = f", score {scored(span.score)}" if span.score is not None else ""
    by = f", {found_by(span)}" if span.sought else ""
    return f"{unit} {span.start:,} to {span.end:,}, level {span.level}{score}{by}"


def found_by(span: Span) -> str:
    """Say what a later round of search searched for, or what of the answer this is cited for."""
    why = "found by" if span.round > 1 else "for"
    return f"{why} \u201c{one_line(span.sought)}\u201d"


def told(one: Ranked) -> str:
    """The same of a passage, with its section and page where the text has any."""
    page = one.picture.page(one.span)
    parts = (in_section(one.span), f"page {page:,}" if page else "", place(one.span))
    return ", ".join(part for part in parts if part)


def in_section(span: Span) -> str:
    """The deepest section that a passage stands in, on one line; "" where there is none.

    A number alone says what it numbers: "section 4".
    """
    title = one_line(span.section.rpartition(" > ")[2])
    return f"section {title}" if title.isdigit() else title
