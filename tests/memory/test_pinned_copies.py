"""Tensors on their way from the device to the host."""

from __future__ import annotations

import pytest
import torch

from sharedllm.memory.ingest import PinnedCopies


def test_on_a_cpu_nothing_moves() -> None:
    x = torch.arange(5)
    copies = PinnedCopies(x.device)
    assert copies.take(x) is x
    copies.wait()


@pytest.mark.gpu
def test_what_arrives_from_a_card_is_what_left() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    copies = PinnedCopies(torch.device("cuda"))
    sent = [torch.full((1 << 20,), float(n), device="cuda") for n in range(20)]
    here = [copies.take(x * 2) for x in sent]  # the product is let go of at once
    copies.wait()
    assert all(x.is_pinned() and bool((x == 2 * n).all()) for n, x in enumerate(here))
