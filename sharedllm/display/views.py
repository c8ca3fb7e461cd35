"""Documents, trees and selections -> pictures of them, and how each of these types is shown.

Pictures are made when something is shown, from what the search saw
(:class:`sharedllm.search.selection.Searched`). Importing this file fills the table of
:mod:`sharedllm.displayed` for the values below this folder; answers and hits, above it, are added
where they are defined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from sharedllm.display import console, html
from sharedllm.display.picture import (
    MOST_TREES,
    Excerpt,
    Picture,
    Pictures,
    Span,
    Tree,
    around,
    joined,
)
from sharedllm.displayed import View, view
from sharedllm.search.citations import Passage, cited_passages, join_windows, whole_passage
from sharedllm.search.selection import Searched, Selection
from sharedllm.text.document_text import DocumentText
from sharedllm.text.tree import Forest

BEGINNING = 600  # characters of a document's text that show how it begins
FIRST_TREES = 3  # of a forest are drawn: the others look alike


@view.register
def _(forest: Forest) -> View:
    trees, count = drawn(forest), len(forest.roots)
    return View(partial(html.forest, trees, count), partial(console.Trees, trees, count))


@view.register
def _(document: DocumentText) -> View:
    picture = _picture(document, excerpts=(Excerpt(start=0, text=document.text[:BEGINNING]),))
    trees, count = drawn(document.forest), len(document.forest.roots)
    return View(partial(html.document, picture, trees, count), partial(console.Beginning, picture))


@view.register
def _(selection: Selection) -> View:
    return results(pictures(selection.searched))


def results(found: Pictures) -> View:
    """A view of something that was found: a selection, a memory's hits."""
    return View(partial(html.results, found), partial(console.Results, found))


def drawn(forest: Forest) -> tuple[Tree, ...]:
    """The first trees of a forest, their spans in tokens."""
    start, end, level = forest.start.tolist(), forest.end.tolist(), forest.level.tolist()
    return tuple(
        Tree(
            chunk=tree,
            nodes=tuple(
                Span(start=start[n], end=end[n], level=level[n]) for n in forest.nodes_of(tree)
            ),
        )
        for tree in range(min(FIRST_TREES, len(forest.roots)))
    )


def pictures(found: Sequence[Searched], *, apart: bool = False) -> Pictures:
    """Draw what a search selected, a picture a document.

    Parameters
    ----------
    apart : every node is a whole passage, as a memory's hits are, rather than cut to the
        sentences around its match, as citations are
    """
    return joined([_searched(one, apart) for one in found])


def _searched(one: Searched, apart: bool) -> Picture:
    document = one.document
    found = _apart(one) if apart else _cited(one)
    passages = [_passage(passage) for passage in found]
    state = {node.node: "fine" if node.fine else "coarse" for node in one.nodes}
    return _picture(
        document,
        passages=tuple(passages),
        coarse=tuple(_span(one, node, how) for node, how in state.items() if how == "coarse"),
        trees=_trees(one, state),
        excerpts=around(document.text, document.offset, passages),
    )


def _picture(
    document: DocumentText,
    *,
    passages: tuple[Span, ...] = (),
    coarse: tuple[Span, ...] = (),
    trees: tuple[Tree, ...] = (),
    excerpts: tuple[Excerpt, ...] = (),
) -> Picture:
    """A picture of `document`, with its names, its length, and where its chunks start."""
    starts = document.tokens.spans[document.forest.start[document.forest.roots], 0]
    return Picture(
        document=document.id,
        title=document.title,
        source=document.source,
        characters=document.characters,
        chunks=tuple((document.offset + starts).tolist()),
        pages=document.pages,
        passages=passages,
        coarse=coarse,
        trees=trees,
        excerpts=excerpts,
    )


def _cited(one: Searched) -> Iterator[Passage]:
    """The passages that an answer cites."""
    for window in join_windows(one.document, one.nodes):
        yield from cited_passages(one.document, window, one.query)


def _apart(one: Searched) -> Iterator[Passage]:
    """The passages that a memory's hits are."""
    for node in one.nodes:
        level = int(one.document.forest.level[node.node])
        yield whole_passage(one.document, node, one.query, level=level)


def _passage(passage: Passage) -> Span:
    cited = passage.sought and passage.round == 1  # by a reading of the whole, which may rank none
    return Span(
        start=passage.start,
        end=passage.end,
        level=passage.level,
        score=None if cited and not passage.score else passage.score,
        chosen="fine",
        page=passage.page,
        match_start=passage.match_start,
        match_end=passage.match_end,
        sought=passage.sought,
        round=passage.round,
        section=passage.section,
    )


def _trees(one: Searched, state: dict[int, str]) -> tuple[Tree, ...]:
    """The trees that hold fine nodes, the best of them, in document order."""
    forest = one.document.forest
    best: dict[int, float] = {}
    for node, how in state.items():
        if how == "fine":
            tree = int(forest.tree[node])
            best[tree] = max(best.get(tree, float("-inf")), float(one.scores[node]))
    kept = sorted(sorted(best, key=lambda tree: -best[tree])[:MOST_TREES])
    return tuple(
        Tree(
            chunk=-1
            if one.document.whole_characters
            else tree,  # of a part, the number is not known
            nodes=tuple(_span(one, node, state.get(node, "")) for node in forest.nodes_of(tree)),
        )
        for tree in kept
    )


def _span(one: Searched, node: int, chosen: str) -> Span:
    forest = one.document.forest
    start, end = one.document.place(int(forest.start[node]), int(forest.end[node]))
    score = float(one.scores[node])
    return Span(start=start, end=end, level=int(forest.level[node]), score=score, chosen=chosen)
