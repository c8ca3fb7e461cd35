"""When the default says that the documents do not tell: how sure it is, and what a threshold does.

    python benchmarks/refusals.py --data DATA --within 8K --items 150 --out FILE
    python benchmarks/refusals.py --show FILE [FILE ...]

Questions of ``sharedllm eval qa``, a share of them without their passage. For each: by how many
nats the first word of a refusal is ahead of every other first word, and the answer that begins
otherwise. The table is over thresholds: an answer is a refusal where it is ahead by more.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sharedllm import SharedLLM
from sharedllm.evaluation import qa, scores
from sharedllm.evaluation.questions import read
from sharedllm.evaluation.sources import Filler, rows
from sharedllm.generation.prompt import ABSENT, part_ids

# without those that mean nothing beside another text (evaluate_default.sh)
SKIP = ("PolicyQA", "T0:", "SciTLDR", "CRD3", "QMSum", "Scisumm")
THRESHOLDS = (-99.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 99.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with qa.jsonl.xz and books.jsonl.xz")
    parser.add_argument("--within", type=int, default=8192, help="tokens of each document")
    parser.add_argument("--items", type=int, default=150)
    parser.add_argument("--absent", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adapter", default="default")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path, nargs="+")
    args = parser.parse_args()
    if args.show:
        show([json.loads(line) for file in args.show for line in file.open(encoding="utf-8")])
        return
    found = []
    with args.out.open("w", encoding="utf-8", buffering=1) as out:
        for row in measured(args):
            out.write(json.dumps(row) + "\n")
            found.append(row)
    show(found)


def measured(args: argparse.Namespace) -> Any:
    """A row an item."""
    llm = SharedLLM.from_pretrained(adapter=args.adapter)
    first = part_ids(ABSENT, llm.tokenizer)[0]
    path = str(args.data / "qa.jsonl.xz")
    questions = [q for q in read(list(rows(path)), path) if not q.source.startswith(SKIP)]
    questions = qa.fitting(
        qa.drawn(questions, 4 * args.items, args.seed), args.within, llm.tokenizer
    )
    asking = qa.Asking(n=args.items, length=args.within, absent=args.absent, seed=args.seed)
    filler = Filler([str(args.data / "books.jsonl.xz")])
    for item in qa.items(questions, asking, llm.tokenizer, filler):
        document = llm.remember(item.text)
        prepared = llm.prepare(item.query, document)
        logits = llm.upper.start([prepared.prompt]).logits[0].float().log_softmax(-1)
        refusal = float(logits[first])
        logits[first] = -float("inf")
        other = int(logits.argmax())
        text = prepared.prompt.text
        begun = dataclasses.replace(prepared.prompt, text=(*text[:-1], (*text[-1], other)))
        plain = llm.generate([prepared], refusal_margin=0)[0].text
        instead = plain
        if scores.refuses(plain):
            again = dataclasses.replace(prepared, prompt=begun)
            rest = llm.generate([again], refusal_margin=0)[0].text
            instead = llm.tokenizer.decode([other]) + rest
        yield {
            "item": item.id,
            "source": item.task,
            "question": item.notes["question"],
            "gold": list(item.answers),
            "absent": item.notes["absent"],
            "ahead": refusal - float(logits[other]),
            "refused": scores.refuses(plain),
            "answer": plain,
            "instead": instead,
            "f1": scores.f1(plain, item.answers),
            "f1_instead": scores.f1(instead, item.answers),
        }


def show(found: list[dict[str, Any]]) -> None:
    """Print what each threshold would do."""
    absent = [row for row in found if row["absent"]]
    asked = [row for row in found if not row["absent"]]
    table = Table(title=f"{len(asked)} questions with their passage, {len(absent)} without")
    for column in ("ahead by", "absent seen %", "false refusals %", "F1"):
        table.add_column(column, justify="right")
    for least in THRESHOLDS:
        kept = [row for row in absent if row["refused"] and row["ahead"] > least]
        false = [row for row in asked if row["refused"] and row["ahead"] > least]
        f1 = sum(
            row["f1_instead"] if row["refused"] and row["ahead"] <= least else row["f1"]
            for row in asked
        )
        cells = (100 * len(kept) / max(1, len(absent)), 100 * len(false) / len(asked))
        table.add_row(f"{least}", *(f"{x:.1f}" for x in cells), f"{f1 / len(asked):.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
