"""Rows of the bench of budgets -> a table by kind, with paired intervals."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.search.table import paired

SEVERAL = ("chains", "lists", "identifiers in code", "several values", "several questions")
UNANSWERABLE = "absent"
MEASURES = ("right", "evidence", "tokens")
AUTO, TODAY = "auto", "1024"
Items = dict[str, dict[tuple[str, str], dict[str, Any]]]  # key -> (system, budget) -> row


def read(path: Path) -> Items:
    """Return the rows of each question."""
    items: Items = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "system" in row:
            items[row["key"]][row["system"], row["budget"]] = row
    return items


def kinds_of(items: Items) -> dict[str, list[str]]:
    """Return the questions of each kind, then of all single answers, and of all."""
    out: dict[str, list[str]] = defaultdict(list)
    for key, rows in items.items():
        out[next(iter(rows.values()))["kind"]].append(key)
    kinds = dict(sorted(out.items()))
    single = [k for kind, keys in kinds.items() if kind not in SEVERAL for k in keys]
    several = [k for kind, keys in kinds.items() if kind in SEVERAL for k in keys]
    return {**kinds, "all single answers": single, "all of several things": several,
            "all questions": [*single, *several]}  # fmt: skip


def values(items: Items, keys: Sequence[str], of: tuple[str, str], what: str) -> list[float]:
    return [float(items[key][of][what]) for key in keys]


def difference(
    items: Items, keys: Sequence[str], ours: tuple[str, str], other: tuple[str, str]
) -> str:
    """Return the paired difference of right answers in points, over questions that have both."""
    both = [key for key in keys if ours in items[key] and other in items[key]]
    if not both:
        return ""
    pairs = [[100 * x for x in values(items, both, of, "right")] for of in (ours, other)]
    mean, half = paired(*pairs)
    return f"{mean:+.1f} ± {half:.1f}"


def column(items: Items, keys: Sequence[str], of: tuple[str, str], what: str) -> str:
    have = [key for key in keys if of in items[key] and items[key][of][what] is not None]
    if not have:
        return ""
    scale = 1 if what == "tokens" else 100
    return f"{scale * statistics.fmean(values(items, have, of, what)):.{0 if scale == 1 else 1}f}"


def best_of(items: Items, keys: Sequence[str], system: str) -> str | None:
    """Return the fixed budget at which most of the questions that have it are right."""
    budgets = {b for key in keys for s, b in items[key] if s == system and b != AUTO}
    whole = [b for b in budgets if all((system, b) in items[key] for key in keys)]
    if not whole:
        return None
    return max(
        sorted(whole, key=int),
        key=lambda b: statistics.fmean(values(items, keys, (system, b), "right")),
    )


def save(path: Path, items: Items) -> None:
    """Write "right evidence tokens" of every question, in one row a kind, system and budget."""
    kinds = {kind: keys for kind, keys in kinds_of(items).items() if not kind.startswith("all ")}
    rows: dict[str, dict[str, list[str]]] = {}
    for kind, keys in kinds.items():
        for of in sorted({of for key in keys for of in items[key]}):
            rows.setdefault(kind, {})[" ".join(of)] = [
                " ".join(_short(items[key][of].get(what)) for what in MEASURES)
                if of in items[key]
                else ""
                for key in keys
            ]
    path.write_text(json.dumps(rows, separators=(",", ":")) + "\n", encoding="utf-8")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1 else f"{value:g}"


def show(path: Path, out: Path | None = None) -> None:
    """Print right answers (%) by kind, system and budget, evidence selected, and tokens read."""
    items = read(path)
    if out is not None:
        save(out, items)
    kinds = kinds_of(items)
    columns = sorted(
        {of for rows in items.values() for of in rows},
        key=lambda of: (of[0] != "ours", of[0], of[1] == AUTO, int(of[1]) if of[1] != AUTO else 0),
    )
    for what in MEASURES:
        print(f"\n{what}\n")
        print("| kind | n | " + " | ".join(f"{s} {b}" for s, b in columns) + " |")
        print("|" + "---|" * (len(columns) + 2))
        for kind, keys in kinds.items():
            cells = [column(items, keys, of, what) for of in columns]
            print("| " + " | ".join([kind, str(len(keys)), *cells]) + " |")
    if not any(budget == AUTO for _, budget in columns):
        return
    ours = ("ours", AUTO)
    print("\n| kind | auto - best fixed | auto - 1,024 | auto - best of bm25 | second looks |")
    print("|---|---|---|---|---|")
    for kind, keys in kinds.items():
        cells = [difference(items, keys, ours, ("ours", TODAY))]
        for system in ("ours", "bm25"):
            best = best_of(items, keys, system)
            own = f"{best}: {difference(items, keys, ours, (system, best))}" if best else ""
            cells.insert(0 if system == "ours" else 2, own)
        again = [items[key][ours].get("looks", 1) == 2 for key in keys if ours in items[key]]
        cells.append(f"{100 * statistics.fmean(again):.0f} %" if again else "")
        print("| " + " | ".join([kind, *cells]) + " |")
