"""What SharedLLM is compared with, on the same weights in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache

from benchmarks.speed.card import Clock, Rates
from benchmarks.speed.costs import Cost, Size, decode, prefill
from benchmarks.speed.ours import Row, question_cost, row
from sharedllm.attention.backends import get_backend
from sharedllm.hf.cache import InjectionCache

BLOCK = 1024  # tokens that StreamingLLM reads at once
SINKS = 4
PLAIN = "plain_causal"
ENCODER_LAYERS, ENCODER_WIDTH, ENCODER_HEADS, ENCODER_INNER = 24, 1024, 16, 4096  # CEPE's 435M


class Bare:
    """The model under plain causal attention by one of our backends; ours comes back at the end.

    The stock implementation writes a dense mask for text behind a cache, which would flatter us.
    """

    def __init__(self, model: Any, attention: str = "auto") -> None:
        self.model = model
        backend = get_backend(attention, device=model.device, dtype=model.dtype)
        self.attention = backend.name
        # transformers takes names with "flash" in them for its own
        self._name = f"{PLAIN}_{backend.name.replace('flash', 'fa')}"

        def attend(
            module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any
        ) -> tuple[Tensor, None]:
            out = backend.attend(query, key, value, None, scale=options["scaling"])
            return out.transpose(1, 2).contiguous(), None

        AttentionInterface.register(self._name, attend)

    def __enter__(self) -> Bare:
        self._ours = self.model.config._attn_implementation
        self.model.set_attn_implementation(self._name)
        return self

    def __exit__(self, *_: object) -> None:
        self.model.set_attn_implementation(self._ours)

    @torch.inference_mode()
    def read(self, tokens: int, cache: Any, at: int | None = None, **more: Any) -> Tensor:
        """Run `tokens` tokens behind what `cache` holds, or from `at`; the last one's logits."""
        ids = torch.full((1, tokens), 97, device=self.model.device)
        at = cache.get_seq_length() if at is None else at
        positions = torch.arange(at, at + tokens, device=ids.device)[None]
        out = self.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **more,
        )
        return torch.as_tensor(out.logits)

    def filled(self, entries: int) -> Any:
        """A cache that holds `entries` random entries in every layer."""
        config, cache = self.model.config, DynamicCache()
        head = config.head_dim or config.hidden_size // config.num_attention_heads
        shape = (1, config.num_key_value_heads, entries, head)
        for layer in range(config.num_hidden_layers if entries else 0):
            kv = (
                torch.randn(shape, device=self.model.device, dtype=self.model.dtype)
                for _ in range(2)
            )
            cache.update(*kv, layer)
        return cache


def _decoding_s(bare: Bare, cache: Any, clock: Clock, new: int = 32) -> float:
    """Seconds of `new` steps of one token."""
    bare.read(1, cache)

    def steps() -> None:
        for _ in range(new):
            bare.read(1, cache)

    return clock.seconds(steps)


@torch.inference_mode()
def _replayed_s(bare: Bare, entries: int, clock: Clock, new: int = 32) -> float:
    """As :func:`_decoding_s`, each step one launch of a CUDA graph over a cache of one size."""
    grown, device = InjectionCache(bare.model.config.num_hidden_layers), bare.model.device
    for mine, given in zip(grown.layers, bare.filled(entries).layers, strict=True):
        mine.update(given.keys, given.values)
    slot, count = torch.tensor([entries], device=device), len(grown.layers)
    cache = grown.fixed([slot] * count, [entries + 1] * count)
    for mine, given in zip(cache.layers, grown.layers, strict=True):
        mine.take(given)
    ids = torch.full((1, 1), 97, device=device)
    read = partial(
        bare.model, ids, position_ids=slot[None], past_key_values=cache, logits_to_keep=1
    )
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        read()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        read()
    return clock.median(lambda: [graph.replay() for _ in range(new)], 3, 1)


def bare_question(
    model: Any, running: int, entries: int, size: Size, rates: Rates, clock: Clock
) -> Iterator[Row]:
    """The bare model over a resident cache as long as the memory: prefill of the text, decode."""
    same = {"running": running, "entries": entries, "budget": entries}
    with Bare(model) as bare:
        cost = question_cost(size, running, entries, size.layers)
        caches = [bare.filled(entries) for _ in range(4)]
        clock.fresh()
        seconds = clock.median(lambda: bare.read(running, caches.pop()), 3, 1)
        yield row("bare model, first token", seconds, cost, rates, peak=clock.peak(), **same)
        seconds = _decoding_s(bare, bare.filled(entries + running), clock)
        cost = decode(size, 32, entries + running)
        yield row("bare model, decode", seconds, cost, rates, tokens_s=32 / seconds, **same)
        if clock.cuda:
            seconds = _replayed_s(bare, entries + running, clock)
            name = "bare model, decode, CUDA graph"
            yield row(name, seconds, cost, rates, tokens_s=32 / seconds, **same)


def too_large(tokens: int, size: Size, clock: Clock) -> str:
    """Why keys and values of all tokens do not fit on the card; empty if they may."""
    stored = 2 * size.weight * size.kv * tokens * size.layers
    weights = size.weight * size.parameters
    if not clock.cuda or stored + weights <= clock.memory:
        return ""
    return (
        f"keys and values of all tokens take {stored / 2**30:.0f} GiB beside "
        f"{weights / 2**30:.0f} of weights; the card has {clock.memory / 2**30:.0f}"
    )


