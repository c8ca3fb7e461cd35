"""What `evaluate_default.sh` measured, in one file of results and one picture for the README.

    python -m benchmarks.quality.default_figure OUT [OUT ...] --json RESULTS --plot PICTURE

Runs that were cut short left their rows beside where the result would have been; these count, too.
Perplexities have pictures of their own (OUT/perplexity-*.png).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharedllm.evaluation.metrics import mean

Key = tuple[str, int, str, int]  # task, length, method, budget (0: its own)
NEEDLES = {
    "single facts": ("niah_single_1", "niah_single_2", "niah_single_3"),
    "a key among others": ("niah_multikey_1",),
    "4 values, 4 questions": ("niah_multivalue", "niah_multiquery"),
    "chains": ("vt",),
}
QA = {
    "f1": "F1",
    "nll": "NLL of the answer, nats a token",
    "recognised": "absent answers seen, %",
    "false_refusal": "false refusals, %",
}
SERIES = {
    "SharedLLM": "#0b5394",
    "BM25 windows": "#e69138",
    "MiniLM windows": "#6aa84f",
    "full attention": "#666666",
    "truncated, left": "#a64d79",
}
OWN = ("full attention", "truncated, left")  # as much as fits the trained window
# left out of "question": they mean nothing without their passage
BESIDE = ("PolicyQA", "T0:", "SciTLDR", "CRD3", "QMSum", "Scisumm")


def rows(folders: list[Path], command: str) -> Iterator[dict[str, Any]]:
    """The rows of every run of `command`, each with the name of its run."""
    for folder in folders:
        for file in sorted(folder.glob(f"{command}*.json*")):
            text = file.read_text(encoding="utf-8")
            found = (
                map(json.loads, text.splitlines())
                if file.name.endswith(".partial.jsonl")
                else json.loads(text)["rows"]
            )
            for row in found:
                if "skipped" not in row:
                    yield row | {"run": f"{folder.name}/{file.name.split('.')[0]}"}


def collected(folders: list[Path]) -> dict[str, Any]:
    """Scores of each task, length, method and budget, in the order of the items."""
    needles: dict[Key, list[float]] = defaultdict(list)
    for row in rows(folders, "needle"):
        needles[row["task"], row["length"], row["method"], row["budget"] or 0].append(row["score"])
    asked: dict[str, dict[Key, dict[str, float]]] = {key: defaultdict(dict) for key in QA}
    for row in rows(folders, "qa"):
        if row["task"].startswith(BESIDE):
            continue
        for key in QA:
            if row.get(key) is not None:
                cell = "question", row["length"], row["method"], row["budget"] or 0
                asked[key][cell][f"{row['run']} {row['item']}"] = row[key]
    return {
        "needles": {"|".join(map(str, key)): found for key, found in sorted(needles.items())},
        **{
            key: {"|".join(map(str, cell)): found for cell, found in sorted(cells.items())}
            for key, cells in asked.items()
        },
    }


def draw(results: dict[str, Any], budget: int, path: Path) -> None:
    """A panel for each kind of needle, and dots for the questions."""
    figure = Figure(figsize=(12.5, 6.2), layout="constrained")
    places = figure.subplots(2, 4).ravel()
    for place, (title, tasks) in zip(places, NEEDLES.items(), strict=False):
        lines(place, results["needles"], tasks, budget)
        place.set_title(title, fontsize=10)
    places[0].set_ylabel("RULER, % right")
    for place, (key, title) in zip(places[4:], QA.items(), strict=True):
        dots(place, results[key], budget, 100 if key in ("recognised", "false_refusal") else 1)
        place.set_title(title, fontsize=10)
        if place is not places[4]:
            place.set_yticklabels([])
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        f"RULER from 4K to 1M tokens, and real questions in 128K; {budget:,} tokens of evidence "
        "(full attention and what is cut off: the trained window)",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)


def lines(place: Axes, cells: dict[str, list[float]], tasks: tuple[str, ...], budget: int) -> None:
    """Means of `tasks` together over lengths, with their 95 % intervals."""
    for method, colour in SERIES.items():
        own = 0 if method in OWN else budget
        series: dict[int, list[float]] = defaultdict(list)
        for cell, scores in cells.items():
            task, length, of, entries = cell.split("|")
            if task in tasks and of == method and int(entries) == own:
                series[int(length)] += scores
        if not series:
            continue
        points = {n: estimated(scores) for n, scores in sorted(series.items())}
        place.errorbar(
            list(points),
            [100 * value for value, _, _ in points.values()],
            yerr=[[100 * point[side] for point in points.values()] for side in (1, 2)],
            color=colour,
            label=method,
            linestyle="--" if method == "full attention" else "-",
            marker="o",
            markersize=4,
            linewidth=2.2 if method == "SharedLLM" else 1.2,
            zorder=3 if method == "full attention" else 2,
            capsize=2,
        )
    place.set_xscale("log", base=2)
    place.set_xticks([4096, 32768, 131072, 1048576], ["4K", "32K", "128K", "1M"], fontsize=8)
    place.set_xlim(3000, 1.4e6)
    place.set_ylim(-4, 104)
    place.grid(axis="y", alpha=0.3)
    place.spines[["top", "right"]].set_visible(False)


def dots(place: Axes, cells: dict[str, dict[str, float]], budget: int, scale: int) -> None:
    """One measure at 128K over the items that every method took: a dot a method."""
    found = {}
    for method in SERIES:
        for suffix in ("", " + adapter"):
            own = 0 if method in OWN else budget
            cell = cells.get(f"question|131072|{method}{suffix}|{own}")
            if cell:
                found[method, suffix] = cell
    common = set.intersection(*map(set, found.values()))
    for at, ((method, suffix), cell) in enumerate(found.items()):
        value, below, above = estimated([cell[item] for item in sorted(common)])
        place.errorbar(
            scale * value,
            -at,
            xerr=[[scale * below], [scale * above]],
            color=SERIES[method],
            marker="s" if suffix else "o",
            markersize=5,
            capsize=2,
            markerfacecolor="white" if suffix else SERIES[method],
        )
    place.set_yticks([-at for at in range(len(found))], map("".join, found), fontsize=8)
    place.set_xlabel(f"{len(common)} items", fontsize=8)
    place.set_xlim(-0.03 * place.get_xlim()[1], None)
    place.grid(axis="x", alpha=0.3)
    place.spines[["top", "right"]].set_visible(False)


def estimated(values: list[float]) -> tuple[float, float, float]:
    """The mean, and how far its 95 % interval reaches below and above it."""
    found = mean(values)
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    return found.value, max(0.0, found.value - low), max(0.0, high - found.value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        help="of evaluate_default.sh; none: draw --json again",
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=1024)
    args = parser.parse_args()
    if args.folders:
        results = collected(args.folders)
        args.json.write_text(json.dumps(results, indent=None, separators=(",", ":")) + "\n")
    else:
        results = json.loads(args.json.read_text(encoding="utf-8"))
    draw(results, args.budget, args.plot)


if __name__ == "__main__":
    main()
