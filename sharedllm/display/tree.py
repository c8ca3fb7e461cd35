"""Context trees as rows of nodes: a row a level, the root on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sharedllm.display.picture import Ranked, Span, Tree
from sharedllm.display.plain import scored
from sharedllm.display.style import level_class

WRITTEN = 0.07  # of the row: narrower nodes do not say their score
SHADES = (3, 22)  # per cent of the text's colour behind the worst and the best node


def tree(
    given: Tree, passages: Sequence[Ranked] = (), ids: str = "", unit: str = "characters"
) -> str:
    """The nodes of one tree with their scores, the better the darker; selected ones framed.

    Parameters
    ----------
    passages : those that selected nodes link to
    ids : what the ids of this output begin with
    unit : what spans count
    """
    root = given.nodes[0]
    levels = range(max(node.level for node in given.nodes) + 1)
    found = [node.score for node in given.nodes if node.score is not None]
    worst, best = min(found, default=0.0), max(found, default=0.0)
    links = {id(n): one.rank for n in given.nodes for one in passages if _within(n, one.span)}
    rows = []
    for level in levels:
        cells = [
            _cell(node, root, _shade(node, worst, best), links, ids, unit)
            for node in given.nodes
            if node.level == level
        ]
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    number = f" {given.chunk + 1}" if given.chunk >= 0 else ""
    return (
        f'<figure class="tree"><figcaption class="dim">Chunk{number}: {unit} '
        f"{root.start:,} to {root.end:,}</figcaption>{''.join(rows)}</figure>"
    )


def _within(node: Span, passage: Span) -> bool:
    return node.chosen == "fine" and passage.start <= node.start and node.end <= passage.end


def _shade(node: Span, worst: float, best: float) -> float:
    if node.score is None or best <= worst:
        return SHADES[0]
    return SHADES[0] + (SHADES[1] - SHADES[0]) * (node.score - worst) / (best - worst)


def _brief(score: float) -> str:
    """A score in few characters: cells of the lowest row are narrow."""
    size = abs(score)
    return f"{score:.2f}" if size < 10 else f"{score:.1f}" if size < 1000 else f"{score:.2g}"


def _cell(
    node: Span, root: Span, shade: float, links: Mapping[int, int], ids: str, unit: str
) -> str:
    length = max(root.end - root.start, 1)
    share = (node.end - node.start) / length
    shown = f"{node.end - node.start:,}" if node.score is None else _brief(node.score)
    score = f", score {scored(node.score)}" if node.score is not None else ""
    words = f"level {node.level}, {unit} {node.start:,} to {node.end:,}{score}"
    style = f"left:{100 * (node.start - root.start) / length:.2f}%;width:{100 * share:.2f}%"
    if node.chosen != "fine":
        style += f";background:color-mix(in srgb, currentColor {shade:.0f}%, transparent)"
    state = f"{node.chosen} {level_class(node.level)}" if node.chosen else ""
    text = shown if share >= WRITTEN else ""
    inside = f'class="node {state}" style="{style}" title="{words}">{text}'
    rank = links.get(id(node))
    if rank is None:
        return f"<span {inside}</span>"
    return f'<a href="#{ids}e{rank}" aria-label="Passage {rank}: {words}" {inside}</a>'
