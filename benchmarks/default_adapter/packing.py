"""Lessons -> batches of packed rows, without padding and of a fixed number of tokens.

A lesson is one prompt with its answer. Its nodes are read by the lower model in passes over their
chunks; its text by the upper model, which sees the injected KV at the document's place.

Shapes: L tokens of the lower row, K KV entries, U tokens of the upper row, N segments, S key slots
of all segments, P predicted tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sharedllm.encoding.document import Document
from sharedllm.encoding.kv import kept_positions
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.generation.assemble import AFTER_EVIDENCE
from sharedllm.generation.prompt import part_ids
from sharedllm.text.tokens import Tokenizer
from sharedllm.training.batch import Choice

Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One prompt with its answer, ready to be packed.

    Attributes
    ----------
    kind : the task and the form of its leaves, such as "qa/kv"
    passes : token ids that the lower model reads, pass by pass
    parts : in the order of the prompt, token ids (n,), or (pass, place in it) of KV entries (n, 2)
    target : token ids to predict; all but the last one end the last part, too
    past : tokens of all documents, for the log
    twin : the same lesson with its leaves as text, whose predictions are its teacher
    """

    kind: str
    passes: tuple[Ints, ...]
    parts: tuple[Ints, ...]
    target: Ints
    past: int
    twin: Lesson | None = None

    @property
    def tokens(self) -> int:
        """The tokens that both models read, the target's twice: their logits take room, too."""
        read = sum(map(len, self.passes))
        written = sum(len(part) for part in self.parts if part.ndim == 1) + len(self.target)
        return read + written + (self.twin.tokens if self.twin else 0)


def make_twin(choice: Choice) -> Choice | None:
    """Return the teacher of `choice`, the same leaves as text, as a choice of its own."""
    if choice.lesson is None:
        return None
    kind = choice.kind.rpartition("/")[0]
    return Choice(kind=f"{kind}/text", plan=choice.lesson, target=choice.target)


def make_lesson(choice: Choice, tokenizer: Tokenizer) -> Lesson:
    """Lay out `choice` as :meth:`sharedllm.generation.assemble.Plan.prompt` lays out its plan."""
    plan, target, twin = choice.plan, choice.target, make_twin(choice)
    after = part_ids(AFTER_EVIDENCE, tokenizer)
    passes: list[Ints] = []
    parts: list[Ints] = []
    text: list[int] = []
    at = 0
    for part in plan.conversation.parts:
        if not isinstance(part, Document):
            text += part_ids(part, tokenizer)
            continue
        entries = _entries(part, plan.requests(at), passes)
        if len(entries):
            if text:
                parts.append(np.asarray(text, np.int32))
            elif not parts:  # the first token becomes the attention sink, which KV cannot be
                parts.append(np.asarray(_sink(tokenizer), np.int32))
            parts.append(entries)
            text = []
        text += [*plan.pasted[at], *after] if plan.pasted[at] else []
        at += 1
    # the last token of a target is not needed to predict another
    parts.append(np.asarray([*text, *target[:-1]], np.int32))
    return Lesson(
        kind=choice.kind,
        passes=tuple(passes),
        parts=tuple(parts),
        target=np.asarray(target, np.int32),
        past=sum(map(len, plan.conversation.documents)),
        twin=make_lesson(twin, tokenizer) if twin else None,
    )


def _sink(tokenizer: Tokenizer) -> list[int]:
    start = tokenizer.bos_token_id
    return part_ids("\n", tokenizer) if start is None else [int(start)]


def _entries(document: Document, requests: Sequence[NodeRequest], passes: list[Ints]) -> Ints:
    """Return (pass, place) of the nodes' KV entries, in their order; append new passes."""
    starts: dict[int, list[NodeRequest]] = {}
    for request in requests:
        starts.setdefault(request.first, []).append(request)
    numbers: dict[int, int] = {}
    for first, group in starts.items():
        end = max(request.end for request in group)
        numbers[first] = len(passes)
        passes.append(document.tokens.ids[first:end])
    out = [
        np.stack([np.full_like(places, numbers[request.first]), places], axis=1)
        for request in requests
        for places in [_places(request)]
    ]
    return np.concatenate(out) if out else np.empty((0, 2), np.int32)


