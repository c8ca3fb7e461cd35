"""Rows -> the picture of speed: reading a context, asking about it, and what is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = dict[str, Any]
SHADES = ("#7fb2e5", "#3d85c6", "#0b3d66")  # of ours, by injection layers
OURS = ("remember", "ingest")  # both read the context: search vectors, coarse level
FULL, PYTORCH = "full attention, fastest kernel", "full attention, PyTorch's"
DASHED = ("SnapKV", "top-k chunks", "CEPE's shape")  # lie upon others
COLOURS = {
    FULL: "#222222",
    PYTORCH: "#999999",
    "StreamingLLM": "#a64d79",
    "CEPE's shape": "#e69138",
    "SnapKV": "#6aa84f",
    "top-k chunks": "#bf9000",
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes.

    Attributes
    ----------
    lines : the names of the lines that a row is on
    height : of a row
    """

    title: str
    unit: str
    lines: Callable[[Row], list[str]]
    height: Callable[[Row], float]


def _method(row: Row) -> str:
    return str(row["phase"]).partition(", ")[0]


def _full(row: Row) -> list[str]:
    """The lines of full attention that `row` is on."""
    method, _, part = str(row["phase"]).partition(", ")
    if not method.startswith("full attention") or part != "first token":
        return []
    return [FULL, PYTORCH] if method == "full attention" else [FULL]


def _reading(row: Row) -> list[str]:
    phase = row["phase"]
    if phase in OURS:
        return [f"SharedLLM, M = {row['layers']}"]
    if phase in ("StreamingLLM, reads the context", "CEPE's shape, ingest", "SnapKV, first token"):
        return [_method(row)]
    return _full(row)


def _asking(row: Row) -> list[str]:
    phase = row["phase"]
    if phase == "first token, memory on the device":
        return [f"SharedLLM, M = {row['layers']}"]
    if phase in ("CEPE's shape, first token", "top-k chunks, first token", "SnapKV, first token"):
        return [_method(row)]
    return _full(row)


def _keeping(row: Row) -> list[str]:
    if row.get("stored") is None:
        return []
    if row["phase"] == "ingest":
        return [f"SharedLLM, M = {row['layers']}"]
    if row["phase"] in ("CEPE's shape, ingest", "SnapKV, first token"):
        return [_method(row)]
    return _full(row)[:1]  # whatever the kernel


PANELS = (
    Panel("Reading the context, once", "seconds", _reading, lambda row: row["seconds"]),
    Panel(
        "First token of a new question, search included",
        "seconds",
        _asking,
        lambda row: row["seconds"] + row.get("search_s", 0.0),
    ),
    Panel("Keys and values kept", "GB", _keeping, lambda row: row["stored"] / 1e9),
)


def plot(rows: list[Row], file: Path) -> None:
    """Draw all panels over the length of the context, both axes logarithmic.

    Rows of a sweep are not drawn.
    """
    plain = [r for r in rows if "seconds" in r and not r.get("sweep")]
    searched = {row["tokens"]: row["search_s"] for row in plain if "search_s" in row}
    for row in plain:
        if row["phase"] == "top-k chunks, first token":  # its chunks are found as our nodes are
            row["search_s"] = searched.get(row["tokens"], 0.0)
    figure = Figure(figsize=(13, 4.9), layout="constrained")
    named: dict[str, Artist] = {}
    for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        _draw(axes, panel, plain)
        named |= {str(line.get_label()): line for line in axes.lines}
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def _draw(axes: Axes, panel: Panel, rows: list[Row]) -> None:
    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        for name in panel.lines(row):
            height, held = panel.height(row), lines[name].get(row["tokens"])
            if held is not None:  # of several kernels the fastest; ours is the sum of its phases
                height = held + height if row["phase"] in OURS else min(held, height)
            lines[name][row["tokens"]] = height
    ours = [name for name in lines if name.startswith("SharedLLM")]  # M counts up in the rows
    for name, points in lines.items():
        mine = name in ours
        axes.plot(
            *zip(*sorted(points.items()), strict=True),
            marker="o" if mine else "s",
            color=SHADES[ours.index(name)] if mine else COLOURS[name],
            linestyle="--" if name in DASHED else "-",
            linewidth=2.4 if mine else 1.4,
            markersize=4,
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="tokens of context", ylabel=panel.unit)
    axes.set_title(panel.title, loc="left", fontsize=11)
    ticks = sorted({tokens for points in lines.values() for tokens in points})
    axes.set_xticks(ticks, [_short(tokens) for tokens in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _short(tokens: int) -> str:
    return f"{tokens // 1024**2}M" if tokens >= 1024**2 else f"{tokens // 1024}K"
