"""Is the evidence of a question selected, and does it come first? By kind of question and system.

    python -m benchmarks.quality.search --data DEV --out rows.jsonl            the half to report
    python -m benchmarks.quality.search --data DEV --out rows.jsonl --half 0   the half to choose by
    python -m benchmarks.quality.search --table rows.jsonl

DEV holds books, code, qa and qa2 (.jsonl.xz). Each system scores the leaves of each question once;
the product's selection takes them under three budgets. What `--out` holds already is not computed
again, and encodings stay under `--cache`. `--quick` takes 40 questions of a kind and leaves out
MiniLM.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.halves import REPORT
from benchmarks.quality.search.kinds import KINDS, Sources
from benchmarks.quality.search.sought import Place, Sought
from benchmarks.quality.search.systems import SYSTEMS, Found, Store
from benchmarks.quality.search.table import BUDGETS, show
from sharedllm import SharedLLM
from sharedllm.generation.prompt import parse

QUICK = 40


Spans = dict[str, list[tuple[int, int]]]  # a document's id -> characters


def covers(places: Sequence[Place], spans: Spans) -> bool:
    """True if one of `places` lies within the spans of its document, neighbours joined."""
    for name, first, last in places:
        at = first
        for start, end in sorted(spans.get(name, [])):
            if start <= at < end:
                at = end
        if at >= last:
            return True
    return False


def touches(places: Sequence[Place], spans: Spans) -> bool:
    return any(
        start < last and first < end
        for name, first, last in places
        for start, end in spans.get(name, [])
    )


def judge(store: Store, sought: Sought, given: Found) -> dict[str, Any]:
    """Return the share of statements selected under each budget, and if the first leaf has one."""
    needed = sought.evidence
    found = {
        str(budget): sum(covers(places, spans) for places in needed) / len(needed)
        for budget, spans in ((b, store.selected(given, b)) for b in BUDGETS)
    }
    best = int(given.scores.argmax())
    first = {store.documents[store.document_of(best)].id: [store.characters(best)]}
    return {"found": found, "first": any(touches(places, first) for places in needed)}


def answered(path: Path) -> set[tuple[str, str]]:
    if not path.exists():
        return set()
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {(row["key"], row["system"]) for row in rows}


def rows_of(store: Store, systems: Sequence[str], done: set[tuple[str, str]]) -> Iterator[dict]:
    """Yield a row for each question and system that is not `done`."""
    for sought in store.collection.sought:
        key = f"{store.collection.key}/{sought.key}"
        left = [system for system in systems if (key, system) not in done]
        if not left:
            continue
        query = store.query(parse(sought.question).sought)
        for system in left:
            judged = judge(store, sought, SYSTEMS[system](store, query))
            yield {"key": key, "kind": sought.kind, "system": system, **judged}


def measure(args: argparse.Namespace) -> None:
    done = answered(args.out)
    llm = SharedLLM.from_pretrained(args.model, device="cpu")
    sources = Sources(args.data, args.half)
    for kind in args.kinds:
        for collection in KINDS[kind](sources, args.items):
            started = time.perf_counter()
            store = Store(collection, llm, args.cache)
            ready = time.perf_counter() - started
            with args.out.open("a", encoding="utf-8") as out:
                for row in rows_of(store, args.systems, done):
                    out.write(json.dumps(row) + "\n")
            store.save()
            spent = time.perf_counter() - started
            print(f"{collection.key}: ready in {ready:.0f} s, {spent:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")
    parser.add_argument("--model", help="whose first layer searches; the default model")
    parser.add_argument("--cache", type=Path, default=Path("runs/search"), help="of one model")
    parser.add_argument("--half", type=int, choices=(0, 1), default=REPORT)
    parser.add_argument("--items", type=int, default=400, help="questions of a kind")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--table", type=Path, help="show the rows of this file")
    parser.add_argument("--json", type=Path, help="write what the table is of")
    args = parser.parse_args()
    if args.table:
        show(args.table, args.json)
        return
    if not (args.data and args.out):
        parser.error("give --data and --out, or --table")
    if args.quick:
        args.items = QUICK
        args.systems = [system for system in args.systems if system != "MiniLM"]
    measure(args)
    show(args.out)


if __name__ == "__main__":
    main()
