"""Eight-bit linear layers on a CPU beside bfloat16: the default base's prefill, a token, the loss.

    python benchmarks/int8_cpu.py --out benchmarks/results/int8_cpu.json

All forms stand in one process and take turns. `dynamic` is PyTorch's own (`quantize_dynamic`,
fbgemm): one scale for all of a layer's input. `rows` has one for each token and each output, and
float32 between the layers. `weights` keeps inputs in bfloat16. The loss is over windows of a novel,
without past.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from speed_parts.card import Clock, hardware
from torch import Tensor, nn

from sharedllm import read_file
from sharedllm.hf.loading import load

BOOK = Path(__file__).parents[1] / "cookbooks/data/the_mayor_of_casterbridge.txt"
LENGTH, WINDOWS, STEPS = 1014, 4, 16


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (out, in) as int8 and a scale for each output."""
    scale = weight.float().abs().amax(1) / 127
    return (weight.float() / scale[:, None]).round().to(torch.int8), scale


class Rows(nn.Module):
    """Eight bits on both sides, the input's scale a token's own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.scale = quantised(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        scale = flat.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
        out = torch._int_mm((flat / scale).round().to(torch.int8), self.weight.t())
        return (out.float() * scale * self.scale).unflatten(0, x.shape[:-1])


class Weights(nn.Module):
    """Eight bits for weights alone."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, scale = quantised(linear.weight)
        self.scale = scale.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        out = torch._weight_int8pack_mm(x.flatten(0, -2), self.weight, self.scale)
        return out.unflatten(0, x.shape[:-1])


def base(dtype: torch.dtype, kind: type[nn.Module] | None = None) -> Any:
    """The default base, its linear layers replaced."""
    model, _ = load(None, device=torch.device("cpu"), dtype=dtype)
    for name, linear in list(model.named_modules()):
        if kind is not None and isinstance(linear, nn.Linear):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, kind(linear))
    return model


def dynamic() -> Any:
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(base(torch.float32), {nn.Linear})


@torch.inference_mode()
def taken(model: Any, ids: Tensor) -> tuple[float, float]:
    """Seconds of a prefill, and of a token behind it."""
    started = time.perf_counter()
    cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    read = time.perf_counter()
    for _ in range(STEPS):
        model(ids[:, :1], past_key_values=cache, use_cache=True)
    return read - started, (time.perf_counter() - read) / STEPS


@torch.inference_mode()
def judged(model: Any, windows: Tensor) -> tuple[float, list[Tensor]]:
    """Loss a token, and the likeliest tokens of each window."""
    losses, best = [], []
    for ids in windows.split(1):
        logits = model(ids).logits[0].float()
        losses.append(float(nn.functional.cross_entropy(logits[:-1], ids[0, 1:])))
        best.append(logits.argmax(-1))
    return statistics.mean(losses), best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    _, tokenizer = load(None, device=torch.device("cpu"), dtype=torch.float32)
    ids = tokenizer(read_file(str(BOOK)).text, return_tensors="pt", verbose=False)["input_ids"][0]
    windows = ids[: WINDOWS * LENGTH].view(WINDOWS, LENGTH)
    models = {
        "bfloat16": base(torch.bfloat16),
        "float32": base(torch.float32),
        "dynamic": dynamic(),
        "rows": base(torch.float32, Rows),
        "weights": base(torch.bfloat16, Weights),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for turn in range(args.times + 1):
        for name, model in models.items():
            seconds = taken(model, windows[:1])
            if turn:  # the first is warm-up
                found[name].append(seconds)
    _, exact = judged(models["float32"], windows)
    rows = []
    for name, model in models.items():
        loss, best = judged(model, windows)
        same = statistics.mean(
            float((a == b).float().mean()) for a, b in zip(best, exact, strict=True)
        )
        prefill, token = (statistics.median(x) for x in zip(*found[name], strict=True))
        row = {"form": name, "prefill_s": prefill, "token_s": token, "loss": loss, "same": same}
        print(" ".join(f"{k} {v:.4g}" if k != "form" else f"{v}:" for k, v in row.items()))
        rows.append({**row, "all_s": found[name]})
    if args.out:
        about = {"tokens": LENGTH, "windows": WINDOWS, **hardware(Clock(torch.device("cpu")))}
        args.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
