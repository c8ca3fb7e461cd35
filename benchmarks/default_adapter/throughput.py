"""Tokens per second of a training step: the library's, packed, and packed and compiled.

    python -m benchmarks.default_adapter.throughput --data PREPARED --batches 4

All three take the same lessons, and their losses are printed. ``--profile`` prints the costliest
kernels.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.default_adapter.cases import Case
from benchmarks.default_adapter.lessons import Chooser, Drawn
from benchmarks.default_adapter.mixture import Cases
from benchmarks.default_adapter.packed_model import PackedModel, losses
from benchmarks.default_adapter.packing import Batch, make_batches, make_lesson, make_twin
from benchmarks.default_adapter.questions import Bank
from benchmarks.default_adapter.train import SCALE, TREE, to_device
from sharedllm import SharedLLM
from sharedllm.training.batch import Choice
from sharedllm.training.batch import losses as unpacked

ABOVE = 70_000  # tokens of a batch above which the library recomputes activations
KINDS = ("library", "packed", "compiled")
Step = Callable[[], Tensor]


def draw_batches(
    chooser: Chooser, llm: SharedLLM, cases: Iterator[Case], args: argparse.Namespace
) -> Iterator[tuple[Batch, list[Choice]]]:
    """Yield batches, each with the same lessons as the library's training takes them."""
    choices: list[Choice] = []

    def chosen(case: Case) -> Choice:
        choice = chooser.choose(case)
        choices.extend(one for one in (choice, make_twin(choice)) if one)
        return choice

    made = make_batches((make_lesson(chosen(case), llm.tokenizer) for case in cases), args.tokens)
    for batch in itertools.islice(made, args.batches):
        own = choices[: len(batch.kinds)]
        del choices[: len(batch.kinds)]
        yield batch, own


def measure(name: str, steps: Sequence[Step], made: Sequence[Batch]) -> None:
    """Run every step once to warm up and once with a clock, and print the figures."""
    cuda = torch.cuda.is_available()
    started = time.perf_counter()
    found = []
    for step in steps:
        each = step()
        each.mean().backward()
        found.append(each.detach().float().cpu())
        del each
    warm = time.perf_counter() - started
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for step in steps:
        step().mean().backward()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    past, tokens = (sum(getattr(b, name) for b in made) for name in ("past", "tokens"))
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0
    print(
        f"{name}: {seconds / len(steps):.3f} s a batch, {past / seconds:,.0f} tokens of past/s, "
        f"{tokens / seconds:,.0f} read/s, {peak:.0f} GiB, first round {warm:.0f} s, "
        f"loss {torch.cat(found).mean():.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=98304)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--only", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    llm = SharedLLM.from_pretrained(None, tree=TREE)
    both = make_data(llm, args)
    steps: Sequence[Step] = ()
    for name in args.only:
        steps = (
            library_steps(llm, both)
            if name == "library"
            else packed_steps(llm, both, args.rank, name)
        )
        measure(name, steps, [batch for batch, _ in both])
    if args.profile:
        print_profile(steps[0])


def make_data(llm: SharedLLM, args: argparse.Namespace) -> list[tuple[Batch, list[Choice]]]:
    """Make the batches; the library's training reads one document per question."""
    bank = Bank(args.data / "train" / "qa2.jsonl")
    chooser = Chooser(llm.tokenizer, TREE, Drawn(), 7)
    started = time.perf_counter()
    cases = (case for case in Cases(args.data / "train", bank, 7) if len(case.sources) == 1)
    both = list(draw_batches(chooser, llm, cases, args))
    count = sum(len(batch.kinds) for batch, _ in both)
    print(
        f"{count} lessons, {sum(b.tokens for b, _ in both) / count:.0f} tokens each, made in "
        f"{1000 * (time.perf_counter() - started) / count:.0f} ms each",
        flush=True,
    )
    return both


def library_steps(llm: SharedLLM, both: Sequence[tuple[Batch, list[Choice]]]) -> list[Step]:
    """Return the steps of ``sharedllm train``."""
    if llm.adapter is None:
        raise SystemExit("the default model has no adapter to start from")
    llm.adapter.train()
    device = llm.upper.device

    def step(batch: Batch, choices: list[Choice]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return unpacked(llm, choices, checkpointing=batch.tokens > ABOVE)

    return [partial(step, batch, choices) for batch, choices in both]


def packed_steps(
    llm: SharedLLM, both: Sequence[tuple[Batch, list[Choice]]], rank: int, name: str
) -> list[Step]:
    """Return the steps of packed training, compiled if `name` says so."""
    if llm.adapter is None:
        raise SystemExit("the default model has no adapter to start from")
    for parameter in llm.adapter.parameters().values():
        parameter.grad = None
    model = PackedModel(llm.model, rank, SCALE * rank, compiled=name == "compiled")
    model.load(llm.adapter.weights())

    def step(batch: Batch, arrays: dict[str, Tensor]) -> Tensor:
        return losses(model(arrays, batch.longest), arrays, len(batch.kinds), 0.0)

    return [partial(step, batch, to_device(batch, llm.upper.device)) for batch, _ in both]


def print_profile(step: Step) -> None:
    """Print the costliest kernels of one step."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        step().mean().backward()
        torch.cuda.synchronize()
    table = found.key_averages().table(sort_by="cuda_time_total", row_limit=28)
    print("\n".join(line[:60] + line[-120:] for line in table.splitlines()))


if __name__ == "__main__":
    main()
