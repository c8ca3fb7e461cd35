"""SnapKV and ExpectedAttention by kvpress, on the same weights and attention kernel as the others.

Both read the whole context and keep the best `budget` entries of each layer and head as soon as the
layer is done. kvpress 0.5.5 asks for transformers below 5.3, of which it needs one thing here: that
attention layers are given `cache_position`, which newer ones hand through if asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.speed.baselines import Bare
from benchmarks.speed.card import Clock, Rates
from benchmarks.speed.costs import Size, decode, prefill
from benchmarks.speed.ours import Row, question_cost, row

PRESSES = ("SnapKV", "ExpectedAttention")
STEPS = 32


@cache
def kvpress() -> Any:
    """The package, without its changes to every attention function of transformers.

    They let a cache keep other entries in each head, under one mask; the presses here do not.
    """
    if find_spec("kvpress") is None:
        raise ModuleNotFoundError(
            "kvpress is not installed: pip install datasets fire cachetools requests, "
            "then pip install --no-deps kvpress==0.5.5"
        )
    import kvpress

    for name in list(ALL_ATTENTION_FUNCTIONS):
        del ALL_ATTENTION_FUNCTIONS[name]  # kvpress' own entry; the library's is below it
    return kvpress


@contextmanager
def _under(name: str, ratio: float, model: Any) -> Iterator[None]:
    """The press `name`, which forgets the share `ratio` of what is read; nothing of it is left."""
    with getattr(kvpress(), f"{name}Press")(compression_ratio=ratio)(model):
        try:
            yield
        finally:
            for layer in model.model.layers:
                del layer.self_attn.rotary_emb


def _read(bare: Bare, name: str, tokens: int, ratio: float) -> Any:
    """Read `tokens` tokens under the press; what it keeps."""
    kept = DynamicCache()
    with _under(name, ratio, bare.model):
        positions = torch.arange(tokens, device=bare.model.device)
        bare.read(tokens, kept, cache_position=positions)
    return kept


def pressed(
    name: str,
    model: Any,
    tokens: int,
    asked: tuple[int, int],
    budget: int,
    size: Size,
    rates: Rates,
    clock: Clock,
) -> Iterator[Row]:
    """The press' first token, a further question over what it kept, and decoding.

    Parameters
    ----------
    asked : tokens of the further question alone, and of as much text as ours reads with it
    """
    kept: list[Any] = []
    ratio = 1 - (budget + 0.5) / tokens  # rounded down by kvpress

    def context() -> None:
        kept.append(_read(bare, name, tokens, ratio))

    with Bare(model) as bare:
        _read(bare, name, min(tokens, 512), 0.5)
        clock.fresh()
        seconds = clock.seconds(context)
        layers = kept[0].layers
        stored = sum(x.nbytes for layer in layers for x in (layer.keys, layer.values))
        same = {"tokens": tokens, "budget": budget, "entries": kept[0].get_seq_length()}
        yield row(
            f"{name}, first token",
            seconds,
            prefill(size, tokens),
            rates,
            stored=stored,
            peak=clock.peak(),
            tokens_s=tokens / seconds,
            **same,
        )
        yield from _further(bare, name, kept[0], asked, size, rates, clock, same)


def _further(
    bare: Bare,
    name: str,
    kept: Any,
    asked: tuple[int, int],
    size: Size,
    rates: Rates,
    clock: Clock,
    same: Row,
) -> Iterator[Row]:
    """What costs little once the context is read: positions go on behind all of it."""
    entries, at = same["entries"], same["tokens"]

    def ask() -> None:
        if excess := kept.get_seq_length() - entries:
            kept.crop(-excess)
        bare.read(text, kept, at)

    for phase, text in zip(("warm question", "warm text"), asked, strict=True):
        clock.fresh()
        seconds = clock.median(ask, 3, 1)
        cost, more = question_cost(size, text, entries, size.layers), {"running": text, **same}
        yield row(f"{name}, {phase}", seconds, cost, rates, peak=clock.peak(), **more)
    end = at + text
    bare.read(1, kept, end)

    def steps() -> None:
        for step in range(STEPS):
            bare.read(1, kept, end + 1 + step)

    seconds = clock.seconds(steps)
    cost = decode(size, STEPS, entries + text)
    yield row(f"{name}, decode", seconds, cost, rates, tokens_s=STEPS / seconds, **more)
