"""Pictures -> HTML: one template, in the frame of a notebook's cell or of a page of its own.

The templates (``templates/``) say what stands where; this file says where things lie, how much of
a text is open, and in which words. Everything that a document, a question or an answer brings is
text: the templates escape every value.
"""

from __future__ import annotations

import bisect
import functools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sharedllm.display.picture import (
    LEVELS,
    NEAR,
    Answered,
    Excerpt,
    Picture,
    Ranked,
    Span,
    Tree,
    lanes,
    levels,
    middle,
    ranked,
)
from sharedllm.display.plain import (
    begins,
    counted,
    flowing,
    in_section,
    one_line,
    place,
    printable,
    told,
)
from sharedllm.text.pages import BREAK

APART = 0.06  # of the strip's length: numbers closer than that stand in different lanes
LANE = 1.4  # em: its height
LANES = 4  # of numbers above the strip; what does not fit goes without
MOST_TICKS = 60  # more chunks than that would be a grey area
EMPTY_STRIPS = 3  # documents of which nothing was selected are drawn up to that number
WRITTEN = 0.07  # of a tree's row: narrower nodes do not say their score
SHADES = (3, 22)  # per cent of the text's colour behind the worst and the best node


def answer(one: Answered) -> str:
    """A cell with an answer, its citations, where they lie, and the evidence in its text."""
    return _cell("answer", one, _fresh())


def results(pictures: Sequence[Picture]) -> str:
    """A cell with what a search found: citations, strips, passages in their text, the trees."""
    return _cell("results", pictures, _fresh(), True)


def document(picture: Picture, trees: Sequence[Tree], count: int) -> str:
    """A cell with a document: names, chunks, how it begins, the first `trees` of `count`."""
    return _cell("document", picture, trees, count)


def forest(trees: Sequence[Tree], count: int) -> str:
    """A cell with the first `trees` of `count`, their nodes with their length in tokens."""
    return _cell("forest", trees, count)


def page(answers: Sequence[Answered]) -> str:
    """A page that needs nothing else: no network, no script, light and dark."""
    title = one_line(answers[0].question) if answers else "sharedllm"
    return _environment().get_template("page.html").render(answers=answers, title=title)


def _cell(what: str, *given: Any) -> str:
    shown = getattr(_environment().get_template("shown.html").module, what)
    return _environment().get_template("cell.html").render(body=shown(*given))


