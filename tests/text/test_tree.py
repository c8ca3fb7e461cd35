"""Chunks and trees: tiling, nesting, order, splits, noise."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sharedllm.text.tree import Forest, cut, grow
from tests.strategies import CHUNKS, HEIGHTS, LENGTHS

SEEDS = st.integers(0, 2**32 - 1)
NOISE = st.sampled_from([0.0, 0.1, 0.2, 3.0])


@given(n=st.integers(0, 500), size=st.integers(1, 600))
def test_chunks_tile_the_tokens(n: int, size: int) -> None:
    chunks = cut(n, size)
    assert [t for c in chunks for t in range(c.start, c.end)] == list(range(n))
    assert [c.index for c in chunks] == list(range(math.ceil(n / size)))
    assert all(len(c) == size for c in chunks[:-1])
    assert all(0 < len(c) <= size for c in chunks)


def check(forest: Forest, n: int, size: int, height: int) -> None:
    """A valid forest over `n` tokens."""
    for node in range(len(forest)):
        start, end, level = (int(x[node]) for x in (forest.start, forest.end, forest.level))
        left, right, parent = (int(x[node]) for x in (forest.left, forest.right, forest.parent))
        assert start < end
        assert forest.tree[node] == start // size == (end - 1) // size
        assert (left < 0) == (right < 0) == (level == height or end - start == 1)
        if left >= 0:
            assert node < left < right
            assert forest.parent[left] == forest.parent[right] == node
            assert forest.level[left] == forest.level[right] == level + 1
            spans = [int(x) for x in (forest.start[left], forest.end[left], forest.start[right])]
            assert spans[0] == start
            assert spans[1] == spans[2]
            assert forest.end[right] == end
        if parent < 0:
            assert level == 0
    roots, leaves = forest.roots, forest.leaves
    assert forest.start[roots].tolist() == list(range(0, n, size))
    for nodes in (roots, leaves):
        edges = [0, *forest.end[nodes].tolist()]
        assert edges == [*forest.start[nodes].tolist(), n]


@given(n=LENGTHS, size=CHUNKS, height=HEIGHTS, noise=NOISE, seed=SEEDS)
def test_trees_nest_and_tile(n: int, size: int, height: int, noise: float, seed: int) -> None:
    forest = grow(cut(n, size), height, noise=noise, rng=np.random.default_rng(seed))
    check(forest, n, size, height)
    again = grow(cut(n, size), height, noise=noise, rng=np.random.default_rng(seed))
    assert forest.start.tolist() == again.start.tolist()


@given(n=LENGTHS, size=CHUNKS, height=HEIGHTS)
def test_without_noise_nodes_split_in_the_middle(n: int, size: int, height: int) -> None:
    forest = grow(cut(n, size), height)
    inner = np.flatnonzero(forest.left >= 0)
    lengths = forest.end[inner] - forest.start[inner]
    left = forest.left[inner]
    assert (forest.end[left] - forest.start[left]).tolist() == (lengths // 2).tolist()


@given(n=LENGTHS, size=CHUNKS, height=HEIGHTS, leaf=st.integers(1, 40))
def test_nodes_of_a_leaf_s_size_are_not_split(n: int, size: int, height: int, leaf: int) -> None:
    forest = grow(cut(n, size), height, leaf=leaf)
    edges = forest.end[forest.leaves].tolist()
    assert [0, *edges] == [*forest.start[forest.leaves].tolist(), n]
    lengths = forest.end - forest.start
    inner = forest.left >= 0
    assert (lengths[inner] > leaf).all()
    assert ((lengths[~inner] <= max(leaf, 1)) | (forest.level[~inner] == height)).all()


def test_noise_moves_splits_by_its_deviation() -> None:
    random = np.random.default_rng(0)
    splits = [int(grow(cut(1000, 1000), 1, noise=0.1, rng=random).end[1]) for _ in range(400)]
    assert abs(np.mean(splits) - 500) < 20
    assert 85 < np.std(splits) < 115


@given(n=LENGTHS, size=CHUNKS, height=HEIGHTS, seed=SEEDS)
def test_what_nodes_know_of_their_leaves(n: int, size: int, height: int, seed: int) -> None:
    forest = grow(cut(n, size), height)
    values = np.random.default_rng(seed).normal(size=len(forest.leaves)).astype(np.float32)
    found = forest.from_leaves(values)
    for node in range(len(forest)):
        inside = [
            rank
            for rank, leaf in enumerate(forest.leaves)
            if forest.start[node] <= forest.start[leaf] < forest.end[node]
        ]
        assert list(range(forest.first_leaf[node], forest.last_leaf[node])) == inside
        assert found[node] == max(values[inside])


@given(n=LENGTHS, size=CHUNKS, height=HEIGHTS, context=st.integers(0, 100))
def test_context_stays_inside_the_chunk(n: int, size: int, height: int, context: int) -> None:
    forest = grow(cut(n, size), height, context=context)
    for node in range(len(forest)):
        start = int(forest.start[node])
        assert forest.before(node) == min(context, start % size)
