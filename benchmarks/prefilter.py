"""What does the prefilter of a large memory lose against MaxSim over everything?

    python -m benchmarks.prefilter --corpus corpus.jsonl.xz --store SCRATCH --part report \
        --out benchmarks/results/prefilter.json

Each item is asked of a memory of 10,000 documents (corpus.py). Three decisions: whether a chunk
with the evidence is among the `k` candidates ("recall"); whether the best leaf of the candidates
touches the evidence ("top"); whether the evidence is within what a budget of 1,024 tokens takes of
them ("selected"). Without a prefilter all chunks are candidates. MiniLM (the extra "embed") ranks
where --minilm names a file of embeddings; it is made if it is not there. `--part tune` has items
that prefilters were chosen by.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.exhaustive import Everything
from benchmarks.quality.corpus import Text, read
from benchmarks.quality.items import KINDS
from sharedllm import MemoryDocument, TreeMemory
from sharedllm.memory.prefilter import WORDS_WEIGHT, by_words, fused
from sharedllm.memory.retrieval import mean_vector
from sharedllm.text.tokens import tokenize

KS = (16, 32, 64, 128, 256, 512)
DEEPEST = max(KS)
BUDGET, OVERHEAD = 1024, 14  # tokens of evidence; separator and heading of a window
WINDOW = 256  # tokens of the plain chunk store
BATCH = 256  # texts that MiniLM reads at once
EXACT = "no prefilter"


@dataclass
class Asked:
    """A question with all that rankings and decisions need."""

    text: Text
    ids: NDArray[np.int32]
    vectors: Tensor
    best: NDArray[np.float32]
    gold: set[int]  # chunks that touch the evidence


@dataclass
class Outcome:
    """What one ranking gave, item by item."""

    inside: dict[int, list[bool]] = field(default_factory=dict)
    top: dict[int, list[bool]] = field(default_factory=dict)
    selected: dict[int, list[bool]] = field(default_factory=dict)


def filled(args: argparse.Namespace, texts: Sequence[Text]) -> TreeMemory:
    """The memory with all documents."""
    from sharedllm import SharedLLM

    llm = SharedLLM.from_pretrained(device=args.device, dtype="float32")
    memory = TreeMemory(args.store, llm=llm)
    new = [t for t in texts if t.id not in memory]
    for at in range(0, len(new), 1000):
        memory.add(
            MemoryDocument(id=t.id, text=t.text, title=f"text {t.id}") for t in new[at : at + 1000]
        )
    return memory


def ask(everything: Everything, texts: Sequence[Text]) -> Iterator[Asked]:
    """Every item's question, compared with everything."""
    of_document: dict[str, list[int]] = {}
    for rank, document in enumerate(everything.documents):
        of_document.setdefault(document, []).append(rank)
    leaves, llm = everything.leaves, everything.llm
    for text in texts:
        if text.item is None:
            raise ValueError(f"the text {text.id!r} holds no item; give those that do")
        ids = tokenize(text.item.question, llm.tokenizer).ids
        vectors = llm.encoder.lower.vectors(ids, [(0, len(ids))]).float()
        own = np.isin(leaves.chunk, of_document[text.id])
        touching = [own & (leaves.start < end) & (start < leaves.end) for start, end in text.spans]
        gold = set(leaves.chunk[np.logical_or.reduce(touching)].tolist())
        yield Asked(text, ids, vectors, everything.best(vectors), gold)


def decide(
    everything: Everything, asked: Asked, chunks: NDArray[np.int64] | None
) -> tuple[bool, bool]:
    """(best leaf touches the evidence, evidence is selected) among `chunks`."""
    if chunks is not None and not len(chunks):
        return False, False
    where, scores = everything.scores(asked.best, asked.ids, chunks)
    leaves = everything.leaves
    taken = everything.selected(where, scores, BUDGET, OVERHEAD)
    gold = {leaf for leaf in (*taken, where[scores.argmax()]) if leaves.chunk[leaf] in asked.gold}
    spans = [(int(leaves.start[leaf]), int(leaves.end[leaf])) for leaf in sorted(set(taken) & gold)]
    best = int(where[scores.argmax()])
    top = best in gold and any(
        leaves.start[best] < end and start < leaves.end[best] for start, end in asked.text.spans
    )
    return top, holds(asked.text.spans, spans)


