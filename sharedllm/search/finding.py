"""A question over documents: scores, what later rounds add, the budget, and what it selects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from sharedllm.config import SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.search.budget import Looks, decide
from sharedllm.search.citations import (
    complete_sentences,
    sentences_around_match,
    window_overheads,
)
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.rounds import SCORER, Followed, Looked, Widen, look_again
from sharedllm.search.selection import Selection, group_by_document, select

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """Scores and followed leaves of a question, from which any budget is selected.

    Attributes
    ----------
    query : str
    documents : sequence of Document
    scores : of the nodes of each document
    followed : what later rounds of search found
    looks : the budgets that the question needs
    search : SearchConfig
    encoder : DocumentEncoder
    widen : document, node -> its tokens in whole sentences
    overhead : tokens that a leaf of each document costs besides its own
    """

    query: str
    documents: Sequence[Document]
    scores: Sequence[Scores]
    followed: Sequence[Followed]
    looks: Looks
    search: SearchConfig
    encoder: DocumentEncoder
    widen: Widen
    overhead: Sequence[int]

    def select(self, budget: int, *, around_match: bool) -> Selection:
        """Select nodes of the documents, of which there is at least one.

        Parameters
        ----------
        around_match : show of each leaf only the sentences around its best match, with what a
            later round searched for where that found it
        """
        documents, reach = self.documents, self.search.sentences
        sought = {(one.document, one.node): one.sought for one in self.followed}

        def around(index: int, node: int) -> tuple[int, int]:
            whole = self.widen(index, node)
            match = sought.get((index, node), self.query)
            return sentences_around_match(documents[index], whole, match) if reach else whole

        selection = select(
            [d.forest for d in documents],
            self.scores,
            self.search.replace(budget=budget),
            self.encoder.tree,
            overhead=self.overhead,
            ready=lambda d, node, ratio: documents[d].request(node, ratio) in documents[d].nodes,
            widen=around if around_match else self.widen,
            narrows=around_match,
            followed=self.followed,
        )
        shown = group_by_document(documents, self.scores, selection.nodes, self.query)
        return replace(selection, searched=shown)


def find(
    query: str,
    documents: Sequence[Document],
    scores: Sequence[Scores],
    search: SearchConfig,
    encoder: DocumentEncoder,
    *,
    asked: str,
    room: int,
    twice: bool,
) -> Found:
    """Follow what the best leaf names, then decide the budget, once for all looks.

    Parameters
    ----------
    scores : for `query`, of the nodes of each document
    asked : the question itself, where `query` holds what it refers to as well
    room : tokens that the trained window leaves for evidence
    twice : the model can tell that a look was not enough
    """
    search = search.replace(leaves=leaves_of(search, documents, encoder.lower.device.type))
    widen = _widen(documents, search)
    overhead = window_overheads(documents, encoder.tokenizer)
    most = rounds_of(search)
    followed = look_again(query, documents, scores, most=most, widen=widen).followed
    looks = decide(
        asked,
        [document.forest for document in documents],
        scores,
        search,
        room=room,
        overhead=overhead,
        twice=twice,
        compressed=_is_compressed(documents, search, encoder.tree.root_ratio),
        followed=len(followed),
    )
    return Found(
        query=query,
        documents=documents,
        scores=scores,
        followed=followed,
        looks=looks,
        search=search,
        encoder=encoder,
        widen=widen,
        overhead=overhead,
    )


def leaves_of(
    search: SearchConfig, documents: Sequence[Document], device: str
) -> Literal["text", "kv"]:
    """Return the form in which selected leaves of `documents` enter a model on `device`.

    "auto" is decided here. KV saves the pass over the leaves, but only where it is stored: encoded
    now, it costs as much as the text.
    """
    if search.leaves != "auto":
        return search.leaves
    stored = bool(documents) and all(document.nodes.keeps_leaves for document in documents)
    return "kv" if stored and device == "cuda" else "text"


def _is_compressed(documents: Sequence[Document], search: SearchConfig, ratio: float) -> bool:
    """Tell if a coarse level takes its share of the budget."""
    ready = documents if search.coarse == "ready" else ()
    return search.coarse == "all" or any(
        document.request(int(root), ratio) in document.nodes
        for document in ready
        for root in document.forest.roots
    )


def rounds_of(search: SearchConfig) -> int:
    """Return how many rounds there are at most: other scores are no log-odds, a path no ranking."""
    return search.rounds if search.scorer == SCORER and search.selection == "budget" else 1


def follow(
    query: str, documents: Sequence[Document], scores: Sequence[Scores], search: SearchConfig
) -> Looked:
    """Look again for `query`, where `search` allows it."""
    widen = _widen(documents, search)
    return look_again(query, documents, scores, most=rounds_of(search), widen=widen)


def _widen(documents: Sequence[Document], search: SearchConfig) -> Widen:
    """Return what completes a node to whole sentences, each once in a question."""

    @functools.cache
    def widen(index: int, node: int) -> tuple[int, int]:
        return complete_sentences(documents[index], node, search.sentences)

    return widen


def find_in_rounds(
    find: Callable[[Sequence[str]], T], unfound: Callable[[T], Sequence[str]], rounds: int
) -> T:
    """Find documents in a large memory, and again with what the best of them name.

    Parameters
    ----------
    find : finds for a question, and for names besides
    unfound : returns the names that stand nowhere else in what was found
    rounds : of search, at most
    """
    found, names = find(()), dict[str, None]()
    for _ in range(rounds - 1):
        new = [name for name in unfound(found) if name not in names]
        if not new:
            break
        names |= dict.fromkeys(new)
        found = find(tuple(names))
    return found