def _places(request: NodeRequest) -> Ints:
    kept = kept_positions(request.end - request.start, request.ratio)
    return (request.context + kept).astype(np.int32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Packed lessons.

    Attributes
    ----------
    lower_ids, lower_positions : (L,)
    lower_bounds : (passes + 1,)
    kept : (K,) places in the lower row
    kept_positions : (K,) positions of the KV entries in their prompts
    ids, positions : (U,)
    query_bounds, key_bounds : (N + 1,) of each segment of text, and of all that it sees
    keys : (S,) the slots that each segment sees: of the text, then (from U on) of the KV entries
    longest : tokens of a pass, queries of a segment, keys of a segment
    rows, targets, owner : (P,) the predicting token, the predicted id, the lesson's number
    student, teacher : places among P of a lesson, and of its twin
    kinds : of each lesson
    past : tokens of all documents
    """

    lower_ids: Ints
    lower_positions: Ints
    lower_bounds: Ints
    kept: Ints
    kept_positions: Ints
    ids: Ints
    positions: Ints
    query_bounds: Ints
    key_bounds: Ints
    keys: Ints
    longest: tuple[int, int, int]
    rows: Ints
    targets: Ints
    owner: Ints
    student: Ints
    teacher: Ints
    kinds: tuple[str, ...]
    past: int

    @property
    def tokens(self) -> int:
        """The number of tokens that both models read."""
        return len(self.lower_ids) + len(self.ids)

    def arrays(self) -> dict[str, Ints]:
        """Return all arrays by name, as they go to the device."""
        names = [f.name for f in dataclasses.fields(self)]
        found = {name: getattr(self, name) for name in names}
        return {name: x for name, x in found.items() if isinstance(x, np.ndarray)}


@dataclass(kw_only=True)
class _Rows:
    """The packed rows in progress."""

    lower: list[Ints] = field(default_factory=list)
    kept: list[Ints] = field(default_factory=list)
    kept_positions: list[Ints] = field(default_factory=list)
    text: list[Ints] = field(default_factory=list)
    positions: list[Ints] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    keys: list[Ints] = field(default_factory=list)
    rows: list[Ints] = field(default_factory=list)
    targets: list[Ints] = field(default_factory=list)
    owner: list[Ints] = field(default_factory=list)
    read: int = 0
    entries: int = 0
    written: int = 0

    def add(self, one: Lesson, number: int) -> Ints:
        """Append a lesson; return the places of its targets among all."""
        at = self._read(one.passes)
        seen: list[Ints] = []  # slots in prompt order, KV entries as negative numbers
        position = 0
        for part in one.parts:
            span = np.arange(position, position + len(part), dtype=np.int32)
            if part.ndim == 2:
                self.kept.append(at[part[:, 0]] + part[:, 1])
                self.kept_positions.append(span)
                entries = np.arange(self.entries, self.entries + len(part), dtype=np.int32)
                seen.append(-1 - entries)
                self.entries += len(part)
            else:
                self.text.append(part)
                self.positions.append(span)
                seen.append(np.arange(self.written, self.written + len(part), dtype=np.int32))
                self.queries.append(len(part))
                self.keys.append(np.concatenate(seen))
                self.written += len(part)
            position += len(part)
        # without a prompt before it (language modelling) the first token is not predicted
        count = min(len(one.target), len(one.parts[-1]))
        first = sum(map(len, self.rows))
        self.rows.append(np.arange(self.written - count, self.written, dtype=np.int32))
        self.targets.append(one.target[-count:])
        self.owner.append(np.full(count, number, np.int32))
        return np.arange(first, first + count, dtype=np.int32)

    def _read(self, passes: Sequence[Ints]) -> Ints:
        """Append the passes; return the start of each in the lower row."""
        starts = []
        for one in passes:
            starts.append(self.read)
            self.lower.append(one)
            self.read += len(one)
        return np.asarray(starts, np.int32)


def pack(lessons: Sequence[Lesson]) -> Batch:
    """Put `lessons` into one batch, twins behind them."""
    rows, kinds = _Rows(), list[str]()
    student, teacher = list[Ints](), list[Ints]()
    for one in lessons:
        places = rows.add(one, len(kinds))
        kinds.append(one.kind)
        if one.twin is None:
            continue
        theirs = rows.add(one.twin, len(kinds))
        kinds.append(one.twin.kind)
        both = min(len(places), len(theirs))
        student.append(places[-both:])
        teacher.append(theirs[-both:])
    lengths = [len(x) for x in rows.lower]
    keys = _joined(rows.keys)
    keys = np.where(keys < 0, rows.written - 1 - keys, keys).astype(np.int32)
    seen = [len(x) for x in rows.keys]
    return Batch(
        lower_ids=_joined(rows.lower),
        lower_positions=_joined([np.arange(n, dtype=np.int32) for n in lengths]),
        lower_bounds=_bounds(lengths),
        kept=_joined(rows.kept),
        kept_positions=_joined(rows.kept_positions),
        ids=_joined(rows.text),
        positions=_joined(rows.positions),
        query_bounds=_bounds(rows.queries),
        key_bounds=_bounds(seen),
        keys=keys,
        longest=(max(lengths, default=0), max(rows.queries), max(seen)),
        rows=_joined(rows.rows),
        targets=_joined(rows.targets),
        owner=_joined(rows.owner),
        student=_joined(student),
        teacher=_joined(teacher),
        kinds=tuple(kinds),
        past=sum(one.past for one in lessons),
    )


def make_batches(lessons: Iterator[Lesson], tokens: int) -> Iterator[Batch]:
    """Cut a stream into batches of at most `tokens` tokens; a longer lesson is alone."""
    held: list[Lesson] = []
    total = 0
    for one in lessons:
        if held and total + one.tokens > tokens:
            yield pack(held)
            held, total = [], 0
        held.append(one)
        total += one.tokens


def _joined(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate(arrays).astype(np.int32) if arrays else np.empty(0, np.int32)


def _bounds(lengths: Sequence[int]) -> Ints:
    return np.cumsum([0, *lengths]).astype(np.int32)
