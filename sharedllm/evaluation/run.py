"""Runs every method at every budget on the same items, document after document."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

from sharedllm.encoding.document import Document
from sharedllm.evaluation.framing import frame
from sharedllm.evaluation.items import Item
from sharedllm.evaluation.methods import Case, DoesNotFitError, Method, Ready
from sharedllm.shared_llm import SharedLLM

Row = dict[str, Any]
Measure = Callable[[Method, Sequence[Ready]], list[Row]]
Done = Callable[[int, str], None]


class Runner:
    """Takes items and gives rows, one for each item, method and budget.

    Parameters
    ----------
    measure : what is taken down of a method's prompts
    done : called with the number of rows that are ready, and what they are
    """

    def __init__(
        self,
        llm: SharedLLM,
        methods: Sequence[Method],
        budgets: Sequence[int],
        measure: Measure,
        batch: int,
        done: Done = lambda rows, what: None,
    ) -> None:
        self.llm, self.methods, self.budgets = llm, methods, budgets
        self.measure, self.batch, self.done = measure, batch, done

    @property
    def rows_an_item(self) -> int:
        return sum(len(self._budgets(method)) for method in self.methods)

    def _budgets(self, method: Method) -> Sequence[int | None]:
        return self.budgets if method.budgeted else (None,)

    def __call__(self, items: Iterable[Item]) -> Iterator[Row]:
        for group in batched(items, self.batch):
            cases = self._cases(group)
            known: dict[Hashable, Row] = {}
            for method in self.methods:
                for budget in self._budgets(method):
                    yield from self._rows(method, budget, cases, known)

    def _cases(self, items: Sequence[Item]) -> list[Case]:
        """Read the documents of `items`, each text once."""
        read: dict[str, Document] = {}
        for item in items:
            if item.text and item.text not in read:
                read[item.text] = self.llm.remember(item.text)
            self.done(0, f"{item.task} {item.length or ''}")
        return [
            Case(item=i, frame=frame(i, self.llm.tokenizer), document=read.get(i.text))
            for i in items
        ]

    def _rows(
        self, method: Method, budget: int | None, cases: Sequence[Case], known: dict[Hashable, Row]
    ) -> Iterator[Row]:
        ready: dict[str, Ready] = {}
        reasons: dict[str, str] = {}
        started = time.perf_counter()
        for case in cases:
            try:
                ready[case.item.id] = method.prepare(case, budget)
            except DoesNotFitError as error:
                reasons[case.item.id] = str(error)
        prepare_s = (time.perf_counter() - started) / len(cases)
        measured = self._measured(method, ready, known)
        for case in cases:
            row = _head(case.item, method, budget)
            if case.item.id in reasons:
                yield row | {"skipped": reasons[case.item.id]}
                continue
            made, found = ready[case.item.id], measured[case.item.id]
            yield row | {
                "entries": made.entries,
                "prefill_flops": made.flops,
                "ingest_flops": made.ingest_flops,
                "stored_bytes": made.stored,
                **found,
                "seconds": prepare_s + found["seconds"],
            }
        self.done(len(cases), method.name)

    def _measured(
        self, method: Method, ready: dict[str, Ready], known: dict[Hashable, Row]
    ) -> dict[str, Row]:
        """The measures of each item; a prompt that another method had is not run again."""
        keys = {item: method.same_as(r) for item, r in ready.items()}
        fresh = [item for item in ready if keys[item] is None or keys[item] not in known]
        started = time.perf_counter()
        new = self.measure(method, [ready[item] for item in fresh]) if fresh else []
        seconds = (time.perf_counter() - started) / max(1, len(fresh))
        out = {item: row | {"seconds": seconds} for item, row in zip(fresh, new, strict=True)}
        known.update({keys[item]: row for item, row in out.items() if keys[item] is not None})
        return {item: out.get(item) or known[keys[item]] for item in ready}


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`items` in lists of at most `size`, one length in each: they cost alike."""
    for _, of_length in groupby(items, key=lambda item: item.length):
        while group := list(islice(of_length, size)):
            yield group


def _head(item: Item, method: Method, budget: int | None) -> Row:
    return {
        "item": item.id,
        "task": item.task,
        "length": item.length,
        "method": method.name,
        "budget": budget,
    }


def answers(method: Method, ready: Sequence[Ready]) -> list[str]:
    """Answers of prompts that may allow answers of different lengths."""
    out = [""] * len(ready)
    for new_tokens in {r.case.item.new_tokens for r in ready}:
        group = [i for i, r in enumerate(ready) if r.case.item.new_tokens == new_tokens]
        texts = method.generate([ready[i] for i in group], new_tokens)
        for i, text in zip(group, texts, strict=True):
            out[i] = text
    return out
