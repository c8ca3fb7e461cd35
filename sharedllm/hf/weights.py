"""Whether a model's weights are still the ones that something was computed with."""

from __future__ import annotations

from typing import Any


def weights_state(model: Any) -> int:
    """Differs after weights were changed in place, replaced, or moved, and for another attention.

    Weights count their changes in place, but for those made in inference mode; no value is read.
    """
    weights = tuple(
        (p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()
    )
    return hash((weights, model.config._attn_implementation))
