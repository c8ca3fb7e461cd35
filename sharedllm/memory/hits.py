"""Hits: the passages that a search found, fit to be shown or handed to any model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharedllm.config import SearchConfig
from sharedllm.display import views
from sharedllm.displayed import Displayed, View, view
from sharedllm.encoding.document import Document
from sharedllm.search.citations import complete_sentences, whole_passage
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.rounds import Followed
from sharedllm.search.selection import Searched, SelectedNode, group_by_document


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A passage that a search found: a leaf with the sentences that its edges cut.

    Attributes
    ----------
    id, title, source, metadata : of its document
    text : str
        Characters [char_start, char_end) of the document's text.
    score : float
        Higher is better; scores of one search compare.
    page, end_page, match_start, match_end, round, sought, section
        As those of :class:`sharedllm.search.citations.Citation`.
    """

    id: str
    title: str
    source: str
    metadata: Mapping[str, Any]
    text: str
    char_start: int
    char_end: int
    score: float
    page: int | None = None
    end_page: int | None = None
    match_start: int | None = None
    match_end: int | None = None
    round: int = 1
    sought: str = ""
    section: str = ""


class Hits(Displayed, list[Hit]):
    """The passages that a search found, best first; a notebook and rich's console show them.

    Attributes
    ----------
    searched : tuple of Searched
        What shows them in their documents, each found leaf by itself.
    away : tuple of str
        Parts of a memory that could not be searched, each with the reason.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        searched: tuple[Searched, ...] = (),
        away: tuple[str, ...] = (),
    ) -> None:
        super().__init__(hits)
        self.searched, self.away = searched, away


@view.register
def _(hits: Hits) -> View:
    return views.results(views.pictures(hits.searched, apart=True))


def best_passages(
    query: str,
    k: int,
    documents: Sequence[Document],
    names: Sequence[Mapping[str, Any]],
    scores: Sequence[Scores],
    followed: Sequence[Followed],
) -> Hits:
    """Return the passages of the `k` leaves with the best scores.

    Parameters
    ----------
    names : id, title, source and metadata of each document
    scores : of the nodes of each document
    followed : what later rounds of search found
    """
    found = {(one.document, one.node): one for one in followed}
    places = [(i, int(leaf)) for i, one in enumerate(documents) for leaf in one.forest.leaves]

    def score(place: tuple[int, int]) -> float:
        return found[place].score if place in found else float(scores[place[0]][place[1]])

    best = []
    for index, leaf in sorted(places, key=lambda place: (-score(place), place))[:k]:
        start, end = complete_sentences(documents[index], leaf, SearchConfig().sentences)
        later = found.get((index, leaf))
        node = SelectedNode(
            document=index,
            node=leaf,
            start=start,
            end=end,
            ratio=1.0,
            as_text=True,
            fine=True,
            score=score((index, leaf)),
            round=later.round if later else 1,
            sought=later.sought if later else "",
        )
        best.append(node)
    hits = [_hit(documents[node.document], names[node.document], node, query) for node in best]
    in_order = sorted(best, key=lambda node: (node.document, node.node))
    shown = group_by_document(documents, scores, in_order, query)
    return Hits(hits, tuple(one for one in shown if one.nodes))


def _hit(document: Document, names: Mapping[str, Any], node: SelectedNode, query: str) -> Hit:
    level = int(document.forest.level[node.node])
    passage = whole_passage(document, node, query, level=level)
    return Hit(
        **names,
        text=passage.text,
        char_start=passage.start,
        char_end=passage.end,
        score=node.score,
        page=passage.page,
        end_page=passage.end_page,
        match_start=passage.match_start,
        match_end=passage.match_end,
        round=passage.round,
        sought=passage.sought,
        section=passage.section,
    )
