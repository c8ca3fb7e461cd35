"""Rows -> cells with means and intervals -> printed tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from sharedllm.evaluation.items import thousands
from sharedllm.evaluation.metrics import Estimate, Metric, Row, mean

OURS = "SharedLLM"
ALL = "all"
COSTS = ("tokens", "prefill_flops", "ingest_flops", "stored_bytes", "seconds")


def cells(rows: Sequence[Row], metrics: Sequence[Metric], seed: int) -> list[dict[str, Any]]:
    """Return one cell per length, task (and all tasks together), method and budget."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        for task in (ALL, row["task"]):
            key = (row["length"], task, row["method"], row["budget"])
            groups.setdefault(key, []).append(row)
    out = []
    for (length, task, method, budget), group in groups.items():
        ran = [row for row in group if "skipped" not in row]
        cell: dict[str, Any] = {
            "length": length,
            "task": task,
            "method": method,
            "budget": budget,
            "items": len(ran),
            "skipped": dict(Counter(row["skipped"] for row in group if "skipped" in row)),
            **{key: _mean(ran, key) for key in COSTS},
        }
        found = {m.key: m.estimate(ran, seed) for m in metrics} if ran else {}
        cell["metrics"] = {key: asdict(e) for key, e in found.items() if e is not None}
        ours = groups.get((length, task, OURS, budget if budget is not None else _largest(rows)))
        if method != OURS and ours and ran:
            cell["ours_minus_this"] = _paired(ours, ran, metrics[0], seed)
        out.append(cell)
    return out


def _largest(rows: Sequence[Row]) -> int:
    return max((row["budget"] for row in rows if row["budget"] is not None), default=0)


def _mean(rows: Sequence[Row], key: str) -> float | None:
    return float(np.mean([row[key] for row in rows])) if rows else None


def _paired(
    ours: Sequence[Row], other: Sequence[Row], metric: Metric, seed: int
) -> dict[str, Any] | None:
    """Return the mean difference of the main metric over common items, with its interval."""
    mine, theirs = ({r["item"]: metric.of(r) for r in rows} for rows in (ours, other))
    pairs = [(mine[item], theirs.get(item)) for item in mine]
    gaps = [a - b for a, b in pairs if a is not None and b is not None]
    return asdict(mean(gaps, seed)) if gaps else None


def show(
    found: Sequence[dict[str, Any]],
    metrics: Sequence[Metric],
    console: Console,
    *,
    title: str,
    tasks: dict[str, str] | None = None,
    unit: str = "tokens",
    across: bool = False,
) -> None:
    """Print the scores, the costs, and the reasons of skipped rows.

    Parameters
    ----------
    tasks : task -> heading: the main metric by task, instead of all metrics over all tasks
    unit : unit of the lengths
    across : one table for each metric, with the lengths as columns; else one for each length
    """
    lengths = list(dict.fromkeys(cell["length"] for cell in found))
    if tasks:
        legend = ", ".join(f"{short} {task}" for task, short in tasks.items())
        console.print(f"  {legend}", style="dim", markup=False, highlight=False)
    if across:
        for metric in metrics:
            _titled(console, f"{title}: {metric.title}, by {unit}", _lengths(found, metric))
    for length in lengths:
        of_length = [cell for cell in found if cell["length"] == length]
        heading = f"{title}, {thousands(length)} {unit}" if length else title
        if not across:
            _titled(console, heading, _scores(of_length, metrics, tasks or {}))
        if not across or length == max(lengths):
            at = f" at {thousands(length)} {unit}" if length else ""
            _titled(console, f"Cost{at}", _costs(of_length))
        for note in _notes(of_length):
            at = f"{thousands(length)}: " if across else ""
            console.print(f"  {at}{note}", style="dim", markup=False, highlight=False)


def _titled(console: Console, title: str, table: Table) -> None:
    console.print(title, style="bold", markup=False, highlight=False)
    console.print(table)


def _lengths(found: Sequence[dict[str, Any]], metric: Metric) -> Table:
    """Build a table of one metric with a column per length."""
    table = _table()
    cells_at = {(c["length"], c["method"], c["budget"]): c for c in found if c["task"] == ALL}
    lengths = sorted({length for length, _, _ in cells_at})
    for length in lengths:
        table.add_column(thousands(length), justify="right", no_wrap=True)
    for method, budget in dict.fromkeys((m, b) for _, m, b in cells_at):
        of_row = [cells_at[length, method, budget] for length in lengths]
        shown = [metric.shown(_estimate(c, metric.key), interval=len(lengths) < 5) for c in of_row]
        table.add_row(*_names(of_row[0]), *(text or "-" for text in shown))
    return table


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    table.add_column("budget", justify="right", no_wrap=True)
    return table


def _names(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["method"], f"{cell['budget']:,}" if cell["budget"] is not None else "own"


def _scores(
    found: Sequence[dict[str, Any]],
    metrics: Sequence[Metric],
    tasks: dict[str, str],
) -> Table:
    table = _table()
    over_all = [cell for cell in found if cell["task"] == ALL]
    shown = list(metrics[:1]) if tasks else [m for m in metrics if _has(over_all, m.key)]
    by_task = {(c["task"], c["method"], c["budget"]): c for c in found}
    present = {cell["task"] for cell in found}
    columns = [task for task in tasks if task in present]
    for task in columns:
        table.add_column(tasks[task], justify="right", no_wrap=True)
    for metric in shown:
        table.add_column("mean" if tasks else metric.title, justify="right", no_wrap=True)
    for cell in over_all:
        row = [*_names(cell)]
        for task in columns:
            own = by_task[task, cell["method"], cell["budget"]]
            row.append(metrics[0].shown(_estimate(own, metrics[0].key), interval=False) or "-")
        row += [m.shown(_estimate(cell, m.key)) or "-" for m in shown]
        table.add_row(*row)
    return table


def _has(found: Iterable[dict[str, Any]], key: str) -> bool:
    return any(key in cell["metrics"] for cell in found)


def _estimate(cell: dict[str, Any], key: str) -> Estimate | None:
    values = cell["metrics"].get(key)
    return Estimate(**values) if values else None


def _costs(found: Sequence[dict[str, Any]]) -> Table:
    table = _table()
    for name in ("items", "tokens", "prefill TFLOP", "ingest TFLOP", "stored MB", "s an item"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in found:
        if cell["task"] != ALL or not cell["items"]:
            continue
        table.add_row(
            *_names(cell),
            str(cell["items"]),
            f"{cell['tokens']:,.0f}",
            _figure(cell["prefill_flops"] / 1e12),
            _figure(cell["ingest_flops"] / 1e12),
            _figure(cell["stored_bytes"] / 1e6),
            f"{cell['seconds']:.2f}",
        )
    return table


def _figure(value: float) -> str:
    """Format with about three digits, without an exponent."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else "<0.001"


def _notes(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each reason for which rows were skipped."""
    out = []
    for cell in found:
        if cell["task"] == ALL:
            name = " ".join(_names(cell)).removesuffix(" own")
            out += [f"{name}: {n} skipped, {why}" for why, n in cell["skipped"].items()]
    return out
