"""The benchmark's counts of operations and bytes, against numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.speed import costs


@pytest.fixture(scope="module")
def default() -> costs.Size:
    """SmolLM2-135M."""
    config = SimpleNamespace(
        num_hidden_layers=30,
        hidden_size=576,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
    )
    return costs.Size.of(config, weight=4)


def test_size(default: SimpleNamespace) -> None:
    assert default.layer == 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
    assert default.parameters == pytest.approx(134.5e6, rel=0.001)


def test_a_coarse_pass_is_the_designs_32_tflop(default: SimpleNamespace) -> None:
    assert costs.read_chunks(default, 131072, 1024, 30).flops == pytest.approx(32e12, rel=0.05)


def test_full_prefill_is_the_designs_622_tflop(default: SimpleNamespace) -> None:
    assert costs.prefill(default, 131072).flops == pytest.approx(622e12, rel=0.01)


def test_a_decoded_token_reads_all_weights(default: SimpleNamespace) -> None:
    one = costs.decode(default, 1, 0)
    assert one.bytes == 4 * default.parameters
    assert one.flops == 2 * default.parameters
    seen = costs.decode(default, 3, 1000)
    assert seen.bytes == 3 * (one.bytes + 4 * 2 * 30 * 192 * 1000)
    assert seen.flops == 3 * (one.flops + 4 * 30 * 576 * 1000)


def test_search() -> None:
    assert costs.compare(576, 10, 1000) == costs.Cost(flops=11_520_000, bytes=1_152_000)


def test_the_floor_is_the_slower_of_computing_and_moving() -> None:
    cost = costs.Cost(flops=100, bytes=60)
    assert cost.floor(10, 10) == 10
    assert cost.floor(100, 10) == 6
