"""Plain values to be drawn: documents with what was selected of them, trees, an answer.

Notebook, page, terminal and figure draw from these and need no tensor and no model, so that the
command line starts without torch. :mod:`sharedllm.display.views` makes them.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sharedllm.text.pages import page_of

NEAR = 280  # characters around a passage that are shown at once
FAR = 2500  # characters around a passage that a reader may open
MOST_TREES = 12  # the best ones are kept
# a colour a level: Okabe and Ito's, which stand out from white and from black, and which people
# who see colours differently tell apart
LEVELS = ("#0072B2", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#E69F00")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Characters [start, end) of a document's text, as a node or joined nodes cover them.

    Attributes
    ----------
    start, end : int
        Counted in characters; in tokens where a forest is drawn without its text.
    level : int
        Tree level; 0 is a root.
    score : float or None
        The scorer's; None where nothing was asked.
    page : int or None
        The page on which the sentence that matches the question begins; None: not known.
    chosen : str
        "fine" (selected for its score), "coarse" (brought along as the rest) or "".
    match_start, match_end : int or None
        Characters of the sentence within that matches the question best; None: there is none.
    sought : str
        What a later round of search searched for, where it found this; of a reading of the whole,
        what of the answer this is cited for.
    round : int
        The round of search that found it.
    section : str
        The titles of the sections around it, with " > " between them; "" without an outline.
    """

    start: int
    end: int
    level: int
    score: float | None = None
    chosen: str = ""
    page: int | None = None
    match_start: int | None = None
    match_end: int | None = None
    sought: str = ""
    round: int = 1
    section: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """One context tree: the index of its chunk (-1: not known), and its nodes, depth first."""

    chunk: int
    nodes: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Excerpt:
    """A piece of a document's text that starts at its character `start`."""

    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One document, what was selected of it, and its text around that.

    Attributes
    ----------
    document, title, source : str
        The document's id and names.
    characters : int
        Length of the whole text.
    chunks, pages : tuple of int
        The characters at which chunks and pages start; there may be no pages.
    passages : tuple of Span
        What was selected for its score, in document order.
    coarse : tuple of Span
        The rest that was brought along.
    trees : tuple of Tree
        Scores of all nodes of the chunks that hold passages, of at most 12 chunks.
    excerpts : tuple of Excerpt
        Text around the passages; disjoint, in document order.
    link : str
        The address of the document's file, for a page that shows the picture; "" is nowhere.
    """

    document: str
    title: str
    source: str
    characters: int
    chunks: tuple[int, ...] = ()
    pages: tuple[int, ...] = ()
    passages: tuple[Span, ...] = ()
    coarse: tuple[Span, ...] = ()
    trees: tuple[Tree, ...] = ()
    excerpts: tuple[Excerpt, ...] = ()
    link: str = ""

    @property
    def name(self) -> str:
        return self.title or self.source

    def text(self, start: int, end: int) -> str:
        """The characters [`start`, `end`), as far as an excerpt holds them."""
        at = bisect.bisect_right([e.start for e in self.excerpts], start) - 1
        if at < 0:
            return ""
        held = self.excerpts[at]
        return held.text[start - held.start : max(0, end - held.start)]

    def page(self, span: Span) -> int | None:
        """The page that `span` names, else that on which it begins; None without pages."""
        return span.page or page_of(self.pages, span.start, self.text(span.start, span.end))


Pictures = tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One question with its answer.

    Attributes
    ----------
    question, text : str
    pictures : tuple of Picture
        Its evidence.
    summary : str
        What it took, in plain lines.
    unsupported : tuple of (int, int)
        Characters of the text that name what no passage holds.
    away : tuple of str
        Parts of memories that could not be searched, each with the reason.
    """

    question: str
    text: str
    pictures: Pictures
    summary: str
    unsupported: tuple[tuple[int, int], ...] = ()
    away: tuple[str, ...] = ()

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The text in pieces; True for those that name what no passage holds."""
        out, at = [], 0
        for start, end in self.unsupported:
            out += [(self.text[at:start], False), (self.text[start:end], True)]
            at = end
        return [piece for piece in (*out, (self.text[at:], False)) if piece[0]]

    @property
    def warning(self) -> str:
        """One line that names what no passage holds, and what was not searched, if anything."""
        named = dict.fromkeys(self.text[start:end] for start, end in self.unsupported)
        lines = [f"Not searched: {one}" for one in self.away]
        if named:
            lines.append(f"In none of the passages: {', '.join(named)}")
        return ". ".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """A passage with its rank among all pictures; 1 is the best score."""

    rank: int
    picture: Picture
    span: Span


def ranked(pictures: Iterable[Picture]) -> list[Ranked]:
    """The passages of all `pictures`, best score first; equal scores keep their order.

    An answer's citations stand in the same order.
    """
    found = [(picture, span) for picture in pictures for span in picture.passages]
    found.sort(key=lambda one: -(one[1].score or 0.0))
    return [Ranked(rank=n, picture=p, span=s) for n, (p, s) in enumerate(found, start=1)]


def colour(level: int) -> str:
    """The colour of a tree level; levels beyond the sixth share the last."""
    return LEVELS[min(level, len(LEVELS) - 1)]


def levels(pictures: Iterable[Picture]) -> tuple[list[int], list[int]]:
    """The levels of passages, and those of the coarse level, for a legend."""
    fine, coarse = set(), set()
    for picture in pictures:
        fine |= {span.level for span in picture.passages}
        coarse |= {span.level for span in picture.coarse}
    return sorted(fine), sorted(coarse)


def middle(span: Span, characters: int) -> float:
    """The place of `span`'s middle, as a share of the text."""
    return (span.start + span.end) / 2 / max(characters, 1)


