"""Passages in their document's text: some of it around them, more of it to be opened."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from sharedllm.display.links import linked
from sharedllm.display.picture import NEAR, Excerpt, Picture, Ranked
from sharedllm.display.plain import escaped, flowing, one_line
from sharedllm.display.strip import placed, told
from sharedllm.display.style import level_class
from sharedllm.text.pages import BREAK

BEGINS = 200  # characters of a passage in the list of citations
CUT_OFF = " .,:;!?)]\u201d\u2019"  # what a passage that begins between two words may begin with


def citations(passages: Sequence[Ranked], ids: str) -> str:
    """The passages as a list, best first, each a link to its place in the text."""
    rows = [
        f'<li class="{level_class(one.span.level)}"><a class="number" href="#{ids}e{one.rank}" '
        f'aria-label="Passage {one.rank}">{one.rank}</a>'
        f"<bdi>{escaped(one.picture.title or one.picture.source)}</bdi> "
        f'<span class="dim">{_place(one)}</span>'
        f'<span class="begins dim"><bdi>{escaped(begins(one))}</bdi></span></li>'
        for one in passages
    ]
    return f'<ol class="cites">{"".join(rows)}</ol>' if rows else ""


def _place(one: Ranked) -> str:
    """Where a passage lies; its page is a link where the file is known."""
    page = one.picture.page(one.span)
    return f"{linked(one.picture, f'page {page:,}', page)}, {placed(one)}" if page else told(one)


def begins(one: Ranked) -> str:
    """How a passage begins, on one line."""
    span = one.span
    return beginning(
        one.picture.text(span.start, min(span.end, span.start + 2 * BEGINS)), span.start
    )


def beginning(text: str, start: int) -> str:
    """How `text`, which starts at the character `start` of its document, begins, on one line."""
    return ("\u2026" if start else "") + one_line(text).lstrip(CUT_OFF)[:BEGINS]


def evidence(picture: Picture, passages: Sequence[Ranked], ids: str) -> str:
    """The passages of one document in document order, with the text around them.

    At most about 2,500 characters on either side of a passage are there, most of them closed.
    """
    own = sorted((o for o in passages if o.picture is picture), key=lambda o: o.span.start)
    # as long as the text, so that characters still count
    readable = _Readable(picture)
    out: list[str] = []
    at = 0
    for one in own:
        start = max(at, one.span.start)  # passages of a search may overlap
        out.append(readable.gap(at, start, after=bool(out), before=True))
        out.append(_mark(one, readable.shown(start, one.span.end), ids))
        at = max(at, one.span.end)
    out.append(readable.gap(at, picture.characters, after=bool(out), before=False))
    return f'<div class="text" dir="auto">{"".join(out)}</div>'


def _mark(one: Ranked, shown: str, ids: str) -> str:
    return (
        f'<mark class="{level_class(one.span.level)}" id="{ids}e{one.rank}" title="{told(one)}">'
        f'<a class="number" href="#{ids}s{one.rank}" '
        f'aria-label="Passage {one.rank}: back to the strip">{one.rank}</a>{shown}</mark>'
    )


class _Readable:
    """The excerpts of one picture, their paragraphs flowing."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._excerpts = [Excerpt(start=e.start, text=flowing(e.text)) for e in picture.excerpts]

    def text(self, start: int, end: int) -> str:
        """What is there of the characters [`start`, `end`)."""
        return "".join(
            e.text[max(0, start - e.start) : max(0, end - e.start)]
            for e in self._excerpts
            if e.start < end and start < e.end
        )

    def shown(self, start: int, end: int) -> str:
        """The same as HTML, a line with its number where a page begins."""
        text = self.text(start, end)
        parts = text.split(BREAK)
        out, at = [escaped(parts[0])], end - len(text) + len(parts[0])
        for part in parts[1:]:
            page = bisect.bisect_right(self._picture.pages, at + 1)
            number = linked(self._picture, f"page {page:,}", page)
            out.append(f'<span class="page dim">{number}</span>{escaped(part)}')
            at += 1 + len(part)
        return "".join(out)

    def gap(self, start: int, end: int, *, after: bool, before: bool) -> str:
        """The text between two passages, or beyond the last: what is near them is open.

        Parameters
        ----------
        after, before : whether a passage ends at `start`, and one begins at `end`
        """
        length = end - start
        if length <= 0:
            return ""
        if length <= NEAR * (after + before):
            return self._open(start, end)
        near_after = self._word(start + NEAR) if after else start
        near_before = max(near_after, self._word(end - NEAR) if before else end)
        first = self._open(start, near_after) if after else ""
        last = self._open(near_before, end) if before else ""
        return first + self._closed(near_after, near_before, after, before) + last

    def _closed(self, start: int, end: int, after: bool, before: bool) -> str:
        """What a reader may open, and how much is not there between."""
        held = [(max(e.start, start), min(e.end, end)) for e in self._excerpts]
        held = [(a, b) for a, b in held if a < b]
        out, at = "", start
        for a, b in held:
            out += _left_out(a - at)
            if (a, b) == (start, end) and after and before:
                out += self._details("the text between", a, b)
            else:
                follows = after and a == start
                out += self._details(
                    "more of what " + ("follows", "comes before")[not follows], a, b
                )
            at = b
        return out + _left_out(end - at)

    def _details(self, what: str, start: int, end: int) -> str:
        if not self.text(start, end).strip():
            return ""
        return (
            f"<details><summary>Show {what} ({end - start:,} characters)</summary>"
            f"{self.shown(start, end)}</details>"
        )

    def _open(self, start: int, end: int) -> str:
        return f'<span class="around">{self.shown(start, end)}</span>'

    def _word(self, at: int) -> int:
        """The place between two words at or a little after the character `at`."""
        text = self.text(at, at + 20)
        return at + max(0, text.find(" ") + 1)


def _left_out(characters: int) -> str:
    return f'<p class="left dim">\u2026 {characters:,} characters \u2026</p>' if characters else ""
