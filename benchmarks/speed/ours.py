"""Phases of SharedLLM: reading, coarse encoding, a warm question, decoding."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.card import Clock, Rates
from benchmarks.speed.costs import Cost, Size, compare, decode, read_chunks
from benchmarks.speed.models import text
from sharedllm import Document, InjectionConfig, SearchConfig, SharedLLM, TreeConfig
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.encoding.kv import InjectedKV
from sharedllm.generation.cuda_graph import StepGraph
from sharedllm.injection.positions import Prompt
from sharedllm.memory.codes import CodedVectors, VectorCodec

QUESTION = "What is the name of the ferry that the keeper of the lighthouse took in spring?"
PROFILED = 32768  # tokens whose ingest is taken apart, kernel by kernel
Row = dict[str, Any]


def opened(
    model: Any,
    tokenizer: Any,
    *,
    layers: int,
    chunk: int,
    attention: str,
    context: int = 0,
) -> SharedLLM:
    """The model under our attention, with a cache that keeps every node."""
    height = 3 if chunk >= 512 else 1
    ratios = (16.0, 8.0, 1.0) if height == 3 else (1.0,)
    encoder = DocumentEncoder(
        model,
        tokenizer,
        tree=TreeConfig(chunk=chunk, height=height, ratios=ratios, context=context),
        injection=InjectionConfig(layers=layers),
        attention=attention,
        node_cache_bytes=1 << 40,
    )
    return SharedLLM(encoder, search=SearchConfig(coarse="none"))


def row(phase: str, seconds: float, cost: Cost, rates: Rates, **more: Any) -> Row:
    """A phase with its floor: `limiter` sets it, `rest_s` is above it, `parts` says by what."""
    floor, limiter = rates.floor(cost.flops, cost.bytes)
    return {
        "phase": phase,
        "seconds": seconds,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "floor_s": floor,
        "floor_share": floor / seconds,
        "matrix_share": cost.flops / rates.flops / seconds,
        "limiter": limiter,
        "rest_s": seconds - floor,
        **more,
    }


def ingest_cost(size: Size, tokens: int, chunk: int, layers: int, ratio: float) -> Cost:
    """M - 1 whole layers, keys and values of kept tokens in the last, and writing what is kept."""
    below = read_chunks(size, tokens, chunk, layers - 1)
    kept = tokens / ratio
    return Cost(
        flops=below.flops + kept * 4 * size.width * size.kv,
        bytes=below.bytes + 2 * size.weight * size.kv * kept * layers,
    )


def phases(
    llm: SharedLLM,
    tokens: int,
    budget: int,
    size: Size,
    rates: Rates,
    clock: Clock,
    codec: VectorCodec,
) -> Iterator[Row]:
    """Every phase of one context, M and budget; what came before an error is kept."""
    chunk, layers = llm.tree.chunk, llm.encoder.lower.layers
    same = {
        "tokens": tokens,
        "layers": layers,
        "chunk": chunk,
        "budget": budget,
        "attention": llm.model.config._attn_implementation.removeprefix("sharedllm_"),
    }
    llm.remember(text(min(tokens, 4 * chunk), 1))  # kernels choose their form, the centre is found
    llm.encode(llm.remember(text(min(tokens, 4 * chunk), 2)))
    clock.fresh()
    words, documents = text(tokens), []
    seconds = clock.seconds(lambda: documents.append(llm.remember(words)))
    document = documents[0]
    remember_s = seconds
    yield row("remember", seconds, read_chunks(size, tokens, chunk, 1), rates, **same)
    clock.fresh()
    seconds = clock.seconds(lambda: llm.encode(document))
    stored = sum(kv.nbytes for kv in document.nodes._nodes.values())
    cost = ingest_cost(size, tokens, chunk, layers, llm.tree.root_ratio)
    peak = clock.peak()
    yield row(
        "ingest",
        seconds,
        cost,
        rates,
        stored=stored,
        vectors=document.vectors.nbytes,
        remember_s=remember_s,
        tokens_s=tokens / seconds,
        peak=peak,
        parts=_parts_of_ingest(llm, min(tokens, PROFILED), clock),
        **same,
    )
    asked = Asked(llm, document, budget, size, rates, clock, same)
    yield asked.search("search, float16 vectors")
    # the vectors as they were take memory no more
    document = as_stored(documents.pop(), codec)
    asked = Asked(llm, document, budget, size, rates, clock, same)
    yield from asked.by_text()
    yield asked.by_kv()


def codec_of(llm: SharedLLM) -> VectorCodec:
    """How the model's search vectors are kept; it takes seconds, and depends on the model alone."""
    return VectorCodec.fit(llm.encoder.lower.vocabulary()).to(llm.encoder.lower.device)


def as_stored(document: Document, codec: VectorCodec) -> Document:
    """`document` with its search vectors in 64 bytes a token, as a TreeMemory keeps them."""
    return replace(document, vectors=CodedVectors(codec, codec.encode(document.vectors)))


def _difference(one: Document, other: Document) -> float:
    """The largest ||a - b|| / ||a|| of any node's keys or values."""
    worst = 0.0
    for a, b in zip(one.nodes._nodes.values(), other.nodes._nodes.values(), strict=True):
        for x, y in ((a.keys, b.keys), (a.values, b.values)):
            worst = max(worst, float((x - y).float().norm() / x.float().norm()))
    return worst


