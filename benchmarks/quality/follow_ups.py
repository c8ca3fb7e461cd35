"""Is the evidence of follow-up questions selected, with and without the turns before them?

    python -m benchmarks.quality.follow_ups --data DEV [--half 1] [--scorer bm25]

DEV holds qa2 (.jsonl.xz). All contexts of one half are searched together: the even half serves to
choose the rule, the odd half to report. Questions that stand alone are asked after the turns of
another conversation. A third set is generated: two facts about each of 100 people in a text of 128K
tokens; the second one is asked for after the first, with a pronoun, and written out.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.quality.halves import half_of
from benchmarks.quality.items import FACTS, FIRST, LAST, facts, read_jsonl
from benchmarks.quality.search.kinds import BOOK, Sources, seed_of
from sharedllm import Document, SharedLLM
from sharedllm.generation.prompt import parse
from sharedllm.training.examples import Past

KINDS = ("extractive", "number", "date", "list", "table", "contract")  # that stand alone
ALONE, SEED, BUDGET = 110, 2, 1024
Span = tuple[int, int]
NAMES = [f"{first} {last}" for first in FIRST for last in LAST]
PEOPLE = 100
SECOND = (  # the questions of FACTS after one about the same person
    "And which password did he choose for the archive?",
    "In which town did he hide it?",
    "And his telephone number?",
    "In which town was he born?",
    "What is his favourite instrument?",
    "How many guineas did he pay at the auction?",
    "What is the secret ingredient of the soup that he cooks?",
    "And the name of the ship that he commanded?",
    "Who was his teacher?",
    "Where does he work as a clockmaker?",
)


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


def fact_about(rng: random.Random, number: int, name: str) -> tuple[str, str, str]:
    """Draw a statement about `name`, the question that it answers, and the answer."""
    item = facts(rng.choice(("literal", "reworded")), len(FACTS), rng.randrange(1 << 20))[number]
    own = next(other for other in NAMES if other in item.question)
    return item.passage.replace(own, name), item.question.replace(own, name), item.answers[0]


def written_out(data: Path, half: int) -> list[tuple[dict, str]]:
    """Return follow-ups about people, each with the same question written out."""
    rng = random.Random(f"follow-ups {seed_of(half, 0)}")
    past = Past(Sources(data, half).filler(rng, BOOK), gap="\n\n")
    asked = []
    for name in rng.sample(NAMES, PEOPLE):
        one, other = rng.sample(range(len(FACTS)), 2)
        first, second = fact_about(rng, one, name), fact_about(rng, other, name)
        past.put(first[0], rng.random())
        past.put(second[0], rng.random())
        asked.append(({"question": SECOND[other], "history": [first[1:]]}, second[1]))
    text, spans = past.build()
    return [
        ({**row, "context": text, "answer": [text[slice(*span)]]}, question)
        for (row, question), span in zip(asked, spans[1::2], strict=True)
    ]


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
    scorer = args.scorer or llm.search.scorer
    for name, rows in zip(("follow-ups", "alone"), kinds, strict=True):
        show(name, ("alone", "with turns"), list(found(llm, documents, rows, scorer)))
    pairs = written_out(args.data, args.half)
    text = pairs[0][0]["context"].strip()
    book = {text: llm.remember(text, title="text")}
    after = [with_turns for _, with_turns in found(llm, book, [row for row, _ in pairs], scorer)]
    out = [{**row, "question": question, "history": []} for row, question in pairs]
    written = [found_so for _, found_so in found(llm, book, out, scorer)]
    show("generated", ("written out", "with turns"), list(zip(written, after, strict=True)))


def show(name: str, columns: tuple[str, str], pairs: Sequence[tuple[bool, bool]]) -> None:
    """Print the shares of both columns, and what the second one gains."""
    gain = [100.0 * (after - before) for before, after in pairs]
    error = 1.96 * statistics.stdev(gain) / len(gain) ** 0.5
    before, after = (100 * statistics.mean(pair[i] for pair in pairs) for i in (0, 1))
    print(
        f"{name}, {len(pairs)}: {columns[0]} {before:.1f}, {columns[1]} {after:.1f}, "
        f"{statistics.mean(gain):+.1f} ± {error:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
