"""Scores -> selected nodes, under one token budget (paper, section 3.2).

Both selections take the best nodes first and stop when the budget is spent. The nodes selected in a
chunk are disjoint.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.config import SearchConfig, TreeConfig
from sharedllm.displayed import Displayed
from sharedllm.encoding.document import Document
from sharedllm.encoding.kv import kept_count
from sharedllm.errors import BudgetError, InputError
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.rounds import SURE, Followed, Widen
from sharedllm.search.scorers import is_by_place
from sharedllm.text.document_text import DocumentText
from sharedllm.text.tree import Forest


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedNode:
    """One node that goes into the prompt.

    Attributes
    ----------
    document : int
        Index among the documents of the call.
    node : int
        Index in its forest.
    start, end : int
        Tokens [start, end) of the document that enter: the node's own and, if it is pasted as text,
        those that complete its first and last sentence.
    ratio : float
        Tokens per KV entry.
    as_text : bool
        Pasted as tokens rather than injected as KV.
    fine : bool
        Selected for its score, rather than kept as part of the coarse level.
    score : float
    round : int
        The round of search that found it; 1 is the question's own.
    sought : str
        What a later round searched for.
    """

    document: int
    node: int
    start: int
    end: int
    ratio: float
    as_text: bool
    fine: bool
    score: float
    round: int = 1
    sought: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Searched:
    """One searched document with its scores and selected nodes, to be shown later.

    It holds neither search vectors nor KV, so that keeping a selection or an answer does not keep
    those alive. Text, tokens and trees are shared with the document.

    Attributes
    ----------
    document : DocumentText
    scores : float32 array (nodes,)
    nodes : tuple of SelectedNode
        In document order.
    query : str
    """

    document: DocumentText
    scores: Scores
    nodes: tuple[SelectedNode, ...]
    query: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection(Displayed):
    """The selected nodes of all documents; a notebook and rich's console show them.

    Attributes
    ----------
    nodes : tuple of SelectedNode
        In the order of the documents, and in document order within each.
    budget, spent : int
        Tokens allowed, and tokens taken at most.
    root_ratio : float or None
        Tokens per KV entry of unexpanded roots; None without a coarse level.
    left_out : int
        Chunks from which nothing was selected.
    rounds : int
        The last round of search that found a selected node.
    searched : tuple of Searched
        The documents and scores, added by :meth:`sharedllm.SharedLLM.select`.
    """

    nodes: tuple[SelectedNode, ...]
    budget: int
    spent: int
    root_ratio: float | None
    left_out: int
    rounds: int = 1
    searched: tuple[Searched, ...] = field(default=(), repr=False, compare=False)


def group_by_document(
    documents: Sequence[Document],
    scores: Sequence[Scores],
    nodes: Sequence[SelectedNode],
    query: str,
) -> tuple[Searched, ...]:
    """Group the selected `nodes` by document.

    Parts of a longer text from which nothing was selected are left out: a question searches
    hundreds of parts of a large memory.
    """
    own: list[list[SelectedNode]] = [[] for _ in documents]
    for node in nodes:
        own[node.document].append(node)
    return tuple(
        Searched(document=document.without_states(), scores=values, nodes=tuple(found), query=query)
        for document, values, found in zip(documents, scores, own, strict=True)
        if found or not document.whole_characters
    )


Ready = Callable[[int, int, float], bool]  # document, node, ratio -> True if its KV is encoded


class _Searcher:
    """One selection in progress: the nodes of each chunk so far, and their cost in tokens."""

    def __init__(
        self,
        forests: Sequence[Forest],
        scores: Sequence[Scores],
        search: SearchConfig,
        tree: TreeConfig,
        overhead: Sequence[int],
        ready: Ready,
        widen: Widen | None,
        narrows: bool,
        followed: Sequence[Followed],
    ) -> None:
        self.forests, self.scores, self.search, self.tree = forests, scores, search, tree
        self.budget = search.fixed_budget
        # recency ranks by place alone: a leaf's edge cuts no match
        self.matched = not is_by_place(search.scorer)
        self.overhead, self.ready = overhead, ready
        self.widen = functools.cache(widen) if widen and self.matched else None
        self.narrows = narrows
        self.followed = {(one.document, one.node): one for one in followed}
        self.chunks: dict[tuple[int, int], list[SelectedNode]] = {}  # (document, root) -> nodes
        self.spent = 0
        self.found = False  # True once a node was selected for its score
        self.least = sys.maxsize  # tokens of the smallest contribution that did not fit
        self.root_ratio: float | None = None

    def cost(self, nodes: Sequence[SelectedNode]) -> int:
        """Count the tokens that `nodes` of one chunk take; text that several paste counts once."""
        tokens = pasted = 0
        for node in sorted(nodes, key=lambda n: n.start):
            if not node.as_text:
                tokens += kept_count(node.end - node.start, node.ratio)
                continue
            tokens += max(0, node.end - max(node.start, pasted)) + self.overhead[node.document]
            pasted = max(pasted, node.end)
        return tokens

    def make(self, document: int, node: int, ratio: float, *, fine: bool) -> SelectedNode:
        as_text = fine and self.search.leaves != "kv"
        extent = self.widen if as_text and self.widen else self.own
        start, end = extent(document, node)
        found = self.followed.get((document, node)) if fine else None
        return SelectedNode(
            document=document,
            node=node,
            start=start,
            end=end,
            ratio=1.0 if as_text else ratio,
            as_text=as_text,
            fine=fine,
            score=found.score if found else float(self.scores[document][node]),
            round=found.round if found else 1,
            sought=found.sought if found else "",
        )

    def put(self, document: int, root: int, nodes: list[SelectedNode]) -> bool:
        """Replace the nodes of a chunk by `nodes` if the budget allows; return True if it did.

        The first nodes of all are taken without whole sentences if these do not fit.
        """
        old = self.cost(self.chunks.get((document, root), []))
        room = self.budget - self.spent + old
        if not self.found and self.cost(nodes) > room:
            nodes = [self.as_cut(node) for node in nodes]
        cost = self.cost(nodes)
        if cost > room:
            self.least = min(self.least, cost - old)
            return False
        self.chunks[document, root] = nodes
        self.spent += cost - old
        self.found = self.found or any(node.fine for node in nodes)
        return True

    def surely_too_long(self, document: int, node: int) -> bool:
        """Tell without looking for its sentences that a leaf has no room besides what is taken.

        It may share with its neighbours only the tokens that complete sentences.
        """
        if not self.found or self.narrows:
            return False
        if self.search.leaves == "kv" or self.search.coarse != "none":
            return False
        start, end = self.own(document, node)
        least = end - start - 2 * self.search.sentences + self.overhead[document]
        return least > self.budget - self.spent

    def as_cut(self, node: SelectedNode) -> SelectedNode:
        """Return `node` without the sentences around it."""
        start, end = self.own(node.document, node.node)
        return replace(node, start=start, end=end)

    def own(self, document: int, node: int) -> tuple[int, int]:
        """Return the tokens [start, end) of a node itself."""
        forest = self.forests[document]
        return int(forest.start[node]), int(forest.end[node])

    def start_coarse(self) -> None:
        """Start every chunk with its root, at the finest ratio that the coarse share allows.

        If the roots do not fit at the tree's ratio, the ratio doubles until they do; at one entry
        per root, those with the worst scores are left out.
        """
        if self.search.coarse == "none":
            return
        share = int(self.budget * self.search.coarse_share)
        roots = [(d, int(r)) for d, forest in enumerate(self.forests) for r in forest.roots]
        ratio = float(self.tree.root_ratio)
        if self.search.coarse == "ready":
            roots = [(d, r) for d, r in roots if self.ready(d, r, ratio)]
        else:
            lengths = [int(self.forests[d].end[r] - self.forests[d].start[r]) for d, r in roots]
            while sum(kept_count(n, ratio) for n in lengths) > share and ratio < max(lengths):
                ratio *= 2
        self.root_ratio = ratio
        for document, root in sorted(roots, key=lambda at: -self.scores[at[0]][at[1]]):
            node = self.make(document, root, ratio, fine=False)
            if self.spent + self.cost([node]) > share:
                break
            self.put(document, root, [node])

    def partition(self, document: int, root: int, chosen: set[int]) -> list[SelectedNode]:
        """Cut a chunk into the `chosen` leaves and, for the coarse level, the nodes between them.

        Those are as large as possible. A leaf that was not chosen is kept at the ratio of the level
        above its own: the leaves' ratio is for chosen ones.
        """
        forest, out, open_nodes = self.forests[document], [], [root]
        while open_nodes:
            node = open_nodes.pop()
            level = int(forest.level[node])
            if node in chosen:
                out.append(self.make(document, node, self.tree.leaf_ratio, fine=True))
            elif any(forest.start[node] <= forest.start[c] < forest.end[node] for c in chosen):
                open_nodes += [int(forest.right[node]), int(forest.left[node])]
            elif self.search.coarse == "all":
                kept = min(level, max(self.tree.height - 1, 0))
                out.append(self.make(document, node, self.tree.ratio(kept), fine=False))
        return out

    def result(self) -> Selection:
        nodes = sorted(
            (n for chunk in self.chunks.values() for n in chunk),
            key=lambda n: (n.document, n.start),
        )
        if not nodes:
            raise BudgetError(
                f"budget is {self.budget}, too small for any node: the smallest choice "
                f"takes {self.least} tokens. Allow at least that, or make leaves smaller "
                "(tree.height, tree.chunk)"
            )
        return Selection(
            nodes=tuple(nodes),
            budget=self.budget,
            spent=self.spent,
            root_ratio=self.root_ratio,
            left_out=sum(len(f.roots) for f in self.forests)
            - sum(bool(chunk) for chunk in self.chunks.values()),
            rounds=max(node.round for node in nodes),
        )


def budget_search(searcher: _Searcher) -> None:
    """Take the best leaves of all chunks, each with the siblings on its path (coarse level)."""
    shares = searcher.search.neighbours if searcher.matched else ()
    of_leaves = [s[f.leaves] for f, s in zip(searcher.forests, searcher.scores, strict=True)]
    neutral = float(np.concatenate(of_leaves).mean())
    near = np.concatenate([with_neighbours(scores, shares, neutral) for scores in of_leaves])
    owner = np.repeat(np.arange(len(of_leaves)), [len(scores) for scores in of_leaves])
    leaves = np.concatenate([forest.leaves for forest in searcher.forests])
    order = np.argsort(-near, kind="stable")  # among equals the first leaf
    ranked = list(zip(owner[order].tolist(), leaves[order].tolist(), strict=True))
    if searcher.followed:
        ranked = _with_followed(searcher, ranked)
    chosen: dict[tuple[int, int], set[int]] = {}
    misses, taken, most = 0, 0, searcher.search.max_leaves
    for document, leaf in ranked:
        if taken == most:
            break
        if not searcher.surely_too_long(document, leaf):
            forest = searcher.forests[document]
            root = int(forest.roots[forest.tree[leaf]])
            more = chosen.get((document, root), set()) | {leaf}
            if searcher.put(document, root, searcher.partition(document, root, more)):
                chosen[document, root] = more
                taken += 1
                continue
        misses += 1
        if misses > 8 and chosen:  # the rest of the budget is smaller than a leaf
            break


def _with_followed(searcher: _Searcher, ranked: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Put the leaves of later rounds behind those that the first one is nearly as sure of."""
    scores = searcher.scores
    bound = max(float(values.max()) for values in scores) - SURE
    sure = [(document, leaf) for document, leaf in ranked if scores[document][leaf] >= bound]
    placed = dict.fromkeys((*sure, *searcher.followed))
    return [*placed, *(one for one in ranked if one not in placed)]


