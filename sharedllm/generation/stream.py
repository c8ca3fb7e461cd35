"""Prepared questions -> answers: as a stream of text, or as a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from sharedllm.answer import Answer, Citation, Timings, Usage
from sharedllm.config import GenerationConfig
from sharedllm.generation.assemble import Prepared
from sharedllm.generation.decoding import Decoder, Row


class AnswerStream(Iterator[str]):
    """Pieces of an answer as they come; :attr:`answer` when they have all come.

    Iterating runs the model; leaving off stops it.
    """

    def __init__(
        self, decoder: Decoder, prepared: Prepared, generation: GenerationConfig, load_s: float
    ) -> None:
        self._prepared, self._load_s = prepared, load_s
        self._row = Row()
        self._watch = _Stopwatch()
        self._pieces = decoder.run([prepared.prompt], generation, [self._row])

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The selected evidence, known before the first piece."""
        return self._prepared.citations

    def __next__(self) -> str:
        for row, piece in self._pieces:
            if row < 0:
                self._watch.split()
                continue
            return piece
        if len(self._watch.splits) < 2:
            self._watch.split()
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The whole answer; reads what has not been read yet."""
        for _ in self:
            pass
        return _answer(self._prepared, self._row, self._watch, self._load_s)


def answer_all(
    decoder: Decoder, prepared: Sequence[Prepared], generation: GenerationConfig, load_s: float
) -> list[Answer]:
    """Run prepared questions as one batch: those with documents, then those without."""
    out: dict[int, Answer] = {}
    for reads in (True, False):
        group = [i for i, p in enumerate(prepared) if p.prompt.reads == reads]
        if not group:
            continue
        rows = [Row() for _ in group]
        watch = _Stopwatch()
        for index, _ in decoder.run([prepared[i].prompt for i in group], generation, rows):
            if index < 0:
                watch.split()
        watch.split()
        for i, row in zip(group, rows, strict=True):
            out[i] = _answer(prepared[i], row, watch, load_s)
    return [out[i] for i in range(len(prepared))]


class _Stopwatch:
    """Seconds between splits."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.splits: list[float] = []

    def split(self) -> None:
        now = time.perf_counter()
        self.splits.append(now - self._last)
        self._last = now


def _answer(prepared: Prepared, row: Row, watch: _Stopwatch, load_s: float) -> Answer:
    prefill_s, decode_s = watch.splits[0], watch.splits[1]
    selection = prepared.selection
    return Answer(
        text=row.text.strip(),
        citations=prepared.citations,
        usage=Usage(
            context_tokens=prepared.context_tokens,
            injected_tokens=prepared.prompt.injected_tokens,
            evidence_tokens=prepared.evidence_tokens,
            prompt_tokens=prepared.prompt.running_tokens,
            new_tokens=len(row.ids),
            coarse_ratio=selection.root_ratio if selection else None,
            left_out_chunks=selection.left_out if selection else 0,
        ),
        timings=Timings(
            load_s=load_s,
            remember_s=prepared.remember_s,
            search_s=prepared.search_s,
            prefill_s=prepared.encode_s + prefill_s,
            decode_s=decode_s,
        ),
        finish_reason=row.finish_reason or "length",
        pictures=selection.pictures if selection else (),
        question=prepared.question,
    )
