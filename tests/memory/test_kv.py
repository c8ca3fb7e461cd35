"""KV on disk: which nodes are kept, and how exactly each format gives them back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import TreeConfig, TreeMemory, loaded_for
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.memory import kv
from tests.conftest import DOCUMENTS, Make

TREE = TreeConfig(chunk=64, height=2, ratios=(4, 1), root_ratio=8)
# The largest error of a value, as a share of the largest of the values that share its scale:
# half a step of 1/127, and half a step of 2/15 (from the least to the largest); scales and least
# values are rounded to bfloat16.
LARGEST = {"exact": 0.0, "bf16": 2.0**-8, "int8": 1 / 250, "int4": 1 / 14.5 + 2.0**-7}


def nodes(head_dim: int, counts: list[int], seed: int) -> list[NodeKV]:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(3, 2, count, head_dim) for count in counts]
    scales = torch.logspace(-3, 3, 2)[None, :, None, None]
    return [
        NodeKV(
            keys=torch.randn(shape, generator=draw) * scales,
            values=torch.randn(shape, generator=draw),
        )
        for shape in shapes
    ]


@pytest.mark.parametrize("form", ["exact", "bf16", "int8", "int4"])
@given(
    head_dim=st.sampled_from([1, 5, 8, 32, 40, 64]),
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_every_format_gives_the_nodes_back(
    form: str, head_dim: int, counts: list[int], seed: int
) -> None:
    given_nodes = nodes(head_dim, counts, seed)
    stored = kv.stored("fine", given_nodes, form)
    assert set(stored) == set(kv.parts("fine", form))
    arrays = {name: array.values for name, array in stored.items()}
    dtypes = {name: array.dtype for name, array in stored.items()}
    at = 0
    for node in given_nodes:
        read = kv.read("fine", arrays, dtypes, form, (at, at + len(node)), head_dim)
        at += len(node)
        for found, expected in zip(read, (node.keys, node.values), strict=True):
            assert found.shape == expected.shape
            largest = expected.abs().amax(-1, keepdim=True)
            error = (found.float() - expected).abs() / largest
            assert float(error.max()) <= LARGEST[form]


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_values_without_spread_are_kept(form: str) -> None:
    for value in (0.0, 1.0, -7.5):
        same = torch.full((1, 1, 2, 8), value)
        stored = kv.stored("coarse", [NodeKV(keys=same, values=same)], form)
        arrays = {name: array.values for name, array in stored.items()}
        read = kv.read("coarse", arrays, {}, form, (0, 2), 8)
        assert torch.allclose(read, torch.full_like(read, value), rtol=0.005)


def test_a_quantised_memory_is_smaller(make: Make) -> None:
    sizes = {}
    for form in ("exact", "bf16", "int8", "int4"):
        memory = make(form, keep="all", kv=form)
        memory.add(DOCUMENTS)
        with memory._database.read() as connection:
            found = connection.execute(
                "SELECT sum(bytes) FROM arrays WHERE name GLOB 'coarse/*' OR name GLOB 'fine/*'"
            )
            sizes[form] = found.fetchone()[0]
    assert sizes["exact"] == 2 * sizes["bf16"]  # the tiny model is float32
    assert sizes["int8"] < 0.7 * sizes["bf16"]  # with heads of 8 the scales weigh
    assert sizes["int4"] < sizes["bf16"]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40, 64])
def test_levels_hold_what_search_asks_for(length: int) -> None:
    root = NodeRequest(start=0, end=length, ratio=8.0)
    assert kv.Levels.of(length, TREE, "text").groups() == {}
    assert kv.Levels.of(length, TREE, "coarse").groups() == {"coarse": (root,)}
    levels = kv.Levels.of(length, TREE, "all")
    requests = [r for group in levels.groups().values() for r in group]
    assert len(requests) == len(set(requests))
    assert all(request.ratio > 1 for request in requests)
    ends = []
    for request in requests:
        name, first, last = levels.find(request) or ("", 0, 0)
        assert last - first == int(np.ceil((request.end - request.start) / request.ratio))
        ends.append((name, first, last))
    assert len(set(ends)) == len(ends)
    if length == 64:
        fine = {(r.start, r.end, r.ratio) for r in levels.fine}
        assert {(0, 32, 4.0), (32, 64, 4.0), (0, 16, 4.0), (48, 64, 4.0)} <= fine
    assert levels.find(NodeRequest(start=0, end=length, ratio=7.5)) is None


def test_quantised_memory_answers(make: Make) -> None:
    exact = make("exact", keep="all", kv="exact")
    exact.add(DOCUMENTS)
    options = {"leaves": "kv", "coarse": "all", "max_new_tokens": 1, "budget": 200}
    expected = loaded_for(exact).answer("Who kept the light?", exact, **options)
    for form in ("bf16", "int8", "int4"):
        memory: TreeMemory = make(form, keep="all", kv=form)
        memory.add(DOCUMENTS)
        answer = loaded_for(memory).answer("Who kept the light?", memory, **options)
        assert answer.usage == expected.usage
