"""From the device to host memory, while the device goes on with the next batch."""

from __future__ import annotations

import torch
from torch import Tensor


class Landing:
    """Copies to pinned host memory on a stream of their own; plain copies without CUDA."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def take(self, x: Tensor) -> Tensor:
        """Where `x` will stand on the host; not to be read before :meth:`wait`."""
        if self._stream is None:
            return x.cpu()
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(self._stream):
            host.copy_(x, non_blocking=True)
        x.record_stream(self._stream)  # its memory is not given away before it has been read
        return host

    def wait(self) -> None:
        """Return once everything has arrived."""
        if self._stream is not None:
            self._stream.synchronize()
