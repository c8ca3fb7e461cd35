"""What the hot paths cost, exactly: operations, operators launched, bytes allocated. Never seconds.

The model is a tiny Llama: hidden 32, 4 query heads and 2 key/value heads of 8, MLP 48, vocabulary
264. So a layer's matrices hold q 1,024 + k 512 + v 512 + o 1,024 + MLP 3 x 1,536 = 7,680 numbers,
and the output matrix 8,448. A multiply-add is two operations; attention counts its whole square, as
PyTorch's counter does.

Operators and bytes depend on the versions of torch and transformers and are pinned for those of
constraints.txt; operations do not. A change that raises a number here makes every answer dearer: if
it is meant, write down what the new one is made of.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
import torch

from sharedllm import SharedLLM
from sharedllm.encoding.kv import gather
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.generation.cuda_graph import ROUND, Replay
from sharedllm.injection.positions import Prompt
from tests.guard.counting import Counted, count
from tests.models import shared, some_ids

LAYER, OUTPUT = 2 * 7680, 2 * 8448  # operations a token
KV = 2 * 1024  # operations a token of a layer's key and value projections
SQUARE = 4 * 4 * 8  # attention, a query and a key: 4 heads of 8, two products
IDS = np.asarray(some_ids(128, 1), dtype=np.int32)
ROOTS = [NodeRequest(start=at, end=at + 64, ratio=8.0) for at in (0, 64)]  # 8 entries each

pinned = pytest.mark.skipif(
    not (version("torch").startswith("2.13.") and version("transformers").startswith("5.23.")),
    reason="operators were counted under the versions of constraints.txt",
)


def ingest(layers: int, requests: list[NodeRequest] = ROOTS) -> Counted:
    """Two chunks, as a document's coarse level is encoded."""
    lower = shared("llama", layers=layers).encoder.lower

    def run() -> None:
        with torch.inference_mode():
            dict(lower.encode(IDS, requests))

    return count(run)


def sized(layers: int) -> SharedLLM:
    return shared("llama", sizes={"num_hidden_layers": layers})


def warm(llm: SharedLLM) -> Prompt:
    """Four tokens, 16 entries of memory, twelve tokens."""
    with torch.inference_mode():
        nodes = list(dict(llm.encoder.lower.encode(IDS, ROOTS)).values())
        memory = gather(nodes, [0, 1], 2)
    return Prompt(text=(some_ids(4), some_ids(12)), memory=(memory,))


# -- ingest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_operations_of_ingest(layers: int) -> None:
    """M - 1 whole layers over 128 tokens, and keys and values of the 16 kept ones in the last."""
    found = ingest(layers)
    assert found.linear == (layers - 1) * 128 * LAYER + 16 * KV
    squares = (layers - 1) * SQUARE * (64**2 + 64**2)  # each chunk sees itself alone
    assert found.attention == squares


def test_operations_of_nodes_of_all_lengths() -> None:
    """No padding: a node of 64 and one of 3 cost 67 tokens; nodes that begin together one pass."""
    requests = [
        NodeRequest(start=0, end=64, ratio=8.0),
        NodeRequest(start=0, end=16, ratio=4.0),
        NodeRequest(start=64, end=67, ratio=1.0),
    ]
    found = ingest(3, requests)
    assert found.linear == 2 * 67 * LAYER + (8 + 4 + 3) * KV
    assert found.attention == 2 * SQUARE * (64**2 + 3**2)


@pinned
@pytest.mark.parametrize(
    ("layers", "calls", "allocated"),
    # The embedding (1); rotation tables for all tokens (8) and to take it off the kept ones (10);
    # in the last layer picking them, their norm, K and V (9); stacking (2); copies of K and V of
    # two nodes (4). A layer below: two norms (12), linear layers (7), rotating Q and K (10),
    # attention (1), MLP (2), residuals (2), picking K and V (2), taking the rotation off K (5).
    [(1, 34, 58_368), (2, 75, 494_080), (3, 116, 929_792)],
)
def test_operators_and_bytes_of_ingest(layers: int, calls: int, allocated: int) -> None:
    """Each layer below the last allocates the same 435,712 bytes: no layer's outlive it."""
    found = ingest(layers)
    assert (found.calls.total(), found.allocated) == (calls, allocated)


@pinned
def test_a_longer_document_needs_no_more_operators() -> None:
    """Chunks of one batch are one row; only copies, two a node, are made one by one."""
    requests = [NodeRequest(start=at, end=at + 32, ratio=8.0) for at in range(0, 128, 32)]
    assert ingest(3, requests).calls.total() == ingest(3).calls.total() + 4


