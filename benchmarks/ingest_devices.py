"""Seconds to read and encode one document on one device and on all that are visible.

    python benchmarks/ingest_devices.py --model llama8b-shaped --tokens 524288 --out FILE.jsonl
    python benchmarks/ingest_devices.py --small

Random weights, random text. A row for each number of devices: search vectors ("remember") and the
coarse level's KV ("encode"), the median of `--runs`; `faster` is against one device, and `differ`
the largest differences of vectors and keys from what one device made. `--add` also times
`TreeMemory.add`, its coarse level kept. `--small` is a tiny model on the CPU: times say nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rows import keep
from speed_parts.models import made, text

from sharedllm import InjectionConfig, SharedLLM


def seconds(work: Callable[[], Any], devices: Sequence[torch.device]) -> float:
    started = time.perf_counter()
    work()
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - started


def add(llm: SharedLLM, words: str) -> None:
    from sharedllm import MemoryDocument, TreeMemory  # needs faiss

    with tempfile.TemporaryDirectory() as folder, TreeMemory(folder, llm=llm, keep="coarse") as m:
        m.add([MemoryDocument(id="document", text=words)])


def measured(
    args: argparse.Namespace, devices: Sequence[torch.device]
) -> tuple[dict[str, Any], Any]:
    """The row of these devices, and what they made: search vectors, keys of the roots."""
    dtype = torch.float32 if args.small else torch.bfloat16
    model, tokenizer = made(args.model, devices[0], dtype)
    about = {"injection": InjectionConfig(layers=args.layers), "node_cache_bytes": 64 << 30}
    llm = SharedLLM(model, tokenizer, ingest_devices=devices[1:], **about)
    words, times, found = text(args.tokens), [], []
    llm.encode(llm.remember(text(min(args.tokens, 32768 * len(devices)), 1)))  # kernels are chosen
    for _ in range(args.runs):
        read = seconds(lambda: found.append(llm.remember(words)), devices)
        times.append((read, seconds(lambda: llm.encode(found[-1]), devices)))
    remember, encode = map(statistics.median, zip(*times, strict=True))
    row: dict[str, Any] = {"model": args.model, "tokens": args.tokens, "layers": llm.lower.layers}
    row |= {"devices": [str(d) for d in devices], "remember_s": remember, "encode_s": encode}
    if args.add:  # once before: the compact form is fitted
        add(llm, text(2048, 2))
        row["add_s"] = seconds(lambda: add(llm, words), devices)
    if not args.small:
        row["cards"] = [torch.cuda.get_device_name(d) for d in devices]
    roots = [kv.keys.float().cpu() for kv in found[0].nodes._nodes.values()]
    return row, (found[0].vectors.cpu().float(), torch.cat(roots, dim=2))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="llama8b-shaped")
    parser.add_argument("--tokens", type=int, default=1 << 19)
    parser.add_argument("--layers", type=int, help="injection layers; all where it is left out")
    parser.add_argument("--runs", type=int, default=3)
    for flag in ("--add", "--small"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.small:
        args.model, args.tokens, every = "tiny", 20_000, [torch.device("cpu")] * 2
    else:
        every = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    first: Any = None
    for count in sorted({1, min(2, len(every)), len(every)}):
        row, values = measured(args, every[:count])
        first = first or (row, values)
        for key in ("remember_s", "encode_s", "add_s"):
            if key in row:
                row.setdefault("faster", {})[key] = first[0][key] / row[key]
        row["differ"] = [float((a - b).abs().max()) for a, b in zip(values, first[1], strict=True)]
        keep(row, args.out)


if __name__ == "__main__":
    main()
