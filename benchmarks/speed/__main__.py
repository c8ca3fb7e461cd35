"""Speed and memory of every phase beside other ways to read long contexts, on one device.

    python -m benchmarks.speed --model llama8b-shaped --contexts 8K,32K,128K,1M \
        --out benchmarks/results/speed.jsonl --plot docs/images/speed.png
    python -m benchmarks.speed --small
    python -m benchmarks.speed --leaves 32K --budgets 1K,2K,4K,8K,16K   # only text or KV, as stored
    python -m benchmarks.speed --counted --budgets 1K,2K,4K,8K,16K      # their FLOPs, on no device

The device's matrix and copy rates are measured first; each row then reports its seconds, the
operations and bytes it cannot avoid, the share of its time that those would take (its floor), and
what sets that floor. Rows are written as they come. `--small` runs all of it with a tiny model on a
CPU: its times say nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import baselines, leaves, ours, presses
from benchmarks.speed.card import Clock, described, hardware, rates
from benchmarks.speed.costs import Size, prefill
from benchmarks.speed.figure import plot
from benchmarks.speed.models import made
from benchmarks.speed.report import Report, Row, reached, table
from sharedllm import SharedLLM
from sharedllm.attention.backends import get_backend
from sharedllm.attention.flash import has_package
from sharedllm.memory.codes import VectorCodec

UNITS = {"K": 1024, "M": 1024**2}


def number(text: str) -> int:
    """``32K`` -> 32768."""
    unit = UNITS.get(text[-1:].upper(), 1)
    return int(text[:-1] if unit > 1 else text) * unit


class Run:
    """One run: its settings, and rows that fail without ending it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.clock = Clock(torch.device(args.device))
        self.dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
        self.report = Report(args.out)
        self.ends = time.monotonic() + 60 * args.minutes
        self.rates = rates(self.clock, self.dtype)
        self.report.add({"hardware": hardware(self.clock), "rates": described(self.rates)})
        self.model, self.tokenizer = made(args.model, self.clock.device, self.dtype)
        self.size = Size.of(self.model.config, self.dtype.itemsize)
        self.report.add({"model": args.model, "parameters": self.size.parameters})

    def rows(
        self, phase: str, make: Callable[[], Iterator[Row]], needs: float = 0.0, **about: Any
    ) -> list[Row]:
        """Take all rows of `make`; what ends it early becomes a row that says why.

        `needs` are the seconds without which it is not started.
        """
        done: list[Row] = []
        why = ""
        left = self.ends - time.monotonic()
        try:
            if left < 0:
                why = f"left out: the {self.args.minutes} minutes were over"
            elif left < needs:
                why = f"left out: it takes about {needs:.0f} s, and {left:.0f} s are left"
            else:
                for found in make():
                    done.append(found)
                    self.report.add({**about, **found})
        except (torch.cuda.OutOfMemoryError, MemoryError) as error:
            why = f"out of memory: {str(error).splitlines()[0]}"
        except Exception as error:  # one row's failure must not cost the others
            why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if why:
            self.report.add({"phase": phase, "why": why, **about})
        self.clock.fresh()
        return done

    def ours(self, tokens: int, layers: int, chunk: int, budget: int, attention: str) -> list[Row]:
        about = {"tokens": tokens, "layers": layers, "chunk": chunk, "budget": budget}
        if chunk != self.args.chunk or budget != self.args.budget or attention != "auto":
            about["sweep"] = True

        def make() -> Iterator[Row]:
            llm = ours.opened(
                self.model, self.tokenizer, layers=layers, chunk=chunk, attention=attention
            )
            yield from ours.phases(
                llm, tokens, budget, self.size, self.rates, self.clock, self.codec
            )

        return self.rows("ours", make, **about)

    @cached_property
    def codec(self) -> VectorCodec:
        return ours.codec_of(self.opened(1))

    def opened(self, layers: int) -> SharedLLM:
        return ours.opened(
            self.model, self.tokenizer, layers=layers, chunk=self.args.chunk, attention="auto"
        )

    def context(self, tokens: int) -> None:
        """Everything at one length of context."""
        args, size, clock, found = self.args, self.size, self.clock, self.rates
        first: Row = {}
        for layers in sorted({min(m, size.layers) for m in (*args.layers, size.layers)}):
            for done in self.ours(tokens, layers, args.chunk, args.budget, "auto"):
                if done["phase"] == "first token, memory on the device":
                    first = done
        running, entries = first.get("running", 64), first.get("entries", args.budget)
        asked = len(self.tokenizer(ours.QUESTION)["input_ids"])  # others read no evidence as text
        model = self.model
        each: dict[str, Callable[[], Iterator[Row]]] = {
            "bare model": lambda: baselines.bare_question(
                model, running, entries, size, found, clock
            ),
            "top-k chunks": lambda: baselines.top_k(model, asked, args.budget, size, found, clock),
            "full attention": lambda: baselines.full_attention(model, tokens, size, found, clock),
        }
        if has_package() and clock.device.type == "cuda":
            each["full attention by flash"] = lambda: baselines.full_attention(
                model, tokens, size, found, clock, "flash"
            )
        each["CEPE's shape"] = lambda: baselines.cepe(model, tokens, asked, size, found, clock)
        each["StreamingLLM"] = lambda: baselines.streaming(
            model, tokens, args.budget, size, found, clock
        )
        fits = not baselines.too_large(tokens, size, clock)
        needs = {x: self.prefill_s(tokens) for x in each if fits and x.startswith("full")}
        for phase, make in each.items():
            self.rows(phase, make, needs.get(phase, 0.0), tokens=tokens)
        self.presses(tokens, asked, running)

    def prefill_s(self, tokens: int) -> float:
        """About what a prefill takes: twice its floor. A million tokens take minutes."""
        return 2 * self.rates.floor(prefill(self.size, tokens).flops, 0)[0]

    def presses(self, tokens: int, asked: int, running: int) -> None:
        """SnapKV and ExpectedAttention, which fit where the keys and values of all would not."""
        for name in presses.PRESSES:

            def make(name: str = name) -> Iterator[Row]:
                return presses.pressed(
                    name,
                    self.model,
                    tokens,
                    (asked, running),
                    self.args.budget,
                    self.size,
                    self.rates,
                    self.clock,
                )

            self.rows(name, make, self.prefill_s(tokens), tokens=tokens)

    def leaves(self, tokens: int) -> None:
        """Selected leaves as text, as KV encoded now, and as KV from a memory, at each budget."""
        args, size = self.args, self.size

        def make() -> Iterator[Row]:
            return leaves.phases(
                self.model,
                self.tokenizer,
                tokens,
                args.budgets,
                size.layers,
                size,
                self.rates,
                self.clock,
                args.chunk,
                args.folder,
            )

        self.rows("leaves", make, tokens=tokens)

    def sweeps(self, tokens: int) -> None:
        """Chunk size, budget and backend at one length, the others left as they are."""
        args = self.args
        for chunk in args.chunks:
            self.ours(tokens, self.size.layers, chunk, args.budget, "auto")
        for budget in args.budgets:
            self.ours(tokens, self.size.layers, args.chunk, budget, "auto")
        for attention in backends(self.clock.device, self.dtype):
            self.ours(tokens, self.size.layers, args.chunk, args.budget, attention)


