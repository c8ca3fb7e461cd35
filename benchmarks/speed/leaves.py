"""Selected leaves as text, as KV encoded now, and as KV that a memory has stored (keep="leaves").

Each budget is filled with leaves of one document in a TreeMemory, which is searched once: what is
timed is everything from the selection to the first token's logits. "not in the page cache" is with
the memory's file dropped from the system's cache, where that is possible.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from benchmarks.speed.card import Clock, Rates
from benchmarks.speed.costs import Cost, Size
from benchmarks.speed.models import SHAPES, byte_tokenizer, text
from benchmarks.speed.ours import QUESTION, Row, ingest_cost, opened, question_cost, row
from sharedllm import Document, MemoryDocument, SharedLLM, TreeMemory
from sharedllm.encoding.document import NodeCache
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.generation.assemble import make_plan
from sharedllm.generation.prompt import Conversation, converse, part_ids
from sharedllm.search.selection import Selection

NEW = 64  # tokens of an answer, for which there is to be room
BUDGETS = (1024, 2048, 4096, 8192, 16384)


def counted(shape: str, budgets: Sequence[int]) -> Iterator[Row]:
    """FLOPs of a prefill at each budget, without a model: the question over leaves of `budget`."""
    config = LlamaConfig(**SHAPES[shape])
    size = Size.of(config, 2)
    tokenizer = byte_tokenizer()
    asked = len(part_ids(QUESTION, tokenizer))
    for budget in budgets:
        requests = [_leaf(at) for at in range(0, budget, 128)]
        yield {
            "counted": shape,
            "budget": budget,
            "question": asked,
            "text": question_cost(size, asked + budget, 0, size.layers).flops,
            "kv_stored": question_cost(size, asked, budget, size.layers).flops,
            "kv_encoded": question_cost(size, asked, budget, size.layers).flops
            + encoding_cost(size, requests, size.layers).flops,
        }


def _leaf(start: int, leaf: int = 128, chunk: int = 1024) -> NodeRequest:
    return NodeRequest(start=start, end=start + leaf, ratio=1.0, context=start % chunk)


def encoding_cost(size: Size, requests: Sequence[NodeRequest], layers: int) -> Cost:
    """What encoding leaves costs: those read from the same token share a pass."""
    ends: dict[int, int] = {}
    for one in requests:
        ends[one.first] = max(ends.get(one.first, 0), one.end)
    passes = [end - first for first, end in ends.items()]
    kept = sum(one.end - one.start for one in requests)
    each = [ingest_cost(size, n, n, layers, n) for n in passes]  # a ratio of n: one kept token
    flops = sum(one.flops for one in each) + (kept - len(passes)) * 4 * size.width * size.kv
    moved = size.weight * ((layers - 1) * size.layer + 2 * size.kv * kept * layers)
    return Cost(flops=flops, bytes=moved)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one document of a memory, at one budget."""

    llm: SharedLLM
    document: Document
    conversation: Conversation
    selection: Selection
    clock: Clock

    @property
    def requests(self) -> list[NodeRequest]:
        """The leaves that enter as KV."""
        return make_plan(self.conversation, self.selection, self.llm.tokenizer).requests(0)

    def first_token(self) -> None:
        self.llm.upper.start([self.prompt()])

    def prompt(self) -> Any:
        return self.llm.assemble(self.conversation, self.selection, NEW).prompt

    def median(self, before: Callable[[], None] = lambda: None) -> float:
        """Seconds to a first token, each time after `before`."""
        warm, times = (1, 3) if self.clock.cuda else (0, 1)
        for _ in range(warm):
            self.first_token()
        found = []
        for _ in range(times):
            before()
            found.append(self.clock.seconds(self.first_token))
        return statistics.median(found)


def phases(
    model: Any,
    tokenizer: Any,
    tokens: int,
    budgets: Sequence[int],
    layers: int,
    size: Size,
    rates: Rates,
    clock: Clock,
    chunk: int,
    folder: Path | None,
) -> Iterator[Row]:
    """Write `tokens` tokens of leaves into a memory, then a first token at every budget.

    Parameters
    ----------
    folder : where the memory is made; None is the system's place for temporary files
    """
    llm = opened(model, tokenizer, layers=layers, chunk=chunk, attention="auto", context=chunk)
    llm.remember(text(4 * chunk, 1))  # kernels choose their form
    same = {"tokens": tokens, "layers": layers, "chunk": chunk}
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        TreeMemory(Path(scratch) / "memory", llm=llm, keep="leaves", vectors="exact") as memory,
    ):
        seconds = clock.seconds(lambda: memory.add(MemoryDocument(id="a", text=text(tokens))))
        cost = ingest_cost(size, tokens, chunk, layers, 1.0)
        disk = sum(path.stat().st_size for path in memory.path.glob("memory.sqlite*"))
        yield row("leaves, added to the memory", seconds, cost, rates, disk=disk, **same)
        for budget in budgets:
            yield from _asked(llm, memory, budget, size, rates, clock, same)


def _asked(
    llm: SharedLLM,
    memory: TreeMemory,
    budget: int,
    size: Size,
    rates: Rates,
    clock: Clock,
    same: Row,
) -> Iterator[Row]:
    """A first token at one budget, in each form of the leaves."""
    (stored,) = memory.documents_for(QUESTION, llm)
    fresh = replace(stored, nodes=NodeCache(0))
    layers = same["layers"]
    for name, document, leaves in (
        ("text", stored, "text"),
        ("KV encoded now", fresh, "kv"),
        ("KV stored", stored, "kv"),
    ):
        clock.fresh()
        document.nodes.limit = 0  # every question encodes, or reads from the file
        asked = ask(llm, document, leaves, budget, clock)
        prompt = asked.prompt()
        running, entries = prompt.text_tokens, prompt.injected_tokens
        cost = question_cost(size, running, entries, layers)
        if document is fresh:
            more = encoding_cost(size, asked.requests, layers)
            cost = Cost(flops=cost.flops + more.flops, bytes=cost.bytes + more.bytes)
        about = {"budget": budget, "running": running, "entries": entries, **same}
        yield row(f"leaves as {name}, first token", asked.median(), cost, rates, **about)
        if name != "KV stored":
            continue
        seconds = asked.median(lambda: forget_file(memory.path))
        yield row("leaves as KV not in the page cache, first token", seconds, cost, rates, **about)
        document.nodes.limit = 1 << 40
        asked.first_token()
        seconds = asked.median()
        yield row("leaves as KV on the device, first token", seconds, cost, rates, **about)


def ask(llm: SharedLLM, document: Document, leaves: str, budget: int, clock: Clock) -> Asked:
    """Search `document` once, for leaves of `budget` tokens as text or as KV."""
    message = [{"type": "document", "document": document}, {"type": "text", "text": QUESTION}]
    conversation = converse([{"role": "user", "content": message}], (), llm.tokenizer)
    selection = llm.select(
        QUESTION, document, leaves=leaves, budget=budget, coarse="none", sentences=0, rounds=1
    )
    return Asked(llm, document, conversation, selection, clock)


def forget_file(folder: Path) -> None:
    """Ask the system to drop the memory's files from its cache; some file systems keep them."""
    for path in folder.glob("memory.sqlite*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
