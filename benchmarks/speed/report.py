"""Rows -> a file of JSON lines, a table, plots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.presses import PRESSES

Row = dict[str, Any]
READS = {
    "full attention, first token",
    "CEPE's shape, ingest",
    *(f"{name}, first token" for name in PRESSES),
}


class Report:
    """Keeps rows, writing each as it comes, so that a run cut short keeps what it has."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self.rows: list[Row] = []
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("", encoding="utf-8")

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self._out is not None:
            with self._out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        print(_line(row), flush=True)


def _line(row: Row) -> str:
    if "reached" in row:
        return f"{row['tokens']} {row['reached']}: {row['ratio']:.3g}"
    if "phase" not in row:
        return json.dumps(row)
    names = ("tokens", "layers", "chunk", "budget", "attention", "running", "entries")
    where = " ".join(f"{name} {row[name]}" for name in names if name in row)
    if "why" in row:
        return f"{row['phase']} {where}: {row['why']}"
    line = f"{row['phase']} {where}: {row['seconds']:.4g} s, floor {row['floor_share']:.0%}"
    if "parts" in row:
        whole = row["parts"]["whole"]
        shares = (f"{k} {v / whole:.0%}" for k, v in row["parts"].items() if k != "whole")
        line += f" ({', '.join(shares)})"
    return line


def table(rows: list[Row]) -> None:
    """Print all rows as one table."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="phases; floor: the larger of computing and moving at the measured rates")
    for name in (
        "phase",
        "tokens",
        "M",
        "entries",
        "s",
        "TFLOP",
        "GB",
        "floor",
        "by",
        "tok/s",
        "GiB",
    ):
        shown.add_column(name, justify="left" if name in ("phase", "by") else "right")
    for row in rows:
        if "phase" not in row:
            continue
        head = [row["phase"], *(str(row.get(k, "")) for k in ("tokens", "layers", "entries"))]
        if "why" in row:
            shown.add_row(*head, row["why"])
            continue
        peak = row.get("peak")
        rate = row.get("tokens_s")
        shown.add_row(
            *head,
            f"{row['seconds']:.4g}",
            f"{row['flops'] / 1e12:.3g}",
            f"{row['bytes'] / 1e9:.3g}",
            f"{row['floor_share']:.0%}",
            row["limiter"],
            "" if rate is None else f"{rate:,.0f}",
            "" if peak is None else f"{peak / 2**30:.1f}",
        )
    Console(width=150).print(shown)


def reached(rows: list[Row]) -> list[Row]:
    """Ratios to full attention and to the bare model, for each length of context."""
    out: list[Row] = []
    plain = [row for row in rows if "seconds" in row and not row.get("sweep")]
    for tokens in sorted({row["tokens"] for row in plain}):
        here = [row for row in plain if row["tokens"] == tokens]
        others = {row["phase"]: row["seconds"] for row in here if "layers" not in row}
        most = max((row["layers"] for row in here if "layers" in row), default=0)
        for row in here:
            for name, above, below in _compared(row, others, most):
                if above and below:
                    out.append({"reached": name, "tokens": tokens, "ratio": above / below})
    return out


def _compared(
    row: Row, others: dict[str, float], most: int
) -> Iterator[tuple[str, float | None, float | None]]:
    """What stands above and below the line in the ratios of `row`; None where it is not there."""
    phase, seconds = row["phase"], row["seconds"]
    full = _full(others)
    bare = others.get("bare model, first token")
    method, _, part = phase.partition(", ")
    if phase == "ingest":
        name = f"coarse ingest, M = {row['layers']}"
        yield f"full prefill / {name}", full, seconds
        yield f"full prefill / search vectors and {name}", full, seconds + row["remember_s"]
        yield f"StreamingLLM / {name}", others.get("StreamingLLM, reads the context"), seconds
        yield f"CEPE's shape, ingest / {name}", others.get("CEPE's shape, ingest"), seconds
    if method in PRESSES and part in ("first token", "warm question"):
        yield f"full prefill / {phase}", full, seconds
    if method in PRESSES and part == "decode":
        yield f"{phase} / bare model", seconds, others.get("bare model, decode")
    if row.get("layers") != most:
        return
    if phase == "first token, evidence as KV":
        yield f"full prefill / {phase}, search included", full, seconds + row["search_s"]
    elif phase.startswith("first token"):
        asked = seconds + row["search_s"]
        yield f"full prefill / first token, {part}, search included", full, asked
        yield f"first token, {part} / bare model", seconds, bare
        yield (
            f"CEPE's shape, first token / {part}",
            others.get("CEPE's shape, first token"),
            seconds,
        )
    if phase.startswith("decode"):
        yield f"{phase} / bare model, {phase}", seconds, others.get(f"bare model, {phase}")
    if row.get("above_weights"):
        name = "GiB at most in a warm question, above the weights"
        yield name, row["above_weights"], float(2**30)


def _full(others: dict[str, float]) -> float | None:
    """Seconds of the fastest full prefill."""
    full = {p: s for p, s in others.items() if p.startswith("full attention")}
    first = {p: s for p, s in full.items() if p.endswith(", first token")}
    return min(first.values(), default=None)
