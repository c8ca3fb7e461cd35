"""Averages two adapters of one line of training, matrix by matrix.

    python -m benchmarks.default_adapter.average OLDER NEWER --share 0.5 --out FOLDER

A long training on generated and public questions gains there and loses on texts unlike them; the
mean of its weights and of those it started from keeps most of either (docs/experiments.md, 43).
Ranks that the older adapter does not have are taken from the newer, and `--share` of what they add.
The settings are those of the newer adapter.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from sharedllm import SharedLLM
from sharedllm.hf import lora_io


def average(older: Tensor, newer: Tensor, share: float, axis: int) -> Tensor:
    """Return (1 - share) older + share newer; `axis` is that of the ranks."""
    more = newer.shape[axis] - older.shape[axis]
    if more < 0:
        raise SystemExit("the older adapter has the higher rank; give the adapters in order")
    rest = newer.narrow(axis, older.shape[axis], more)
    # down-projections of the new ranks stay, their up-projections shrink from nothing
    filled = rest if axis == 0 else torch.zeros_like(rest)
    return torch.lerp(torch.cat([older, filled], dim=axis), newer, share)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("older", type=Path)
    parser.add_argument("newer", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the newer")
    parser.add_argument("--abstaining", type=float, default=0.0, help="nats, of the mean")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    older, newer = (
        SharedLLM.from_pretrained(adapter=folder, device="cpu", dtype="float32").encoder.adapter
        for folder in (args.older, args.newer)
    )
    if older is None or newer is None:
        raise SystemExit("give two adapters of the default model")
    with_ranks = older.weights()
    newer.set(
        {
            name: average(with_ranks[name], tensor, args.share, 0 if name.endswith("down") else 1)
            for name, tensor in newer.weights().items()
        }
    )
    manifest = lora_io.Manifest.read(args.newer)
    notes = {**manifest.notes, "averaged": {"older": args.older.name, "share": args.share}}
    config = manifest.adapter.replace(abstaining=args.abstaining)
    manifest = dataclasses.replace(manifest, adapter=config, notes=notes)
    lora_io.save(newer, args.out, manifest, torch.int8)


if __name__ == "__main__":
    main()
