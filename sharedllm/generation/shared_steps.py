"""Continuous batching: answers of several threads are prefilled and decoded in one batch.

Every answer keeps its own loop, settings, grammar and random numbers in its own thread; only the
passes of the model are shared. Whichever thread waits for a pass runs it for all that are waiting:
prompts that came together are prefilled together, and a step takes the next token of every answer
that has chosen one. Rows join and leave between steps. Products of a batch round differently from
single ones, in half precision: an answer may differ in a word from the same one asked alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from sharedllm.encoding.document_encoder import ModelLock
from sharedllm.generation.cuda_graph import can_capture, capture
from sharedllm.generation.step_buffers import StepBuffers, next_token, used_slots
from sharedllm.injection.positions import Prompt
from sharedllm.injection.upper_model import Session, UpperModel

# Tokens of prompts that are prefilled together, padding included, at most: on a GPU a pass over
# hundreds of tokens takes as long as its launches; a CPU gains nothing and pays for the padding.
PREFILL = 8192
PATIENCE = 0.5  # share of the time of a step that it waits for answers which are not ready
LONGEST_WAIT = 0.005  # seconds
GRAPHED = 4  # steps are captured for 1, 4, 16, ... rows
LEAST_ROOM = 1024  # slots of a row whose steps are captured
MISSED = 2  # steps without an answer until none waits for it


class Seat:
    """The place of one answer in the shared batch, or of several that run as one.

    Attributes
    ----------
    rows : list of int
        Of the buffers, one a prompt.
    waits : bool
        For a pass: its prompts are to be prefilled, or its tokens to be appended.
    logits : (B, V), of each row's last token
    best : list of int
        The token of the highest logit of each row.
    """

    def __init__(self, steps: SharedSteps, prompts: Sequence[Prompt], new_tokens: int) -> None:
        self._steps = steps
        self.prompts, self.new_tokens = prompts, new_tokens
        self.rows: list[int] = []
        self.tokens: list[int] = []
        self.waits, self.missed = True, 0
        self.error: BaseException | None = None
        self.logits = torch.empty(0)
        self.best: list[int] = []

    @property
    def reads(self) -> bool:
        """See :class:`~sharedllm.injection.positions.Prompt`."""
        return self.prompts[0].reads

    def step(self, tokens: Sequence[int]) -> None:
        """Append one token a row and update :attr:`logits`."""
        self._steps.step(self, tokens)

    def leave(self) -> None:
        """Give the rows back."""
        self._steps.leave(self)


class SharedSteps:
    """Runs the passes of the answers of all threads.

    Parameters
    ----------
    lock : its ``forward`` is held during a pass
    rows : answers at once, at most
    prefill : tokens of prompts that are prefilled together; None decides by the device
    """

    def __init__(
        self, upper: UpperModel, lock: ModelLock, rows: int, prefill: int | None = None
    ) -> None:
        self._upper, self._lock, self._most = upper, lock, rows
        usual = PREFILL if upper.device.type == "cuda" else 0
        self._together = usual if prefill is None else prefill
        self._changed = threading.Condition()
        self._leading = False  # a thread runs a pass
        self._starting: list[Seat] = []
        self._left: list[Seat] = []
        self._tables = {reads: Table(upper, rows) for reads in (False, True)}
        self._taken = 0

    def seat(self, prompts: Sequence[Prompt], new_tokens: int) -> Seat | None:
        """Prefill `prompts` and seat them; None if the batch has no room, or cannot take them."""
        if self._upper.config.mode == "cross" or not self._upper.fixed_rotation:
            return None
        seat = Seat(self, prompts, new_tokens)
        with self._changed:
            if self._taken + len(prompts) > self._most:
                return None
            self._taken += len(prompts)
            self._starting.append(seat)
        try:
            self._wait(seat)
        except BaseException:
            self.leave(seat)
            raise
        return seat

    def step(self, seat: Seat, tokens: Sequence[int]) -> None:
        """Append `tokens` to the rows of `seat`; returns after the pass that read them."""
        with self._changed:
            seat.tokens, seat.waits = list(tokens), True
            self._changed.notify_all()  # a step may wait for this answer
        self._wait(seat)

    def leave(self, seat: Seat) -> None:
        """Free the rows of `seat`, after the pass that runs.

        It never waits: a collection of garbage may close a stream within the pass itself.
        """
        with self._changed:
            self._left.append(seat)
            if not self._leading:
                self._free()

    def _free(self) -> None:
        """Free the rows of the seats that were left; between passes."""
        while self._left:
            seat = self._left.pop()
            self._taken -= len(seat.prompts)
            if seat in self._starting:
                self._starting.remove(seat)
            self._tables[seat.reads].remove(seat)
        self._changed.notify_all()

    def _wait(self, seat: Seat) -> None:
        """Wait until the pass of `seat` has run; run passes where no other thread does."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not (seat.waits and self._leading))
                if not seat.waits:
                    break
                self._leading = True
            try:
                self._pass(seat)
            finally:
                with self._changed:
                    self._leading = False
                    self._free()
        if seat.error is not None:
            raise seat.error

    @torch.inference_mode()
    def _pass(self, seat: Seat) -> None:
        """Run one pass: a prefill if prompts wait, since more rows make a step worth more."""
        with self._changed:
            together = fitting(self._starting, self._together)
            self._starting = [one for one in self._starting if one not in together]
        if together:
            self._prefill(together)
        else:
            table = self._tables[seat.reads]
            ready = self._gather(table)
            self._run(ready, lambda: table.step(ready))

    def _prefill(self, together: list[Seat]) -> None:
        """Prefill the prompts of all seats; each by itself where that fails."""
        table = self._tables[together[0].reads]
        if len(together) > 1:
            with suppress(Exception), self._lock.forward:  # whose it was is seen below
                table.start(together)
                self._end_wait(together)
                return
        for one in together:
            self._run([one], lambda own=one: table.start([own]))  # type: ignore[misc]

    def _gather(self, table: Table) -> list[Seat]:
        """Wait a little for answers that are choosing a token; return those that have one."""
        with self._changed:
            wait = min(LONGEST_WAIT, PATIENCE * table.step_s)
            self._changed.wait_for(lambda: table.is_complete or self._starting, timeout=wait)
            for one in table.seats:
                one.missed = 0 if one.waits else one.missed + 1
            return [one for one in table.seats if one.waits]

    def _run(self, seats: Sequence[Seat], work: Callable[[], None]) -> None:
        """Run a pass of `seats`; its error is that of each of them."""
        try:
            with self._lock.forward:
                work()
        except BaseException as error:  # raised again by the thread of each seat
            for one in seats:
                one.error = error
        finally:
            self._end_wait(seats)

    def _end_wait(self, seats: Sequence[Seat]) -> None:
        with self._changed:
            for one in seats:
                one.waits = False


