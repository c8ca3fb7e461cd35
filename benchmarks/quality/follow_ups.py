"""Is the evidence of follow-up questions selected, with and without the turns before them?

    python -m benchmarks.quality.follow_ups --data DEV [--half 1] [--scorer bm25]

DEV holds qa2 (.jsonl.xz). All contexts of one half are searched together: the even half serves to
choose the rule, the odd half to report. Questions that stand alone are asked after the turns of
another conversation.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.quality.halves import half_of
from benchmarks.quality.items import read_jsonl
from sharedllm import Document, SharedLLM
from sharedllm.generation.prompt import parse

KINDS = ("extractive", "number", "date", "list", "table", "contract")  # that stand alone
ALONE, SEED, BUDGET = 110, 2, 1024
Span = tuple[int, int]


def spans_of(context: str, answers: Sequence[str]) -> list[Span]:
    low, wanted = context.lower(), [answer.strip().lower().rstrip(".") for answer in answers]
    fit = [re.escape(one) for one in wanted if 3 <= len(one) <= 400]
    return [found.span() for one in fit for found in re.finditer(one, low)]


def covers(nodes: Sequence[Span], span: Span) -> bool:
    at = span[0]
    for start, end in sorted(nodes):
        at = end if start <= at < end else at
    return at >= span[1]


def rows_of(path: Path, half: int) -> tuple[list[dict], list[dict]]:
    """Read follow-ups, and questions that stand alone with the turns of others."""
    rows = [row for row in read_jsonl(path) if half_of(row["context"]) == half]
    rows = [row for row in rows if spans_of(row["context"].strip(), row["answer"])]
    follow = [row for row in rows if row.get("history") and row["kind"] == "followup"]
    alone = [row for row in rows if not row.get("history") and row["kind"] in KINDS]
    rng = random.Random(SEED)
    rng.shuffle(alone)
    return follow, [{**row, "history": rng.choice(follow)["history"]} for row in alone[:ALONE]]


def found(
    llm: SharedLLM, documents: dict[str, Document], rows: Sequence[dict], scorer: str
) -> Iterator[tuple[bool, bool]]:
    """Tell for each row if its evidence is selected: for the question alone, and with its turns."""
    every = list(documents.values())
    for row in rows:
        turns = [
            {"role": role, "content": text}
            for turn in row["history"]
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        asked = parse([*turns, {"role": "user", "content": row["question"]}])
        own = documents[row["context"].strip()]
        out = []
        for text in (asked.query, asked.sought):
            selection = llm.select(text, every, budget=BUDGET, scorer=scorer)
            nodes = [own.place(n.start, n.end) for n in selection.nodes if every[n.document] is own]
            out.append(any(covers(nodes, span) for span in spans_of(own.text, row["answer"])))
        yield out[0], out[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--half", type=int, choices=(0, 1), default=1)
    parser.add_argument("--scorer")
    args = parser.parse_args()
    llm = SharedLLM.from_pretrained(device="cpu")
    kinds = rows_of(args.data / "qa2.jsonl.xz", args.half)
    texts = dict.fromkeys(row["context"].strip() for rows in kinds for row in rows)
    documents = {text: llm.remember(text, title="text") for text in texts}
    print(f"{len(documents)} documents, evidence within {BUDGET} tokens, % of questions")
    for name, rows in zip(("follow-ups", "alone"), kinds, strict=True):
        pairs = list(found(llm, documents, rows, args.scorer or llm.search.scorer))
        gain = [100.0 * (after - before) for before, after in pairs]
        error = 1.96 * statistics.stdev(gain) / len(gain) ** 0.5
        alone, turns = (100 * statistics.mean(pair[i] for pair in pairs) for i in (0, 1))
        print(
            f"{name}, {len(rows)}: alone {alone:.1f}, with turns {turns:.1f}, "
            f"{statistics.mean(gain):+.1f} ± {error:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
