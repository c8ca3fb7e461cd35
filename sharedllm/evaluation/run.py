"""A run: load the model, run all methods and budgets on the same items, report."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharedllm import __version__
from sharedllm.config import GenerationConfig
from sharedllm.encoding.document import Document
from sharedllm.errors import BudgetError
from sharedllm.evaluation import results
from sharedllm.evaluation.baselines import Choice, make_methods, parse_names
from sharedllm.evaluation.items import Item, frame
from sharedllm.evaluation.methods import Case, DoesNotFitError, Method, Ready
from sharedllm.evaluation.metrics import Metric, Row
from sharedllm.evaluation.options import BUDGETS, Settings
from sharedllm.shared_llm import SharedLLM

Measure = Callable[[Method, Sequence[Ready]], list[Row]]
Done = Callable[[int, str], None]
PIPED_WIDTH = 160  # columns when standard output is not a terminal
NODE_CACHE_BYTES = 256 << 20  # of encoded nodes for each document
PACKAGES = ("torch", "transformers", "numpy")


class Runner:
    """Turns items into rows, one per item, method and budget.

    Parameters
    ----------
    measure : computes the measures of a method's prompts
    done : called with the number of rows that are ready, and a description
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
        for group in batch_by_length(items, self.batch):
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
                "tokens": made.tokens,
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
        """Measure each item; a prompt that another method had is not run again."""
        keys = {item: method.same_as(r) for item, r in ready.items()}
        fresh = [item for item in ready if keys[item] is None or keys[item] not in known]
        started = time.perf_counter()
        new = self.measure(method, [ready[item] for item in fresh]) if fresh else []
        seconds = (time.perf_counter() - started) / max(1, len(fresh))
        out = {item: row | {"seconds": seconds} for item, row in zip(fresh, new, strict=True)}
        known.update({keys[item]: row for item, row in out.items() if keys[item] is not None})
        return {item: out.get(item) or known[keys[item]] for item in ready}


