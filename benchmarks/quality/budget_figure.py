"""Evidence found and answers right over token budgets, in 128K tokens: docs/choosing.md.

    python -m benchmarks.quality.budget_figure --plot docs/images/budget.png

Both panels are drawn from committed results: the untrained base of experiment 6, and the shipped
adapter of experiment 49.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality.default_figure import estimated

RESULTS = Path("benchmarks/results")
LENGTH = 131_072
BUDGETS = (512, 1024, 2048, 5120)
UNTRAINED = {
    "text, maxsim": ("SharedLLM", "#0b5394"),
    "BM25 windows, best last": ("BM25", "#e69138"),
}
TASKS = {
    "multi-key": ("niah_multikey_1", "#0b5394"),
    "multi-value": ("niah_multivalue", "#6aa84f"),
    "multi-query": ("niah_multiquery", "#45818e"),
    "variable tracking": ("vt", "#a64d79"),
    "two hops": ("two_hop", "#674ea7"),
}

Curve = Mapping[int, Sequence[float]]  # scores of all items, by budget


def untrained(measure: str) -> dict[str, Curve]:
    """Scores of the untrained base for each method."""
    runs = json.loads((RESULTS / "untrained.json").read_text(encoding="utf-8"))["runs"]
    out: dict[str, dict[int, Sequence[float]]] = {name: {} for name in UNTRAINED}
    for result in (one for run in runs for one in run["results"]):
        if result["method"] in out:
            out[result["method"]][result["budget"]] = [float(bit) for bit in result[measure]]
    return {name: curve for name, curve in out.items() if curve}


def adapted() -> dict[str, tuple[Curve, str]]:
    """Scores of the shipped adapter by task, and F1 of real questions, with their colours."""
    found = json.loads((RESULTS / "default_v5.json").read_text(encoding="utf-8"))
    out: dict[str, tuple[Curve, str]] = {}
    for title, (task, colour) in TASKS.items():
        keys = {b: f"{task}|{LENGTH}|SharedLLM|{b}" for b in BUDGETS}
        cells = {b: found["needles"][key] for b, key in keys.items() if key in found["needles"]}
        out[title] = (cells, colour)
    keys = {b: f"question|{LENGTH}|SharedLLM|{b}" for b in BUDGETS}
    asked = {b: list(found["f1"][key].values()) for b, key in keys.items() if key in found["f1"]}
    out["real questions: F1"] = (asked, "#e69138")
    return out


def draw(path: Path) -> None:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for measure, style in (("evidence", ":"), ("right", "-")):
        for method, curve in untrained(measure).items():
            name, colour = UNTRAINED[method]
            what = "evidence found" if measure == "evidence" else "right"
            line(left, curve, colour, f"{what}, {name}", style)
    left.set_title("Untrained base", fontsize=11, loc="left")
    for title, (curve, colour) in adapted().items():
        line(right, curve, colour, title)
    right.set_title("The shipped adapter", fontsize=11, loc="left")
    left.set_ylabel("%")
    for place in (left, right):
        place.set_xscale("log", base=2)
        place.set_xticks(BUDGETS, [f"{budget:,}" for budget in BUDGETS])
        place.set_xlim(BUDGETS[0] * 0.85, BUDGETS[-1] * 1.2)
        place.set_ylim(0, 104)
        place.set_xlabel("token budget")
        place.grid(alpha=0.3)
        place.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, frameon=False)
    right.legend(fontsize=8, frameon=False, loc="center right", bbox_to_anchor=(1, 0.7))
    figure.savefig(path, dpi=100)


def line(place: Axes, curve: Curve, colour: str, label: str, style: str = "-") -> None:
    """Means over budgets with their 95 % intervals."""
    points = {budget: estimated(list(scores)) for budget, scores in sorted(curve.items())}
    place.errorbar(
        list(points),
        [100 * value for value, _, _ in points.values()],
        yerr=[[100 * point[side] for point in points.values()] for side in (1, 2)],
        color=colour,
        label=label,
        linestyle=style,
        marker="o",
        markersize=4,
        capsize=2,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plot", type=Path, required=True)
    draw(parser.parse_args().plot)


if __name__ == "__main__":
    main()
