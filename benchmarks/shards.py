"""Memory of each card, seconds a step and losses, with the base whole in every process and divided.

    python benchmarks/shards.py --model llama8b-shaped --processes 2 --out FILE.jsonl
    python benchmarks/shards.py --small

Random weights; the book in cookbooks/data. Both trainings see the same examples. A row a training:
GiB held after loading and at most, in loading and in training, a value a process; the median
second of a step after the first two. `--small` is a tiny model on the CPU: times say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rows import keep
from speed_parts.models import made

BOOK = Path(__file__).parent.parent / "cookbooks/data/the_mayor_of_casterbridge.txt"


def prepared(args: argparse.Namespace, folder: Path) -> None:
    """The model, the text and the settings of both trainings in `folder`."""
    cuda = not args.small
    device = torch.device("cuda" if cuda else "cpu")
    model, tokenizer = made(args.model, device, torch.bfloat16 if cuda else torch.float32)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    book = BOOK.read_text(encoding="utf-8")
    parts = [book[at : at + 100_000] for at in range(0, len(book), 100_000)]
    (folder / "book.jsonl").write_text("".join(json.dumps({"text": p}) + "\n" for p in parts))
    for shard in (False, True):
        config = {
            "model": str(folder / "model"),
            "out": str(folder / f"out-{shard}"),
            "data": {
                "documents": [str(folder / "book.jsonl")],
                "sources": [{"task": t, "weight": 1} for t in ("lm", "retrieval")],
                "past_tokens": [512, args.past],
            },
            "steps": args.steps,
            "batch": args.batch,
            "checkpoint_above": 0,
            "shard": shard,
            "tensorboard": False,
        }
        (folder / f"{shard}.json").write_text(json.dumps(config))


def train(config: Path) -> None:
    """What each process does; its figures go beside `config`."""
    from sharedllm.training.config import TrainConfig
    from sharedllm.training.trainer import Trainer

    trainer = Trainer(TrainConfig.model_validate_json(config.read_text()))
    device = trainer.accelerator.device
    row: dict[str, Any] = {"held": memory(device, "current")}
    row["loading"] = memory(device, "peak")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    losses, seconds, step = [], [], trainer._step

    def timed(choices: Any) -> Any:
        started = time.perf_counter()
        each = step(choices)
        losses.append(float(each.mean()))  # waits for the device
        seconds.append(time.perf_counter() - started)
        return each

    trainer._step = timed  # type: ignore[method-assign]
    trainer.run()
    row |= {"training": memory(device, "peak"), "losses": losses}
    row["step_s"] = statistics.median(seconds[2:])
    rank = trainer.accelerator.process_index
    config.with_suffix(f".{rank}").write_text(json.dumps(row))


def memory(device: torch.device, kind: str) -> float:
    """GiB, where it is counted."""
    if device.type != "cuda":
        return 0.0
    return round(torch.cuda.memory_stats(device)[f"allocated_bytes.all.{kind}"] / 2**30, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="llama8b-shaped")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--past", type=int, default=8192, help="most tokens of an example's past")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train)
        return
    more = {}
    if args.small:
        args.model, args.batch, args.past = "tiny", 1, 600
        args.steps, more = 4, {"ACCELERATE_USE_CPU": "true"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepared(args, folder)
        if not args.small:
            torch.cuda.empty_cache()
        for shard in (False, True):
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(args.processes), __file__]
            config = folder / f"{shard}.json"
            subprocess.run([*command, "--train", config], env={**os.environ, **more}, check=True)
            ranks = [
                json.loads(config.with_suffix(f".{rank}").read_text())
                for rank in range(args.processes)
            ]
            row: dict[str, Any] = {"model": args.model, "processes": args.processes, "shard": shard}
            row |= {"batch": args.batch, "past": args.past, "steps": args.steps}
            row |= {name: [rank[name] for rank in ranks] for name in ranks[0]}
            row["device"] = "cpu" if args.small else torch.cuda.get_device_name()
            keep(row, args.out)


if __name__ == "__main__":
    main()
