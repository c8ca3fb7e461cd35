"""Which budget is read best? Right answers by kind of question, system and token budget.

    python -m benchmarks.quality.budgets --data DEV --out rows.jsonl           the half to report
    python -m benchmarks.quality.budgets --data DEV --out rows.jsonl --half 0  the half to choose by
    python -m benchmarks.quality.budgets --table rows.jsonl

DEV holds books, code, qa and qa2 (.jsonl.xz). Systems: "ours" at fixed budgets, and "auto"; "cut",
which always reads the sentences around the best match of each leaf, and "whole", which never does;
and "bm25", windows of 256 tokens read by the same weights, the best one last. A prompt is read once
however many budgets lead to it, and what `--out` holds already is not read again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.default_adapter.evaluate import judge, to_messages
from benchmarks.quality.budgets_table import AUTO, SEVERAL, show
from benchmarks.quality.chunk_stores import BM25Chunks, chunks
from benchmarks.quality.halves import REPORT
from benchmarks.quality.items import normal
from benchmarks.quality.library import Volume
from benchmarks.quality.ruler.items import make as make_ruler
from benchmarks.quality.search.__main__ import Spans, covers
from benchmarks.quality.search.kinds import KINDS, Maker, Sources, seed_of
from benchmarks.quality.search.sought import Collection, Sought, document
from benchmarks.quality.search.systems import Store, fused
from sharedllm import SharedLLM
from sharedllm.config import GenerationConfig, SearchConfig
from sharedllm.evaluation.filler import Filler
from sharedllm.evaluation.metrics import string_match_all
from sharedllm.generation.assemble import Plan, Prepared
from sharedllm.generation.decoding import Decoder
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import ABSENT, converse, parse, part_ids
from sharedllm.hf.loading import end_ids
from sharedllm.injection.positions import Prompt
from sharedllm.search import citations
from sharedllm.search.budget import Looks, decide, is_unsure
from sharedllm.search.finding import follow
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.rounds import Followed
from sharedllm.search.selection import Selection, select, with_neighbours

FIXED = (192, 256, 384, 512, 1024, 2048)
CUT = (192, 512, 1024)
CACHED = {0: 100, 1: 200}  # questions of a kind of the bench of search, whose encodings serve
GROUP = 6  # questions whose prompts are read together
BATCH, MOST = 8, 6_000  # rows and tokens of one batch
LONG, SHORT = 48, 24  # new tokens where several things are asked for, and otherwise
OWN = {  # kinds of qa2
    "yesno": "yes/no",
    "extractive": "extractive",
    "code": "code",
    "list": "lists",
    "unanswerable": "absent",
}
LEAST, LARGEST = 300, 12_000  # characters of a context that is asked alone
RULER = {"niah_multivalue": "several values", "niah_multiquery": "several questions"}
RULER_TOKENS = 8_192
WINDOW = 6_000  # tokens for evidence, more than any budget takes
BETWEEN = citations.BETWEEN
LONGEST = 40  # characters of an answer
SEPARATOR = re.compile(r"[,;]\s*(?![^\[(]*[\])])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A prompt at one budget, and what it shows."""

    system: str
    budget: str
    prepared: Prepared
    evidence: float | None
    tokens: int


# -- questions -------------------------------------------------------------------------------------


class Books(Filler):
    """Filler of given texts."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.repeats = texts, False


def several(sources: Sources, n: int, llm: SharedLLM) -> Iterator[Collection]:
    """RULER's tasks that ask for several values, and for values of several keys."""
    filler = Books(sources.texts("books"))
    for task, kind in RULER.items():
        for index in range(n):
            seed = seed_of(sources.half, index)
            item = make_ruler(task, index, n, RULER_TOKENS, llm.tokenizer, filler, seed)
            name = f"{task}-{seed}"
            places = [
                ((name, at, at + len(a)),) for a in item.answers for at in (item.text.find(a),)
            ]
            sought = Sought(
                kind=kind, question=item.query, evidence=tuple(places), answers=item.answers
            )
            documents = (document(name, item.text),)
            yield Collection(name=name, documents=documents, sought=(sought,))


