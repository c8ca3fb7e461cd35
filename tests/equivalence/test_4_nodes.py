"""Rule 4: however a node's KV came about, it is the same; and the rotation comes off exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sharedllm import TreeConfig
from sharedllm.encoding.kv import NodeKV, kept_positions
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.hf.architectures import inspect
from sharedllm.hf.rope import Rotation
from tests.equivalence import oracle
from tests.models import FAMILIES, TREE, shared, some_ids, stock

IDS = np.asarray(some_ids(60, 40), dtype=np.int32)
REQUESTS = [  # sharing starts, several lengths and ratios, one token, the very end
    NodeRequest(start=0, end=40, ratio=8.0),
    NodeRequest(start=0, end=20, ratio=3.0),
    NodeRequest(start=0, end=10, ratio=1.0),
    NodeRequest(start=10, end=11, ratio=4.0),
    NodeRequest(start=20, end=40, ratio=2.5),
    NodeRequest(start=40, end=60, ratio=32.0),
]


TREE_SETTINGS = dataclasses.asdict(TREE)


def assert_same(a: NodeKV, b: NodeKV) -> None:
    torch.testing.assert_close(a.keys, b.keys, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.values, b.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 45, 4096])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_and_prefix_shared_nodes_are_nodes_encoded_alone(
    family: str, batch_tokens: int
) -> None:
    lower = shared(family).encoder.lower
    lower.batch_tokens = batch_tokens
    together = dict(lower.encode(IDS, REQUESTS))
    assert sorted(together) == sorted(REQUESTS)
    for request in REQUESTS:
        ((_, alone),) = lower.encode(IDS[request.start : request.end], [_moved(request)])
        assert_same(together[request], alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_context_is_read_and_not_kept(family: str) -> None:
    lower = shared(family).encoder.lower
    ((_, whole),) = lower.encode(IDS, [NodeRequest(start=10, end=60, ratio=1.0)])
    nodes = [
        NodeRequest(start=30, end=60, ratio=1.0, context=20),
        NodeRequest(start=14, end=30, ratio=4.0, context=4),
    ]
    found = dict(lower.encode(IDS, nodes))
    assert_same(found[nodes[0]], NodeKV(keys=whole.keys[:, :, 20:], values=whole.values[:, :, 20:]))
    kept = 4 + kept_positions(16, 4.0)
    assert_same(
        found[nodes[1]], NodeKV(keys=whole.keys[:, :, kept], values=whole.values[:, :, kept])
    )


@pytest.mark.parametrize("context", [0, 24, 64])
def test_a_document_s_nodes_are_read_with_what_stands_before_them_in_their_chunk(
    context: int,
) -> None:
    llm = shared("llama", tree=TreeConfig(**{**TREE_SETTINGS, "context": context}))
    document = llm.remember("".join(map(chr, range(40, 120))) * 2)
    llm.answer("Who?", document, leaves="kv", budget=60, max_new_tokens=1)
    for request, kv in document.nodes._nodes.items():
        chunk = request.start - request.start % llm.tree.chunk
        assert request.context == min(context, request.start - chunk)
        ((_, alone),) = llm.encoder.lower.encode(document.tokens.ids, [request])
        assert_same(kv, alone)


def _moved(request: NodeRequest) -> NodeRequest:
    return NodeRequest(start=0, end=request.end - request.start, ratio=request.ratio)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_are_those_before_the_rotation(family: str) -> None:
    encoded = dict(shared(family).encoder.lower.encode(IDS, REQUESTS))
    for request, kv in encoded.items():
        kept = tuple(kept_positions(request.end - request.start, request.ratio).tolist())
        node = oracle.Node(tuple(IDS[request.start : request.end].tolist()), kept, 0)
        with torch.no_grad():
            layers = oracle._encode(stock(family), node, 3)
        for index, (keys, values) in enumerate(layers):
            torch.testing.assert_close(kv.keys[index], keys[0], rtol=1e-4, atol=2e-5)
            torch.testing.assert_close(kv.values[index], values[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_fewer_injection_layers_are_the_bottom_ones(layers: int) -> None:
    every = dict(shared("llama").encoder.lower.encode(IDS, REQUESTS))
    for request, kv in shared("llama", layers=layers).encoder.lower.encode(IDS, REQUESTS):
        assert_same(
            kv, NodeKV(keys=every[request].keys[:layers], values=every[request].values[:layers])
        )


@pytest.mark.parametrize("cache_bytes", [1, 1 << 20])
def test_cached_and_encoded_again_is_the_same(cache_bytes: int) -> None:
    llm = shared("llama", node_cache_bytes=cache_bytes)
    document = llm.remember("x" * 30 + "y" * 30)
    requests = [NodeRequest(start=0, end=30, ratio=2.0), NodeRequest(start=30, end=60, ratio=1.0)]
    first = llm.encoder.encode(document, requests)
    again = llm.encoder.encode(document, requests)
    held = [request in document.nodes for request in requests]
    assert sum(held) == (2 if cache_bytes > 1 else 1)  # one always stays
    for request in requests:
        assert_same(first[request], again[request])
        if request in document.nodes and cache_bytes > 1:
            assert again[request].keys is first[request].keys


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65, 100])
@pytest.mark.parametrize("steps", [2, 3, 4, 16])
def test_coarser_from_finer_is_direct_encoding(length: int, steps: int) -> None:
    llm = shared("llama", tree=TreeConfig(chunk=100, height=0, ratios=(), root_ratio=8))
    document = llm.remember("abcdefghij" * 10)
    finer = NodeRequest(start=0, end=length, ratio=8.0)
    coarser = NodeRequest(start=0, end=length, ratio=8.0 * steps)
    assert llm.encoder.from_finer(document, coarser) is None  # nothing to take it from yet
    llm.encoder.encode(document, [finer])
    found = llm.encoder.from_finer(document, coarser)
    ((_, direct),) = llm.encoder.lower.encode(document.tokens.ids, [coarser])
    assert found is not None
    assert_same(found, direct)
    assert llm.encoder.from_finer(document, NodeRequest(start=0, end=length, ratio=12.0)) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rotation_comes_off_and_on(family: str) -> None:
    model = stock(family)
    rotation = Rotation(model.model.rotary_emb, inspect(model).rotations)
    heads, dims = 2, model.model.layers[0].self_attn.head_dim
    x = torch.randn(3, 2, heads, 20, dims)
    positions = torch.stack([torch.arange(20), torch.arange(200, 220)])
    turned, off = rotation.rotate_layers(x, positions), rotation.unrotation(positions)
    for index, (plain, found) in enumerate(zip(x, turned, strict=True)):
        torch.testing.assert_close(off(found, index), plain, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found, rotation.rotate(plain, positions, index))
        expected = oracle._rotate(model, index, plain[:1], positions[0])
        torch.testing.assert_close(found[:1], expected)
    assert float((turned - x).abs().max()) > 0.1
    torch.testing.assert_close(rotation.rotate_layers(x.requires_grad_(), positions), turned)
