"""Buffers of fixed size for decoding: steps of one shape over rows that come and go.

An ordinary step of the upper model makes new tensors for every token: its keys grow. Here buffers
have their size from the start, counters live on the device, and what is not filled is not seen. A
CUDA graph can record such a step, and rows of different prompts can join and leave between steps.

Shapes: R rows, C slots of a cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharedllm.attention.context import AttentionContext
from sharedllm.attention.visibility import ALWAYS, NEVER, Keys, Visibility
from sharedllm.hf.cache import InjectionCache
from sharedllm.injection.positions import MemoryPiece, TextPiece
from sharedllm.injection.upper_model import Session, UpperModel, layer_memory

ROUND = 256  # slots are rounded up to it: aligned for masks, and one graph fits more sessions


@dataclass(frozen=True, slots=True)
class Slots:
    """The key slots of the layers with injected KV, or of those above them.

    Attributes
    ----------
    keys : Keys, each (R, C)
        An empty slot has the order NEVER.
    next : int64 (R,)
        The slot of the next token.
    seen : int32 (R,)
        Slots that the next token sees, its own included.
    """

    keys: Keys
    next: Tensor
    seen: Tensor

    @classmethod
    def empty(cls, rows: int, room: int, device: torch.device) -> Slots:
        orders = torch.full((rows, room), NEVER, dtype=torch.int32, device=device)
        return cls(
            keys=Keys(order=orders, position=torch.zeros_like(orders)),
            next=torch.zeros(rows, dtype=torch.int64, device=device),
            seen=torch.ones(rows, dtype=torch.int32, device=device),
        )

    @property
    def room(self) -> int:
        return self.keys.order.shape[1]

    @property
    def state(self) -> list[Tensor]:
        """The tensors that a step changes."""
        return [self.next, self.seen, self.keys.order, self.keys.position]

    def first(self, rows: int) -> Slots:
        """Return the first `rows` rows, as views."""
        keys = Keys(order=self.keys.order[:rows], position=self.keys.position[:rows])
        return Slots(keys=keys, next=self.next[:rows], seen=self.seen[:rows])

    def take(self, keys: Keys) -> None:
        """Reset all rows to the slots of `keys`."""
        used = keys.order.shape[1]
        self.keys.order.fill_(NEVER)
        self.keys.order[:, :used] = keys.order
        self.keys.position[:, :used] = keys.position
        self.next.fill_(used)
        self.seen.fill_(used + 1)

    def put(self, row: int, keys: Keys, index: int) -> tuple[Tensor | slice, int]:
        """Reset `row` to row `index` of `keys`, without its padding.

        Returns
        -------
        (slots that it has, their number)
        """
        given, position = keys.order[index], keys.position[index]
        kept = (given != NEVER).nonzero()[:, 0]
        used = len(kept)
        slots: Tensor | slice = slice(0, used) if used == len(given) else kept
        self.keys.order[row].fill_(NEVER)
        self.keys.order[row, :used] = given[slots]
        self.keys.position[row, :used] = position[slots]
        self.next[row] = used
        self.seen[row] = used + 1
        return slots, used

    def copy(self, rows: int, other: Slots) -> None:
        """Take the first `rows` rows of `other`, whose room is not larger."""
        room = other.room
        self.keys.order[:rows, :room] = other.keys.order[:rows]
        self.keys.position[:rows, :room] = other.keys.position[:rows]
        self.next[:rows] = other.next[:rows]
        self.seen[:rows] = other.seen[:rows]

    def fill(self, text: Keys) -> None:
        """Put the next token of each row, `text` (R, 1), into its slot."""
        self.keys.order.scatter_(1, self.next[:, None], text.order)
        self.keys.position.scatter_(1, self.next[:, None], text.position)

    def seen_by(self, text: Keys, *, padded: bool) -> Visibility:
        return Visibility(
            used=None if padded else self.seen,
            query_order=text.order,
            query_position=text.position,
            keys=self.keys,
            in_order=False,
            last=ALWAYS,
        )


class StepBuffers:
    """The state of R answers between two tokens.

    Parameters
    ----------
    like : a prefilled session, of which sizes and dtypes are taken, not the prompts
    rows : R
    rooms : slots of a row in layers with injected KV, and in those above them

    Attributes
    ----------
    reads : bool
        See :class:`~sharedllm.injection.positions.Prompt`; the same for all rows.
    padded : bool
        Rows have empty slots between full ones.
    memory : list of MemoryPiece
        Injected KV for cross-attention, of all rows together; empty in joint injection.
    logits : (R, V), of each row's last token
    """

    def __init__(self, upper: UpperModel, like: Session, rows: int, rooms: tuple[int, int]) -> None:
        self._upper, self._apart = upper, like.layout.apart
        self.reads, self.padded = like.reads, False
        self.memory: list[MemoryPiece] = []
        device = like.logits.device
        self.injected, self.plain = (Slots.empty(rows, _rounded(room), device) for room in rooms)
        count, with_memory = len(like.cache.layers), upper.layers
        slots = [self.injected if i < with_memory else self.plain for i in range(count)]
        self._cache = like.cache.fixed([s.next for s in slots], [s.room for s in slots])
        zeros = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._text = TextPiece(
            ids=zeros,
            keys=Keys(order=zeros.int(), position=zeros.int()),
            cross_position=zeros.clone(),
            valid=torch.ones(rows, 1, dtype=torch.bool),
        )
        self._counts = [self._text.keys.order, self._text.keys.position]
        if not self._apart:
            self._counts.append(self._text.cross_position)
        self.logits = like.logits.new_zeros(rows, like.logits.shape[1])
        self._active = torch.ones(rows, dtype=torch.int64, device=device)
        self._all_active = True
        self._used = [(0, 0)] * rows

    @property
    def rows(self) -> int:
        return len(self.logits)

    @property
    def rooms(self) -> tuple[int, int]:
        return self.injected.room, self.plain.room

    @property
    def state(self) -> list[Tensor]:
        """The tensors that a step changes, keys and values apart."""
        return [*self._counts, self.logits, *self.injected.state, *self.plain.state]

    def take(self, session: Session) -> None:
        """Replace all rows by those of `session`, whose cache is freed."""
        self.reads, self.padded, self.memory = session.reads, session.padded, session.memory
        self.injected.take(session.injected[0])
        self.plain.take(session.plain[0])
        for layer, grown in zip(self._cache.layers, session.cache.layers, strict=True):
            layer.take(grown)
        session.cache = InjectionCache(0)
        piece = next_token(session)
        for mine, given in zip(self._next(), _next_of(piece), strict=True):
            mine.copy_(given)
        self.logits.copy_(session.logits)
        session.logits = self.logits
        used = session.injected[0].order.shape[1], session.plain[0].order.shape[1]
        self._used = [used] * self.rows

    def put(self, row: int, session: Session, index: int, token: TextPiece) -> None:
        """Replace `row` by row `index` of `session`.

        Parameters
        ----------
        token : what :func:`next_token` gave for the session
        """
        memory, used_memory = self.injected.put(row, session.injected[0], index)
        text, used_text = self.plain.put(row, session.plain[0], index)
        for i, (layer, grown) in enumerate(
            zip(self._cache.layers, session.cache.layers, strict=True)
        ):
            layer.put(row, grown, index, memory if i < self._upper.layers else text)
        for mine, given in zip(self._next(), _next_of(token), strict=True):
            mine[row] = given[index]
        self.logits[row] = session.logits[index]
        self._used[row] = used_memory, used_text

    def move(self, source: int, target: int) -> None:
        """Copy row `source` over row `target`."""
        used = self._used[target] = self._used[source]
        for i, layer in enumerate(self._cache.layers):
            layer.move(source, target, used[i >= self._upper.layers])
        for x in [*self._next(), self.logits, *self.injected.state, *self.plain.state]:
            x[target] = x[source]

    def clear(self, rows: Sequence[int]) -> None:
        """Empty `rows`, so that steps of the others write within bounds."""
        for row in rows:
            for slots in (self.injected, self.plain):
                slots.keys.order[row].fill_(NEVER)
                slots.next[row] = 0
                slots.seen[row] = 1
            self._used[row] = 0, 0

    def copy(self, rows: int, other: StepBuffers) -> None:
        """Take the first `rows` rows of smaller buffers."""
        self.injected.copy(rows, other.injected)
        self.plain.copy(rows, other.plain)
        for layer, given in zip(self._cache.layers, other._cache.layers, strict=True):
            layer.copy(rows, given, given.get_max_length())
        for mine, theirs in zip(self._next(), other._next(), strict=True):
            mine[:rows] = theirs[:rows]
        self.logits[:rows] = other.logits[:rows]
        self._used[:rows] = other._used[:rows]

    def give(self, ids: Sequence[int], active: Sequence[bool] = ()) -> None:
        """Set the next token of the first rows, for :meth:`run`.

        Parameters
        ----------
        active : rows that go on; the others stay as they are. Empty: all

        Raises
        ------
        ValueError
            If a row is full.
        """
        going = active or [True] * len(ids)
        for row, goes in enumerate(going):
            if goes:
                memory, text = self._used[row]
                if memory >= self.injected.room or text >= self.plain.room:
                    raise ValueError("the buffers are full; make room for more tokens")
                self._used[row] = memory + 1, text + 1
        self._text.ids[: len(ids)].copy_(torch.tensor(ids)[:, None], non_blocking=True)
        if not (all(going) and self._all_active):
            self._active[: len(ids)].copy_(torch.tensor(going), non_blocking=True)
            self._all_active = all(going) and len(ids) == self.rows

    def run(self, rows: int) -> None:
        """Run one step of the first `rows` rows, which reads and updates only tensors of this."""
        text = TextPiece(
            ids=self._text.ids[:rows],
            keys=Keys(order=self._text.keys.order[:rows], position=self._text.keys.position[:rows]),
            cross_position=self._text.cross_position[:rows],
            valid=self._text.valid[:rows],
        )
        injected, plain = self.injected.first(rows), self.plain.first(rows)
        for slots in (injected, plain):
            slots.fill(text.keys)
        context = AttentionContext(
            layers=self._upper.layers,
            injected=injected.seen_by(text.keys, padded=self.padded),
            plain=plain.seen_by(text.keys, padded=self.padded),
            crossed=layer_memory(self.memory[0], text) if self.memory else None,
        )
        out = self._upper.forward(
            text, context, reads=self.reads, past_key_values=self._cache, logits_to_keep=1
        )
        active = self._active[:rows]
        self.logits[:rows].copy_(out[:, -1])
        for slots in (injected, plain):
            slots.next.add_(active)
            slots.seen.add_(active)
        for counter in self._counts:
            counter[:rows].add_(active[:, None])

    def _next(self) -> tuple[Tensor, Tensor, Tensor]:
        return _next_of(self._text)


def _next_of(piece: TextPiece) -> tuple[Tensor, Tensor, Tensor]:
    return piece.keys.order, piece.keys.position, piece.cross_position


def _rounded(room: int) -> int:
    return -(-room // ROUND) * ROUND


def next_token(session: Session) -> TextPiece:
    """Lay out the next token of `session`; its ids are filled in later."""
    return session.layout.text([(0,)] * session.logits.shape[0])


def used_slots(session: Session) -> tuple[int, int]:
    """Return the slots that `session` uses with injected KV and without it, padding included."""
    return session.injected[0].order.shape[1], session.plain[0].order.shape[1]