def alone(sources: Sources, n: int) -> Iterator[Collection]:
    """Questions of qa2, each about its own text alone."""
    rows = [row for row in sources.rows("qa2") if LEAST <= len(row["context"]) <= LARGEST]
    random.Random(0).shuffle(rows)
    for given, kind in OWN.items():
        own = [row for row in rows if row["kind"] == given]
        if given != "extractive":  # those contexts are short
            own.sort(key=lambda row: len(row["context"]) < 1500)
        if given in ("extractive", "code"):
            own = [row for row in own if len(str(row["answer"][0])) <= LONGEST]
        for row in own[:n]:
            name = f"qa2-{zlib.crc32((row['context'] + row['question']).encode()):08x}"
            answers = tuple(str(a).strip() for a in row["answer"] if str(a).strip())
            if kind == "lists":
                answers = tuple(filter(None, map(str.strip, SEPARATOR.split(answers[0]))))
            question = row["question"]
            if row.get("history"):
                question = to_messages([tuple(turn) for turn in row["history"]], question)
            sought = Sought(kind=kind, question=question, evidence=(), answers=answers)
            documents = (document(name, row["context"].strip()),)
            yield Collection(name=name, documents=documents, sought=(sought,))


def is_judged(sought: Sought) -> bool:
    """Tell questions whose answers are short enough to be looked for in what the model says."""
    if not sought.answers or sought.kind.startswith(("spelling", "quoted")):
        return False
    return sought.kind in SEVERAL or min(map(len, sought.answers)) <= LONGEST


