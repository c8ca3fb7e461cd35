"""Quality before any training: planted facts and real questions in 128K tokens of other text.

    python benchmarks/untrained.py --data DEV_FOLDER --items 250 --out results.json

Every row answers the same items with the same prompt and the same number of attention entries; the
first one pastes BM25's best 256-token windows (top-k retrieval). Right: one of the right answers
stands in the answer. Evidence: the whole fact, or a right answer in its passage, was selected.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from items import KINDS, Item, evidence_spans, f1, facts, is_right, place, questions, read_jsonl
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sharedllm import Document, SearchConfig, SharedLLM, TreeConfig
from sharedllm.config import POLICIES
from sharedllm.generation.prompt import AFTER, BEFORE
from sharedllm.search.scorers import BM25, Query
from sharedllm.shared_llm import Prepared
from sharedllm.text.tree import cut, grow

BASELINE = "BM25 windows"
BEST_LAST = "BM25 windows, best last"
WINDOW = 256
NODE_CACHE_BYTES = 160 << 20  # the coarse level of one document, and little more
BUDGETS = (1024, 2048, 5120)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table: search settings, or the baseline (None)."""

    name: str
    search: dict | None
    generate: bool = True


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An item in its document; `spans` are the character spans that hold the evidence."""

    item: Item
    document: Document
    spans: tuple[tuple[int, int], ...]


def place_all(
    llm: SharedLLM, items: list[Item], books: list[str], args: argparse.Namespace
) -> Iterator[Placed]:
    """Spread the items over documents of `args.tokens` tokens, `args.per_document` in each."""
    rng = random.Random(args.seed)
    items = items.copy()
    rng.shuffle(items)
    for at in track(range(0, len(items), args.per_document), "documents"):
        group = items[at : at + args.per_document]
        passages = sum(len(llm.tokenizer(item.passage)["input_ids"]) for item in group)
        text = ""
        while len(text) < 5 * args.tokens:
            text += rng.choice(books)
        offset = rng.randrange(0, max(1, len(text) - 5 * args.tokens))
        ids = llm.tokenizer(text[offset : offset + 6 * args.tokens], verbose=False)["input_ids"]
        text = llm.tokenizer.decode(ids[: args.tokens - passages])
        inserted = []
        for item in group:
            text, start, end = place(item, text, rng.random())
            grown = end - start + 4
            inserted = [
                (i, s + grown, e + grown) if s >= start else (i, s, e) for i, s, e in inserted
            ]
            inserted.append((item, start, end))
        document = llm.remember(text, title="text")
        for item, start, _ in inserted:
            start = text.find(item.passage)  # the white space around an earlier one may have shrunk
            yield Placed(
                item=item,
                document=document,
                spans=evidence_spans(text, item, start, start + len(item.passage)),
            )


def bm25_windows(
    llm: SharedLLM, placed: Placed, budget: int, *, best_last: bool
) -> tuple[Prepared, list]:
    """Paste the best 256-token windows by BM25, in document order or the best one last."""
    document = placed.document

    def windows() -> Document:
        forest = grow(cut(len(document), WINDOW), 0)
        return dataclasses.replace(document, forest=forest, _derived={})

    cut_up = document.derived("windows", windows)
    question = placed.item.question
    query = Query(text=question, ids=np.empty(0, np.int32), vectors=torch.empty(0))
    scores = BM25().leaf_scores(query, [cut_up])[0]
    best = np.argsort(-scores, kind="stable")[: budget // WINDOW].tolist()
    best = best[::-1] if best_last else sorted(best)
    spans = [
        document.tokens.characters(w * WINDOW, min((w + 1) * WINDOW, len(document))) for w in best
    ]
    text = "\n...\n".join(document.text[s:e] for s, e in spans)
    content = BEFORE + text + AFTER.format(question=question)
    return llm.prepare([{"role": "user", "content": content}]), spans


def found(placed: Placed, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether one of the evidence spans lies wholly in the selected `spans`."""
    joined: list[list[int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return any(s <= a and b <= e for a, b in placed.spans for s, e in joined)


def run(
    llm: SharedLLM, method: Method, budget: int, items: list[Placed], cache: dict, batch: int
) -> dict:
    """Answer all items by one method at one budget."""
    rows: list[dict] = []
    started = time.perf_counter()
    for at in range(0, len(items), batch):
        group, prepared, seen = items[at : at + batch], [], []
        for placed in group:
            if method.search is None:
                ready, spans = bm25_windows(llm, placed, budget, best_last=method.name == BEST_LAST)
            else:
                policy = method.search.get("policy", llm.search.policy)
                key = (placed.item.question, placed.document.id, policy)
                if key not in cache:
                    cache[key] = llm.score(placed.item.question, placed.document, policy=policy)
                ready = llm.prepare(
                    placed.item.question,
                    placed.document,
                    scores=cache[key],
                    budget=budget,
                    max_new_tokens=32,
                    **method.search,
                )
                spans = [(c.char_start, c.char_end) for c in ready.citations]
            prepared.append(ready)
            seen.append(spans)
        texts = [""] * len(group)
        if method.generate:
            texts = [a.text for a in llm.generate(prepared, max_new_tokens=32)]
        gold = [min(p.item.answers, key=len) for p in group]
        gold_ids = [llm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in gold]
        losses = llm.upper.nll([p.prompt for p in prepared], gold_ids)
        for placed, text, loss, spans, p in zip(group, texts, losses, seen, prepared, strict=True):
            rows.append(
                {
                    "kind": placed.item.kind,
                    "right": is_right(text, placed.item.answers),
                    "f1": f1(text, placed.item.answers),
                    "nll": loss,
                    "evidence": found(placed, spans),
                    "entries": p.evidence_tokens + p.prompt.injected_tokens,
                    "answer": text,
                    "question": placed.item.question,
                    "gold": placed.item.answers[0],
                }
            )
    seconds = (time.perf_counter() - started) / len(items)
    return {
        "method": method.name,
        "budget": budget,
        "seconds": seconds,
        "rows": rows,
        "generated": method.generate,
    }


def mean(rows: list[dict], key: str, kind: str | None = None) -> float:
    values = [float(r[key]) for r in rows if kind in (None, r["kind"])]
    return statistics.fmean(values) if values else math.nan


def difference(rows: list[dict], base: list[dict], key: str) -> tuple[float, float]:
    """Mean paired difference and half the width of its 95 % interval."""
    pairs = [float(a[key]) - float(b[key]) for a, b in zip(rows, base, strict=True)]
    return statistics.fmean(pairs), 1.96 * statistics.stdev(pairs) / math.sqrt(len(pairs))


def show(results: list[dict], console: Console) -> None:
    """Print the table: per budget, a row a method."""
    for budget in sorted({r["budget"] for r in results}):
        table = Table(title=f"{budget} attention entries", title_justify="left")
        for name in ("method", *(f"right {k}" for k in KINDS), "right", "vs BM25", "F1", "NLL"):
            table.add_column(name, justify="left" if name == "method" else "right")
        for name in (*(f"evid. {k}" for k in KINDS), "evidence", "vs BM25", "s"):
            table.add_column(name, justify="right")
        of_budget = [r for r in results if r["budget"] == budget]
        base = next((r for r in of_budget if r["method"] == BASELINE), of_budget[0])["rows"]
        for result in of_budget:
            rows, cells = result["rows"], [result["method"]]
            if result["generated"]:
                cells += [f"{100 * mean(rows, 'right', k):.1f}" for k in (*KINDS, None)]
                gap, half = difference(rows, base, "right")
                cells += [f"{100 * gap:+.1f}±{100 * half:.1f}", f"{mean(rows, 'f1'):.3f}"]
            else:
                cells += [""] * (len(KINDS) + 3)
            gap, half = difference(rows, base, "evidence")
            cells += [f"{mean(rows, 'nll'):.2f}"]
            cells += [f"{100 * mean(rows, 'evidence', k):.1f}" for k in (*KINDS, None)]
            cells += [f"{100 * gap:+.1f}±{100 * half:.1f}", f"{result['seconds']:.2f}"]
            table.add_row(*cells)
        console.print(table)


def methods(wanted: Sequence[str]) -> list[Method]:
    """The rows that are `wanted`: all, main, adapter, or names of rows."""
    default = SearchConfig().policy
    out = [Method(name=name, search=None) for name in (BASELINE, BEST_LAST)]
    for policy in POLICIES:
        out.append(Method(name=f"text, {policy}", search={"policy": policy}))
    for finest in ("text", "kv"):
        for rest in ("none", "all"):
            if (finest, rest) != ("text", "none"):
                search = {"finest": finest, "rest": rest}
                out.append(Method(name=f"{finest}, {default}, rest {rest}", search=search))
    for reach in (0, 16, 64):  # the default lies between
        search = {"policy": default, "sentences": reach}
        out.append(Method(name=f"text, {default}, sentences {reach}", search=search))
    out.append(
        Method(name="text, last_hidden, path", search={"policy": "last_hidden", "search": "path"})
    )
    main = [method.name for method in out]
    for policy in POLICIES:
        for finest, rest in (("text", "all"), ("kv", "none"), ("kv", "all")):
            if policy != default:
                search = {"policy": policy, "finest": finest, "rest": rest}
                name = f"{finest}, {policy}, rest {rest}"
                out.append(Method(name=name, search=search, generate=False))
    groups = {
        "all": [method.name for method in out],
        "main": main,
        "adapter": [f"text, {default}", *(name for name in main if "rest" in name)],
    }
    names = {name for each in wanted for name in groups.get(each, [each])}
    unknown = names - {method.name for method in out}
    if unknown:
        raise SystemExit(f"no such rows: {sorted(unknown)}; there are {groups['all']}")
    return [method for method in out if method.name in names]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with books and qa .jsonl.xz"
    )
    parser.add_argument("--items", type=int, default=250, help="items of each kind")
    parser.add_argument("--per-document", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["main"],
        help="main, all, adapter (the four ways of reading), or names of rows",
    )
    parser.add_argument(
        "--share", default="0/1", help="k/n: every n-th row from the k-th, to run n at a time"
    )
    parser.add_argument(
        "--height", type=int, default=None, help="tree height (leaves: chunk / 2^h)"
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--adapter", default=None, help="a folder; the plain base without")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="report", choices=("report", "tune"))
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    console = Console(width=200)
    tree = None  # the adapter's, or the default
    if args.height is not None:
        ratios = (*[2 ** (4 - i) for i in range(args.height - 1)], 1)[: args.height]
        tree = TreeConfig(height=args.height, ratios=ratios)
    llm = SharedLLM.from_pretrained(
        args.model,
        adapter=args.adapter,
        device=args.device,
        dtype=args.dtype,
        tree=tree,
        search=SearchConfig(),
        node_cache_bytes=NODE_CACHE_BYTES,
    )
    placed = load_items(llm, args)
    console.print(f"{len(placed)} items in {len({p.document.id for p in placed})} documents")
    results, cache = [], {}
    part, parts = map(int, args.share.split("/"))
    for budget in args.budgets:
        for method in methods(args.methods)[part::parts]:
            results.append(run(llm, method, budget, placed, cache, args.batch))
            console.print(line(results[-1]))
            if args.out:
                save(args, llm, results)
    show(results, console)


def load_items(llm: SharedLLM, args: argparse.Namespace) -> list[Placed]:
    """Draw the items and place them."""
    books = [row["text"] for row in read_jsonl(args.data / "books.jsonl.xz")]
    items = facts("literal", args.items, args.seed) + facts("reworded", args.items, args.seed + 1)
    items += questions(args.data / "qa.jsonl.xz", args.items, args.seed, args.part)
    return list(place_all(llm, items, books, args))


def line(result: dict) -> str:
    """One method's figures at a glance."""
    rows = result["rows"]
    return (
        f"{result['budget']} {result['method']}: right {100 * mean(rows, 'right'):.1f}, "
        f"F1 {mean(rows, 'f1'):.3f}, NLL {mean(rows, 'nll'):.2f}, "
        f"evidence {100 * mean(rows, 'evidence'):.1f}, {result['seconds']:.2f} s an item"
    )


def save(args: argparse.Namespace, llm: SharedLLM, results: list[dict]) -> None:
    """Write everything, with the hardware and the command's settings."""
    device = str(llm.upper.device)
    args.out.write_text(
        json.dumps(
            {
                "date": time.strftime("%Y-%m-%d"),
                "hardware": torch.cuda.get_device_name()
                if device != "cpu"
                else platform.processor(),
                "settings": {k: str(v) for k, v in vars(args).items()},
                "search": dataclasses.asdict(SearchConfig()),
                "results": results,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
