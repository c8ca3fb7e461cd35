"""What this card or processor can do: matrix and copy rates, timing, peak memory."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# What a kernel's or an operator's name holds, in this order; the others are small ones.
KINDS = {
    "attention": ("flash", "fmha", "attention"),
    "small": ("triton_poi", "triton_red", "triton_per"),  # named after all that they fuse
    "matrix": ("gemm", "gemv", "nvjet", "cutlass", "cublas", "xmma", "::mm", "::addmm", "::bmm"),
    "copies": ("memcpy", "memset", "copy", "cat", "index"),
}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured on the device, the median of several.

    Attributes
    ----------
    flops : a second, of a large matrix product in the model's dtype
    copy : bytes a second, read and written, from device to device
    upload : bytes a second from pinned host memory to the device; 0 where they are one
    """

    flops: float
    copy: float
    upload: float

    def floor(self, flops: float, moved: float) -> tuple[float, str]:
        """Seconds that nothing can beat, and what sets them; computing and moving may overlap."""
        computing, moving = flops / self.flops, moved / self.copy
        return max(computing, moving), "matrix rate" if computing > moving else "copy rate"


class Clock:
    """Runs things on `device` and takes their time and memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"

    @property
    def memory(self) -> int:
        """Bytes of the card's memory."""
        return torch.cuda.get_device_properties(self.device).total_memory

    @property
    def compiler(self) -> str:
        """The backend of torch.compile; on a CPU one that only traces, which takes moments."""
        return "inductor" if self.cuda else "aot_eager"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], Any]) -> float:
        self.wait()
        started = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - started

    def median(self, call: Callable[[], Any], times: int = 5, warm: int = 2) -> float:
        for _ in range(warm):
            call()
        return statistics.median(self.seconds(call) for _ in range(times))

    def parts(self, call: Callable[[], Any]) -> dict[str, float]:
        """Seconds of one more run, by kind of kernel; idle is when the device had none to run."""
        activities = [ProfilerActivity.CUDA if self.cuda else ProfilerActivity.CPU]
        with profile(activities=activities) as profiler:
            whole = self.seconds(call)
        out = {"attention": 0.0, "matrix": 0.0, "copies": 0.0, "small": 0.0}
        for event in profiler.key_averages():
            if self.cuda and event.device_type != DeviceType.CUDA:
                continue
            spent = event.self_device_time_total if self.cuda else event.self_cpu_time_total
            name = event.key.lower()
            kind = next((k for k, n in KINDS.items() if any(x in name for x in n)), "small")
            out[kind] += spent / 1e6
        return {**out, "idle": max(0.0, whole - sum(out.values())), "whole": whole}

    def fresh(self) -> None:
        """Give memory back and forget the peak."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """Bytes at most allocated since :meth:`fresh`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.cuda else None


def rates(clock: Clock, dtype: torch.dtype) -> Rates:
    """Measure this device."""
    n, size = (8192, 2**30) if clock.cuda else (512, 2**24)
    a, b = (torch.randn(n, n, device=clock.device).to(dtype) for _ in range(2))
    source = torch.ones(size, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    flops = 2 * n**3 / clock.median(lambda: a @ b, 9)
    copy = 2 * size / clock.median(lambda: target.copy_(source), 9)
    upload = 0.0
    if clock.cuda:
        host = torch.ones(size, dtype=torch.uint8).pin_memory()
        upload = size / clock.median(lambda: target.copy_(host, non_blocking=True), 5)
    return Rates(flops=flops, copy=copy, upload=upload)


def hardware(clock: Clock) -> dict[str, Any]:
    """Public names of the card and the processor, and versions."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    import transformers

    out: dict[str, Any] = {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if clock.cuda:
        properties = torch.cuda.get_device_properties(clock.device)
        out |= {"card": properties.name, "card_gib": round(properties.total_memory / 2**30, 1)}
        out["cuda"] = torch.version.cuda
    return out


def described(found: Rates) -> dict[str, float]:
    return asdict(found)