def collections(sources: Sources, n: int, llm: SharedLLM) -> Iterator[Collection]:
    """Yield collections with about `n` answerable questions of each kind."""
    taken: dict[str, int] = {}
    makers: list[Maker] = [KINDS[name] for name in ("one book", "records", "code", "hops")]
    makers += [KINDS["short"], KINDS["conversations"], partial(several, llm=llm), alone]
    for maker in makers:
        count = n if maker in (alone, makers[-2]) else CACHED[sources.half]
        for collection in maker(sources, count):
            records = collection.name.startswith("records")
            kept, here = [], dict[str, int]()
            for one in collection.sought:
                most = -(-n // 3) if records else n  # in each of three layouts
                full = taken.get(one.kind, 0) >= n or here.get(one.kind, 0) >= most
                if full or not is_judged(one):
                    continue
                taken[one.kind] = taken.get(one.kind, 0) + 1
                here[one.kind] = here.get(one.kind, 0) + 1
                kept.append(one)
            if kept:
                yield Collection(
                    name=collection.name, documents=collection.documents, sought=tuple(kept)
                )


class Remembered:
    """A collection of one document, read anew: as :class:`Store`, without a memory on disk."""

    def __init__(self, collection: Collection, llm: SharedLLM) -> None:
        self.llm, self.collection = llm, collection
        [own] = collection.documents
        self.documents = [llm.remember(own.text, title=own.title, source=own.source)]
        self.names = [own.id]

    def scores(self, query: str) -> list[Scores]:
        return self.llm.score(query, self.documents)

    def save(self) -> None:
        pass


class Stored(Store):
    """A collection of the bench of search, with names and scores of documents."""

    @property
    def names(self) -> list[str]:
        return [document.id for document in self.documents]

    def scores(self, query: str) -> list[Scores]:
        flat = fused(self, self.query(query))
        pairs = zip(self.documents, self.divided(flat), strict=True)
        return [document.forest.from_leaves(own) for document, own in pairs]


Place = Stored | Remembered


# -- prompts ---------------------------------------------------------------------------------------


def found(sought: Sought, spans: Spans) -> float | None:
    """Return the share of the needed statements that `spans` hold."""
    needed = sought.evidence
    return sum(covers(places, spans) for places in needed) / len(needed) if needed else None


def spans_of(place: Place, selection: Selection) -> Spans:
    spans: Spans = {}
    for node in selection.nodes:
        characters = place.documents[node.document].tokens.characters(node.start, node.end)
        spans.setdefault(place.names[node.document], []).append(characters)
    return spans


class Asking:
    """One question: its prompts at all budgets."""

    def __init__(self, place: Place, sought: Sought, windows: BM25Chunks) -> None:
        self.place, self.sought, self.windows = place, sought, windows
        self.llm = place.llm
        self.query = parse(sought.question).sought
        self.scores = place.scores(self.query)
        self.new_tokens = LONG if sought.kind in SEVERAL else SHORT
        self.conversation = converse(sought.question, place.documents, self.llm.tokenizer)

    @cached_property
    def followed(self) -> list[Followed]:
        """Leaves of later rounds of search."""
        return follow(self.query, self.place.documents, self.scores, SearchConfig()).followed

    @cached_property
    def decided(self) -> Looks:
        """The product's own budgets."""
        documents = self.place.documents
        overhead = citations.window_overheads(documents, self.llm.tokenizer)
        forests = [document.forest for document in documents]
        question = parse(self.sought.question).query
        return decide(
            question,
            forests,
            self.scores,
            SearchConfig(),
            overhead=overhead,
            room=WINDOW,
            followed=len(self.followed),
        )

    def features(self) -> dict[str, Any]:
        """Return what a rule may decide by: the best scores, as selection ranks them."""
        forests = [document.forest for document in self.place.documents]
        own = [s[f.leaves] for f, s in zip(forests, self.scores, strict=True)]
        neutral = float(np.concatenate(own).mean())
        near = np.concatenate([with_neighbours(s, (0.5, 0.25), neutral) for s in own])
        plain = np.concatenate(own)
        best = [f"{x:.4g}" for x in np.sort(near)[::-1][:24]]
        return {
            "near": [float(x) for x in best],
            "plain": [round(float(x), 4) for x in np.sort(plain)[::-1][:24]],
            "mean": float(plain.mean()),
            "deviation": float(plain.std()),
            "near deviation": float(near.std()),
            "leaves": len(plain),
            "documents": len(forests),
            "context": sum(map(len, self.place.documents)),
            "query": self.query,
            "question": parse(self.sought.question).query,
        }

    def ours(self, budget: int, system: str = "ours") -> Look:
        documents, reach = self.place.documents, SearchConfig().sentences
        cut = system == "cut" or (system == "ours" and self.decided.several)

        sought = {(one.document, one.node): one.sought for one in self.followed}

        def widen(index: int, node: int) -> tuple[int, int]:
            whole = citations.complete_sentences(documents[index], node, reach)
            match = sought.get((index, node), self.query)
            return (
                citations.sentences_around_match(documents[index], whole, match) if cut else whole
            )

        selection = select(
            [d.forest for d in documents],
            self.scores,
            SearchConfig(budget=budget),
            self.llm.tree,
            overhead=citations.window_overheads(documents, self.llm.tokenizer),
            widen=widen,
            narrows=cut,
            followed=self.followed,
        )
        prepared = self.llm.assemble(self.conversation, selection, self.new_tokens)
        return Look(
            system=system,
            budget=str(budget),
            prepared=prepared,
            evidence=found(self.sought, spans_of(self.place, selection)),
            tokens=prepared.evidence_tokens,
        )

    def bm25(self, budget: int) -> Look:
        between = part_ids(BETWEEN, self.llm.tokenizer)
        left, pieces, spans = budget, list[list[int]](), Spans()
        for chunk in self.windows.invoke(self.query):
            left -= len(between) if pieces else 0
            if left < 8:
                break
            ids = part_ids(chunk.page_content, self.llm.tokenizer)[:left]
            left -= len(ids)
            name, _, start = str(chunk.id).rpartition(":")
            length = len(self.llm.tokenizer.decode(ids))
            spans.setdefault(name, []).append((int(start), int(start) + length))
            pieces.append(ids)
        text: list[int] = []
        for piece in reversed(pieces):
            text += [*(between if text else []), *piece]
        conversation = converse(self.sought.question, self.place.documents[:1], self.llm.tokenizer)
        plan = Plan(conversation=conversation, windows=((),), pasted=(tuple(text),), injected=((),))
        prompt = plan.prompt([None], self.llm.tokenizer)
        prepared = Prepared(
            prompt=prompt,
            citations=(),
            context_tokens=0,
            evidence_tokens=len(text),
            selection=None,
        )
        return Look(
            system="bm25",
            budget=str(budget),
            prepared=prepared,
            evidence=found(self.sought, spans),
            tokens=len(text),
        )

    def looks(
        self,
        systems: Sequence[str],
        budgets: Sequence[int],
        cut: Sequence[int],
        windows: Sequence[int],
    ) -> Iterator[Look]:
        if "ours" in systems:
            yield from (self.ours(budget) for budget in budgets)
        for system in sorted({"cut", "whole"}.intersection(systems)):
            yield from (self.ours(budget, system) for budget in cut)
        if "bm25" in systems:
            yield from (self.bm25(budget) for budget in windows)


# -- reading ---------------------------------------------------------------------------------------


class _Noted:
    """The upper model; notes the log-probabilities of each row's first token."""

    def __init__(self, upper: Any) -> None:
        self._upper = upper
        self.first = torch.empty(0)

    def start(self, prompts: Sequence[Prompt]) -> Any:
        session = self._upper.start(prompts)
        self.first = session.logits.float().log_softmax(-1)
        return session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upper, name)


