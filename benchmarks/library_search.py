"""Whether each policy finds the evidence in a library of five long documents, without answering.

    python benchmarks/library_search.py --data DATA --items 240 --seed 1

The library and questions of chains.py. Found: the evidence lies within what is selected from all
documents together, 1,024 attention entries.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from items import Item, evidence_spans
from library import library

from sharedllm import Document, SharedLLM

POLICIES = ("maxsim", "bm25", "hybrid")


def joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans that touch, but for white space of two characters, as one."""
    last: tuple[int, int] | None = None
    for start, end in sorted(spans):
        if last and start <= last[1] + 2:
            last = last[0], max(last[1], end)
            continue
        if last:
            yield last
        last = start, end
    if last:
        yield last


def found(llm: SharedLLM, item: Item, documents: list[Document], home: int, policy: str) -> bool:
    """Whether one piece of the evidence of `item`, which stands in `home`, was selected whole."""
    document = documents[home]
    at = document.text.find(item.passage)
    evidence = evidence_spans(document.text, item, at, at + len(item.passage))
    options: dict[str, Any] = {"policy": policy, "budget": 1024, "rest": "none"}
    nodes = llm.select(item.question, documents, **options).nodes
    forest = document.forest
    spans = list(
        joined(
            document.tokens.characters(int(forest.start[n.node]), int(forest.end[n.node]))
            for n in nodes
            if n.document == home
        )
    )
    return any(start <= a and b <= end for a, b in evidence for start, end in spans)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", type=int, default=240)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    llm = SharedLLM.from_pretrained()
    made = library(args.data, args.items, args.seed, llm.tokenizer)
    documents = [llm.remember(v.text, title=v.title) for v in made.volumes]
    right: dict[str, dict[str, list[bool]]] = {p: defaultdict(list) for p in POLICIES}
    for index, item in enumerate(made.items):
        for policy in POLICIES:
            hit = found(llm, item, documents, index % len(documents), policy)
            right[policy]["all"].append(hit)
            right[policy][item.kind].append(hit)
    for policy, kinds in right.items():
        shares = (f"{kind} {100 * sum(v) / len(v):.1f}" for kind, v in kinds.items())
        print(f"{policy}: {', '.join(shares)} % ({len(kinds['all'])} questions, seed {args.seed})")
    pairs = list(zip(right["maxsim"]["all"], right["hybrid"]["all"], strict=True))
    print(f"hybrid alone {sum(h and not m for m, h in pairs)}, ", end="")
    print(f"maxsim alone {sum(m and not h for m, h in pairs)}")


if __name__ == "__main__":
    main()
