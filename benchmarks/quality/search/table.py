"""Rows of the bench -> one table, with ours compared question by question with its better part."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

BUDGETS = (512, 1024, 2048)
MEASURES = (*map(str, BUDGETS), "first")
PARTS, ONCE, OURS = ("maxsim", "bm25"), "fused", "rounds"
Values = dict[str, dict[str, list[float]]]  # system -> measure -> a value per question, in order


def read(path: Path) -> dict[str, Values]:
    """Return for each kind the values of questions that all systems have been asked."""
    by_key: dict[str, dict[str, dict]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by_key[row["key"]][row["system"]] = row
    systems = {system for rows in by_key.values() for system in rows}
    out: dict[str, Values] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for rows in by_key.values():
        if set(rows) != systems:
            continue
        for system, row in rows.items():
            for measure in MEASURES:
                value = row["first"] if measure == "first" else row["found"][measure]
                out[row["kind"]][system][measure].append(100 * float(value))
    return out


def save(path: Path, kinds: dict[str, Values]) -> None:
    """Write the percentages of every question, in one row a kind, system and measure."""
    rows = {
        kind: {
            system: {m: " ".join(f"{x:g}" for x in values[system][m]) for m in MEASURES}
            for system in values
        }
        for kind, values in kinds.items()
    }
    path.write_text(json.dumps(rows, separators=(",", ":")) + "\n", encoding="utf-8")


def paired(ours: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference and half the width of its 95 % interval."""
    gaps = [a - b for a, b in zip(ours, other, strict=True)]
    spread = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
    return statistics.fmean(gaps), 1.96 * spread / math.sqrt(len(gaps))


def better_part(values: Values, measure: str) -> str:
    return max(PARTS, key=lambda part: statistics.fmean(values[part][measure]))


def gap(values: Values, measure: str, other: str = "") -> str:
    """Show what ours gains over `other`, or over its better part."""
    part = other or better_part(values, measure)
    mean, half = paired(values[OURS][measure], values[part][measure])
    mark = " !" if mean + half < 0 else ""
    return f"{mean:+.1f} ± {half:.1f}{mark}"


def show(path: Path, out: Path | None = None) -> None:
    """Print the table in Markdown; "!" marks an interval that lies wholly below the better part."""
    kinds = read(path)
    if out is not None:
        save(out, kinds)
    systems = list(next(iter(kinds.values())))
    everything: Values = defaultdict(lambda: defaultdict(list))
    for values in kinds.values():
        for system in systems:
            for measure in MEASURES:
                everything[system][measure] += values[system][measure]
    print("Evidence selected at 512 / 1,024 / 2,048 tokens; in the first passage (%)\n")
    head = ["kind", "n", *systems]
    compared = {OURS, ONCE, *PARTS} <= set(systems)
    if compared:
        head += [f"{OURS} - better part, {m}" for m in MEASURES]
        head += [f"{OURS} - {ONCE}, {b}" for b in BUDGETS]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for kind, values in (*sorted(kinds.items()), ("all questions", everything)):
        cells = [kind, str(len(values[systems[0]]["first"]))]
        for system in systems:
            means = [statistics.fmean(values[system][measure]) for measure in MEASURES]
            cells.append(" / ".join(f"{x:.1f}" for x in means[:-1]) + f"; {means[-1]:.1f}")
        if compared:
            cells += [gap(values, m) for m in MEASURES]
            cells += [gap(values, str(b), ONCE) for b in BUDGETS]
        print("| " + " | ".join(cells) + " |")
