"""Runs every method at every budget on the same items, document after document."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sharedllm.document import Document
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
            for method in self.methods:
                for budget in self._budgets(method):
                    yield from self._rows(method, budget, cases)

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

    def _rows(self, method: Method, budget: int | None, cases: Sequence[Case]) -> Iterator[Row]:
        started = time.perf_counter()
        ready: list[Ready] = []
        reasons: dict[str, str] = {}
        for case in cases:
            try:
                ready.append(method.prepare(case, budget))
            except DoesNotFitError as error:
                reasons[case.item.id] = str(error)
        measured = self.measure(method, ready) if ready else []
        seconds = (time.perf_counter() - started) / max(1, len(ready))
        found = {r.case.item.id: (r, m) for r, m in zip(ready, measured, strict=True)}
        for case in cases:
            row = _head(case.item, method, budget)
            if case.item.id in reasons:
                yield row | {"skipped": reasons[case.item.id]}
                continue
            made, measures = found[case.item.id]
            yield row | {
                "entries": made.entries,
                "prefill_flops": made.flops,
                "ingest_flops": made.ingest_flops,
                "stored_bytes": made.stored,
                "seconds": seconds,
                **measures,
            }
        self.done(len(cases), method.name)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`items` in lists of at most `size`."""
    stream = iter(items)
    while group := list(islice(stream, size)):
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
