"""Short names for what a model computes: they change when its weights or its tokenizer do."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

SAMPLES = 256  # values of each weight matrix
_known: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()


def of(model: Any, tokenizer: Any) -> tuple[str, str]:
    """Names of the base's weights and of how text becomes tokens, looked at once a model."""
    if model not in _known:
        _known[model] = (_weights(model), _tokenizer(tokenizer))
    return _known[model]


def _weights(model: Any) -> str:
    """Over names, shapes and evenly spaced values of all weights."""
    digest = hashlib.sha256(str(getattr(model.config, "model_type", "")).encode())
    for name, weights in sorted(model.named_parameters()):
        if "low_rank" in name or "cross_injection" in name:
            continue  # an adapter's, which has its own fingerprint
        flat = weights.detach().reshape(-1)
        values = flat[:: max(1, len(flat) // SAMPLES)].float().cpu().numpy()
        digest.update(f"{name}{tuple(weights.shape)}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def _tokenizer(tokenizer: Any) -> str:
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]
