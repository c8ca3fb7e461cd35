"""Attention backends by name, each checked against device and dtype before it is used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from sharedllm.attention import flash, reference, sdpa
from sharedllm.attention.visibility import Segments
from sharedllm.config import require_one_of
from sharedllm.errors import ConfigError

logger = logging.getLogger(__name__)
CPU = torch.device("cpu")

# What a model's attention does beside scores, scale and softmax; the kernels of HALF_ON_CUDA do not
Softmax = Literal["softcap", "sinks"]


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
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor: ...


class Varlen(Protocol):
    """The signature of :func:`sharedllm.attention.reference.varlen`."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Segments,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor: ...


class Step(Protocol):
    """The signature of :func:`sharedllm.attention.flash.step`."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, used: Tensor, *, scale: float
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """The functions of one backend.

    Attributes
    ----------
    attend : attention over a cache that may hold injected KV
    varlen : self-attention of packed sequences
    step : one query a row over a buffer whose first slots are filled; None falls back to `attend`
        with a mask
    """

    name: str
    attend: Attend
    varlen: Varlen
    step: Step | None = None


def _newest_package() -> Backend:
    found = flash.newest_package()
    return Backend(name=found.name, attend=found.attend, varlen=found.varlen, step=flash.step)


BACKENDS: dict[str, Callable[[], Backend]] = {
    "reference": lambda: Backend(
        name="reference", attend=reference.attend, varlen=reference.varlen
    ),
    "sdpa": lambda: Backend(name="sdpa", attend=sdpa.attend, varlen=sdpa.varlen),
    "torch-flash": lambda: Backend(
        name="torch-flash", attend=flash.attend, varlen=flash.varlen, step=flash.step
    ),
    "flash": _newest_package,
}
NAMES = ("auto", *BACKENDS)
HALF_ON_CUDA = ("torch-flash", "flash")


def get_backend(
    name: str = "auto",
    *,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    softmax: Sequence[Softmax] = (),
) -> Backend:
    """Return the backend called `name` for a model of `dtype` on `device` with such a `softmax`.

    ``auto`` is PyTorch's FlashAttention kernel where it runs, else SDPA. ``flash`` is the newest
    FlashAttention package that is installed. The backend's own name says what was chosen; the
    model's config shows it.

    Raises
    ------
    ConfigError
        If no backend has that name, or it does not run on `device` in `dtype`, or not with
        `softmax`.
    MissingExtraError
        If it needs a package that is not installed.
    """
    require_one_of("attention", name, NAMES)
    fits = flash.runs_on(device, dtype)
    if name == "auto":
        name = "torch-flash" if fits and not softmax else "sdpa"
    if name in HALF_ON_CUDA and softmax:
        raise ConfigError(
            f"attention {name!r} cannot compute this model's {' and '.join(softmax)}: use 'auto' "
            "or 'sdpa'"
        )
    backend = BACKENDS[name]()
    if name in HALF_ON_CUDA and not fits:
        raise ConfigError(
            f"attention {name!r} needs bfloat16 or float16 on a CUDA card of compute capability "
            f"8.0 or newer; this is {dtype} on {device}: use 'auto' or 'sdpa'"
        )
    logger.debug("attention: %s, for %s on %s", backend.name, dtype, device)
    return backend
