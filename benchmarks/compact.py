"""Keep what the tables need of quality results, item by item, and print the tables again.

    python benchmarks/compact.py show FILE
    python benchmarks/compact.py show FILE --pair "text, maxsim" "text, hybrid"
    python benchmarks/compact.py show FILE --pair "text, maxsim@1024" "text, maxsim@2048"
    python benchmarks/compact.py pack --out FILE --note "..." RESULTS...

A packed file holds runs; the rows of a run's methods are the same items in the same order, so that
any two of them can be compared in pairs. Questions, answers and machine paths are left out.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from items import KINDS
from rich.console import Console
from untrained import difference, show

LETTER = {kind: kind[0] for kind in KINDS}  # l, r, q
LOCAL = ("data", "model", "device", "out", "share")  # settings that name one machine's paths


def packed(results: list[dict], about: dict[str, Any]) -> dict[str, Any]:
    """One run, its rows as columns."""
    items = {"".join(LETTER[row["kind"]] for row in r["rows"]) for r in results}
    if len(items) != 1:
        raise SystemExit("the methods of one run must answer the same items in the same order")
    methods = [
        {
            "method": r["method"],
            "budget": r["budget"],
            "generated": r.get("generated", True),
            "right": "".join(str(int(row["right"])) for row in r["rows"]),
            "evidence": "".join(str(int(row["evidence"])) for row in r["rows"]),
            "f1": [round(row["f1"], 4) for row in r["rows"]],
            "nll": [round(row["nll"], 4) for row in r["rows"]],
        }
        for r in results
    ]
    return {**about, "kinds": items.pop(), "results": methods}


def unpacked(run: dict[str, Any]) -> list[dict]:
    """The results of one run, as ``untrained.show`` takes them; times were not kept."""
    kind_of = {letter: kind for kind, letter in LETTER.items()}
    out = []
    for r in run["results"]:
        columns = zip(run["kinds"], r["right"], r["evidence"], r["f1"], r["nll"], strict=True)
        rows = [
            {"kind": kind_of[k], "right": a == "1", "evidence": e == "1", "f1": f, "nll": n}
            for k, a, e, f, n in columns
        ]
        kept = {key: r[key] for key in ("method", "budget", "generated")}
        out.append({**kept, "seconds": math.nan, "rows": rows})
    return out


def pack(files: list[Path], about: dict[str, Any], out: Path) -> None:
    """Append the results in `files`, one run each, to `out`."""
    runs = json.loads(out.read_text())["runs"] if out.exists() else []
    for file in files:
        given = json.loads(file.read_text())
        full = given if isinstance(given, dict) else {"results": given}
        settings = {k: v for k, v in full.get("settings", {}).items() if k not in LOCAL}
        stated = {k: full[k] for k in ("date", "hardware", "search") if k in full}
        runs.append(packed(full["results"], {**stated, **about, "settings": settings}))
    out.write_text(json.dumps({"runs": runs}, separators=(",", ":")) + "\n")


def print_pair(runs: list[list[dict]], first: str, second: str, console: Console) -> None:
    """The paired difference of two methods, wherever one run holds both.

    They are compared at the same budget, or at those given as ``METHOD@BUDGET``.
    """
    for results in runs:
        for one in results:
            for other in results:
                fixed = "@" in first and "@" in second
                if (
                    named(one, first)
                    and named(other, second)
                    and (fixed or one["budget"] == other["budget"])
                ):
                    gaps = [
                        f"{key} {100 * gap:+.1f}±{100 * half:.1f}"
                        for key in ("right", "evidence")
                        for gap, half in [difference(one["rows"], other["rows"], key)]
                    ]
                    console.print(f"{one['budget']}: {first} minus {second}: {', '.join(gaps)}")


def named(result: dict, name: str) -> bool:
    """Whether `result` is of the method, and of the budget if one is given, in `name`."""
    method, _, budget = name.partition("@")
    return result["method"] == method and budget in ("", str(result["budget"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("files", type=Path, nargs="+")
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--note", default="")
    packing.add_argument("--date", default=None)
    packing.add_argument("--hardware", default=None)
    showing = commands.add_parser("show")
    showing.add_argument("file", type=Path)
    showing.add_argument("--pair", nargs=2, default=None, metavar="METHOD")
    args = parser.parse_args()
    if args.command == "pack":
        about = {key: getattr(args, key) for key in ("date", "hardware", "note")}
        pack(args.files, {k: v for k, v in about.items() if v}, args.out)
        return
    console = Console(width=200)
    runs = json.loads(args.file.read_text())["runs"]
    results = [unpacked(run) for run in runs]
    if args.pair:
        print_pair(results, *args.pair, console)
        return
    for run, found in zip(runs, results, strict=True):
        console.print(f"\n{run.get('hardware')}, {run.get('date')}. {run.get('note', '')}")
        console.print(f"{run['settings']}", highlight=False)
        show(found, console)


if __name__ == "__main__":
    main()
