"""Rows -> a file of JSON lines, a table, plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speed_parts.presses import PRESSES

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

        def of(phase: str, rows: list[Row] = here) -> list[Row]:
            return [row for row in rows if row["phase"] == phase]

        full, bare = of("full attention, first token"), of("bare model, first token")
        bare_step = of("bare model, decode")
        most = max((row["layers"] for row in here if "layers" in row), default=0)
        for row in here:
            if row["phase"] == "ingest" and full:
                name = f"full prefill / coarse ingest, M = {row['layers']}"
                out.append(_ratio(tokens, name, full[0]["seconds"], row["seconds"]))
            method, _, part = row["phase"].partition(", ")
            if method in PRESSES and full and part in ("first token", "warm question"):
                name = f"full prefill / {row['phase']}"
                out.append(_ratio(tokens, name, full[0]["seconds"], row["seconds"]))
            if method in PRESSES and part == "decode" and bare_step:
                name = f"{row['phase']} / bare model"
                out.append(_ratio(tokens, name, row["seconds"], bare_step[0]["seconds"]))
            if row.get("layers") != most:
                continue
            if row["phase"].startswith("first token"):
                place, seconds = row["phase"][13:], row["seconds"] + row["search_s"]
                if full:
                    name = f"full prefill / first token, {place}, search included"
                    out.append(_ratio(tokens, name, full[0]["seconds"], seconds))
                if bare:
                    name = f"first token, {place} / bare model"
                    out.append(_ratio(tokens, name, row["seconds"], bare[0]["seconds"]))
            if row["phase"].startswith("decode") and bare_step:
                name = f"{row['phase']} / bare model"
                out.append(_ratio(tokens, name, row["seconds"], bare_step[0]["seconds"]))
    return out


def _ratio(tokens: int, name: str, above: float, below: float) -> Row:
    return {"reached": name, "tokens": tokens, "ratio": above / below}


def plot(rows: list[Row], file: Path) -> None:
    """Seconds of reading the context, and bytes kept, over its length."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for key, axis, title in (("seconds", axes[0], "seconds"), ("stored", axes[1], "bytes kept")):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            name = row.get("phase", "")
            if row.get("sweep") or key not in row or "tokens" not in row:
                continue
            if name == "ingest":
                lines.setdefault(f"coarse level, M = {row['layers']}", []).append(
                    (row["tokens"], row[key])
                )
            elif name in READS or (name.startswith("StreamingLLM") and key == "seconds"):
                lines.setdefault(name, []).append((row["tokens"], row[key]))
        for name, points in lines.items():
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="tokens of context", title=title)
        axis.grid(alpha=0.3)
        if lines:
            axis.legend(fontsize=7)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
