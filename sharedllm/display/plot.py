"""Answers and memories as figures. This file alone imports matplotlib.

Raises
------
MissingExtraError
    On import, if matplotlib is not installed (extra "plot").
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

from sharedllm.display.picture import (
    Picture,
    Ranked,
    Span,
    colour,
    lanes,
    levels,
    middle,
    ranked,
)
from sharedllm.display.plain import counted, one_line, scored
from sharedllm.errors import MissingExtraError

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.ticker import EngFormatter, MaxNLocator
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "plot") from error

WIDTH = 9.0  # inches
LEAST = 0.004  # of the strip's length: a passage is at least that wide
APART = 0.035  # of its length: numbers closer than that stand one above the other
NUMBERS = 3  # lanes of numbers above a strip
STEP = 0.55  # of its height: from lane to lane
MOST_STRIPS = 8
MOST_BARS = 12
MOST_DOCUMENTS = 20
NAME = 44  # characters of a title
GREY = "#8a8f98"


class Measured(Protocol):
    """A document of a memory with its size; memories stand above this folder."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def chunks(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class Drawing(Figure):
    """A figure that a notebook shows as it is, whether or not pyplot was ever imported."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=110)
        return out.getvalue()


def answer(pictures: Sequence[Picture], text: str) -> Drawing:
    """A figure of where an answer's passages lie in their documents, and of their scores.

    Parameters
    ----------
    text : the answer, for the title
    """
    lit = [p for p in pictures if p.passages or p.coarse]
    shown = sorted(lit, key=_best, reverse=True)[:MOST_STRIPS] or list(pictures[:MOST_STRIPS])
    passages = ranked(pictures)
    bars = passages[:MOST_BARS]
    heights = [1.3 * max(len(shown), 1), 0.3 * max(len(bars), 1) + 0.75]
    figure = Drawing(figsize=(WIDTH, sum(heights) + 0.6), layout="constrained")
    figure.suptitle(_short(text, 90), x=0.01, ha="left", fontsize=11, fontweight="bold")
    halves = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)
    above, below = halves[:, 0]
    axes = above.subplots(max(len(shown), 1), 1, squeeze=False)[:, 0]
    for place, picture in zip(axes, shown, strict=False):
        _strip(place, picture, [one for one in passages if one.picture is picture])
    if not shown:
        axes[0].set_axis_off()
        axes[0].text(0, 0.5, "No document was searched.", color=GREY)
    others = f"; {counted(len(lit) - MOST_STRIPS, 'more document')} not drawn"
    unit = "characters" + others * (len(lit) > MOST_STRIPS)
    axes[-1].set_xlabel(unit, fontsize=8, loc="right", labelpad=1)
    bottom = below.subplots()
    _scores(bottom, bars, len(passages), several=len(shown) > 1)
    _legend(bottom, shown)
    return figure


def memory(documents: Sequence[Measured]) -> Drawing:
    """The documents of a memory by length, the longest on top."""
    longest = sorted(documents, key=lambda d: -d.tokens)
    shown, rest = longest[:MOST_DOCUMENTS], longest[MOST_DOCUMENTS:]
    names = [_short(d.title or d.source or d.id, NAME) for d in shown]
    tokens = [d.tokens for d in shown]
    if rest:
        names.append(f"the other {counted(len(rest), 'document')}")
        tokens.append(sum(d.tokens for d in rest))
    figure = Drawing(figsize=(WIDTH, 0.3 * max(len(names), 1) + 1.3), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(names)), tokens, color=[colour(0)] * len(shown) + [GREY] * bool(rest))
    for row, count in enumerate(tokens):
        axes.text(count, row, f" {count:,}", va="center", fontsize=8)
    _rows(axes, names)
    axes.set_xlim(0, 1.12 * max(tokens, default=1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("tokens", fontsize=9)
    whole = (
        f"{counted(len(documents), 'document')}, {sum(d.tokens for d in documents):,} tokens, "
        f"{sum(d.chunks for d in documents):,} chunks, "
        f"{sum(d.bytes for d in documents) / 1e6:,.1f} MB on disk"
    )
    axes.set_title(whole, loc="left", fontsize=11, fontweight="bold")
    return figure


def _best(picture: Picture) -> float:
    return max((span.score or 0.0 for span in picture.passages), default=float("-inf"))


def _strip(axes: Axes, picture: Picture, own: Sequence[Ranked]) -> None:
    """One document from its first to its last character."""
    length = max(picture.characters, 1)
    axes.add_patch(Rectangle((0, 0), length, 1, color="#e9ebee", linewidth=0))
    for start in picture.chunks[1:]:
        axes.plot([start, start], [0, 0.12], color=GREY, linewidth=0.4)
    for span in picture.coarse:
        axes.add_patch(_lit(span, length, 0.35, 0.6))
    for one in own:
        axes.add_patch(_lit(one.span, length, 1.0, 1.0))
    places = [middle(one.span, length) for one in own]
    for one, place, lane in zip(own, places, lanes(places, APART, NUMBERS), strict=True):
        if lane is not None:
            axes.text(
                place * length,
                1.08 + STEP * lane,
                str(one.rank),
                ha="center",
                va="bottom",
                fontsize=8,
            )
    axes.set_xlim(0, length)
    axes.set_ylim(0, 1.1 + STEP * NUMBERS)
    axes.set_yticks([])
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(8))
    names = f"{_short(picture.name, 70)}, {length:,} characters"
    axes.set_title(names, loc="left", fontsize=9, pad=2)


def _lit(span: Span, length: int, height: float, alpha: float) -> Rectangle:
    width = max(span.end - span.start, LEAST * length)
    left = min(span.start, length - width)
    return Rectangle((left, 0), width, height, color=colour(span.level), alpha=alpha, linewidth=0)


def _scores(axes: Axes, bars: Sequence[Ranked], count: int, *, several: bool) -> None:
    """The passages' scores, best on top, under the numbers they have on the strips."""
    if not bars:
        axes.set_axis_off()
        axes.text(0, 0.5, "Nothing was selected.", color=GREY)
        return
    scores = [one.span.score or 0.0 for one in bars]
    axes.barh(range(len(bars)), scores, color=[colour(one.span.level) for one in bars])
    for row, score in enumerate(scores):
        axes.annotate(
            scored(score),
            (max(score, 0.0), row),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    names = [f"{one.rank}   {_where(one, several)}" for one in bars]
    _rows(axes, names)
    low, high = min(0.0, *scores), max(0.0, *scores)
    axes.set_xlim(1.1 * low, high + 0.1 * ((high - low) or 1.0))
    axes.set_xlabel("score", fontsize=9)
    which = f": the best {len(bars)} of {count}" if count > len(bars) else ""
    axes.set_title(f"Passages{which}", loc="left", fontsize=9)


def _where(one: Ranked, several: bool) -> str:
    place = f"{one.span.start:,} to {one.span.end:,}"
    return f"{_short(one.picture.name, 28)}, {place}" if several else place


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes, pictures: Sequence[Picture]) -> None:
    fine, coarse = levels(pictures)
    keys = [Patch(color=colour(n), label=f"level {n}") for n in fine]
    keys += [Patch(color=colour(n), alpha=0.6, label=f"level {n}, coarse") for n in coarse]
    if keys:
        axes.legend(
            handles=keys,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=len(keys),
            fontsize=8,
            frameon=False,
            borderaxespad=0.2,
            handlelength=1,
            handleheight=0.8,
        )


def _short(text: str, most: int) -> str:
    """`text` on one line of at most `most` characters; no dollar is mathematics."""
    line = one_line(text)
    cut = line if len(line) <= most else line[: most - 1].rstrip() + "…"
    return cut.replace("$", r"\$")