def holds(wanted: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether one of the `wanted` spans lies wholly in `spans`, neighbours joined."""
    joined: list[list[int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return any(s <= a and b <= e for a, b in wanted for s, e in joined)


# -- rankings ------------------------------------------------------------------------------------


def by_embedding(rows: NDArray[np.float32], query: NDArray[np.float32], k: int) -> list[int]:
    """Ranks of the `k` nearest, best first."""
    scores = rows @ query
    best = np.argpartition(-scores, min(k, len(scores) - 1))[:k]
    return [int(chunk) for chunk in best[np.argsort(-scores[best], kind="stable")]]


def first_rankings(
    memory: TreeMemory, everything: Everything, minilm: Any, asked: Asked
) -> dict[str, list[int]]:
    """The `DEEPEST` best chunks by words and by embeddings."""
    with memory._database.read() as connection:
        found = by_words(connection, question(asked), DEEPEST)
    query = mean_vector(asked.vectors)
    out = {
        "words": [everything.rank[chunk] for chunk in found],
        "dense": by_embedding(everything.embeddings, query, DEEPEST),
    }
    if minilm is not None:
        out["MiniLM"] = by_embedding(minilm.chunks, minilm.query(question(asked)), DEEPEST)
    return out


def cut(ranked: dict[str, list[int]], name: str, k: int) -> list[int]:
    """The `k` candidates of one prefilter, as the package joins rankings."""
    if name in ranked:
        return ranked[name][:k]
    embedder = "MiniLM" if "MiniLM" in name else "dense"
    weight = 1 if "equal" in name else WORDS_WEIGHT
    scores = fused([(ranked["words"][:k], weight), (ranked[embedder][:k], 1)])
    return sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[:k]


def question(asked: Asked) -> str:
    return asked.text.item.question if asked.text.item else ""


class MiniLMs:
    """MiniLM's embeddings of all chunks, kept in a file."""

    def __init__(self, everything: Everything, texts: Sequence[Text], path: Path) -> None:
        from sharedllm.hf.minilm import MiniLM

        own = MiniLM()
        self._device, self._model = everything.device, own._model.to(everything.device)
        self._tokenizer = own._tokenizer
        leaves = everything.leaves
        if not path.exists():
            by_id = {text.id: text.text for text in texts}
            bodies = [by_id[document] for document in everything.documents]
            places = zip(leaves.chunk, leaves.start, leaves.end, strict=True)
            rows = self.embed([bodies[chunk][start:end] for chunk, start, end in places])
            sums = np.add.reduceat(rows, np.flatnonzero(np.diff(leaves.chunk, prepend=-1)), axis=0)
            np.save(path, (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float16))
        self.chunks = np.load(path).astype(np.float32)

    def query(self, text: str) -> NDArray[np.float32]:
        return self.embed([text])[0]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the package's MiniLM does, on any device and in large batches."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.zeros((len(texts), 384), np.float32)
        for at in range(0, len(order), BATCH):
            some = order[at : at + BATCH]
            given = self._tokenizer(
                [texts[i] for i in some],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                states = self._model(**given).last_hidden_state
            mask = given["attention_mask"][..., None]
            means = (states * mask).sum(1) / mask.sum(1)
            out[some] = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
        return out


def plain(
    everything: Everything, texts: Sequence[Text], minilm: MiniLMs, path: Path
) -> Callable[[Asked], bool]:
    """Whether the best windows of a plain chunk store, as many as the budget pays, hold it."""
    places: list[tuple[str, int, int]] = []
    for text in texts:
        tokens = tokenize(text.text, everything.llm.tokenizer)
        for at in range(0, len(tokens), WINDOW):
            places.append((text.id, *tokens.characters(at, min(at + WINDOW, len(tokens)))))
    if not path.exists():
        by_id = {text.id: text.text for text in texts}
        rows = minilm.embed([by_id[document][start:end] for document, start, end in places])
        np.save(path, rows.astype(np.float16))
    rows = np.load(path).astype(np.float32)

    def found(asked: Asked) -> bool:
        best = by_embedding(rows, minilm.query(question(asked)), BUDGET // WINDOW)
        spans = [places[at][1:] for at in best if places[at][0] == asked.text.id]
        return holds(asked.text.spans, spans)

    return found


# -- running -------------------------------------------------------------------------------------


def wilson(kept: int, of: int) -> tuple[float, float, float]:
    """A share with its 95 % interval, in percent."""
    of = max(of, 1)
    z2, share = 1.96**2, kept / of
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = math.sqrt(z2) / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return tuple(round(100 * x, 1) for x in (share, middle - half, min(1.0, middle + half)))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rankings over all items of the part."""
    texts = read(args.corpus)
    memory = filled(args, texts)
    everything = Everything(memory, args.device)
    minilm = MiniLMs(everything, texts, args.minilm) if args.minilm else None
    names = ["dense", "words", "hybrid, equal weights", "hybrid"]
    if minilm:
        names += ["MiniLM", "hybrid with MiniLM, equal weights", "hybrid with MiniLM"]
    outcomes = {name: Outcome() for name in (EXACT, *names)}
    kinds, windows = [], []
    chunk_store = None
    if minilm:
        chunk_store = plain(everything, texts, minilm, args.minilm.with_suffix(".windows.npy"))
    items = [text for text in texts if text.part == args.part][: args.items]
    for asked in ask(everything, items):
        kinds.append(asked.text.item.kind if asked.text.item else "")
        add(outcomes[EXACT], 0, (True, *decide(everything, asked, None)))
        ranked = first_rankings(memory, everything, minilm, asked)
        for name in names:
            for k in KS:
                chosen = np.asarray(cut(ranked, name, k), np.int64)
                inside = not asked.gold.isdisjoint(chosen.tolist())
                add(outcomes[name], k, (inside, *decide(everything, asked, chosen)))
        if chunk_store:
            windows.append(chunk_store(asked))
    return {
        "kinds": "".join(str(KINDS.index(kind)) for kind in kinds),
        "chunks": len(everything.chunks),
        "tokens": len(everything.codes),
        "plain": bits(windows),
        "exact": {
            "top": bits(outcomes[EXACT].top[0]),
            "selected": bits(outcomes[EXACT].selected[0]),
        },
        "prefilters": {name: row(outcomes[name]) for name in names},
    }


def add(outcome: Outcome, k: int, decided: tuple[bool, bool, bool]) -> None:
    for values, value in zip((outcome.inside, outcome.top, outcome.selected), decided, strict=True):
        values.setdefault(k, []).append(value)


def row(outcome: Outcome) -> dict[str, Any]:
    return {
        "recall": {str(k): bits(values) for k, values in outcome.inside.items()},
        "top": {str(k): bits(values) for k, values in outcome.top.items()},
        "selected": {str(k): bits(values) for k, values in outcome.selected.items()},
    }


def bits(values: Sequence[bool]) -> str:
    return "".join("1" if value else "0" for value in values)


def show(result: dict[str, Any]) -> None:
    """Recall, and what is kept of the decisions that are right without a prefilter."""
    exact, kinds = result["exact"], result["kinds"]
    for title, of in (("exact, top", exact["top"]), ("exact, selected", exact["selected"])):
        print(f"{title:28}", wilson(of.count("1"), len(of)), per_kind(of, kinds))
    if result["plain"]:
        of = result["plain"]
        print(
            f"{'plain chunk store, selected':28}",
            wilson(of.count("1"), len(of)),
            per_kind(of, kinds),
        )
    for name, found in result["prefilters"].items():
        for k in KS:
            inside = found["recall"][str(k)]
            cells = [f"recall {wilson(inside.count('1'), len(inside))}"]
            for what in ("top", "selected"):
                own, pairs = (
                    found[what][str(k)],
                    list(zip(exact[what], found[what][str(k)], strict=True)),
                )
                kept = sum(pair == ("1", "1") for pair in pairs)
                gained = sum(pair == ("0", "1") for pair in pairs)
                cells.append(
                    f"{what} {100 * own.count('1') / len(own):.1f} kept "
                    f"{wilson(kept, exact[what].count('1'))} +{gained}"
                )
            print(f"{name:20} {k:4}  " + "  ".join(cells), per_kind(inside, kinds))


def per_kind(of: str, kinds: str) -> str:
    """Percent by kind of item."""
    shares = []
    for index, kind in enumerate(KINDS):
        own = [bit for bit, k in zip(of, kinds, strict=True) if k == str(index)]
        shares.append(f"{kind} {100 * own.count('1') / max(1, len(own)):.1f}")
    return ", ".join(shares)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="the memory; filled if it is new")
    parser.add_argument("--part", choices=("tune", "report"), default="tune")
    parser.add_argument("--items", type=int, default=None)
    parser.add_argument("--minilm", type=Path, default=None, help="file of embeddings, .npy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    result = measure(args)
    show(result)
    if args.out:
        save(args, result)


def save(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the run with its hardware and its command."""
    cuda = args.device.startswith("cuda")
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    command = " ".join(["python -m benchmarks.prefilter", *sys.argv[1:]])
    for path, name in ((args.corpus, "CORPUS"), (args.store, "SCRATCH"), (args.minilm, "MINILM")):
        command = command.replace(str(path), name)
    run = {
        "command": command.replace(str(args.out), args.out.name),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores",
        "part": args.part,
        **result,
    }
    args.out.write_text(json.dumps({"runs": [*runs, run]}) + "\n")


if __name__ == "__main__":
    main()
