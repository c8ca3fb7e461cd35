"""A document as a strip on which what was selected is lit, each passage linked to its text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sharedllm.display.links import linked
from sharedllm.display.picture import Picture, Ranked, Span
from sharedllm.display.plain import counted, escaped, scored
from sharedllm.display.style import level_class

APART = 0.06  # of the strip's length: numbers closer than that stand in different lanes
LANE = 1.4  # em: its height
LANES = 4  # of numbers above the strip; what does not fit goes without
MOST_TICKS = 60  # more chunks than that would be a grey area
EMPTY_STRIPS = 3  # documents of which nothing was selected are drawn up to that number


def strips(pictures: Sequence[Picture], passages: Sequence[Ranked], ids: str) -> str:
    """A strip for each picture; many documents of which nothing was selected are only counted.

    Parameters
    ----------
    passages : all that are lit, with their ranks
    ids : what the ids of this output begin with
    """
    lit = [p for p in pictures if p.passages or p.coarse]
    rest = [p for p in pictures if not (p.passages or p.coarse)]
    shown = pictures if len(rest) <= EMPTY_STRIPS else lit
    out = [strip(picture, passages, ids) for picture in shown]
    if len(shown) < len(pictures):
        out.append(f'<p class="dim">Nothing was selected of {counted(len(rest), "more text")}.</p>')
    return "".join(out) + legend(pictures)


def strip(picture: Picture, passages: Sequence[Ranked] = (), ids: str = "") -> str:
    """One document's strip."""
    own = [one for one in passages if one.picture is picture]
    ticks = picture.chunks if len(picture.chunks) <= MOST_TICKS else ()
    marks = [f'<i class="chunk" style="left:{_share(at, picture)}"></i>' for at in ticks[1:]]
    marks += [
        f'<i class="coarse {level_class(span.level)}" style="{_place(span, picture)}"></i>'
        for span in picture.coarse
    ]
    marks += [_mark(one, ids) for one in own]
    first, last = "0", f"{picture.characters:,} characters"
    if picture.pages:
        first, last = "page 1", f"page {len(picture.pages):,}, {last}"
    return (
        f"<figure>{caption(picture)}{_numbers(own, picture, ids)}"
        f'<div class="bar">{"".join(marks)}</div>'
        f'<div class="axis dim"><span>{first}</span><span>{last}</span></div>'
        "</figure>"
    )


def caption(picture: Picture) -> str:
    """A document's names and length."""
    chunks = f", {counted(len(picture.chunks), 'chunk')}" if picture.chunks else ""
    source = f"{linked(picture, picture.source)}, " if picture.source else ""
    return (
        f"<figcaption><b><bdi>{escaped(picture.title or picture.source)}</bdi></b> "
        f'<span class="dim">{source}{picture.characters:,} characters{chunks}</span></figcaption>'
    )


def legend(pictures: Iterable[Picture]) -> str:
    """What the colours mean, of the levels that are there."""
    fine = sorted({span.level for p in pictures for span in p.passages})
    coarse = sorted({span.level for p in pictures for span in p.coarse})
    keys = [f'<i class="key {level_class(n)}"></i>level {n}' for n in fine]
    keys += [f'<i class="key coarse {level_class(n)}"></i>level {n}, coarse' for n in coarse]
    return f'<p class="dim">Selected nodes:{"".join(keys)}</p>' if keys else ""


def lanes(places: Sequence[float], apart: float = APART, most: int = LANES) -> list[int | None]:
    """For each place in [0, 1] a lane in which no other is closer than `apart`.

    Places count in the order that they are given in; None where all lanes are taken.
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


def middle(span: Span, characters: int) -> float:
    """Where the middle of `span` lies, as a share of the text."""
    return (span.start + span.end) / 2 / max(characters, 1)


def told(one: Ranked) -> str:
    """A passage in words: where it lies, its level and its score."""
    page = one.picture.page(one.span)
    return f"page {page:,}, {placed(one)}" if page else placed(one)


def placed(one: Ranked) -> str:
    """The same without its page."""
    span = one.span
    score = f", score {scored(span.score)}" if span.score is not None else ""
    return f"characters {span.start:,} to {span.end:,}, level {span.level}{score}"


def _mark(one: Ranked, ids: str) -> str:
    words = f"Passage {one.rank}: {told(one)}"
    return (
        f'<a class="fine {level_class(one.span.level)}" id="{ids}s{one.rank}" '
        f'href="#{ids}e{one.rank}" style="{_place(one.span, one.picture)}" '
        f'title="{words}" aria-label="{words}"></a>'
    )


def _numbers(own: Sequence[Ranked], picture: Picture, ids: str) -> str:
    """The ranks above the strip; the strip itself is what the keyboard reaches."""
    places = [min(max(middle(one.span, picture.characters), 0.02), 0.98) for one in own]
    found = [(o, p, n) for o, p, n in zip(own, places, lanes(places), strict=True) if n is not None]
    if not found:
        return ""
    top = max(lane for _, _, lane in found)
    labels = [
        f'<a class="{level_class(one.span.level)}" href="#{ids}e{one.rank}" tabindex="-1" '
        f'aria-hidden="true" style="left:{100 * place:.2f}%;top:{LANE * (top - lane):.1f}em">'
        f"{one.rank}</a>"
        for one, place, lane in found
    ]
    return f'<div class="lanes" style="height:{LANE * (top + 1):.1f}em">{"".join(labels)}</div>'


def _share(characters: int, picture: Picture) -> str:
    return f"{min(100.0, 100 * characters / max(picture.characters, 1)):.3f}%"


def _place(span: Span, picture: Picture) -> str:
    left, width = _share(span.start, picture), _share(span.end - span.start, picture)
    return f"left:min({left},100% - 4px);width:{width}"
