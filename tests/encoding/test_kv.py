"""Kept positions: how many, which, and coarser ones from finer ones."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from sharedllm.encoding.kv import kept_count, kept_positions

LENGTHS = st.integers(1, 300)


@given(length=LENGTHS, ratio=st.floats(1, 100))
@example(length=10, ratio=1.1)
@example(length=10, ratio=3.333333333333333)
def test_as_many_as_said_ascending_and_the_last_one(length: int, ratio: float) -> None:
    kept = kept_positions(length, ratio).tolist()
    assert len(kept) == kept_count(length, ratio) == math.ceil(length / ratio)
    assert sorted(set(kept)) == kept
    assert kept[0] >= 0
    assert kept[-1] == length - 1
    gaps = [b - a for a, b in zip([-1, *kept], kept, strict=False)]
    assert max(gaps) <= math.ceil(ratio)  # evenly spread


@given(length=LENGTHS, ratio=st.integers(1, 64))
def test_the_last_token_of_each_group_stays(length: int, ratio: int) -> None:
    expected = [min(end, length) - 1 for end in range(ratio, length + ratio, ratio)]
    assert kept_positions(length, ratio).tolist() == expected


@given(length=LENGTHS, ratio=st.integers(1, 16), steps=st.integers(2, 16))
def test_coarser_positions_are_among_the_finer_ones(length: int, ratio: int, steps: int) -> None:
    finer = kept_positions(length, ratio).tolist()
    coarser = kept_positions(length, ratio * steps).tolist()
    assert coarser == [
        finer[min(end, len(finer)) - 1] for end in range(steps, len(finer) + steps, steps)
    ]
