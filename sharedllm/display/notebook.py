"""Answers, search results, documents and trees as HTML for a notebook's cell."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sharedllm.display.evidence import citations, evidence
from sharedllm.display.picture import Picture, Ranked, Tree, ranked
from sharedllm.display.plain import counted, escaped
from sharedllm.display.strip import caption, strip, strips
from sharedllm.display.style import SHEET
from sharedllm.display.tree import tree


def cell(*parts: str) -> str:
    """What one output cell shows, with its style sheet."""
    return f'<div class="sllm"><style>{SHEET}</style>{"".join(parts)}</div>'


def fresh() -> str:
    """What the ids of one output begin with: a notebook shows many on one page."""
    return f"sllm{secrets.token_hex(4)}-"


def answer(text: str, pictures: Sequence[Picture], summary: str, ids: str | None = None) -> str:
    """An answer, its citations, where they lie, and the evidence in its text.

    Parameters
    ----------
    summary : what it took, in plain lines
    ids : what the ids of this output begin with; None is a fresh one
    """
    ids = fresh() if ids is None else ids
    return (
        f'<div class="answer" dir="auto">{escaped(text)}</div>'
        f'{results(pictures, ids)}<p class="dim">{escaped(summary)}</p>'
    )


def results(
    pictures: Sequence[Picture], ids: str | None = None, *, open_trees: bool = False
) -> str:
    """What a search found: strips, citations, the passages in their text, the trees' scores."""
    ids = fresh() if ids is None else ids
    passages = ranked(pictures)
    texts = [
        f"<h3>{_heading(picture, pictures)}</h3>{evidence(picture, passages, ids)}"
        for picture in pictures
        if picture.passages
    ]
    return "".join(
        [
            citations(passages, ids),
            strips(pictures, passages, ids),
            *texts,
            _trees(pictures, passages, ids, open_trees),
        ]
    )


def document(picture: Picture, trees: Sequence[Tree], count: int) -> str:
    """A document: its names, its strip of chunks, how it begins, its first trees.

    Parameters
    ----------
    trees : the first ones
    count : of all trees
    """
    beginning = "".join(e.text for e in picture.excerpts)
    return (
        f'{strip(picture)}<div class="text" dir="auto">{escaped(beginning)}</div>'
        f"{_closed('Context trees', forest(trees, count))}"
    )


def forest(trees: Sequence[Tree], count: int) -> str:
    """The first trees of a forest, their nodes with their length in tokens."""
    drawn = "".join(tree(one, unit="tokens") for one in trees)
    more = count - len(trees)
    return drawn + (f'<p class="dim">and {counted(more, "more tree")}</p>' if more else "")


def _heading(picture: Picture, pictures: Sequence[Picture]) -> str:
    if len(pictures) == 1:
        return "The evidence in its text"
    return f"The evidence in <bdi>{escaped(picture.title or picture.source)}</bdi>"


def _trees(pictures: Sequence[Picture], passages: Sequence[Ranked], ids: str, is_open: bool) -> str:
    drawn = []
    for picture in pictures:
        own = [one for one in passages if one.picture is picture]
        if picture.trees and len(pictures) > 1:
            drawn.append(caption(picture))
        drawn += [tree(one, own, ids) for one in picture.trees]
    if not drawn:
        return ""
    what = "Context trees of the chunks that hold evidence, with the score of every node"
    return _closed(what, "".join(drawn), is_open=is_open)


def _closed(what: str, inside: str, *, is_open: bool = False) -> str:
    return f"<details{' open' * is_open}><summary>{what}</summary>{inside}</details>"