def batch_by_length(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield `items` in lists of at most `size` items of one length."""
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


def generate_answers(method: Method, ready: Sequence[Ready]) -> list[str]:
    """Generate answers to prompts with different limits of new tokens."""
    out = [""] * len(ready)
    for new_tokens in {r.case.item.new_tokens for r in ready}:
        group = [i for i, r in enumerate(ready) if r.case.item.new_tokens == new_tokens]
        texts = method.generate([ready[i] for i in group], new_tokens)
        for i, text in zip(group, texts, strict=True):
            out[i] = text
    return out


class Session:
    """One command of ``sharedllm eval``: model, methods and budgets, and the output.

    Parameters
    ----------
    command : the command's name, for title and JSON
    llm : the model; None loads it by `settings`
    budgeted : True if the command has token budgets
    """

    def __init__(
        self,
        command: str,
        settings: Settings,
        llm: SharedLLM | None = None,
        *,
        budgeted: bool = True,
    ) -> None:
        self.command, self.settings = command, settings
        baselines = parse_names(settings.baselines)
        self.notes: list[str] = []
        self.llm = llm or SharedLLM.from_pretrained(
            settings.model,
            adapter=settings.adapter,
            device=settings.device,
            dtype=settings.dtype,
            generation=GenerationConfig(**settings.generation),
            node_cache_bytes=NODE_CACHE_BYTES,
        )
        self.llm.require_injecting("an evaluation")
        self.choice = Choice(
            baselines=baselines,
            adapter=settings.baseline_adapter,
            batch=settings.batch,
            search=settings.search,
        )
        self.budgets = self._budgets() if budgeted else ()

    def _budgets(self) -> tuple[int, ...]:
        """Return the budgets asked for, or the default ones that leave room for a question."""
        window, asked = self.llm.window, self.settings.budgets
        most = max(asked or BUDGETS)
        if asked and most >= window:
            raise BudgetError(
                f"--budget has {most:,}; the model was trained on {window:,} positions, and a "
                "question and its answer need some of them: lower it"
            )
        fitting = tuple(b for b in asked or BUDGETS if b < window)
        if not fitting:
            raise BudgetError(
                f"the model was trained on {window:,} positions, fewer than the default budgets "
                f"({', '.join(map(str, BUDGETS))}): give smaller ones with --budget"
            )
        if len(fitting) < len(asked or BUDGETS):
            self.note(f"default budgets of {window:,} or more are left out: the trained window")
        return fitting

    def note(self, text: str) -> None:
        """Record a note on the results, and print it once."""
        if text not in self.notes:
            self.notes.append(text)
            sys.stderr.write(f"note: {text}\n")

    def rows(
        self,
        items: Iterable[Item],
        n: int,
        measure: Measure,
        compared: Sequence[Method] | None = None,
    ) -> list[Row]:
        """Run the `n` `items` with a progress bar on standard error; return all rows.

        Parameters
        ----------
        compared : methods; None runs SharedLLM and the chosen baselines
        """
        compared = make_methods(self.llm, self.choice) if compared is None else compared
        runner = Runner(self.llm, compared, self.budgets, measure, self.settings.batch)
        kept: list[Row] = []
        with _bar(f"eval {self.command}", n * runner.rows_an_item) as done, self._rescue() as save:
            runner.done = done
            for row in runner(items):
                kept.append(row)
                save(row)
        return kept

    @contextmanager
    def _rescue(self) -> Iterator[Callable[[Row], None]]:
        """Write rows to a file beside ``--out`` as they come, for runs that are stopped."""
        if self.settings.out is None:
            yield lambda row: None
            return
        beside = self.settings.out.with_suffix(".partial.jsonl")
        with beside.open("w", encoding="utf-8", buffering=1) as file:

            def save(row: Row) -> None:
                file.write(json.dumps(row) + "\n")

            yield save
        beside.unlink()

    def finish(
        self,
        rows: Sequence[Row],
        metrics: Sequence[Metric],
        *,
        title: str,
        tasks: dict[str, str] | None = None,
        unit: str = "tokens",
        across: bool = False,
    ) -> dict[str, Any]:
        """Print tables or JSON, write the file of ``--out``, and return the JSON object."""
        found = results.cells(rows, metrics, self.settings.seed)
        result = self._described() | {
            "metrics": [dataclasses.asdict(metric) for metric in metrics],
            "cells": found,
            "rows": list(rows),
        }
        if self.settings.out is not None:
            self.settings.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if self.settings.as_json:
            sys.stdout.write(json.dumps(result) + "\n")
        else:
            console = Console()
            if not console.is_terminal:
                console = Console(width=PIPED_WIDTH)
            results.show(
                found, metrics, console, title=title, tasks=tasks, unit=unit, across=across
            )
        return result

    def _described(self) -> dict[str, Any]:
        settings = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self.settings).items()
        }
        search = self.llm.search.replace(**self.settings.search)
        return {
            "command": self.command,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "hardware": hardware(self.llm.upper.device),
            "versions": {
                "sharedllm": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in PACKAGES},
            },
            "model": self.settings.model or "default",
            "adapter": None if self.llm.adapter is None else self.settings.adapter,
            "dtype": str(self.llm.model.dtype).removeprefix("torch."),
            "window": self.llm.window,
            "settings": settings,
            "search": dataclasses.asdict(search),
            "generation": dataclasses.asdict(self.llm.generation),
            "tree": dataclasses.asdict(self.llm.tree),
            "injection": dataclasses.asdict(self.llm.injection),
            "seed": self.settings.seed,
            "budgets": list(self.budgets),
            "notes": self.notes,
        }


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or else of the processor with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


@contextmanager
def _bar(title: str, total: int) -> Iterator[Done]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        task = bars.add_task(title, total=total)

        def done(rows: int, what: str) -> None:
            bars.update(task, advance=rows, description=f"{title}: {what}"[:48])

        yield done
