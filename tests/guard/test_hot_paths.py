"""Operations of the hot paths, exactly, and passes of the model's layers. Never seconds.

The model is a tiny Llama: hidden 32, 4 query heads and 2 key/value heads of 8, MLP 48, vocabulary
264. So a layer's matrices hold q 1,024 + k 512 + v 512 + o 1,024 + MLP 3 x 1,536 = 7,680 numbers,
and the output matrix 8,448. A multiply-add is two operations; attention counts its whole square, as
PyTorch's counter does.

A change that raises a number here makes every answer dearer: if it is meant, write down what the
new one is made of.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sharedllm import SharedLLM
from sharedllm.encoding.kv import gather
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.generation.cuda_graph import StepGraph
from sharedllm.generation.step_buffers import ROUND
from sharedllm.injection.positions import Prompt
from tests.guard.counting import Counted, count, passes
from tests.models import shared, some_ids

LAYER, OUTPUT = 2 * 7680, 2 * 8448  # operations a token
KV = 2 * 1024  # operations a token of a layer's key and value projections
SQUARE = 4 * 4 * 8  # attention, a query and a key: 4 heads of 8, two products
IDS = np.asarray(some_ids(128, 1), dtype=np.int32)
ROOTS = [NodeRequest(start=at, end=at + 64, ratio=8.0) for at in (0, 64)]  # 8 entries each


def ingest(layers: int, requests: list[NodeRequest] = ROOTS) -> Counted:
    """Two chunks, as a document's coarse level is encoded."""
    lower = shared("llama", layers=layers).encoder.lower

    def run() -> None:
        with torch.inference_mode():
            dict(lower.encode(IDS, requests))

    return count(run)


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


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_all_chunks_of_a_batch_take_one_pass(chunks: int) -> None:
    """The last of three layers is not run: it gives keys and values alone."""
    llm = shared("llama", layers=3)
    length = 128 // chunks
    requests = [NodeRequest(start=at, end=at + length, ratio=8.0) for at in range(0, 128, length)]

    def run() -> None:
        with torch.inference_mode():
            dict(llm.encoder.lower.encode(IDS, requests))

    assert passes(llm.model, run) == [1, 1, 0]
    assert count(run).waits == 0


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
    step_graph = StepGraph(llm.upper, llm.upper.start([warm(llm)]), 8, graph=False)
    found = count(lambda: step_graph.step([5]))
    assert found.linear == 3 * LAYER + OUTPUT
    assert found.attention == 3 * SQUARE * ROUND


def test_a_step_is_one_pass_and_waits_for_nothing() -> None:
    llm = shared("llama")
    session = llm.upper.start([warm(llm)])
    assert passes(llm.model, lambda: llm.upper.step(session, [5])) == [1, 1, 1]
    assert count(lambda: llm.upper.step(session, [5])).waits == 0


def test_a_replayed_step_is_one_pass_and_waits_for_nothing() -> None:
    """What a CUDA graph records may not wait for the host at all."""
    llm = shared("llama")
    step_graph = StepGraph(llm.upper, llm.upper.start([warm(llm)]), 8, graph=False)
    assert passes(llm.model, lambda: step_graph.step([5])) == [1, 1, 1]
    assert count(lambda: step_graph.step([5])).waits == 0