def test_search_vectors_take_one_layer() -> None:
    llm = shared("llama")
    llm.encoder.lower.vectors(IDS, [(0, 128)])  # finds the centre, once
    found = count(lambda: llm.encoder.lower.vectors(IDS, [(0, 64), (64, 128)]))
    assert found.linear == 128 * LAYER
    assert found.attention == SQUARE * (64**2 + 64**2)


# -- a warm question -----------------------------------------------------------------------------


def test_operations_of_a_warm_question() -> None:
    """The head is known from the question before: 12 running tokens, of which the last is read."""
    llm = shared("llama")
    prompt = warm(llm)
    first, later = (count(lambda: llm.upper.start([prompt])) for _ in range(2))
    assert first.linear == 3 * 16 * LAYER + 2 * OUTPUT
    assert later.linear == 3 * 12 * LAYER + OUTPUT
    # The tail sees 4 + 16 + 12, the head itself; the memory asks nothing.
    assert later.attention == 3 * SQUARE * 12 * 32
    assert first.attention == later.attention + 3 * SQUARE * 4 * 4


@pinned
@pytest.mark.parametrize(
    ("layers", "calls", "allocated"),
    # Laying out two pieces of text and one of memory, rotating the memory, final norm and output
    # matrix (79), and 42 a layer: 34 for the tail, as above; two copies of the head, two of the
    # memory, two of the tail into the cache, and its buffers.
    [(2, 163, 130_077), (3, 205, 187_837)],
)
def test_operators_and_bytes_of_a_warm_question(layers: int, calls: int, allocated: int) -> None:
    llm = sized(layers)
    prompt = warm(llm)
    llm.upper.start([prompt])
    found = count(lambda: llm.upper.start([prompt]))
    assert (found.calls.total(), found.allocated) == (calls, allocated)


# -- a step --------------------------------------------------------------------------------------


def test_operations_of_a_step() -> None:
    """One token in three layers and the output matrix, over 33 entries."""
    llm = shared("llama")
    session = llm.upper.start([warm(llm)])
    found = count(lambda: llm.upper.step(session, [5]))
    assert found.linear == 3 * LAYER + OUTPUT
    assert found.attention == 3 * SQUARE * 33


def test_operations_of_a_step_of_fixed_shape() -> None:
    """As above, over all slots of the buffer."""
    llm = shared("llama")
    replay = Replay(llm.upper, llm.upper.start([warm(llm)]), 8, graph=False)
    found = count(lambda: replay.step([5]))
    assert found.linear == 3 * LAYER + OUTPUT
    assert found.attention == 3 * SQUARE * ROUND


@pinned
@pytest.mark.parametrize(
    ("layers", "calls", "allocated"),
    # Laying out one token, the orders of all slots, rotation tables, final norm and output matrix
    # (38), and 36 a layer: 34 as in ingest and two copies into the cache.
    [(2, 110, 8_903), (3, 146, 12_223)],
)
def test_operators_and_bytes_of_a_step(layers: int, calls: int, allocated: int) -> None:
    llm = sized(layers)
    session = llm.upper.start([warm(llm)])
    found = count(lambda: llm.upper.step(session, [5]))
    assert (found.calls.total(), found.allocated) == (calls, allocated)


@pinned
def test_a_step_copies_no_keys() -> None:
    """Steps cost the same bytes whatever stands in the cache, but for 16 of bookkeeping a slot."""
    llm = shared("llama")
    session = llm.upper.start([warm(llm)])
    first = count(lambda: llm.upper.step(session, [5])).allocated
    later = [count(lambda: llm.upper.step(session, [5])).allocated for _ in range(8)]
    assert later == [first + 16 * n for n in range(1, 9)]


@pinned
@pytest.mark.parametrize(
    ("layers", "calls", "allocated"),
    # Filling in orders, one mask for all layers, rotation tables, final norm, output matrix and
    # counting up (31), and 41 a layer: as above, and five that keep blind queries out of the mask.
    [(2, 113, 9_444), (3, 154, 13_154)],
)
def test_operators_and_bytes_of_a_step_of_fixed_shape(
    layers: int, calls: int, allocated: int
) -> None:
    """What a CUDA graph replays: nothing is allocated between two steps that another one needs."""
    llm = sized(layers)
    replay = Replay(llm.upper, llm.upper.start([warm(llm)]), 8, graph=False)
    found = [count(lambda: replay.step([5])) for _ in range(3)]
    assert [(f.calls.total(), f.allocated) for f in found] == [(calls, allocated)] * 3