def fitting(seats: Sequence[Seat], most: int) -> list[Seat]:
    """Return the first of `seats`, and those after it with which it has `most` tokens."""
    together: list[Seat] = []
    longest = count = 0
    for seat in seats:
        if seat.reads is not seats[0].reads:
            continue
        longest = max(longest, *(p.text_tokens + p.injected_tokens for p in seat.prompts))
        count += len(seat.prompts)
        if together and longest * count > most:
            break
        together.append(seat)
    return together


class Table:
    """The answers that run with one role of the weights: their rows, and the graphs of steps.

    A graph is captured for each number of rows, which takes about as long as ten answers; so there
    are few numbers, and buffers for which graphs are captured have all rows from the start.

    Parameters
    ----------
    most : rows, at most

    Attributes
    ----------
    seats : list of Seat
        In the buffers.
    step_s : float
        Seconds that the last step took.
    """

    def __init__(self, upper: UpperModel, most: int) -> None:
        self._upper, self._most = upper, most
        self.seats: list[Seat] = []
        self.step_s = 0.0
        self._buffers: StepBuffers | None = None
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._captures = can_capture(upper)
        self._weights = -1

    @property
    def is_complete(self) -> bool:
        """True if all answers that have been taking part wait for a step."""
        return all(seat.waits or seat.missed >= MISSED for seat in self.seats)

    def start(self, seats: Sequence[Seat]) -> None:
        """Prefill the prompts of `seats` and give them rows."""
        self._forget_old_weights()
        prompts = [prompt for seat in seats for prompt in seat.prompts]
        session = self._upper.start(prompts)
        new_tokens = max(seat.new_tokens for seat in seats)
        buffers = self._make_room(session, len(prompts), new_tokens)
        free = iter(sorted(set(range(buffers.rows)) - self._rows()))
        token, indices = next_token(session), iter(range(len(prompts)))
        for seat in seats:
            seat.rows = [next(free) for _ in seat.prompts]
            for row in seat.rows:
                buffers.put(row, session, next(indices), token)
        self._share_out(seats)
        self.seats += seats

    def step(self, seats: Sequence[Seat]) -> None:
        """Append the tokens of `seats` to their rows."""
        started = time.perf_counter()
        buffers = self._buffers
        if buffers is None:
            raise ValueError("a step without rows")
        self._close_gaps(buffers)
        count = self._passed(1 + max(self._rows()), buffers)
        tokens, active = [0] * count, [False] * count
        for seat in seats:
            for row, token in zip(seat.rows, seat.tokens, strict=True):
                tokens[row], active[row] = token, True
        buffers.give(tokens, active)
        if not self._captures:
            buffers.run(count)
        else:
            if count not in self._graphs:
                self._graphs[count] = capture(
                    lambda: buffers.run(count), buffers.state, self._upper.device
                )
            self._graphs[count].replay()
        self._share_out(seats)
        self.step_s = time.perf_counter() - started

    @torch.inference_mode()
    def remove(self, seat: Seat) -> None:
        """Take `seat` out of the table, if it sits there."""
        if seat in self.seats:
            self.seats.remove(seat)
            if self._buffers is not None:
                self._buffers.clear(seat.rows)

    def _rows(self) -> set[int]:
        return {row for seat in self.seats for row in seat.rows}

    def _passed(self, rows: int, buffers: StepBuffers) -> int:
        """Return the rows of a step that needs `rows`: with graphs one of few numbers."""
        return min(buffers.rows, _power(rows, GRAPHED)) if self._captures else rows

    def _share_out(self, seats: Sequence[Seat]) -> None:
        """Give `seats` their logits, read from the device at once."""
        if self._buffers is None:
            return
        count = 1 + max(row for seat in seats for row in seat.rows)
        logits = self._buffers.logits[:count].clone()  # the next step writes over all rows
        best = logits.argmax(dim=-1).tolist()
        for seat in seats:
            seat.logits = logits[seat.rows[0] :][:1] if len(seat.rows) == 1 else logits[seat.rows]
            seat.best = [best[row] for row in seat.rows]

    def _make_room(self, session: Session, more: int, new_tokens: int) -> StepBuffers:
        """Return buffers for the rows that are there and `more`; larger ones if they have to be."""
        needed = [used + new_tokens for used in used_slots(session)]
        rows, old = len(self._rows()) + more, self._buffers
        if old is not None:
            fits = all(n <= room for n, room in zip(needed, old.rooms, strict=True))
            if fits and rows <= old.rows:
                return old
            needed = [max(pair) for pair in zip(needed, old.rooms, strict=True)]
            rows = max(rows, old.rows)
            self._close_gaps(old)
        if self._captures:
            rows = max(rows, self._most)
            needed = [max(room, LEAST_ROOM) for room in needed]
        memory, text = map(_power, needed)
        new = StepBuffers(self._upper, session, _power(rows), (memory, text))
        if old is not None and self.seats:
            new.copy(len(self._rows()), old)
        self._graphs.clear()
        self._buffers = new
        return new

    def _close_gaps(self, buffers: StepBuffers) -> None:
        """Move rows into the gaps before them, where steps get smaller by it."""
        rows = self._rows()
        if not rows or _power(1 + max(rows)) == _power(len(rows)):
            return
        owners = {row: seat for seat in self.seats for row in seat.rows}
        gaps = iter(sorted(set(range(len(rows))) - rows))
        for row in sorted(row for row in rows if row >= len(rows)):
            gap, seat = next(gaps), owners[row]
            buffers.move(row, gap)
            buffers.clear([row])
            seat.rows[seat.rows.index(row)] = gap

    def _forget_old_weights(self) -> None:
        """Drop graphs of weights that have changed."""
        state = self._upper.weights_state()
        if state != self._weights:
            self._graphs.clear()
            self._weights = state


def _power(number: int, base: int = 2) -> int:
    """Return the least power of `base` that is at least `number`."""
    power = 1
    while power < number:
        power *= base
    return power