class Reader:
    """Answers prompts in batches of about the same length."""

    def __init__(self, llm: SharedLLM) -> None:
        own, ends = llm.decoder, end_ids(llm.model, llm.tokenizer)
        self._upper = _Noted(llm.upper)
        self._decoder = Decoder(self._upper, llm.tokenizer, ends, llm.encoder.lock)  # type: ignore[arg-type]
        self._decoder.refusal_id, self._decoder.lead = own.refusal_id, own.lead
        self._decoder.abstaining = own.abstaining

    def __call__(self, prompts: Sequence[Prompt], new_tokens: int) -> Iterator[dict[str, Any]]:
        rows = [Row() for _ in prompts]
        for _ in self._decoder.run(prompts, GenerationConfig(max_new_tokens=new_tokens), rows):
            pass
        refusal = self._decoder.refusal_id
        logits = self._upper.first.clone()
        if refusal is not None:
            logits[:, refusal] += self._decoder.abstaining
        for row, first in zip(rows, logits.log_softmax(-1), strict=True):
            best = first.topk(3).values.tolist()
            yield {
                "answer": row.text.strip(),
                "best": [round(x, 3) for x in best],
                "refusal": round(float(first[refusal]), 3) if refusal is not None else None,
            }


def key_of(prompt: Prompt, new_tokens: int) -> str:
    return f"{zlib.crc32(repr((prompt.text, new_tokens)).encode()):08x}"


