"""Searches: the budget, disjointness, partition, order, and the paper's path."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import SearchConfig, TreeConfig
from sharedllm.errors import BudgetError
from sharedllm.search.selection import Selection, select, with_neighbours
from sharedllm.text.tree import cut, grow
from tests.strategies import Problem, problems, searches

AMPLE = 10**6


def run(
    problem: Problem, search: SearchConfig, encoded: set[tuple[int, int]] | None = None
) -> Selection:
    return select(
        problem.forests,
        problem.scores,
        search,
        problem.tree,
        overhead=problem.overhead,
        ready=lambda document, node, ratio: (document, node) in (encoded or set()),
    )


@given(problem=problems(), search=searches(), data=st.data())
def test_what_every_selection_holds_to(
    problem: Problem, search: SearchConfig, data: st.DataObject
) -> None:
    every = [(d, n) for d, forest in enumerate(problem.forests) for n in range(len(forest))]
    encoded = set(data.draw(st.lists(st.sampled_from(every), max_size=20)))
    try:
        selection = run(problem, search, encoded)
    except BudgetError:
        return  # test_the_budget_that_an_error_names_is_enough
    assert selection == run(problem, search, encoded)  # deterministic
    cost = sum(problem.cost(n.document, n.node, n.ratio, n.as_text) for n in selection.nodes)
    assert cost == selection.spent <= selection.budget == search.budget
    spans = [
        (
            n.document,
            problem.forests[n.document].start[n.node],
            problem.forests[n.document].end[n.node],
        )
        for n in selection.nodes
    ]
    for (a, _, end), (b, start, _) in itertools.pairwise(spans):
        assert a < b or end <= start  # in document order, and disjoint
    chunks = defaultdict(list)
    for n in selection.nodes:
        forest = problem.forests[n.document]
        chunks[n.document, int(forest.tree[n.node])].append(n)
        assert n.as_text == (n.fine and search.leaves == "text")
        assert n.score == problem.scores[n.document][n.node]
        if not n.fine:
            assert search.coarse != "none"
            assert search.coarse == "all" or (n.document, n.node) in encoded
    assert selection.left_out == sum(len(f.roots) for f in problem.forests) - len(chunks)
    if search.coarse == "all":
        for (document, tree), nodes in chunks.items():
            forest = problem.forests[document]
            root = forest.roots[tree]
            covered = sum(int(forest.end[n.node] - forest.start[n.node]) for n in nodes)
            assert covered == forest.end[root] - forest.start[root]


@given(problem=problems(), search=searches())
def test_a_single_leaf_that_fits_is_taken(problem: Problem, search: SearchConfig) -> None:
    """Without a rest, budget search gives up only when no leaf fits."""
    search = search.replace(selection="budget", coarse="none")
    as_text = search.leaves == "text"
    costs = [
        problem.cost(d, int(leaf), problem.tree.ratio(int(forest.level[leaf])), as_text)
        for d, forest in enumerate(problem.forests)
        for leaf in forest.leaves
    ]
    if min(costs) <= search.budget:
        assert run(problem, search).nodes
    else:
        with pytest.raises(BudgetError, match=f"takes {min(costs)} tokens"):
            run(problem, search)


@given(problem=problems(), search=searches())
def test_the_best_leaves_are_taken_first(problem: Problem, search: SearchConfig) -> None:
    search = search.replace(selection="budget", coarse="none")
    leaves = [s[f.leaves] for f, s in zip(problem.forests, problem.scores, strict=True)]
    neutral = float(np.concatenate(leaves).mean())
    ranked = sorted(
        (-float(score), d, int(leaf))
        for d, forest in enumerate(problem.forests)
        for score, leaf in zip(
            with_neighbours(leaves[d], search.neighbours, neutral),
            forest.leaves,
            strict=True,
        )
    )
    spent, first = 0, set()
    for _, document, leaf in ranked:
        ratio = problem.tree.ratio(int(problem.forests[document].level[leaf]))
        spent += problem.cost(document, leaf, ratio, search.leaves == "text")
        if spent > search.budget:
            break
        first.add((document, leaf))
    if first:
        assert first <= {(n.document, n.node) for n in run(problem, search).nodes}


@given(problem=problems(), search=searches())
def test_an_ample_budget_takes_every_leaf(problem: Problem, search: SearchConfig) -> None:
    selection = run(problem, search.replace(selection="budget", budget=AMPLE))
    every = [(d, int(leaf)) for d, f in enumerate(problem.forests) for leaf in f.leaves]
    assert [(n.document, n.node) for n in selection.nodes] == every
    assert all(n.fine for n in selection.nodes)
    assert selection.left_out == 0


@given(problem=problems(), search=searches(), most=st.integers(1, 4))
def test_no_more_leaves_are_selected_than_may_be(
    problem: Problem, search: SearchConfig, most: int
) -> None:
    search = search.replace(selection="budget", coarse="none", budget=AMPLE)
    found = run(problem, search.replace(max_leaves=most)).nodes
    leaves = sum(len(forest.leaves) for forest in problem.forests)
    assert len(found) == min(most, leaves)
    assert set(found) <= set(run(problem, search).nodes)


@given(problem=problems(), leaves=st.sampled_from(["text", "kv"]))
def test_path_search_is_the_papers(problem: Problem, leaves: str) -> None:
    """Section 3.2, written over spans: the better child is split on, its sibling preserved."""
    search = SearchConfig(selection="path", coarse="all", budget=AMPLE, leaves=leaves)  # type: ignore[arg-type]
    height = problem.tree.height
    expected = []
    for d, (forest, scores) in enumerate(zip(problem.forests, problem.scores, strict=True)):
        score = {
            (int(a), int(b)): float(s)
            for a, b, s in zip(forest.start, forest.end, scores, strict=True)
        }

        def preserved(
            a: int, b: int, level: int, score: dict[tuple[int, int], float] = score
        ) -> list:  # type: ignore[type-arg]
            if level == height or b - a == 1:
                return [(a, b, level)]
            middle = a + (b - a) // 2
            if score[a, middle] > score[middle, b]:
                return [*preserved(a, middle, level + 1), (middle, b, level + 1)]
            return [(a, middle, level + 1), *preserved(middle, b, level + 1)]

        for root in forest.roots:
            nodes = preserved(int(forest.start[root]), int(forest.end[root]), 0)
            expected += [(d, *node) for node in nodes]
    selection = run(problem, search)
    found = [
        (n.document, *(int(x[n.node]) for x in (forest.start, forest.end, forest.level)))
        for n in selection.nodes
        for forest in [problem.forests[n.document]]
    ]
    assert found == expected
    for n in selection.nodes:
        level = int(problem.forests[n.document].level[n.node])
        ratio = problem.tree.leaf_ratio if n.fine else problem.tree.ratio(level)
        assert n.ratio == (1.0 if n.as_text else ratio)


@given(problem=problems(), search=searches())
def test_scores_that_are_no_numbers_are_refused(problem: Problem, search: SearchConfig) -> None:
    problem.scores[-1][-1] = float("nan")
    with pytest.raises(ValueError, match="not a finite number"):
        run(problem, search)


@given(problem=problems(), search=searches())
def test_the_budget_that_an_error_names_is_enough(problem: Problem, search: SearchConfig) -> None:
    try:
        run(problem, search.replace(budget=1))
    except BudgetError as error:
        found = re.search(r"takes (\d+) tokens", str(error))
        assert found is not None
        assert int(found[1]) > 1
        assert run(problem, search.replace(budget=int(found[1]))).nodes


def test_a_small_leaf_is_found_behind_many_that_do_not_fit() -> None:
    tree = TreeConfig(chunk=64, height=0, ratios=(), root_ratio=1)
    forests = [grow(cut(64 * 20, 64), 0), grow(cut(3, 64), 0)]
    scores = [
        np.full(len(f), score, dtype=np.float32) for f, score in zip(forests, (1, 0), strict=True)
    ]
    search = SearchConfig(budget=10, leaves="kv")
    assert [(n.document, n.node) for n in select(forests, scores, search, tree).nodes] == [(1, 0)]


def test_recency_takes_the_very_last_leaves() -> None:
    tree = TreeConfig(chunk=16, height=0, ratios=(), root_ratio=1)
    forests = [grow(cut(16 * 100, 16), 0)]
    scores = [np.arange(100, dtype=np.float32)]
    search = SearchConfig(scorer="recency", budget=48, leaves="kv")
    assert [n.node for n in select(forests, scores, search, tree).nodes] == [97, 98, 99]


def test_a_short_document_does_not_lose_for_want_of_neighbours() -> None:
    long, short = np.full(20, 5.0, np.float32), np.array([6.0], np.float32)
    neutral = float(np.concatenate([long, short]).mean())
    best = [with_neighbours(s, (0.5, 0.25), neutral).max() for s in (long, short)]
    assert best[1] > best[0]
    smoothed = with_neighbours(np.array([0.0, 4.0, 0.0, 8.0], np.float32), (0.5,), 1.0)
    assert smoothed.tolist() == [2.5, 4.0, 6.0, 8.5]