def with_neighbours(scores: NDArray[Any], shares: Sequence[float], neutral: float) -> NDArray[Any]:
    """Add to each leaf's score `shares` of the scores at distance 1, 2, ... on either side.

    A leaf's edge often cuts the passage that answers a question; the part with fewer matches then
    rises with the other. Beyond either end of the document the score is `neutral`, so that a short
    document does not lose to a long one for lack of neighbours.
    """
    reach = len(shares)
    padded = np.pad(scores, reach, constant_values=neutral)
    out = scores.copy()
    for distance, share in enumerate(shares, start=1):
        for side in (reach - distance, reach + distance):
            out += share * padded[side : side + len(scores)]
    return out


def path_search(searcher: _Searcher) -> None:
    """Take one path down every chunk and both children of its last split (paper, section 3.2).

    The paper has no budget and expands every chunk. Under a budget the chunks with the best scores
    are expanded, and the others stay at their coarse root.
    """
    order = [
        (-float(scores[root]), document, int(root))
        for document, (forest, scores) in enumerate(
            zip(searcher.forests, searcher.scores, strict=True)
        )
        for root in forest.roots
    ]
    for _, document, root in sorted(order):
        searcher.put(document, root, _path(searcher, document, root))


def _path(searcher: _Searcher, document: int, root: int) -> list[SelectedNode]:
    forest, scores, tree = searcher.forests[document], searcher.scores[document], searcher.tree
    preserved, node = [], root
    while forest.left[node] >= 0:
        left, right = int(forest.left[node]), int(forest.right[node])
        best, other = (left, right) if scores[left] > scores[right] else (right, left)
        last = forest.left[best] < 0
        preserved.append((other, last))
        node = best
    preserved.append((node, True))
    coarse, nodes = searcher.search.coarse, []
    for n, fine in preserved:
        ratio = tree.leaf_ratio if fine else tree.ratio(int(forest.level[n]))
        if fine or coarse == "all" or (coarse == "ready" and searcher.ready(document, n, ratio)):
            nodes.append(searcher.make(document, n, ratio, fine=fine))
    return nodes


