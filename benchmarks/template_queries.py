"""What a retrieval chain's template does to search: how often the evidence is selected.

    python benchmarks/template_queries.py --data DEV_FOLDER

The question alone, the whole message of each template, and what `query_of` takes out of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from items import KINDS
from untrained import Placed, found, load_items

from sharedllm import SharedLLM, query_of
from sharedllm.training.frames import FRAMES, HERE

BUDGET = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with books and qa .jsonl.xz"
    )
    parser.add_argument("--items", type=int, default=40, help="items of each kind")
    parser.add_argument("--per-document", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--part", default="tune", choices=("report", "tune"))
    args = parser.parse_args()
    llm = SharedLLM.from_pretrained()
    placed = load_items(llm, args)
    show("the question alone", placed, lambda p: selected(llm, p, p.item.question))
    for _, user in FRAMES:
        message = user.replace(HERE, "")
        if message.strip() == "{question}":
            continue

        def whole(p: Placed, message: str = message) -> bool:
            return selected(llm, p, message.replace("{question}", p.item.question))

        def taken_out(p: Placed, message: str = message) -> bool:
            return selected(llm, p, query_of(message.replace("{question}", p.item.question)))

        name = " ".join(message.split())[:60]
        show(f"{name}: whole", placed, whole)
        show(f"{name}: its question", placed, taken_out)


def selected(llm: SharedLLM, placed: Placed, query: str) -> bool:
    """Whether the evidence is among what search selects."""
    document = placed.document
    nodes = llm.select(query, document, budget=BUDGET, rest="none").nodes
    forest = document.forest
    spans = [
        document.tokens.characters(int(forest.start[n.node]), int(forest.end[n.node]))
        for n in nodes
    ]
    return found(placed, spans)


def show(name: str, placed: list[Placed], of: Callable[[Placed], bool]) -> None:
    """One line: in all, and by kind, in percent."""
    hits = {kind: [of(p) for p in placed if p.item.kind == kind] for kind in KINDS}
    every = [hit for kind in KINDS for hit in hits[kind]]
    by_kind = " / ".join(f"{100 * sum(x) / len(x):.0f}" for x in hits.values())
    print(f"{100 * sum(every) / len(every):5.1f}  {by_kind:>15}  {name}", flush=True)


if __name__ == "__main__":
    main()
