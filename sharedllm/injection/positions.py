"""A batch of prompts -> pieces in prompt order: padded text, and injected KV with its positions.

Both paths into the upper model use the same pieces: the cache path runs them one after another, the
keyword path runs all text at once with all KV beside it.

Shapes: B batch, T text tokens, S injected KV entries, M injection layers, G key/value heads, D head
dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from sharedllm.attention.visibility import ALWAYS, NEVER, Keys
from sharedllm.config import InjectionConfig
from sharedllm.encoding.kv import InjectedKV
from sharedllm.hf.rope import Rotation


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt: stretches of text with injected KV between them.

    Attributes
    ----------
    text : tuple of tuple of int
        Token ids, one stretch more than there are places of KV. The last must not be empty.
    memory : tuple of (InjectedKV or None)
    reads : bool
        True if there are documents, as evidence or as KV: the upper model then plays the adapter's
        role; otherwise it is the base.
    thinking : bool
        True if it ends within a thought, which the chat template has opened.
    """

    text: tuple[tuple[int, ...], ...]
    memory: tuple[InjectedKV | None, ...] = ()
    reads: bool = False
    thinking: bool = False

    def __post_init__(self) -> None:
        if len(self.text) != len(self.memory) + 1 or not self.text[-1]:
            raise ValueError(
                f"a prompt with {len(self.memory)} places of memory needs {len(self.memory) + 1} "
                f"stretches of text, the last not empty; {len(self.text)} were given"
            )

    @property
    def text_tokens(self) -> int:
        return sum(len(ids) for ids in self.text)

    @property
    def injected_tokens(self) -> int:
        return sum(len(entry) for entry in self.memory if entry is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPiece:
    """One stretch of text of every row, left-padded.

    Attributes
    ----------
    ids : int64 (B, T)
    keys : Keys
        Order (NEVER for padding) and position of every token.
    cross_position : int64 (B, T)
        Positions of the tokens as queries of cross-attention.
    valid : bool (B, T), on the CPU
        False for padding.
    """

    ids: Tensor
    keys: Keys
    cross_position: Tensor
    valid: Tensor

    @property
    def padded(self) -> bool:
        return not bool(self.valid.all())

    @property
    def query_order(self) -> Tensor:
        """The order of :attr:`keys`, with -1 for padding, which sees nothing."""
        return torch.where(self.keys.order == NEVER, -1, self.keys.order)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPiece:
    """The injected KV of every row at one place, right-padded.

    Attributes
    ----------
    keys, values : (M, B, G, S, D), keys rotated
    slots : Keys
    padded : bool
    """

    keys: Tensor
    values: Tensor
    slots: Keys
    padded: bool


class Layout:
    """Assigns order and positions to the pieces of a batch, one after another.

    With ordinal positions text and KV are numbered on in prompt order. With chunk positions (paper,
    section 3.3) all keys of chunk i are at i: after the head in joint injection; counted from 0,
    apart from the text, in cross injection, where every query is behind the last chunk.

    Parameters
    ----------
    windowed : True if sliding windows hide injected KV that lies beyond them, as they hide text
    """

    def __init__(
        self,
        batch: int,
        config: InjectionConfig,
        rotation: Rotation,
        device: torch.device,
        *,
        windowed: bool,
    ) -> None:
        self._config = config
        self._rotation = rotation
        self._windowed = windowed
        self._device = device
        self._order = 0
        self._position = torch.zeros(batch, dtype=torch.int64, device=device)
        self._chunk = torch.zeros_like(self._position)
        self.apart = config.mode == "cross" and config.positions == "chunk"

    def text(self, rows: Sequence[Sequence[int]]) -> TextPiece:
        """Lay out one stretch of text per row."""
        length = max(len(ids) for ids in rows)
        padded = [[0] * (length - len(ids)) + list(ids) for ids in rows]
        ids = torch.tensor(padded, dtype=torch.int64, device=self._device)
        own = torch.tensor([len(ids) for ids in rows])
        known = torch.arange(length) >= length - own[:, None]
        lengths, valid = own.to(self._device), known.to(self._device)
        slots = torch.arange(length, device=self._device)
        position = self._position[:, None] + slots - (length - lengths[:, None])
        position = torch.where(valid, position, 0)
        order = torch.where(valid, self._order + slots, NEVER)
        self._order += length
        self._position = self._position + lengths
        return TextPiece(
            ids=ids,
            keys=Keys(order=order.int(), position=position.int()),
            cross_position=self._chunk[:, None].expand_as(position) if self.apart else position,
            valid=known,
        )

    def memory(self, rows: Sequence[InjectedKV | None]) -> MemoryPiece:
        """Lay out the KV at one place; None stands for a row without KV there."""
        present = [entry for entry in rows if entry is not None]
        longest = max(len(entry) for entry in present)
        empty = present[0].keys[:, :, :0]
        keys = _stack([empty if entry is None else entry.keys for entry in rows], longest)
        values = _stack([empty if entry is None else entry.values for entry in rows], longest)
        position = torch.zeros(len(rows), longest, dtype=torch.int64, device=self._device)
        order = torch.full_like(position, NEVER, dtype=torch.int32)
        start = self._chunk if self.apart else self._position
        extent = torch.zeros_like(start)
        for row, entry in enumerate(rows):
            if entry is None:
                continue
            position[row, : len(entry)] = entry.positions(self._config.positions) + start[row]
            order[row, : len(entry)] = self._order
            extent[row] = entry.extent(self._config.positions)
        self._order += 1
        if self.apart:
            self._chunk = self._chunk + extent
        else:
            self._position = self._position + extent
        seen = position.int() if self._windowed else torch.full_like(order, ALWAYS)
        slots = Keys(order=order, position=seen)
        return MemoryPiece(
            keys=self._rotation.rotate_layers(keys, position),
            values=values,
            slots=slots,
            padded=any(entry is None or len(entry) < longest for entry in rows),
        )

    def pieces(self, prompts: Sequence[Prompt]) -> Iterator[TextPiece | MemoryPiece]:
        """Lay out whole prompts, aligned at their last stretches of text."""
        places = max(len(prompt.text) for prompt in prompts)
        for place in range(-places, 0):
            text = [p.text[place] if len(p.text) >= -place else () for p in prompts]
            if any(text):
                yield self.text(text)
            at = place + 1  # memory[-1] stands in front of text[-1]
            memory = [p.memory[at] if at and len(p.memory) >= -at else None for p in prompts]
            if any(entry is not None for entry in memory):
                yield self.memory(memory)


def count_slots(prompts: Sequence[Prompt]) -> tuple[int, int]:
    """Return the slots that text and KV of `prompts` take in a cache, padding included."""

    def widest(pieces: Sequence[Sequence[Sized]]) -> int:
        aligned = zip_longest(*(reversed(row) for row in pieces), fillvalue=())
        return sum(max(map(len, place)) for place in aligned)

    return (
        widest([p.text for p in prompts]),
        widest([tuple(entry or () for entry in p.memory) for p in prompts]),
    )


def _stack(rows: Sequence[Tensor], length: int) -> Tensor:
    """Stack rows (M, G, S, D) of different S to (M, B, G, length, D), padded with zeros."""
    if len(rows) == 1:
        return rows[0][:, None]
    padded = [torch.nn.functional.pad(x, (0, 0, 0, length - x.shape[2])) for x in rows]
    return torch.stack(padded, dim=1)