SELECTIONS: dict[str, Callable[[_Searcher], None]] = {"budget": budget_search, "path": path_search}


def select(
    forests: Sequence[Forest],
    scores: Sequence[Scores],
    search: SearchConfig,
    tree: TreeConfig,
    *,
    overhead: Sequence[int] | None = None,
    ready: Ready = lambda document, node, ratio: False,
    widen: Widen | None = None,
    narrows: bool = False,
    followed: Sequence[Followed] = (),
) -> Selection:
    """Select nodes of `forests` by `scores` under ``search.budget``.

    Parameters
    ----------
    forests, scores : one each per document
    overhead : tokens that a leaf pasted as text costs besides its own, for each document
    ready : returns True for a node that is encoded already, for ``coarse="ready"``
    widen : returns the tokens to paste for a node; None pastes its own
    narrows : they may be fewer than its own
    followed : leaves that later rounds of search found ("budget" selection)

    Raises
    ------
    BudgetError
        If not even one node fits.
    """
    for array in scores:
        if not np.isfinite(array).all():
            raise InputError("the scorer returned a score that is not a finite number")
    costs = overhead or [0] * len(forests)
    searcher = _Searcher(forests, scores, search, tree, costs, ready, widen, narrows, followed)
    searcher.start_coarse()
    SELECTIONS[search.selection](searcher)
    return searcher.result()
