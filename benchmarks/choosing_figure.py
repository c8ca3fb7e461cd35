"""The curves of docs/choosing.md: what a budget does, from committed results.

python benchmarks/choosing_figure.py --plot docs/images/budget.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharedllm.evaluation.intervals import mean

RESULTS = Path(__file__).parent / "results"
BUDGETS = (1024, 2048, 5120)
UNTRAINED = {  # experiment 6: row of the results, what is counted -> colour
    ("text, maxsim", "evidence"): ("evidence found, trees", "#0b5394"),
    ("BM25 windows, best last", "evidence"): ("evidence found, BM25 windows", "#e69138"),
    ("text, maxsim", "right"): ("right, trees", "#0b5394"),
    ("BM25 windows, best last", "right"): ("right, BM25 windows", "#e69138"),
}
TRAINED = {  # experiment 16: tasks -> name, colour
    ("niah_multikey_1",): ("a key among others", "#0b5394"),
    ("niah_multivalue", "niah_multiquery"): ("4 values, 4 questions", "#6aa84f"),
    ("vt",): ("chains of variables", "#a64d79"),
}
QUESTIONS = "#e69138"


def curve(
    axes: Axes, budgets: Sequence[int], values: Sequence[Sequence[float]], **style: Any
) -> None:
    """Means in per cent with their 95 % intervals."""
    means = [mean(one) for one in values]
    middle = [100 * one.value for one in means]
    axes.errorbar(budgets, middle, [100 * (one.half or 0.0) for one in means], capsize=2, **style)


def untrained(axes: Axes) -> None:
    """The base, questions in 128K tokens."""
    runs = json.loads((RESULTS / "untrained.json").read_text(encoding="utf-8"))["runs"]
    rows = {(r["method"], r["budget"]): r for run in runs for r in run["results"]}
    for (method, counted), (label, colour) in UNTRAINED.items():
        found = [
            (b, [float(x) for x in rows[method, b][counted]])
            for b in (512, *BUDGETS)
            if (method, b) in rows
        ]
        line = ":" if counted == "evidence" else "-"
        curve(axes, *zip(*found, strict=True), label=label, color=colour, ls=line, marker="o", ms=4)
    axes.set_title("Untrained base", loc="left", fontsize=10)


def trained(axes: Axes) -> None:
    """The shipped adapter, RULER's tasks and real questions in 128K tokens."""
    data = json.loads((RESULTS / "default_v3.json").read_text(encoding="utf-8"))
    for tasks, (label, colour) in TRAINED.items():
        scores = [
            [s for t in tasks for s in data["needles"][f"{t}|131072|SharedLLM|{b}"]]
            for b in BUDGETS
        ]
        curve(axes, BUDGETS, scores, label=label, color=colour, marker="o", ms=4)
    asked = [data["f1"][f"question|131072|SharedLLM|{b}"] for b in BUDGETS]
    same = set(asked[0]).intersection(*asked[1:])
    values = [[one[item] for item in sorted(same)] for one in asked]
    curve(axes, BUDGETS, values, label="real questions: F1", color=QUESTIONS, marker="o", ms=4)
    axes.set_title("Adapter, version 3", loc="left", fontsize=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, required=True)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    untrained(left)
    trained(right)
    left.set_ylabel("%")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks((512, *BUDGETS), ("512", "1,024", "2,048", "5,120"))
        axes.minorticks_off()
        axes.set_xlabel("attention entries", fontsize=9)
        axes.set_ylim(0, 104)
        axes.set_xlim(430, 6200)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(parser.parse_args().plot, dpi=110)


if __name__ == "__main__":
    main()
