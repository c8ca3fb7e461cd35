"""Trains the two roles of the default adapter on packed batches, in one run or several.

    python -m benchmarks.default_adapter.train --data PREPARED --out RUN --minutes 15
    python -m benchmarks.default_adapter.train --data PREPARED --out RUN --minutes 15 --resume STATE
    python -m benchmarks.default_adapter.train --data PREPARED --out RUN --minutes 0 --resume STATE
    torchrun --nproc-per-node 4 -m benchmarks.default_adapter.train --data PREPARED --out RUN

``data.py --packed`` writes PREPARED. RUN gets the adapter (for
``SharedLLM.from_pretrained(adapter=...)``), ``state.safetensors`` to resume from, and
``log.jsonl``: losses by task, tokens per second, seconds. The third command only writes the adapter
of a state. With torchrun every process reads batches of its own on its own GPU; gradients are
averaged.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.default_adapter import state
from benchmarks.default_adapter.lessons import Chooser, Drawn
from benchmarks.default_adapter.mixture import KINDS, NEEDLES, RELATED, WEIGHTS, Cases
from benchmarks.default_adapter.packed_model import ROLES, PackedModel, losses
from benchmarks.default_adapter.packing import Batch, make_batches
from benchmarks.default_adapter.questions import Bank
from sharedllm import SharedLLM
from sharedllm.config import AdapterConfig, TreeConfig
from sharedllm.hf import lora_io
from sharedllm.hf.loading import DEFAULT_NAME
from sharedllm.hf.lora import Adapter
from sharedllm.text.tokens import Tokenizer

SCALE = 2.0  # alpha / rank, as in all versions
TREE = TreeConfig(context=1024)  # the nodes of a chunk come from one pass
SEARCH = {"budget": "auto", "leaves": "text", "coarse": "none"}


class Batches(IterableDataset[bytes]):
    """The endless stream of packed batches; every worker draws its own."""

    def __init__(
        self, args: argparse.Namespace, bank: Bank, tokenizer: Tokenizer, start: int
    ) -> None:
        self._args, self._bank, self._tokenizer, self._start = args, bank, tokenizer, start

    def __iter__(self) -> Iterator[bytes]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        # the first step is part of the seed, so that a resumed run sees new cases
        number = worker.id if worker else 0
        seed = abs(hash((self._args.seed, self._start, number, int(os.environ.get("RANK", 0)))))
        chooser = Chooser(self._tokenizer, TREE, drawn_by(self._args), seed)
        cases = iter(Cases(self._args.data / "train", self._bank, seed))
        for batch in make_batches(map(chooser, cases), self._args.tokens):
            yield pickle.dumps(batch)


class Log:
    """Logs losses by task, read from the device only when they are shown: that synchronises."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._held: list[tuple[Batch, Tensor]] = []
        self._since, self._waited = time.perf_counter(), 0.0

    def add(self, batch: Batch, each: Tensor, waited: float) -> None:
        self._held.append((batch, each))
        self._waited += waited

    def show(self, step: int, seconds: float, rate: float, norm: Tensor) -> None:
        """Write one line for everything since the last one."""
        kinds: dict[str, list[float]] = defaultdict(list)
        for batch, each in self._held:
            for kind, loss in zip(batch.kinds, each.tolist(), strict=True):
                kinds[kind].append(loss)
        passed = time.perf_counter() - self._since
        row = {
            "step": step,
            "seconds": round(seconds, 1),
            "lessons": sum(len(batch.kinds) for batch, _ in self._held),
            "past_per_second": round(sum(batch.past for batch, _ in self._held) / passed),
            "tokens_per_second": round(sum(batch.tokens for batch, _ in self._held) / passed),
            "waited": round(self._waited / passed, 3),
            "rate": rate,
            "norm": round(float(norm), 3),
            "loss": {k: [round(sum(v) / len(v), 3), len(v)] for k, v in sorted(kinds.items())},
        }
        if torch.cuda.is_available():
            row["gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        brief = {k: v for k, v in row.items() if k != "loss"}
        mean = np.mean([x for v in kinds.values() for x in v])
        print(f"{brief} loss {mean:.3f}", flush=True)
        self._held.clear()
        self._since, self._waited = time.perf_counter(), 0.0


class Processes:
    """The processes of this training, one a GPU; alone unless torchrun has started several."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.first = int(os.environ.get("RANK", 0)) == 0
        if self.count > 1:
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")

    def share(self, parameters: Iterable[Tensor]) -> None:
        """Give all processes the first one's `parameters`."""
        if self.count > 1:
            with torch.no_grad():
                for parameter in parameters:
                    dist.broadcast(parameter, 0)

    def average(self, parameters: Iterable[Tensor]) -> None:
        """Average the gradients over the processes, in one message."""
        if self.count == 1:
            return
        owned = list(parameters)
        grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in owned]
        joined = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(joined)
        joined /= self.count
        for parameter, part in zip(owned, joined.split([p.numel() for p in owned]), strict=True):
            parameter.grad = part.view_as(parameter)

    def agree(self, value: float) -> float:
        """Return the first process's `value`, so that all stop at the same step."""
        if self.count == 1:
            return value
        own = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(own, 0)
        return float(own)

    def close(self) -> None:
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()