def backends(device: torch.device, dtype: torch.dtype) -> list[str]:
    """The backends that run here, besides the one that ``auto`` takes."""
    auto = get_backend("auto", device=device, dtype=dtype).name
    packages = ["flash"] if has_package() else []
    names = ["reference"] if device.type == "cpu" else ["sdpa", "torch-flash", *packages]
    return [name for name in names if name != auto]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )

    def numbers(text: str) -> list[int]:
        return [number(part) for part in text.split(",") if part]

    cuda = torch.cuda.is_available()
    parser.add_argument("--model", default="llama8b-shaped", help="a shape, or a folder")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--contexts", type=numbers, default="8K,32K,128K,1M")
    parser.add_argument("--layers", type=numbers, default="4,16", help="M, besides all layers")
    parser.add_argument("--chunk", type=number, default=1024)
    parser.add_argument("--budget", type=number, default=4096)
    parser.add_argument(
        "--sweep", type=number, default=0, help="which context has the sweeps; 0: none"
    )
    parser.add_argument("--chunks", type=numbers, default="512,2048")
    parser.add_argument("--budgets", type=numbers, default="1K,2K")
    parser.add_argument("--leaves", type=number, default=0, help="tokens of a memory of leaves")
    parser.add_argument("--counted", action="store_true", help="count the FLOPs of leaves; no run")
    parser.add_argument("--folder", type=Path, default=None, help="where --leaves makes a memory")
    parser.add_argument("--minutes", type=float, default=60, help="start nothing after these")
    parser.add_argument("--out", type=Path, default=None, help="file of JSON lines")
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--again", action="store_true", help="measure nothing: plot from --out")
    parser.add_argument("--small", action="store_true", help="a tiny model, on the CPU")
    args = parser.parse_args()
    if args.small:
        args.model, args.device, args.contexts = "tiny", "cpu", [512, 1024, 2048]
        args.layers, args.chunk, args.budget = [1, 2], 64, 128
        args.sweep, args.chunks, args.budgets = 512, [128], [64]
        args.leaves = 512 if args.leaves else 0
        baselines.BLOCK = 64
    return args


def main() -> None:
    args = arguments()
    if args.again:
        plot([json.loads(line) for line in args.out.open(encoding="utf-8")], args.plot)
        return
    if args.counted:
        report = Report(args.out)
        for found in leaves.counted(args.model, args.budgets):
            report.add(found)
        return
    run = Run(args)
    if args.leaves:
        run.leaves(args.leaves)
        table(run.report.rows)
        return
    for tokens in args.contexts:  # as they are given, so that what matters most comes first
        run.context(tokens)
    if args.sweep:
        run.sweeps(args.sweep)
    table(run.report.rows)
    for ratio in reached(run.report.rows):
        run.report.add(ratio)
    if args.plot:
        plot(run.report.rows, args.plot)


if __name__ == "__main__":
    main()
