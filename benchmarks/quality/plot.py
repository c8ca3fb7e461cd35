"""A picture of a run: scores over lengths, or dots with intervals at one length.

    python -m benchmarks.quality.plot RESULT.json --plot PICTURE.png

RESULT is what ``sharedllm eval`` or evaluate.py wrote with `--out`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, ScalarFormatter

from sharedllm.evaluation.items import thousands
from sharedllm.evaluation.metrics import Metric
from sharedllm.evaluation.results import ALL, OURS

Cell = dict[str, Any]
Panel = tuple[str, Metric, str]  # heading, metric, task
COLOURS = (
    *("#0b5394", "#e69138", "#6aa84f", "#a64d79", "#45818e", "#cc0000", "#7f6000", "#674ea7"),
    *("#999999", "#d5a6bd"),
)
MARKERS = "osD^vP"
DODGE = 0.16  # of the way to the next length: equal values do not hide each other
WIDE = 3.0  # times the least: from there on perplexities are drawn in logarithms
PANEL_WIDTH, PANEL_HEIGHT, DOT_HEIGHT = 4.2, 3.0, 0.24


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture to `path`."""
    cells, command = result["cells"], result["command"]
    metrics = [Metric(**metric) for metric in result["metrics"]]
    axis = "tokens of past" if command == "perplexity" else "tokens"
    panels = _panels(cells, metrics, by_task=command == "ruler")
    lengths = sorted({cell["length"] for cell in cells})
    series = list(dict.fromkeys((c["method"], c["budget"]) for c in cells if c["items"]))
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = PANEL_HEIGHT if len(lengths) > 1 else max(PANEL_HEIGHT, DOT_HEIGHT * len(series) + 1)
    figure = Figure(
        figsize=(PANEL_WIDTH * columns + 2.6, height * rows + 0.5), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, panel in zip(axes.flat, panels, strict=False):
        if len(lengths) > 1:
            _lines(place, panel, cells, series, lengths, axis)
        else:
            _dots(place, panel, cells, series)
        place.spines[["top", "right"]].set_visible(False)
    for place in list(axes.flat)[len(panels) :]:
        place.set_visible(False)
    figure.suptitle(command)
    if len(lengths) > 1:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside right upper",
            fontsize=8,
            frameon=False,
            title="method, budget",
            title_fontsize=8,
        )
    figure.savefig(path, dpi=130)


def _panels(cells: Sequence[Cell], metrics: Sequence[Metric], *, by_task: bool) -> list[Panel]:
    """A panel for each task and their mean, or for each metric."""
    if not by_task:
        have = {key for cell in cells for key in cell["metrics"]}
        return [(m.title, m, ALL) for m in metrics if m.key in have]
    tasks = dict.fromkeys(cell["task"] for cell in cells if cell["task"] != ALL)
    panels = [(task, metrics[0], task) for task in tasks]
    return [("mean", metrics[0], ALL), *panels] if len(panels) > 1 else panels


def _name(series: tuple[str, int | None]) -> str:
    method, budget = series
    return method if budget is None else f"{method}, {budget:,}"


def _style(
    series: tuple[str, int | None], every: Sequence[tuple[str, int | None]]
) -> dict[str, Any]:
    """A colour for each method and a marker for each budget; ours is thicker."""
    methods = list(dict.fromkeys(method for method, _ in every))
    budgets = sorted({b for _, b in every if b is not None})
    method, budget = series
    return {
        "color": COLOURS[methods.index(method) % len(COLOURS)],
        "marker": "x" if budget is None else MARKERS[budgets.index(budget) % len(MARKERS)],
        "linewidth": 2.4 if method == OURS else 1.2,
        "linestyle": "--" if budget is None else "-",
        "markersize": 5,
    }


def _bounds(cell: Cell, metric: Metric) -> tuple[float, float, float] | None:
    """Value, and how far the interval reaches below and above."""
    found = cell["metrics"].get(metric.key)
    if found is None:
        return None
    value = found["value"]
    low, high = (value if found[k] is None else found[k] for k in ("low", "high"))
    return metric.scale * value, metric.scale * (value - low), metric.scale * (high - value)


def _lines(
    place: Axes,
    panel: Panel,
    cells: Sequence[Cell],
    series: Sequence[tuple[str, int | None]],
    lengths: Sequence[int],
    axis: str,
) -> None:
    heading, metric, task = panel
    values: list[float] = []
    for one in series:
        own = {
            c["length"]: _bounds(c, metric)
            for c in cells
            if c["task"] == task and (c["method"], c["budget"]) == one
        }
        points = [(at, own[n]) for at, n in enumerate(lengths) if own.get(n)]
        aside = DODGE * (series.index(one) - (len(series) - 1) / 2) / max(1, len(series) - 1)
        x = [at + aside for at, _ in points]
        y = [b[0] for _, b in points if b]
        error = [[b[1] for _, b in points if b], [b[2] for _, b in points if b]]
        values += y
        style = _style(one, series)
        drawn = place.errorbar(x, y, yerr=error, label=_name(one), elinewidth=0.8, **style)
        for bar in drawn.lines[2]:  # many intervals would hide the lines
            bar.set_alpha(0.9 if one[0] == OURS else 0.25)
    place.set_xticks(range(len(lengths)), [thousands(n) if n else "0" for n in lengths], fontsize=8)
    place.set_xlabel(axis, fontsize=8)
    place.set_title(heading, fontsize=10)
    if metric.scale == 100:
        place.set_ylim(-3, 103)
    if metric.exp and values and max(values) > WIDE * min(values):
        place.set_yscale("log")
        place.yaxis.set_major_formatter(ScalarFormatter())
        place.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.6)))
    place.tick_params(axis="y", which="both", labelsize=8)
    place.grid(axis="y", alpha=0.3)


def _dots(
    place: Axes, panel: Panel, cells: Sequence[Cell], series: Sequence[tuple[str, int | None]]
) -> None:
    heading, metric, task = panel
    names: list[str] = []
    for one in series:
        cell = next(
            (c for c in cells if c["task"] == task and (c["method"], c["budget"]) == one), None
        )
        bounds = _bounds(cell, metric) if cell else None
        if bounds is None:
            continue
        value, below, above = bounds
        style = {**_style(one, series), "linestyle": ""}
        place.errorbar(
            [value], [len(names)], xerr=[[below], [above]], elinewidth=1, capsize=2, **style
        )
        names.append(_name(one))
    place.set_yticks(range(len(names)), names, fontsize=8)
    place.set_ylim(len(names) - 0.5, -0.5)
    place.set_title(heading, fontsize=10)
    if metric.scale == 100:
        place.set_xlim(-3, 103)
    place.grid(axis="x", alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("result", type=Path)
    parser.add_argument("--plot", type=Path, required=True)
    args = parser.parse_args()
    draw(json.loads(args.result.read_text(encoding="utf-8")), args.plot)


if __name__ == "__main__":
    main()