def rate_share(done: float, warmup: float, cooling: float, least: float) -> float:
    """Return the share of the learning rate: a rise, a plateau, and a cosine down at the end."""
    if done < warmup:
        return max(done, 1e-3) / warmup
    if done < 1 - cooling:
        return 1.0
    angle = math.pi * min(1.0, (done - 1 + cooling) / cooling)
    return least + (1 - least) * (0.5 + 0.5 * math.cos(angle))


def drawn_by(args: argparse.Namespace) -> Drawn:
    """Return the distributions that the options ask for."""
    ratios = [(ratio, share) for (ratio, _), share in zip(Drawn().ratios, args.ratios, strict=True)]
    return Drawn(forms=tuple(args.forms), ratios=tuple(ratios))


def arguments() -> argparse.Namespace:
    usual = Drawn()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--adapter", default="default", help="the adapter to start from")
    parser.add_argument("--resume", type=Path, help="a state.safetensors to resume from")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--tokens", type=int, default=131072, help="of a process's batch")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument(
        "--roles", nargs="+", choices=ROLES, default=ROLES, help="the others stay as they are"
    )
    parser.add_argument(
        "--forms", nargs=3, type=float, default=usual.forms, help="shares of text, KV and both"
    )
    parser.add_argument(
        "--ratios",
        nargs=3,
        type=float,
        default=[share for _, share in usual.ratios],
        help="shares of leaves as KV at 1:1, 2:1 and 4:1",
    )
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--warmup", type=float, default=0.03, help="share of the time")
    parser.add_argument("--cooling", type=float, default=0.6, help="share of the time")
    parser.add_argument("--least", type=float, default=0.03, help="of the rate, at the end")
    parser.add_argument("--distil", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--save-seconds", type=float, default=150)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    processes = Processes()
    torch.backends.cuda.matmul.allow_tf32 = True
    bank = Bank(args.data / "train" / "qa2.jsonl")
    llm = SharedLLM.from_pretrained(None, adapter=args.adapter, tree=TREE)
    if llm.adapter is None:
        raise SystemExit(f"--adapter is {args.adapter!r}; give an adapter")
    model = PackedModel(llm.model, args.rank, SCALE * args.rank, compiled=args.compiled)
    model.load(llm.adapter.weights())
    for name, parameter in model.low.items():
        parameter.requires_grad_(name.split("_")[0] in args.roles)
    trained = [one for one in model.low.values() if one.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=args.learning_rate,
        weight_decay=0.0,
        fused=llm.upper.device.type == "cuda",
    )
    notes = {"step": 0, "seconds": 0.0, "lessons": 0, "past": 0, "tokens": 0, "seed": args.seed}
    if args.resume:
        notes = state.load(args.resume, model.low, optimizer)
    processes.share(model.low.values())
    if args.minutes:
        run(args, llm, model, optimizer, bank, notes, processes)
    if processes.first:
        write(args, llm, model, notes)
        print(f"done: {notes}", flush=True)
    processes.close()


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Copy the arrays of `batch` to `device`."""
    return {
        name: torch.from_numpy(array).to(device, non_blocking=True)
        for name, array in batch.arrays().items()
    }


def run(
    args: argparse.Namespace,
    llm: SharedLLM,
    model: PackedModel,
    optimizer: torch.optim.AdamW,
    bank: Bank,
    notes: dict[str, float],
    processes: Processes,
) -> None:
    """Train for ``--minutes`` or ``--steps``, save the state, and count in `notes`."""
    device = llm.upper.device
    loader = DataLoader(
        Batches(args, bank, llm.tokenizer, int(notes["step"])),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=3 if args.workers else None,
    )
    log, first = Log(args.out / "log.jsonl"), int(notes["step"])
    before, stream = notes["seconds"], iter(loader)
    batch: Batch = pickle.loads(next(stream))
    started = saved = time.perf_counter()
    while True:
        seconds = time.perf_counter() - started
        spent = max(seconds / (60 * args.minutes), (notes["step"] - first) / args.steps)
        done = processes.agree(spent)
        if done >= 1:
            break
        rate = args.learning_rate * rate_share(done, args.warmup, args.cooling, args.least)
        for group in optimizer.param_groups:
            group["lr"] = rate
        arrays = to_device(batch, device)
        logits = model(arrays, batch.longest)
        each = losses(logits, arrays, len(batch.kinds), args.distil)
        each.mean().backward()
        del logits
        processes.average(model.low.values())
        norm = torch.nn.utils.clip_grad_norm_(model.low.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        notes["step"] += 1
        notes["lessons"] += len(batch.kinds) * processes.count
        notes["past"] += batch.past * processes.count
        notes["tokens"] += batch.tokens * processes.count
        notes["seconds"] = before + time.perf_counter() - started
        waiting = time.perf_counter()  # for the next batch, while the device computes
        following: Batch = pickle.loads(next(stream))
        log.add(batch, each.detach(), time.perf_counter() - waiting)
        batch = following
        if processes.first and notes["step"] % args.log_every == 0:
            log.show(int(notes["step"]), notes["seconds"], rate, norm)
        if processes.first and time.perf_counter() - saved > args.save_seconds:
            state.save(args.out / "state.safetensors", model.low, optimizer, notes)
            saved = time.perf_counter()
    del stream, loader
    if processes.first:
        state.save(args.out / "state.safetensors", model.low, optimizer, notes)


def write(
    args: argparse.Namespace, llm: SharedLLM, model: PackedModel, notes: dict[str, float]
) -> None:
    """Write the adapter, with the query projection of the one it started from."""
    config = AdapterConfig(rank=args.rank, alpha=SCALE * args.rank, answer_lead=Drawn().lead)
    old = llm.adapter
    if old is not None:
        old.remove()
    adapter = Adapter(llm.model, config)
    adapter.set(model.weights())
    adapter.query_projection = None if old is None else old.query_projection
    recipe = {
        "weights": WEIGHTS,
        "kinds": KINDS,
        "needles": NEEDLES,
        "related": RELATED,
        "arguments": {k: str(v) for k, v in vars(args).items() if k not in ("data", "out")},
    }
    manifest = lora_io.Manifest(
        base=DEFAULT_NAME,
        adapter=config,
        tree=TREE,
        injection=llm.injection,
        search=dict(SEARCH),
        notes={**notes, "recipe": recipe},
    )
    lora_io.save(adapter, args.out / "adapter", manifest, torch.int8)


if __name__ == "__main__":
    main()
