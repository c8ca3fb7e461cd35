"""The lower model on several devices: each encodes a part of a document's batches.

Work is done in rounds. The home device, where the whole model is, takes the first batch of a round
in the caller's thread, and every further device one of the others in a thread of its own. A round
begins and ends within one step of the caller's iterator: between the steps, where the model is
given up to others, no thread works, and whoever leaves early leaves nothing behind. A thread ends
when its kernels are launched: results are still on their way when the caller goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any

import torch

from sharedllm.encoding.lower_model import CENTRE_TOKENS, LowerModel, Out, Part
from sharedllm.errors import ConfigError
from sharedllm.hf.architectures import ModelShape
from sharedllm.hf.attention_interface import activate
from sharedllm.hf.lora import Adapter
from sharedllm.hf.rope import Rotation

# A further device is given at least so many tokens: with fewer it is waited for, not worked with.
# What finds the centre of search vectors stays at home, so that it is the same on any devices.
LEAST_TOKENS = CENTRE_TOKENS

IngestDevices = str | Sequence[str | torch.device] | None


def further_devices(given: IngestDevices, home: torch.device) -> tuple[torch.device, ...]:
    """The devices that encode beside `home`.

    Parameters
    ----------
    given : names, also as one text with commas; "all" is every other CUDA device

    Raises
    ------
    ConfigError
        If one is no CUDA device that PyTorch sees, or is named twice, or the model is on the CPU.
    """
    seen = torch.cuda.device_count() if home.type == "cuda" else 0
    names = [f"cuda:{i}" for i in range(seen)]
    if home.type == "cuda" and home.index is None:
        home = torch.device("cuda", torch.cuda.current_device())
    if given == "all":
        return tuple(torch.device(name) for name in names if torch.device(name) != home)
    asked = [n.strip() for n in given.split(",")] if isinstance(given, str) else list(given or ())
    if asked and not seen:
        raise ConfigError(
            f"ingest_devices is {given!r}, but the model is on {str(home)!r}: further devices are "
            "CUDA devices beside a CUDA device; leave ingest_devices out, or set device='cuda:0'"
        )
    out: list[torch.device] = []
    for name in asked:
        if str(name) not in names:
            raise ConfigError(
                f"ingest_devices names {str(name)!r}; allowed: {', '.join(names)} or 'all'"
            )
        device = torch.device(name)
        if device in (home, *out):
            twice = "where the model is already" if device == home else "named twice"
            raise ConfigError(
                f"ingest_devices names {str(name)!r}, {twice}; give each further device once"
            )
        out.append(device)
    return tuple(out)


class Replicas(LowerModel):
    """A lower model with copies of itself on further devices.

    What has gradients is encoded at home alone, and so is all while the adapter is trained.

    Parameters
    ----------
    model, shape, rotation, layers : of the home device; see :class:`LowerModel`
    copies : what :func:`sharedllm.hf.copies.first_layers` made of the model
    attention : the backend of the home device

    Attributes
    ----------
    devices : all of them, the home device first
    least_tokens : int
        Fewest tokens that are worth another device.
    """

    def __init__(
        self,
        model: Any,
        shape: ModelShape,
        rotation: Rotation,
        layers: int,
        *,
        copies: Sequence[Any],
        attention: str,
    ) -> None:
        super().__init__(model, shape, rotation, layers)
        self._copies = list(copies)
        self._others: list[LowerModel] = []
        for replica in copies:
            activate(replica, attention)
            own = Rotation(replica.get_decoder().rotary_emb)
            self._others.append(LowerModel(replica, shape, own, layers))
        self._adapter: Adapter | None = None
        self._adapted: list[Adapter] = []
        self._pool = ThreadPoolExecutor(len(copies), thread_name_prefix="sharedllm-ingest")
        self.devices = (self.device, *(lower.device for lower in self._others))
        self.least_tokens = LEAST_TOKENS

    @property
    def at_once(self) -> int:
        return len(self.devices) * self.batch_tokens

    def adapt(self, adapter: Adapter) -> None:
        """Copy the lower role of `adapter` to the further devices."""
        super().adapt(adapter)
        for old in self._adapted:
            old.remove()
        adapted = [adapter.lower_on(replica) for replica in self._copies]
        self._adapted = [one for one in adapted if one is not None]
        self._adapter = adapter

    def _batches(
        self,
        parts: Sequence[Part],
        lengths: Sequence[int],
        work: Callable[[LowerModel, list[Part]], Out],
        *,
        alone: bool,
    ) -> Iterator[tuple[list[Part], Out]]:
        if alone or self._in_training():
            yield from super()._batches(parts, lengths, work, alone=True)
            return
        batches, at = [], 0
        for count in self._shares(lengths):
            batches.append(list(parts[at : at + count]))
            at += count
        for first in range(0, len(batches), len(self.devices)):
            own, *others = batches[first : first + len(self.devices)]
            waiting = self._started(others, work)
            try:
                here = [work(self, own)]
            finally:
                wait(waiting)
            # let go of each result with its yield: the next round needs the memory
            yield own, here.pop()
            for batch in others:
                yield batch, waiting.pop(0).result()

    def _shares(self, lengths: Sequence[int]) -> Iterator[int]:
        """How many passes of these `lengths` each batch has, so that all devices have as much."""
        left, devices = sum(lengths), len(self.devices)
        rounds = math.ceil(left / self.at_once)
        batches = rounds * devices if rounds > 1 else min(devices, left // self.least_tokens)
        at = 0
        while at < len(lengths):
            wanted, taken, first = left / max(1, batches), 0, at
            while at < len(lengths):
                after = taken + lengths[at]
                if at > first and (after > self.batch_tokens or after - lengths[at] / 2 > wanted):
                    break
                taken, at = after, at + 1
            yield at - first
            left, batches = left - taken, batches - 1

    def _started(
        self, batches: Sequence[list[Part]], work: Callable[[LowerModel, list[Part]], Out]
    ) -> list[Future[Out]]:
        """`work` on `batches`, one to each further device; the results go to the home device.

        A thread has its own modes, role, current device and streams: they are the caller's.
        """
        kind = self.device.type
        inference = torch.is_inference_mode_enabled()
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind)
        stream = torch.cuda.current_stream(self.device) if kind == "cuda" else None

        def there(lower: LowerModel, batch: list[Part]) -> Out:
            with ExitStack() as stack:
                stack.enter_context(torch.inference_mode(inference))
                stack.enter_context(torch.no_grad())
                stack.enter_context(torch.autocast(kind, dtype, enabled=autocast))
                if stream is not None:
                    stack.enter_context(torch.cuda.stream(stream))  # that of the home device
                    stack.enter_context(torch.cuda.device(lower.device))
                return work(lower, batch).to(self.device, non_blocking=True)

        return [
            self._pool.submit(copy_context().run, there, lower, batch)
            for lower, batch in zip(self._others, batches, strict=False)
        ]

    def _in_training(self) -> bool:
        """Whether the adapter's weights may differ from those on the further devices by now."""
        return self._adapter is not None and self._adapter.training


def lower_model(
    model: Any,
    shape: ModelShape,
    rotation: Rotation,
    layers: int,
    copies: Sequence[Any],
    attention: str,
) -> LowerModel:
    """The lower model of `model`, with `copies` on further devices where there are any."""
    if not copies:
        return LowerModel(model, shape, rotation, layers)
    return Replicas(model, shape, rotation, layers, copies=copies, attention=attention)
