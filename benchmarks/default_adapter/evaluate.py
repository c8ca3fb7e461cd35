"""Answers development questions by kind, with one adapter and one form of leaves.

    python -m benchmarks.default_adapter.evaluate --data DEV --adapter FOLDER --leaves kv --out ROWS
    python -m benchmarks.default_adapter.evaluate --table ROWS ROWS ...

DEV holds qa, qa2 and books (.jsonl.xz). Contexts are divided by a hash: the even half serves to
choose settings, the odd half to report figures. The table compares files of rows over the items
that all of them have.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.default_adapter.records import make_record
from benchmarks.quality.halves import half_of
from benchmarks.quality.items import Item, f1, facts, is_right, normal, place, questions, read_jsonl
from sharedllm import Answer, Document, SharedLLM
from sharedllm.config import LEAVES, SearchConfig, TreeConfig
from sharedllm.generation.prompt import ABSENT, Question

NEW_TOKENS = 40
SETS = ("qa2", "items", "generated", "qa")
PLANTED, PER_DOCUMENT, TOKENS, SEED = 60, 20, 8192, 5  # items of a kind and in a document of TOKENS


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question, its kind, its document (a text, or one that was read) and the right answers."""

    key: str
    kind: str
    document: str | Document
    question: Question
    right: tuple[str, ...]


def read_items(path: Path, prefix: str, part: int, most: int, longest: int) -> Iterator[Asked]:
    """Yield rows of questions, at most `most` of a kind (of a source, for rows without a kind)."""
    taken: dict[str, int] = defaultdict(int)
    rows = [row for row in read_jsonl(path) if half_of(row["context"]) == part]
    random.Random(0).shuffle(rows)
    for row in rows:
        kind = row.get("kind") or f"qa:{row['source'].split()[0]}"
        right = tuple(str(a).strip() for a in row["answer"] if str(a).strip())
        if not right or taken[kind] == most or len(row["context"]) > longest or row.get("options"):
            continue
        taken[kind] += 1
        question: Question = row["question"]
        if row.get("history"):
            question = to_messages([tuple(turn) for turn in row["history"]], row["question"])
        yield Asked(
            key=f"{prefix}{zlib.crc32((row['context'] + row['question']).encode()):08x}",
            kind=kind,
            document=row["context"],
            question=question,
            right=right,
        )


def to_messages(history: Sequence[tuple[str, str]], question: str) -> list[dict[str, str]]:
    """Return earlier turns and a question as chat messages."""
    roles = ("user", "assistant")
    turns = [
        {"role": role, "content": text}
        for turn in history
        for role, text in zip(roles, turn, strict=True)
    ]
    return [*turns, {"role": "user", "content": question}]