def _parts_of_ingest(llm: SharedLLM, tokens: int, clock: Clock) -> dict[str, float]:
    document = llm.remember(text(tokens, 3))
    return clock.parts(lambda: llm.encode(document))


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one document; `same` is what all of its rows say."""

    llm: SharedLLM
    document: Document
    budget: int
    size: Size
    rates: Rates
    clock: Clock
    same: Row

    def by_text(self) -> Iterator[Row]:
        """Evidence as text, from each place of the memory, and decoding."""
        llm, clock = self.llm, self.clock
        self._prompt()  # what a first question encodes is kept
        clock.fresh()
        searched = self.search("search")
        yield searched
        prompt = self._prompt()
        cost, more = self._about(prompt, searched)
        start = clock.median(lambda: llm.upper.start([prompt]), 5, 2)
        peak, parts = clock.peak(), clock.parts(lambda: llm.upper.start([prompt]))
        name = "first token, memory on the device"
        weights = sum(p.nbytes for p in llm.model.parameters())
        nodes = self.document.nodes._nodes.values()
        held = self.document.vectors.nbytes + sum(kv.nbytes for kv in nodes)
        above = None if peak is None else peak - weights
        sizes = {"peak": peak, "above_weights": above, "held": held}
        yield row(name, start, cost, self.rates, parts=parts, **sizes, **more)
        for name, load in _stores(prompt, llm.upper.device):
            seconds = clock.median(lambda load=load: llm.upper.start([load()]), 3, 1)  # type: ignore[misc]
            yield row(f"first token, memory {name}", seconds, cost, self.rates, **more)
        yield from self._decoding(prompt, more)

    def by_kv(self) -> Row:
        """The question alone is running text; the evidence, too, enters as keys and values."""
        searched = self.search("search", "kv")
        prompt = self._prompt("kv")
        cost, more = self._about(prompt, searched)
        seconds = self.clock.median(lambda: self.llm.upper.start([prompt]), 5, 2)
        return row("first token, evidence as KV", seconds, cost, self.rates, **more)

    def search(self, name: str, leaves: str = "text") -> Row:
        """From the question to its prompt: search, selection, gathering."""
        seconds = self.clock.median(lambda: self._prompt(leaves), 3, 2)
        query = len(self.llm.tokenizer(QUESTION)["input_ids"])
        cost = compare(self.size.width, query, self.same["tokens"])
        return row(name, seconds, cost, self.rates, **self.same)

    def _prompt(self, leaves: str = "text") -> Prompt:
        return self.llm.prepare(
            QUESTION,
            self.document,
            leaves=leaves,
            coarse="all",
            budget=self.budget,
            max_new_tokens=64,
        ).prompt

    def _about(self, prompt: Prompt, searched: Row) -> tuple[Cost, Row]:
        """What `prompt` costs, and what its rows say."""
        running, entries = prompt.text_tokens, prompt.injected_tokens
        cost = question_cost(self.size, running, entries, self.same["layers"])
        more = {"running": running, "entries": entries, "search_s": searched["seconds"]}
        return cost, more | self.same

    def _decoding(self, prompt: Prompt, more: Row) -> Iterator[Row]:
        upper, clock = self.llm.upper, self.clock
        new, seen = 32, more["running"] + more["entries"]
        cost = decode(self.size, new, seen)
        session = upper.start([prompt])
        step_graph = StepGraph(upper, upper.start([prompt]), 2 * new, graph=clock.cuda)
        replayed = "decode, CUDA graph" if clock.cuda else "decode, fixed shapes"
        steps: dict[str, Callable[[], None]] = {
            "decode": lambda: upper.step(session, [1]),
            replayed: lambda: step_graph.step([1]),
        }
        for name, step in steps.items():
            step()
            seconds = clock.seconds(lambda step=step: [step() for _ in range(new)])  # type: ignore[misc]
            tokens_s = new / seconds
            parts = clock.parts(step)
            yield row(name, seconds, cost, self.rates, tokens_s=tokens_s, parts=parts, **more)


def question_cost(size: Size, running: int, entries: int, layers: int) -> Cost:
    """A prompt of `running` tokens over `entries` of memory in `layers` layers."""
    squares = size.layers * 2 * size.attention * running**2
    over_memory = 4 * size.attention * running * entries * layers
    kv = 2 * size.weight * size.kv * (entries * layers + running * size.layers)
    return Cost(
        flops=2 * size.layers * size.layer * running + 2 * size.head + squares + over_memory,
        bytes=size.weight * size.parameters + kv,
    )


def _stores(prompt: Prompt, device: torch.device) -> Iterator[tuple[str, Any]]:
    """Ways to bring the memory of `prompt` to the device: from pinned RAM, from a file."""
    (memory,) = [m for m in prompt.memory if m is not None] or [None]
    if memory is None:
        return
    both = torch.stack([memory.keys, memory.values]).cpu()
    if device.type == "cuda":
        both = both.pin_memory()

    def placed(host: torch.Tensor) -> Prompt:
        keys, values = host.to(device, non_blocking=True)
        there = InjectedKV(keys=keys, values=values, chunk=memory.chunk, n_chunks=memory.n_chunks)
        return Prompt(
            text=prompt.text,
            memory=tuple(None if m is None else there for m in prompt.memory),
            reads=prompt.reads,
        )

    yield "in pinned RAM" if device.type == "cuda" else "in RAM", lambda: placed(both)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "memory"
        file.write_bytes(both.view(torch.uint8).numpy().tobytes())

        def read() -> Prompt:
            flat = torch.from_file(str(file), size=both.nbytes, dtype=torch.uint8)
            return placed(flat.view(both.dtype).view(both.shape))

        yield "in a file (the system may hold it)", read
