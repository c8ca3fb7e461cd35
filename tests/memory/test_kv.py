"""KV on disk: which nodes are kept, and how exactly each format gives them back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import TreeConfig, TreeMemory, loaded_for
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.memory.codes import kept_nodes, kv_from_bytes, kv_to_bytes
from tests.conftest import DOCUMENTS, Make

TREE = TreeConfig(chunk=64, height=2, ratios=(4, 1), root_ratio=8)
# The largest error of a value, as a share of the largest of the values that share its scale:
# half a step of 1/127, and half a step of 2/15 (from the least to the largest); scales and least
# values are rounded to bfloat16.
LARGEST = {"exact": 0.0, "bf16": 2.0**-8, "int8": 1 / 250, "int4": 1 / 14.5 + 2.0**-7}


def drawn(head_dim: int, count: int, seed: int) -> NodeKV:
    draw = torch.Generator().manual_seed(seed)
    shape = (3, 2, count, head_dim)
    scales = torch.logspace(-3, 3, 2)[None, :, None, None]
    return NodeKV(
        keys=torch.randn(shape, generator=draw) * scales,
        values=torch.randn(shape, generator=draw),
    )


@pytest.mark.parametrize("form", ["exact", "bf16", "int8", "int4"])
@given(
    head_dim=st.sampled_from([1, 5, 8, 32, 40, 64]),
    count=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_every_format_gives_a_node_back(form: str, head_dim: int, count: int, seed: int) -> None:
    node = drawn(head_dim, count, seed)
    shape = (3, 2, count, head_dim)
    read = kv_from_bytes(kv_to_bytes(node, form), shape, form, torch.float32)
    for found, expected in ((read.keys, node.keys), (read.values, node.values)):
        assert found.shape == expected.shape
        largest = expected.abs().amax(-1, keepdim=True)
        error = (found.float() - expected).abs() / largest
        assert float(error.max()) <= LARGEST[form]


@pytest.mark.parametrize("form", ["exact", "bf16", "int8", "int4"])
def test_bytes_of_another_length_are_refused(form: str) -> None:
    data = kv_to_bytes(drawn(8, 2, 0), form)
    for wrong in (data[:-1], data + b"0", b""):
        with pytest.raises(ValueError, match="bytes"):
            kv_from_bytes(wrong, (3, 2, 2, 8), form, torch.float32)


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_values_without_spread_are_kept(form: str) -> None:
    for value in (0.0, 1.0, -7.5):
        same = torch.full((1, 1, 2, 8), value)
        data = kv_to_bytes(NodeKV(keys=same, values=same), form)
        read = kv_from_bytes(data, (1, 1, 2, 8), form, torch.float32)
        assert torch.allclose(read.keys, same, rtol=0.005)


def test_a_quantised_memory_is_smaller(make: Make) -> None:
    sizes = {}
    for form in ("exact", "bf16", "int8", "int4"):
        memory = make(form, keep="all", kv=form)
        memory.add(DOCUMENTS)
        with memory._database.read() as connection:
            found = connection.execute("SELECT sum(length(data)) FROM kv")
            sizes[form] = found.fetchone()[0]
    assert sizes["exact"] == 2 * sizes["bf16"]  # the tiny model is float32
    assert sizes["int8"] < 0.7 * sizes["bf16"]  # with heads of 8 the scales weigh
    assert sizes["int4"] < sizes["bf16"]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40, 64])
def test_what_search_asks_for_is_kept(length: int) -> None:
    root = NodeRequest(start=0, end=length, ratio=8.0)
    assert kept_nodes(length, TREE, "text") == ()
    assert kept_nodes(length, TREE, "coarse") == (root,)
    kept = kept_nodes(length, TREE, "all")
    assert kept[0] == root
    assert len(kept) == len(set(kept))
    assert all(request.ratio > 1 for request in kept)
    if length == 64:
        fine = {(r.start, r.end, r.ratio) for r in kept}
        assert {(0, 32, 4.0), (32, 64, 4.0), (0, 16, 4.0), (48, 64, 4.0)} <= fine
    assert NodeRequest(start=0, end=length, ratio=7.5) not in kept


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