def lanes(places: Sequence[float], apart: float, most: int) -> list[int | None]:
    """For each place in [0, 1] a lane in which no other is closer than `apart`.

    Places count in the order that they are given in; None where all `most` lanes are taken.
    """
    taken: list[list[float]] = [[] for _ in range(most)]
    out: list[int | None] = []
    for place in places:
        free = (n for n, t in enumerate(taken) if all(abs(place - other) >= apart for other in t))
        lane = next(free, None)
        if lane is not None:
            taken[lane].append(place)
        out.append(lane)
    return out


def around(text: str, offset: int, spans: Iterable[Span]) -> tuple[Excerpt, ...]:
    """Cut the surroundings of `spans` out of `text`, whose first character is number `offset`."""
    held: list[list[int]] = []
    for span in sorted(spans, key=lambda s: s.start):
        first = max(0, span.start - offset - FAR)
        last = min(len(text), span.end - offset + FAR)
        if held and first <= held[-1][1]:
            held[-1][1] = max(held[-1][1], last)
        else:
            held.append([first, last])
    return tuple(Excerpt(start=offset + a, text=text[a:b]) for a, b in held)


def joined(parts: Sequence[Picture]) -> Pictures:
    """One picture a document: parts of a long one, which a memory finds apart, become one."""
    out: dict[object, Picture] = {}
    for part in parts:
        name = (part.document, part.title, part.source, part.characters)
        out[name] = _both(out[name], part) if name in out else part
    best = sorted(
        (tree for picture in out.values() for tree in picture.trees), key=_best, reverse=True
    )[:MOST_TREES]
    kept = set(map(id, best))
    return tuple(replace(p, trees=tuple(t for t in p.trees if id(t) in kept)) for p in out.values())


def _best(tree: Tree) -> float:
    return max((node.score or 0.0 for node in tree.nodes), default=0.0)


def _both(one: Picture, other: Picture) -> Picture:
    return replace(
        one,
        chunks=tuple(sorted({*one.chunks, *other.chunks})),
        passages=tuple(sorted((*one.passages, *other.passages), key=_start)),
        coarse=tuple(sorted((*one.coarse, *other.coarse), key=_start)),
        trees=tuple(sorted((*one.trees, *other.trees), key=lambda tree: tree.nodes[0].start)),
        excerpts=_merged((*one.excerpts, *other.excerpts)),
    )


def _merged(excerpts: Iterable[Excerpt]) -> tuple[Excerpt, ...]:
    """Excerpts of one text that touch or overlap become one."""
    out: list[Excerpt] = []
    for excerpt in sorted(excerpts, key=lambda e: e.start):
        if out and excerpt.start <= out[-1].end:
            rest = excerpt.text[out[-1].end - excerpt.start :]
            out[-1] = Excerpt(start=out[-1].start, text=out[-1].text + rest)
        else:
            out.append(excerpt)
    return tuple(out)


def _start(span: Span) -> int:
    return span.start