def generate_items(part: int) -> Iterator[Asked]:
    """Yield records, one-sentence documents, and questions asked again; the same every time."""
    rng = random.Random(1000 + part)
    line = "Nothing else is known of it. The matter was left there. "
    for n in range(100):
        case = make_record(rng, lambda size: line * (size // len(line) + 1), rng.randint(300, 6000))
        document = case.sources[0].text
        yield Asked(
            key=f"record{n}",
            kind="records",
            document=document,
            question=case.question,
            right=(case.answer,),
        )
    for n, item in enumerate(facts("literal", 50, 70 + part) + facts("reworded", 50, 80 + part)):
        yield Asked(
            key=f"short{n}",
            kind="short",
            document=item.passage,
            question=item.question,
            right=item.answers,
        )
    for n, item in enumerate(facts("literal", 50, 90 + part)):
        yield Asked(
            key=f"again{n}",
            kind="again",
            document=item.passage,
            question=to_messages([(item.question, item.answers[0])], item.question),
            right=item.answers,
        )


def place_items(llm: SharedLLM, data: Path) -> Iterator[Asked]:
    """Yield 180 items in documents of 8K tokens: planted facts, reworded ones, real questions."""
    books = [row["text"] for row in read_jsonl(data / "books.jsonl.xz")]
    items = [*facts("literal", PLANTED, SEED), *facts("reworded", PLANTED, SEED + 1)]
    items += questions(data / "qa.jsonl.xz", PLANTED, SEED, "tune")
    rng = random.Random(SEED)
    rng.shuffle(items)
    for first in range(0, len(items), PER_DOCUMENT):
        group = items[first : first + PER_DOCUMENT]
        document = llm.remember(_fill_text(llm, group, books, rng), title="text")
        for n, item in enumerate(group, start=first):
            yield Asked(
                key=f"item{n}",
                kind=f"item:{item.kind}",
                document=document,
                question=item.question,
                right=item.answers,
            )


def _fill_text(
    llm: SharedLLM, items: Sequence[Item], books: Sequence[str], rng: random.Random
) -> str:
    """Put the items into TOKENS tokens of a book."""
    passages = sum(len(llm.tokenizer(item.passage)["input_ids"]) for item in items)
    text = ""
    while len(text) < 5 * TOKENS:
        text += rng.choice(books)
    offset = rng.randrange(0, max(1, len(text) - 5 * TOKENS))
    ids = llm.tokenizer(text[offset : offset + 6 * TOKENS], verbose=False)["input_ids"]
    text = llm.tokenizer.decode(ids[: TOKENS - passages])
    for item in items:
        text, _, _ = place(item, text, rng.random())
    return text


def judge(answer: str, answers: tuple[str, ...]) -> bool:
    """Judge an answer: yes and no by the first word, abstaining by its words."""
    if answers[0] == ABSENT:
        return normal(ABSENT) in normal(answer)
    if answers[0].lower() in ("yes", "no"):
        return normal(answer).split()[:1] == [answers[0].lower()]
    return is_right(answer, answers)


def answer_all(llm: SharedLLM, asked: Sequence[Asked], args: argparse.Namespace) -> None:
    """Answer everything, and write a row for each to ``args.out``."""
    started = time.perf_counter()
    with args.out.open("w", encoding="utf-8") as out:
        for at in range(0, len(asked), args.batch):
            if time.perf_counter() - started > args.seconds:
                print(f"stopped at {at} of {len(asked)}: --seconds are over", flush=True)
                break
            group = asked[at : at + args.batch]
            for one, answer, nll in zip(group, *_answer(llm, group, args), strict=True):
                text = answer.text
                row = {
                    "key": one.key,
                    "kind": one.kind,
                    "right": judge(text, one.right),
                    "f1": f1(text, one.right),
                    "nll": nll,
                    "refused": normal(ABSENT) in normal(text),
                    "answer": text,
                    "unsupported": answer.unsupported,
                    "gold": one.right[0],
                    "question": one.question if isinstance(one.question, str) else one.question[-1],
                }
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
    print(f"{time.perf_counter() - started:.0f} s", flush=True)


def _answer(
    llm: SharedLLM, group: Sequence[Asked], args: argparse.Namespace
) -> tuple[list[Answer], list[float]]:
    prepared = []
    for one in group:
        document = one.document
        if isinstance(document, str):
            document = llm.remember(document, title="document")
        prepared.append(
            llm.prepare(
                one.question,
                document,
                budget=args.budget,
                leaves=args.leaves,
                coarse=args.coarse,
                max_new_tokens=NEW_TOKENS,
            )
        )
    generation = {"max_new_tokens": NEW_TOKENS, "refusal_margin": args.refusal_margin}
    answers = llm.generate(prepared, **generation)
    if not args.nll:
        return answers, [math.nan] * len(answers)
    right = [llm.decoder.lead + one.right[0] for one in group]
    gold = [llm.tokenizer(text, add_special_tokens=False)["input_ids"][:64] for text in right]
    return answers, llm.upper.nll([p.prompt for p in prepared], gold)


def print_table(paths: Sequence[Path]) -> None:
    """Print right answers in %, F1 and NLL by kind for each file, and paired gains on the first."""
    files = [{r["key"]: r for r in map(json.loads, p.open(encoding="utf-8"))} for p in paths]
    keys = [key for key in files[0] if all(key in file for file in files)]
    kinds: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        kind = files[0][key]["kind"]
        kinds[kind].append(key)
        kinds["all" if ":" not in kind else f"all {kind.split(':')[0]}"].append(key)
    print("kind | n | " + " | ".join(p.stem for p in paths))
    for kind, own in sorted(kinds.items()):
        cells = []
        for file in files:
            rows = [file[key] for key in own]
            values = [100 * float(r["right"]) for r in rows]
            gaps = [v - 100 * float(files[0][k]["right"]) for v, k in zip(values, own, strict=True)]
            spread = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
            cells.append(
                f"{statistics.fmean(values):.1f} "
                f"({statistics.fmean(gaps):+.1f}±{1.96 * spread / math.sqrt(len(gaps)):.1f}) "
                f"F1 {statistics.fmean(r['f1'] for r in rows):.3f} "
                f"NLL {statistics.fmean(r['nll'] for r in rows):.2f} "
                f"ref {100 * statistics.fmean(r['refused'] for r in rows):.0f}"
            )
        print(f"{kind} | {len(own)} | " + " | ".join(cells))


def _budget(text: str) -> int | str:
    return text if text == "auto" else int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--adapter", default="default", help="a folder, default, or none")
    parser.add_argument("--leaves", choices=LEAVES, default="text")
    parser.add_argument("--coarse", choices=("none", "all"), default="none")
    parser.add_argument("--context", type=int, default=None, help="of the trees; the adapter's")
    parser.add_argument("--leaf-ratio", type=float, default=None, help="tokens per KV entry")
    parser.add_argument("--part", type=int, choices=(0, 1), default=0)
    parser.add_argument("--most", type=int, default=60, help="questions per kind")
    parser.add_argument("--longest", type=int, default=40_000, help="characters of a context")
    parser.add_argument("--limit", type=int, default=None, help="questions per set, for a trial")
    parser.add_argument("--budget", type=_budget, default=1024, help="tokens, or auto")
    parser.add_argument("--refusal-margin", type=float, default=0.0, help="nats")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--nll", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+")
    args = parser.parse_args()
    if not args.table and not (args.data and args.out):
        parser.error("give --data and --out, or --table")
    return args


def tree_of(args: argparse.Namespace) -> TreeConfig | None:
    """Return the trees that the options ask for; None leaves them to the adapter."""
    if args.context is None and args.leaf_ratio is None:
        return None
    usual = TreeConfig(context=args.context or 0)
    if args.leaf_ratio is None:
        return usual
    return usual.replace(ratios=(*usual.ratios[:-1], args.leaf_ratio))


def main() -> None:
    args = arguments()
    if args.table:
        print_table(args.table)
        return
    adapter = None if args.adapter == "none" else args.adapter
    llm = SharedLLM.from_pretrained(
        None, adapter=adapter, tree=tree_of(args), search=SearchConfig()
    )
    makers = {
        "qa2": lambda: read_items(
            args.data / "qa2.jsonl.xz", "b", args.part, args.most, args.longest
        ),
        "items": lambda: place_items(llm, args.data),
        "generated": lambda: generate_items(args.part),
        "qa": lambda: read_items(
            args.data / "qa.jsonl.xz", "a", args.part, args.most // 2, args.longest
        ),
    }
    asked = [one for name in args.sets for one in itertools.islice(makers[name](), args.limit)]
    print(f"{len(asked)} questions", flush=True)
    answer_all(llm, asked, args)


if __name__ == "__main__":
    main()
