"""Questions about whole documents: summaries, lists, counts and comparisons, beside chains.

    python -m benchmarks.quality.whole --data DEV_FOLDER --out rows.jsonl
    python -m benchmarks.quality.whole --table rows.jsonl

Lists, counts and comparisons are planted in books of DEV (whole_items.py), all three in one text;
summaries are asked of the rows of DEV that have one (CRD3, ScisummNet, QMSum; SciTLDR's abstracts
are one chunk each). Beside the product stand LangChain's map_reduce and refine chains and BM25
windows, all read by the same weights (whole_chains.py); --systems coarse,"coarse path" reads the
coarse level of the whole text in one prompt instead. Rows are written as they come; half 0 is
for choosing, half 1 is reported. A second question about the same text shows what kept notes save.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.halves import CHOOSE, REPORT, half_of
from benchmarks.quality.items import read_jsonl
from benchmarks.quality.whole_chains import Model, Told, bm25, chunks_of, map_reduce, refine
from benchmarks.quality.whole_items import KINDS, Planted, plant_all, planted
from sharedllm import Document, SharedLLM
from sharedllm.evaluation.metrics import mean, ratio, rouge_l
from sharedllm.text.words import is_exact, parts, words
from sharedllm.whole.merging import named_in

NEW = 256  # tokens of a final answer
SUMMARY_ROWS = ("CRD3", "ScisummNet", "QMSum train, whole meeting")
LENGTHS = {"32K": 32 << 10, "128K": 128 << 10}
SECOND = "What are the main points of the text?"  # for which notes are kept
COARSE = {  # one prompt with the KV of all chunks, and fine leaves: by search, or one path a chunk
    "coarse": {"scope": "passages", "coarse": "all", "budget": 4096},
    "coarse path": {"scope": "passages", "coarse": "all", "budget": 4096, "selection": "path"},
}
Row = dict[str, Any]


class Bench:
    """Writes a row for each answer, until the time is over.

    Parameters
    ----------
    seconds : from now, after which nothing new begins
    """

    def __init__(self, llm: SharedLLM, out: Path, seconds: float, batch: int) -> None:
        self.llm, self.model, self._out = llm, Model(llm, batch), out
        self._end = time.perf_counter() + seconds
        self._done = {
            (row["system"], row["id"]) for row in (read_jsonl(out) if out.exists() else ())
        }

    @property
    def over(self) -> bool:
        return time.perf_counter() > self._end

    def write(self, system: str, common: Row, **values: Any) -> None:
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"system": system, **common, **values}) + "\n")

    def wants(self, system: str, common: Row) -> bool:
        return not self.over and (system, common["id"]) not in self._done

    def ours(self, question: str, document: Document, common: Row, system: str = "ours") -> Row:
        """Ask the product; returns what it took."""
        started = time.perf_counter()
        options = COARSE.get(system, {"scope": "whole"})
        answer = self.llm.answer(question, document, max_new_tokens=NEW, **options)
        row = {
            "answer": answer.text,
            "seconds": time.perf_counter() - started,
            "prompt_tokens": answer.usage.prompt_tokens,
            "new_tokens": answer.usage.new_tokens,
            "parts": answer.usage.parts_read,
            "kept": answer.usage.parts_kept,
            "cited": [citation.text for citation in answer.citations],
        }
        self.write(system, common, question=question, **row)
        return row

    def coarse(self, question: str, document: Document, common: Row, systems: set[str]) -> None:
        """Ask once with the coarse level of the whole document in one prompt."""
        for system in COARSE:
            if system in systems and self.wants(system, common):
                self.ours(question, document, common, system)

    def theirs(self, system: str, common: Row, told: Told, seconds: float) -> None:
        self.write(
            system,
            common,
            answer=told.text,
            seconds=seconds,
            prompt_tokens=told.prompt_tokens,
            new_tokens=told.new_tokens,
        )


def planted_documents(
    data: Path, length: str, seeds: Sequence[int], tokens_each: float = 4.35
) -> Iterator[tuple[int, str, list[Planted]]]:
    """A book's stretch of about `length` for each seed, with a question of each kind planted."""
    books = [row["text"] for row in read_jsonl(data / "books.jsonl.xz")]
    for seed in seeds:
        book = books[(seed // 2) % len(books)]
        size = int(LENGTHS[length] * tokens_each)
        start = min((seed * 9973) % max(1, len(book) - size), max(0, len(book) - size))
        items = [planted(kind, seed + 2 * at) for at, kind in enumerate(KINDS)]
        yield seed, plant_all(items, book[start : start + size], seed), items


def ask_planted(bench: Bench, args: argparse.Namespace, length: str, systems: set[str]) -> None:
    """Lists, counts and comparisons in texts of one length."""
    seeds = [s for s in range(args.documents * 2) if args.half is None or half_of(s) == args.half]
    held: list[tuple[Row, list[str], str]] = []
    for seed, text, items in planted_documents(args.data, length, seeds):
        if bench.over:
            return
        started = time.perf_counter()
        document = bench.llm.remember(text)
        read_s = time.perf_counter() - started
        for item in items:
            common = {
                "id": f"{item.kind}-{length}-{seed}",
                "kind": item.kind,
                "group": item.group,
                "length": length,
                "half": half_of(seed),
                "asked": item.question,
                "answers": item.answers,
                "tokens": len(document),
                "read_s": read_s,
            }
            if "ours" in systems and bench.wants("ours", common):
                own = bench.ours(item.question, document, common)
                if item.kind == "list" and "second" in systems:
                    again = f"{item.question} Give their names."
                    bench.ours(again, document, common, "ours, second question")
            else:
                own = {"prompt_tokens": 2048}
            bench.coarse(item.question, document, common, systems)
            for system, tokens in (("bm25", own["prompt_tokens"]), ("bm25 2K", 2048)):
                if system in systems and bench.wants(system, common):
                    started = time.perf_counter()
                    room = min(max(tokens, 512), bench.llm.window - NEW - 512)
                    told = bm25(bench.model, document, item.question, room, NEW)
                    bench.theirs(system, common, told, time.perf_counter() - started)
            if "map_reduce" in systems and bench.wants("map_reduce", common):
                started = time.perf_counter()
                chunks = chunks_of(document)
                told = map_reduce(bench.model, chunks, item.question, NEW, summary=False)
                bench.theirs("map_reduce", common, told, time.perf_counter() - started)
            held.append((common, chunks_of(document), item.question))
    if "refine" in systems:
        refine_all(bench, held, summary=False)


def refine_all(bench: Bench, held: Sequence[tuple[Row, list[str], str]], *, summary: bool) -> None:
    wanted = [one for one in held if bench.wants("refine", one[0])]
    if not wanted:
        return
    started = time.perf_counter()
    texts, questions = [one[1] for one in wanted], [one[2] for one in wanted]
    new = NEW // 4 if not summary else NEW // 2
    for (common, _, _), told in zip(
        wanted, refine(bench.model, texts, questions, new, summary=summary), strict=True
    ):
        bench.theirs("refine", common, told, (time.perf_counter() - started) / len(wanted))


def summary_rows(data: Path, half: int | None) -> list[Row]:
    """A row for each text of DEV that has a summary, texts of several chunks only."""
    out: dict[str, Row] = {}
    for row in read_jsonl(data / "qa.jsonl.xz"):
        own = any(row["source"].startswith(name) for name in SUMMARY_ROWS)
        if own and (half is None or half_of(row["context"]) == half):
            out.setdefault(row["context"], row)
    return list(out.values())


def ask_summaries(bench: Bench, args: argparse.Namespace, systems: set[str]) -> None:
    held = []
    rows = summary_rows(args.data, args.half)
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row["source"][:10], []).append(row)
    chosen = [row for own in by_source.values() for row in own[: args.summaries]]
    for at, row in enumerate(chosen):
        if bench.over:
            return
        document = bench.llm.remember(row["context"])
        if len(document.forest.roots) < 2:
            continue
        common = {
            "id": f"summary-{at}-{half_of(row['context'])}",
            "kind": "summary",
            "group": row["source"].split(" (")[0],
            "length": "dev",
            "half": half_of(row["context"]),
            "asked": row["question"],
            "answers": row["answer"],
            "tokens": len(document),
        }
        if "ours" in systems and bench.wants("ours", common):
            bench.ours(row["question"], document, common)
            if "second" in systems:
                bench.ours(SECOND, document, common, "ours, second question")
        bench.coarse(row["question"], document, common, systems)
        if "map_reduce" in systems and bench.wants("map_reduce", common):
            started = time.perf_counter()
            told = map_reduce(bench.model, chunks_of(document), row["question"], NEW, summary=True)
            bench.theirs("map_reduce", common, told, time.perf_counter() - started)
        if "bm25 2K" in systems and bench.wants("bm25 2K", common):
            started = time.perf_counter()
            told = bm25(bench.model, document, row["question"], 2048, NEW)
            bench.theirs("bm25 2K", common, told, time.perf_counter() - started)
        held.append((common, chunks_of(document), row["question"]))
    if "refine" in systems:
        refine_all(bench, held, summary=True)


# -- scores ------------------------------------------------------------------------------------


def key(text: str) -> tuple[str, ...]:
    bare = re.sub(r"^(?:the|an?) ", "", text.strip(), flags=re.IGNORECASE)
    return tuple(part for word in words(bare) for part in parts(word.text))


def holds(text: str, wanted: str) -> bool:
    """Whether the words of `wanted` stand together in `text`."""
    own, sought = key(text), key(wanted)
    return any(own[at : at + len(sought)] == sought for at in range(len(own) - len(sought) + 1))


def scores(row: Row) -> Row:
    """The measures of one answer."""
    answer, wanted = row["answer"], row["answers"]
    if row["kind"] == "summary":
        names = sorted(names_of(wanted[0]))
        found = sum(holds(answer, name) for name in names)
        own = max(rouge_l(answer, [text]) for text in wanted)
        return {"rouge_l": own, "names": found / len(names) if names else None}
    if row["kind"] == "comparison":
        right, other = wanted[0], wanted[1]
        at = [found.start() if (found := re.search(re.escape(x), answer)) else None
              for x in (right, other)]  # fmt: skip
        first = at[0] is not None and (at[1] is None or at[0] < at[1])
        return {"right": float(first)}
    first, _, rest = answer.partition("\n")
    counted = row["kind"] == "count" and first.strip().isdigit()
    listed = list(named_in(rest if counted else answer))
    found = [one for one in wanted if holds(answer, one)]
    out: Row = {"recall": len(found) / len(wanted)}
    if row["kind"] == "list":
        right = sum(any(holds(name, one) or holds(one, name) for one in wanted) for name in listed)
        out |= {"right": right, "listed": len(listed)}
        return out
    number = re.search(r"\d+", answer)
    said = int(number[0]) if number and answer.strip()[:1].isdigit() else len(listed)
    if number and not answer.strip()[:1].isdigit() and len(listed) <= 1:
        said = int(number[0])
    return out | {
        "exact": float(said == len(wanted)),
        "within_one": float(abs(said - len(wanted)) <= 1),
    }


def names_of(text: str) -> set[str]:
    """The names, numbers and codes of a text; a sentence's first word counts if it recurs so."""
    found = [w.text for w in words(text)]
    first = {w.text for w in words(text) if w.start == 0 or text[w.start - 2 : w.start] == ". "}
    return {
        word
        for word in found
        if is_exact(word) or (word[0].isupper() and len(word) > 1 and word not in first)
    }


MEASURES = ("recall", "precision", "exact", "within_one", "right", "rouge_l", "names")


def table(rows: Sequence[Row], half: int | None) -> None:
    """Means with 95 % intervals, by kind, length and system."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if half is None or row["half"] == half:
            own = {**row, **scores(row)}
            groups.setdefault((row["kind"], row["length"], row["system"]), []).append(own)
    for (kind, length, system), own in sorted(groups.items()):
        said = []
        for name in MEASURES:
            if name == "precision" and kind == "list":
                if not sum(r["listed"] for r in own):
                    continue
                found = ratio([r["right"] for r in own], [r["listed"] for r in own])
            elif name == "right" and kind == "list":
                continue
            else:
                values = [float(r[name]) for r in own if r.get(name) is not None]
                if not values:
                    continue
                found = mean(values)
            said.append(f"{name} {100 * found.value:.1f} ±{100 * (found.half or 0):.1f}")
        tokens = mean([float(r["prompt_tokens"] + r["new_tokens"]) for r in own]).value
        seconds = mean([float(r["seconds"]) for r in own]).value
        print(
            f"{kind:10} {length:5} {system:22} n={len(own):3} {'; '.join(said)}; "
            f"{tokens:,.0f} tokens, {seconds:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--half", type=int, choices=(CHOOSE, REPORT), default=None)
    parser.add_argument("--documents", type=int, default=8, help="of each length and half")
    parser.add_argument("--summaries", type=int, default=10, help="of each source")
    parser.add_argument("--lengths", default="32K,128K")
    parser.add_argument("--systems", default="ours,second,bm25,bm25 2K,map_reduce,refine")
    parser.add_argument("--refine-lengths", default="32K,dev", help="refine is one step a chunk")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if args.table is not None:
        table(list(read_jsonl(args.table)), args.half)
        return
    if args.data is None or args.out is None:
        parser.error("give --data and --out, or --table")
    if args.threads:
        torch.set_num_threads(args.threads)
    llm = SharedLLM.from_pretrained(device=args.device)
    on_gpu = llm.encoder.lower.device.type == "cuda"
    bench = Bench(llm, args.out, args.seconds, args.batch or (64 if on_gpu else 8))
    systems = set(args.systems.split(","))
    lengths = list(filter(None, args.lengths.split(",")))
    for length in [*lengths[:1], "dev", *lengths[1:]]:  # the longest last: a run may be cut
        own = systems if length in args.refine_lengths else systems - {"refine"}
        if length != "dev":
            ask_planted(bench, args, length, own)
        elif args.summaries:
            ask_summaries(bench, args, own)
    table(list(read_jsonl(args.out)), None)


if __name__ == "__main__":
    main()