def full_attention(
    model: Any,
    tokens: int,
    size: Size,
    rates: Rates,
    clock: Clock,
    attention: str = "auto",
) -> Iterator[Row]:
    """All of the context as prompt, through PyTorch's flash kernel on CUDA, or another."""
    if why := too_large(tokens, size, clock):  # known before minutes are spent
        raise MemoryError(why)
    with Bare(model, attention) as bare:
        name = "full attention" if attention == "auto" else f"full attention by {bare.attention}"
        bare.read(min(tokens, 512), DynamicCache())
        clock.fresh()
        cache = DynamicCache()
        seconds = clock.seconds(lambda: bare.read(tokens, cache))
        cost = prefill(size, tokens)
        yield row(
            f"{name}, first token",
            seconds,
            cost,
            rates,
            tokens=tokens,
            stored=2 * size.weight * size.kv * tokens * size.layers,
            peak=clock.peak(),
            tokens_s=tokens / seconds,
        )
        seconds = _decoding_s(bare, cache, clock)
        cost = decode(size, 32, tokens)
        yield row(f"{name}, decode", seconds, cost, rates, tokens=tokens, tokens_s=32 / seconds)


def streaming(
    model: Any, tokens: int, window: int, size: Size, rates: Rates, clock: Clock
) -> Iterator[Row]:
    """StreamingLLM: four sinks and the last `window` tokens are kept; block after block."""

    def run() -> None:
        cache = bare.filled(0)
        for _ in range(tokens // BLOCK):
            bare.read(BLOCK, cache)
            excess = cache.get_seq_length() - SINKS - window
            if excess > 0:
                for layer in cache.layers:
                    layer.keys, layer.values = (
                        torch.cat([x[:, :, :SINKS], x[:, :, SINKS + excess :]], dim=2)
                        for x in (layer.keys, layer.values)
                    )

    with Bare(model) as bare:
        bare.read(BLOCK, DynamicCache())
        clock.fresh()
        seconds = clock.seconds(run)
    seen = 4 * size.attention * (min(window, tokens) + BLOCK / 2)
    cost = Cost(
        flops=size.layers * tokens * (2 * size.layer + seen),
        bytes=size.weight * size.parameters * (tokens / BLOCK),
    )
    yield row(
        "StreamingLLM, reads the context",
        seconds,
        cost,
        rates,
        tokens=tokens,
        budget=window,
        tokens_s=tokens / seconds,
        peak=clock.peak(),
    )


def top_k(
    model: Any, running: int, budget: int, size: Size, rates: Rates, clock: Clock
) -> Iterator[Row]:
    """The best chunks pasted as text, as many tokens as our budget: search is as ours."""
    tokens = running + budget
    with Bare(model) as bare:
        seconds = clock.median(lambda: bare.read(tokens, DynamicCache()), 3, 1)
    yield row(
        "top-k chunks, first token",
        seconds,
        prefill(size, tokens),
        rates,
        budget=budget,
        running=tokens,
    )


class _Encoder(nn.Module):
    """One layer of CEPE's encoder: bidirectional attention in chunks, and a plain MLP."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        attended = scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)))
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + torch.as_tensor(self.down(nn.functional.gelu(self.up(self.norm2(x)))))


@torch.inference_mode()
def cepe(
    model: Any, tokens: int, running: int, size: Size, rates: Rates, clock: Clock, chunk: int = 256
) -> Iterator[Row]:
    """CEPE's shape: a small encoder over chunks of 256, cross-attention in every layer over all.

    Random weights; its operations and bytes are those of the real one. Keys and values of all
    layers are computed once, as the context's memory, of the model's own key and value heads.
    """
    like = {"device": model.device, "dtype": model.dtype}
    layers, wide, heads, inner = ENCODER_LAYERS, ENCODER_WIDTH, ENCODER_HEADS, ENCODER_INNER
    if size.width < wide:  # the tiny model of --small gets a tiny encoder
        layers, wide, heads, inner = 2, size.width, 4, 2 * size.width
    with torch.device(model.device):
        encoder = nn.Sequential(*(_Encoder(wide, heads, inner) for _ in range(layers))).to(**like)
        projections = nn.ModuleList(nn.Linear(wide, 2 * size.kv) for _ in range(size.layers)).to(
            **like
        )
    embedded = torch.randn(max(1, tokens // chunk), chunk, wide, **like)
    memory: list[Tensor] = []

    def ingest() -> None:
        memory.clear()
        batch = max(1, 65536 // chunk)
        states = torch.cat(
            [encoder(embedded[i : i + batch]) for i in range(0, len(embedded), batch)]
        )
        memory.extend(p(states.flatten(0, 1)) for p in projections)

    encoder(embedded[:1])
    clock.fresh()
    seconds = clock.seconds(ingest)
    matrix = layers * (4 * wide**2 + 2 * wide * inner) + 2 * wide * size.kv * size.layers
    squares = 4 * layers * wide * chunk
    stored = 2 * size.weight * size.kv * tokens * size.layers
    cost = Cost(flops=tokens * (2 * matrix + squares), bytes=size.weight * matrix + stored)
    same = {"tokens": tokens, "stored": stored}
    yield row("CEPE's shape, ingest", seconds, cost, rates, peak=clock.peak(), **same)
    head = size.attention // model.config.num_attention_heads
    query = torch.randn(1, model.config.num_attention_heads, running, head, **like)

    def ask() -> None:
        bare.read(running, DynamicCache())
        for kv in memory:  # the q and o projections of the crosses are counted with the model's own
            k, v = kv[None].unflatten(-1, (2, -1, head)).unbind(-3)
            k, v = k.transpose(1, 2), v.transpose(1, 2)
            scaled_dot_product_attention(query, k, v, enable_gqa=True)

    with Bare(model) as bare:
        seconds = clock.median(ask, 3, 1)
    cost = question_cost(size, running, tokens, size.layers)
    cost = Cost(flops=cost.flops, bytes=size.weight * size.parameters + stored)
    yield row("CEPE's shape, first token", seconds, cost, rates, running=running, **same)
