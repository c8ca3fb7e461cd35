"""What a search selected of which documents -> pictures of it: plain values, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sharedllm.display.picture import MOST_TREES, Picture, Pictures, Span, Tree, around, joined
from sharedllm.encoding.document import Document
from sharedllm.search.passages import DIGITS, windows
from sharedllm.search.scorers import Scores
from sharedllm.search.selection import SelectedNode, Selection


def illustrated(
    selection: Selection, documents: Sequence[Document], scores: Sequence[Scores]
) -> Selection:
    """`selection` with pictures of it; `scores` has those of every node, an array a document."""
    chosen: list[list[SelectedNode]] = [[] for _ in documents]
    for node in selection.nodes:
        chosen[node.document].append(node)
    parts = [
        _picture(document, nodes, values)
        for document, nodes, values in zip(documents, chosen, scores, strict=True)
    ]
    return replace(selection, pictures=joined(parts))


def of_leaves(
    documents: Sequence[Document], scores: Sequence[Scores], leaves: Sequence[tuple[int, int]]
) -> Pictures:
    """Pictures of single `leaves`, each as (document, node); neighbours stay apart."""
    parts = []
    for index, (document, values) in enumerate(zip(documents, scores, strict=True)):
        own = sorted(node for of, node in leaves if of == index)
        if own:
            passages = [_span(document, node, values, "fine") for node in own]
            parts.append(_with(document, values, passages, dict.fromkeys(own, "fine"), ()))
    return joined(parts)


def _picture(document: Document, nodes: Sequence[SelectedNode], scores: Scores) -> Picture:
    passages = []
    for window in windows(document, nodes):
        first, last = document.tokens.characters(window.start, window.end)
        passages.append(
            Span(
                start=document.offset + first,
                end=document.offset + last,
                level=window.level,
                score=round(window.score, DIGITS),
                chosen="fine",
            )
        )
    state = {node.node: "fine" if node.fine else "coarse" for node in nodes}
    coarse = tuple(
        _span(document, node, scores, what) for node, what in state.items() if what == "coarse"
    )
    return _with(document, scores, passages, state, coarse)


def _with(
    document: Document,
    scores: Scores,
    passages: Sequence[Span],
    state: dict[int, str],
    coarse: tuple[Span, ...],
) -> Picture:
    return replace(
        document.picture(),
        passages=tuple(passages),
        coarse=coarse,
        trees=_trees(document, scores, state),
        excerpts=around(document.text, document.offset, passages),
    )


def _trees(document: Document, scores: Scores, state: dict[int, str]) -> tuple[Tree, ...]:
    """The trees that hold fine nodes, the best of them, in document order."""
    forest = document.forest
    best: dict[int, float] = {}
    for node, what in state.items():
        if what == "fine":
            tree = int(forest.tree[node])
            best[tree] = max(best.get(tree, float("-inf")), float(scores[node]))
    kept = sorted(sorted(best, key=lambda tree: -best[tree])[:MOST_TREES])
    return tuple(
        Tree(
            chunk=-1 if document.whole else tree,  # of a part, the number is not known
            nodes=tuple(
                _span(document, node, scores, state.get(node, "")) for node in forest.nodes_of(tree)
            ),
        )
        for tree in kept
    )


def _span(document: Document, node: int, scores: Scores, chosen: str) -> Span:
    forest = document.forest
    first, last = document.tokens.characters(int(forest.start[node]), int(forest.end[node]))
    return Span(
        start=document.offset + first,
        end=document.offset + last,
        level=int(forest.level[node]),
        score=float(scores[node]),
        chosen=chosen,
    )
