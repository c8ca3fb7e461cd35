"""Name -> attention backend."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sharedllm.attention import reference, sdpa
from sharedllm.config import one_of


class Attend(Protocol):
    """The signature of :func:`sharedllm.attention.reference.attend`."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> Tensor: ...


BACKENDS: dict[str, Attend] = {"reference": reference.attend, "sdpa": sdpa.attend}
NAMES = ("auto", *BACKENDS)


def get_backend(name: str = "auto") -> Attend:
    """Return the backend called `name`; ``auto`` is SDPA."""
    one_of("attention", name, NAMES)
    return BACKENDS["sdpa" if name == "auto" else name]
