"""Compiled pieces compute what transformers' own layers do, and leave nothing behind.

Under a backend that traces and compiles nothing, so that this takes moments.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sharedllm.hf import pieces
from sharedllm.lower_model import NodeRequest
from tests.equivalence.test_4_nodes import assert_same
from tests.models import FAMILIES, shared, some_ids

IDS = np.asarray(some_ids(160, 40), dtype=np.int32)
REQUESTS = [NodeRequest(start=at, end=at + 40, ratio=4.0) for at in range(0, 160, 40)]
LAYERS = 3
PIECES = {"qwen3": LAYERS, "phi3": 0}  # of the others also the rotation


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LONG", 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_nodes_are_the_same(family: str) -> None:
    lower = shared(family).lower
    with torch.inference_mode():
        plain = dict(lower.encode(IDS, REQUESTS))
        with pieces.compiled_pieces(lower._model, "aot_eager") as count:
            assert count == next(
                (n for kind, n in PIECES.items() if family.startswith(kind)), 2 * LAYERS
            )
            fused = dict(lower.encode(IDS, REQUESTS))
        for request in REQUESTS:
            assert_same(fused[request], plain[request])
    assert not any("forward" in vars(module) for module in lower._model.modules())


def test_short_passes_and_those_with_gradients_are_transformers_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> object:
        raise AssertionError("a compiled piece ran")

    monkeypatch.setattr(pieces, "_kernels", lambda _: (never, never))
    lower = shared("llama").lower
    with pieces.compiled_pieces(lower._model):
        with torch.inference_mode():
            list(lower.encode(IDS, REQUESTS[:2]))
        list(lower.encode(IDS, REQUESTS))
        with torch.inference_mode(), pytest.raises(AssertionError, match="compiled piece"):
            list(lower.encode(IDS, REQUESTS))
