"""Name -> attention backend."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sharedllm.attention import reference, sdpa, torch_flash
from sharedllm.attention.flash import PACKAGES, Flash, has_flash
from sharedllm.attention.segments import Segments
from sharedllm.config import one_of
from sharedllm.errors import ConfigError, MissingExtraError

logger = logging.getLogger(__name__)
CPU = torch.device("cpu")


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
    ) -> Tensor: ...


class Step(Protocol):
    """The signature of :func:`sharedllm.attention.torch_flash.step`."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, used: Tensor, *, scale: float
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """Functions: over a cache with memory, over packed sequences, and one query over a buffer.

    Without the last a mask says which slots of the buffer are filled.
    """

    name: str
    attend: Attend
    varlen: Varlen
    step: Step | None = None


def _flash(name: str) -> Backend:
    package = Flash(name)
    return Backend(name=name, attend=package.attend, varlen=package.varlen, step=torch_flash.step)


def _flex() -> Backend:
    from sharedllm.attention import flex  # loads PyTorch's compiler: seconds

    return Backend(name="flex", attend=flex.attend, varlen=flex.varlen)


def _newest_flash() -> Backend:
    """The newest FlashAttention package that is installed."""
    for name in sorted(PACKAGES, reverse=True):
        if has_flash(name):
            return _flash(name)
    raise MissingExtraError("flash-attn-4", "flash")


BACKENDS: dict[str, Callable[[], Backend]] = {
    "reference": lambda: Backend(
        name="reference", attend=reference.attend, varlen=reference.varlen
    ),
    "sdpa": lambda: Backend(name="sdpa", attend=sdpa.attend, varlen=sdpa.varlen),
    "torch-flash": lambda: Backend(
        name="torch-flash",
        attend=torch_flash.attend,
        varlen=torch_flash.varlen,
        step=torch_flash.step,
    ),
    "flex": _flex,
    "flash": _newest_flash,
    "flash2": lambda: _flash("flash2"),
    "flash3": lambda: _flash("flash3"),
    "flash4": lambda: _flash("flash4"),
}
NAMES = ("auto", *BACKENDS)
HALF_ON_CUDA = ("torch-flash", "flash", *PACKAGES)


def get_backend(
    name: str = "auto", *, device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> Backend:
    """Return the backend called `name` for a model of `dtype` on `device`.

    ``auto`` is PyTorch's FlashAttention kernel where it runs, else SDPA; packages are taken when
    they are named. What was chosen is the backend's name, which the model's config shows.

    Raises
    ------
    ConfigError
        If there is none of that name, or it does not run on `device` in `dtype`.
    MissingExtraError
        If it needs a package that is not installed.
    """
    one_of("attention", name, NAMES)
    fits = torch_flash.runs_on(device, dtype)
    if name == "auto":
        chosen = "torch-flash" if fits else "sdpa"
        logger.debug("attention: %s, for %s on %s", chosen, dtype, device)
        return BACKENDS[chosen]()
    found = BACKENDS[name]()
    if name in HALF_ON_CUDA and not fits:
        raise ConfigError(
            f"attention {name!r} needs bfloat16 or float16 on a CUDA card of compute capability "
            f"8.0 or newer; this is {dtype} on {device}: use 'auto' or 'sdpa'"
        )
    return found