def _fresh() -> str:
    """A beginning for the ids of one cell: a notebook shows many on one page."""
    return f"sllm{secrets.token_hex(4)}-"


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("sharedllm.display"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_without_control,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["colours"] = LEVELS
    made.filters |= {
        "thousands": "{:,}".format,
        "counted": counted,
        "one_line": one_line,
        "ranked": ranked,
        "of": _of,
        "begins": begins,
        "address": _address,
        "place": place,
        "told": told,
        "in_section": in_section,
        "levels": levels,
        "tint": _tint,
        "drawn": _drawn,
        "numbers": _numbers,
        "ticks": _ticks,
        "share": _share,
        "lies": _lies,
        "pieces": _pieces,
        "rows": _rows,
    }
    return made


def _without_control(value: object) -> object:
    """A template's value as it is shown; what a macro made is complete."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _address(picture: Picture, page: int | None) -> str:
    """The address of a document's file, and of its `page` where it is a PDF."""
    is_pdf = picture.link.partition("?")[0].lower().endswith(".pdf")
    return f"{picture.link}#page={page}" if page and is_pdf else picture.link


def _tint(level: int) -> str:
    """The style sheet's class of a tree level."""
    return f"l{min(level, len(LEVELS) - 1)}"


# -- strips ---------------------------------------------------------------------------------------


def _of(passages: Sequence[Ranked], picture: Picture) -> list[Ranked]:
    return [one for one in passages if one.picture is picture]


def _drawn(pictures: Sequence[Picture]) -> tuple[Sequence[Picture], int]:
    """Pictures that get a strip, and how many get none because nothing of them was selected."""
    lit = [p for p in pictures if p.passages or p.coarse]
    empty = len(pictures) - len(lit)
    return (pictures, 0) if empty <= EMPTY_STRIPS else (lit, empty)


@dataclass(frozen=True, slots=True)
class _Number:
    """A rank above a strip: where it stands there, as lengths of CSS."""

    one: Ranked
    left: str
    top: str


def _numbers(own: Sequence[Ranked]) -> tuple[list[_Number], str]:
    """The ranks above one document's strip, and the height that they take."""
    places = [min(max(middle(one.span, one.picture.characters), 0.02), 0.98) for one in own]
    found = [
        (one, place, lane)
        for one, place, lane in zip(own, places, lanes(places, APART, LANES), strict=True)
        if lane is not None
    ]
    top = max((lane for _, _, lane in found), default=0)
    numbers = [
        _Number(one, f"{100 * place:.2f}%", f"{LANE * (top - lane):.1f}em")
        for one, place, lane in found
    ]
    return numbers, f"{LANE * (top + 1):.1f}em"


def _ticks(picture: Picture) -> Sequence[int]:
    return picture.chunks[1:] if len(picture.chunks) <= MOST_TICKS else ()


def _share(characters: int, picture: Picture) -> str:
    return f"{min(100.0, 100 * characters / max(picture.characters, 1)):.3f}%"


def _lies(span: Span, picture: Picture) -> str:
    left, width = _share(span.start, picture), _share(span.end - span.start, picture)
    return f"left:min({left},100% - 4px);width:{width}"


# -- the evidence in its text ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Match:
    """Text of the sentence that matches the question best."""

    text: str


_Part = str | int | _Match


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """A piece of a document's text: a passage, text around one, or how much is left out.

    Attributes
    ----------
    parts : text, that of the matching sentence apart, and a page's number where it begins
    one : the passage that it is
    lead : white space before it, so that its number stands at its first word
    summary : what opens it, where it is closed at first
    left_out : characters that are not there
    """

    parts: tuple[_Part, ...] = ()
    one: Ranked | None = None
    lead: str = ""
    summary: str = ""
    left_out: int = 0


def _pieces(picture: Picture, passages: Sequence[Ranked]) -> Iterator[_Piece]:
    """The passages of one document in document order, with the text around them.

    At most about 2,500 characters on either side of a passage are there, most of them closed.
    """
    text = _Readable(picture)
    own = sorted(_of(passages, picture), key=lambda one: one.span.start)
    at = 0
    for one in own:
        start = max(at, one.span.start)  # passages of a search may overlap
        yield from text.gap(at, start, after=one is not own[0], before=True)
        yield text.passage(one, start)
        at = max(at, one.span.end)
    yield from text.gap(at, picture.characters, after=bool(own), before=False)


class _Readable:
    """The excerpts of one picture, their paragraphs flowing: as long as they were."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._excerpts = [Excerpt(start=e.start, text=flowing(e.text)) for e in picture.excerpts]

    def text(self, start: int, end: int) -> str:
        """As much of the characters [`start`, `end`) as an excerpt holds."""
        return "".join(
            e.text[max(0, start - e.start) : max(0, end - e.start)]
            for e in self._excerpts
            if e.start < end and start < e.end
        )

    def parts(self, start: int, end: int) -> tuple[str | int, ...]:
        """The same, with a page's number where it begins."""
        first, *others = self.text(start, end).split(BREAK)
        out: list[str | int] = [first]
        at = end - sum(1 + len(part) for part in others)
        for part in others:
            out += [bisect.bisect_right(self._picture.pages, at + 1), part]
            at += 1 + len(part)
        return tuple(out)

    def passage(self, one: Ranked, start: int) -> _Piece:
        """The passage `one` from its character `start` on."""
        span = one.span
        bold = span.match_start, span.match_end
        first, last = (span.end if at is None else max(start, at) for at in bold)
        text = self.text(start, first)
        lead = text[: len(text) - len(text.lstrip())]
        match = (_Match(p) if isinstance(p, str) else p for p in self.parts(first, last) if p)
        before = self.parts(start + len(lead), first)
        return _Piece(one=one, lead=lead, parts=(*before, *match, *self.parts(last, span.end)))

    def gap(self, start: int, end: int, *, after: bool, before: bool) -> Iterator[_Piece]:
        """The text between two passages, or beyond the last: near ones is open.

        Parameters
        ----------
        after, before : a passage ends at `start`; one begins at `end`
        """
        length = end - start
        if length <= 0:
            return
        if length <= NEAR * (after + before):
            yield _Piece(parts=self.parts(start, end))
            return
        near_after = self._word(start + NEAR) if after else start
        near_before = max(near_after, self._word(end - NEAR) if before else end)
        if after:
            yield _Piece(parts=self.parts(start, near_after))
        yield from self._closed(near_after, near_before, after=after, before=before)
        if before:
            yield _Piece(parts=self.parts(near_before, end))

    def _closed(self, start: int, end: int, *, after: bool, before: bool) -> Iterator[_Piece]:
        """Text that a reader may open, and how much is not there between."""
        at = start
        for excerpt in self._excerpts:
            first, last = max(excerpt.start, start), min(excerpt.end, end)
            if first >= last:
                continue
            if at < first:
                yield _Piece(left_out=first - at)
            if (first, last) == (start, end) and after and before:
                what = "the text between"
            else:
                what = f"more of what {'follows' if after and first == start else 'comes before'}"
            if self.text(first, last).strip():
                summary = f"Show {what} ({last - first:,} characters)"
                yield _Piece(summary=summary, parts=self.parts(first, last))
            at = last
        if at < end:
            yield _Piece(left_out=end - at)

    def _word(self, at: int) -> int:
        """The place between two words at or a little after the character `at`."""
        return at + max(0, self.text(at, at + 20).find(" ") + 1)


# -- context trees --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    """One node of a drawn tree; `rank` is that of the passage it belongs to, 0 without one."""

    node: Span
    rank: int
    style: str
    shown: str


def _rows(given: Tree, own: Sequence[Ranked]) -> list[list[_Cell]]:
    """The nodes of one tree, a row a level; selected ones link to their passages among `own`."""
    root = given.nodes[0]
    scores = [node.score for node in given.nodes if node.score is not None]
    rows: list[list[_Cell]] = [[] for _ in range(max(node.level for node in given.nodes) + 1)]
    for node in given.nodes:
        rank = max((one.rank for one in own if _within(node, one.span)), default=0)
        rows[node.level].append(_node(node, root, _shade(node, scores), rank))
    return rows


def _within(node: Span, passage: Span) -> bool:
    return node.chosen == "fine" and passage.start <= node.start and node.end <= passage.end


def _shade(node: Span, scores: Sequence[float]) -> float:
    worst, best = min(scores, default=0.0), max(scores, default=0.0)
    if node.score is None or best <= worst:
        return SHADES[0]
    return SHADES[0] + (SHADES[1] - SHADES[0]) * (node.score - worst) / (best - worst)


def _node(node: Span, root: Span, shade: float, rank: int) -> _Cell:
    length = max(root.end - root.start, 1)
    share = (node.end - node.start) / length
    style = f"left:{100 * (node.start - root.start) / length:.2f}%;width:{100 * share:.2f}%"
    if node.chosen != "fine":
        style += f";background:color-mix(in srgb, currentColor {shade:.0f}%, transparent)"
    shown = f"{node.end - node.start:,}" if node.score is None else _brief(node.score)
    return _Cell(node=node, rank=rank, style=style, shown=shown if share >= WRITTEN else "")


def _brief(score: float) -> str:
    """A score in few characters: cells of the lowest row are narrow."""
    size = abs(score)
    return f"{score:.2f}" if size < 10 else f"{score:.1f}" if size < 1000 else f"{score:.2g}"
