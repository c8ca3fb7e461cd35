"""Means and ratios over items with 95 % intervals, by bootstrap over items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value and its 95 % interval; the bounds are None for fewer than two items."""

    value: float
    low: float | None
    high: float | None
    items: int

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def mapped(self, function: np.ufunc) -> Estimate:
        """With a growing `function` applied to value and bounds."""
        low, high = (None if x is None else float(function(x)) for x in (self.low, self.high))
        return Estimate(value=float(function(self.value)), low=low, high=high, items=self.items)


def ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Estimate:
    """The sum of `above` over the sum of `below`, which belong together item by item.

    With ones below it is the mean.
    """
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if len(a) == 0 or not b.sum():
        raise ValueError("an estimate needs at least one item that counts")
    value = float(a.sum() / b.sum())
    if len(a) < 2:
        return Estimate(value=value, low=None, high=None, items=len(a))
    draws = np.random.default_rng(seed).integers(len(a), size=(RESAMPLES, len(a)))
    sums = b[draws].sum(1)
    drawn = a[draws].sum(1)[sums != 0] / sums[sums != 0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high), items=len(a))


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    return ratio(values, [1.0] * len(values), seed)


def difference(values: Sequence[float], others: Sequence[float], seed: int = 0) -> Estimate:
    """The mean difference of pairs."""
    return mean([a - b for a, b in zip(values, others, strict=True)], seed)