def batches(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Divide `prompts` into batches of about the same length."""
    batch: list[Prompt] = []
    for prompt in sorted(prompts, key=lambda p: p.text_tokens):
        if batch and (len(batch) == BATCH or (len(batch) + 1) * prompt.text_tokens > MOST):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def right(sought: Sought, answer: str) -> float:
    if sought.kind in SEVERAL:
        return string_match_all(answer, sought.answers)
    return float(judge(answer, sought.answers))


class Rows:
    """The rows of a file, and what has been read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done: set[tuple[str, str, str]] = set()
        self.readings: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(json.loads(line))

    def _take(self, row: dict[str, Any]) -> None:
        if "prompt" in row:
            self.done.add((row["key"], row["system"], row["budget"]))
            self.readings[row["prompt"]] = {x: row[x] for x in ("answer", "best", "refusal")}
        else:
            self.done.add((row["key"], "", ""))

    def add(self, row: dict[str, Any]) -> None:
        self._take(row)
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


Wanted = tuple[str, Asking, Look]  # a question's key, the question and one of its prompts


def read_all(reader: Reader, rows: Rows, wanted: Sequence[Wanted]) -> None:
    """Read the prompts that have not been read."""
    for new_tokens in (SHORT, LONG):
        prompts = {
            key_of(look.prepared.prompt, new_tokens): look.prepared.prompt
            for _, asking, look in wanted
            if asking.new_tokens == new_tokens
        }
        left = [prompt for key, prompt in prompts.items() if key not in rows.readings]
        for batch in batches(left):
            for prompt, reading in zip(batch, reader(batch, new_tokens), strict=True):
                rows.readings[key_of(prompt, new_tokens)] = reading


def row_of(rows: Rows, key: str, asking: Asking, look: Look) -> dict[str, Any]:
    prompt = key_of(look.prepared.prompt, asking.new_tokens)
    reading = rows.readings[prompt]
    return {
        "key": key,
        "kind": asking.sought.kind,
        "system": look.system,
        "budget": look.budget,
        "right": right(asking.sought, reading["answer"]),
        "evidence": look.evidence,
        "tokens": look.tokens,
        "refused": normal(ABSENT) in normal(reading["answer"]),
        "prompt": prompt,
        **reading,
        "gold": asking.sought.answers[:6],
    }


def look_twice(reader: Reader, rows: Rows, askings: Sequence[tuple[str, Asking]]) -> None:
    """Add rows of the product's own budget: a first look, and a second where that is unsure."""
    firsts = [(key, asking, asking.ours(asking.decided.first)) for key, asking in askings]
    read_all(reader, rows, firsts)
    taken: list[tuple[Wanted, int]] = []
    for key, asking, look in firsts:
        reading = rows.readings[key_of(look.prepared.prompt, asking.new_tokens)]
        if asking.decided.second is not None and is_unsure(math.exp(reading["refusal"])):
            second = asking.ours(asking.decided.second, "cut")
            taken.append(((key, asking, second), second.tokens + look.tokens))
        else:
            taken.append(((key, asking, look), look.tokens))
    read_all(reader, rows, [wanted for wanted, _ in taken])
    for (key, asking, look), tokens in taken:
        looks = 1 if tokens == look.tokens else 2
        own = {
            "system": "ours",
            "budget": AUTO,
            "taken": look.budget,
            "tokens": tokens,
            "looks": looks,
        }
        rows.add({**row_of(rows, key, asking, look), **own})


def ask_all(
    place: Place, llm: SharedLLM, reader: Reader, rows: Rows, args: argparse.Namespace
) -> None:
    """Read what is not done of a collection, and add a row for each."""
    collection = place.collection
    volumes = [Volume(id=d.id, title=d.title, text=d.text) for d in collection.documents]
    pieces = chunks(volumes, llm.tokenizer) if "bm25" in args.systems else []
    windows = BM25Chunks(chunks=pieces, k=9)
    for at in range(0, len(collection.sought), GROUP):
        askings = []
        for sought in collection.sought[at : at + GROUP]:
            key = f"{collection.key}/{sought.key}"
            askings.append((key, Asking(place, sought, windows)))
            if (key, "", "") not in rows.done:
                features = askings[-1][1].features()
                rows.add({"key": key, "kind": sought.kind, **features})
        looks = [
            (key, asking, look)
            for key, asking in askings
            for look in asking.looks(
                args.systems, args.budgets, args.cut, args.windows or args.budgets
            )
            if (key, look.system, look.budget) not in rows.done
        ]
        read_all(reader, rows, looks)
        for key, asking, look in looks:
            rows.add(row_of(rows, key, asking, look))
        if AUTO in args.systems:
            left = [one for one in askings if (one[0], "ours", AUTO) not in rows.done]
            look_twice(reader, rows, left)


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    llm = SharedLLM.from_pretrained(device=args.device)
    reader, rows = Reader(llm), Rows(args.out)
    for collection in collections(Sources(args.data, args.half), args.items, llm):
        if args.kinds and not any(s.kind.startswith(tuple(args.kinds)) for s in collection.sought):
            continue
        started = time.perf_counter()
        one = len(collection.sought) == len(collection.documents) == 1
        place = Remembered(collection, llm) if one else Stored(collection, llm, args.cache)
        ask_all(place, llm, reader, rows, args)
        place.save()
        print(f"{collection.name}: {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")
    parser.add_argument("--cache", type=Path, default=Path("runs/search"))
    parser.add_argument("--half", type=int, choices=(0, 1), default=REPORT)
    parser.add_argument("--items", type=int, default=25, help="questions of a kind")
    parser.add_argument("--systems", nargs="+", default=["ours", AUTO, "bm25"])
    parser.add_argument("--budgets", nargs="+", type=int, default=FIXED)
    parser.add_argument("--windows", nargs="+", type=int, help="budgets of bm25; as --budgets")
    parser.add_argument("--cut", nargs="+", type=int, default=CUT, help='budgets of "cut"')
    parser.add_argument("--kinds", nargs="+", default=[], help="beginnings of their names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", type=Path, help="show the rows of this file")
    parser.add_argument("--json", type=Path, help="write what the table is of")
    args = parser.parse_args()
    if args.table:
        show(args.table, args.json)
        return
    if not (args.data and args.out):
        parser.error("give --data and --out, or --table")
    measure(args)
    show(args.out)


if __name__ == "__main__":
    main()
