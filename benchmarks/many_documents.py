"""Does the evidence get through the prefilter of a large memory? By kind of question.

    python -m benchmarks.quality.corpus --data DEV --distractors TRAIN --out CORPUS
    python -m benchmarks.many_documents --corpus CORPUS --store SCRATCH --out FILE.json

The memory holds the first `--documents` of the corpus; all questions are about the first 2,000.
"Found": a chunk with the evidence is among the best 32, 64 or 128 of a ranking. Rankings: BM25
(words); the question's words and words near them (near words); both as the package joins them
(ours); the mean of a chunk's search vectors (mean); with `--centroids K`, the sum over query tokens
of the best of the chunk's centroids of search vectors (PLAID's first stages); with `--minilm FILE`,
MiniLM of a chunk's first 256 tokens. `--half 0` has the questions to choose by, `--speed` times the
package instead.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality.corpus import KINDS_OF_ITEMS, Text, read
from benchmarks.quality.halves import REPORT
from benchmarks.quality.search.table import paired
from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.encoding.lower_model import unit
from sharedllm.memory.prefilter import by_near_words, by_words, candidates_of
from sharedllm.memory.retrieval import codec_of
from sharedllm.memory.tables import vectors_of
from sharedllm.memory.word_index import Opened
from sharedllm.search.query import make_query

KS = (32, 64, 128)
DEEPEST = max(KS)
SHIFT = 60  # of reciprocal-rank fusion; the customary value
AT_ONCE = 250  # documents
BITS = 256  # of a code that centroids are made of; all weigh alike
SAMPLE, ROUNDS = 64, 8  # tokens a centroid, and rounds, of k-means
Rows = NDArray[np.float32]
Ranking = Callable[[str], list[int]]  # a question -> ranks of chunks, best first


def filled(args: argparse.Namespace, texts: Sequence[Text], llm: SharedLLM) -> TreeMemory:
    """The memory with all documents, and no others."""
    memory = TreeMemory(args.store, llm=llm)
    names = {text.id for text in texts}
    memory.delete([d.id for d in memory.list() if d.id not in names])
    given = [MemoryDocument(id=t.id, text=t.text, title=f"text {t.id}") for t in texts]
    new = [d for d in given if d.id not in memory]
    for at in range(0, len(new), AT_ONCE):
        memory.add(new[at : at + AT_ONCE])
    return memory


class Chunks:
    """What rankings and judgements need of all chunks."""

    def __init__(self, memory: TreeMemory) -> None:
        with memory._database.read() as connection:
            self.rows = connection.execute(
                "SELECT p.chunk, p.char_start, p.char_end, d.id FROM placed p "
                "JOIN documents d ON d.text = p.text ORDER BY p.chunk"
            ).fetchall()
            codec = codec_of(memory._database, memory._manifest, memory.encoder)
            if codec is None:
                raise ValueError("the memory's search vectors must be compact")
            self.codec = codec
            self.ids = list(dict.fromkeys(row[0] for row in self.rows))
            self.rank = {chunk: rank for rank, chunk in enumerate(self.ids)}
            self._stored = {
                chunk: data
                for at in range(0, len(self.ids), AT_ONCE)
                for chunk, data in vectors_of(connection, self.ids[at : at + AT_ONCE]).items()
            }

    def codes(self) -> Iterator[NDArray[np.uint8]]:
        """The codes of each chunk; (tokens, size)."""
        for chunk in self.ids:
            yield np.frombuffer(self._stored[chunk], np.uint8).reshape(-1, self.codec.size)

    def gold(self, text: Text) -> set[int]:
        """Ranks of the chunks that touch the evidence of an item."""
        return {
            self.rank[chunk]
            for chunk, first, last, name in self.rows
            for start, end in text.spans
            if name == text.id and first < end and start < last
        }


# -- rankings --------------------------------------------------------------------------------------


def best(scores: NDArray[Any]) -> list[int]:
    return [int(at) for at in np.argsort(-scores, kind="stable")[:DEEPEST]]


def fused(words: Sequence[int], other: Sequence[int]) -> list[int]:
    """Reciprocal-rank fusion; words count twice, as the package did it with embeddings."""
    scores: dict[int, float] = defaultdict(float)
    for ranking, weight in ((words, 2), (other, 1)):
        for rank, chunk in enumerate(ranking, start=1):
            scores[chunk] += weight / (SHIFT + rank)
    return sorted(scores, key=lambda chunk: -scores[chunk])


def behind(words: Sequence[int], other: Sequence[int]) -> list[int]:
    """A quarter by words, then the other ranking, as the package joins near words."""
    return list(dict.fromkeys([*words[: DEEPEST // 4], *other, *words]))


class Mean:
    """The cosine of the means of search vectors."""

    def __init__(self, chunks: Chunks, llm: SharedLLM) -> None:
        self._llm, self._codec = llm, chunks.codec
        levels = self._codec.levels.numpy()
        rows = [_signs(codes, None).mean(0) * levels for codes in chunks.codes()]
        self._rows = unit(torch.from_numpy(np.stack(rows))).numpy()

    def __call__(self, question: str) -> list[int]:
        query = make_query(question, self._llm.tokenizer, self._llm.encoder.lower)
        return best(self._rows @ (query.vectors.mean(0) @ self._codec.projection).numpy())


class Centroids:
    """The sum over query tokens of the best similarity with a centroid of the chunk's tokens.

    score(chunk) = sum of idf^2 of the nearest centroid * (best similarity - its mean over chunks)
    """

    def __init__(self, chunks: Chunks, llm: SharedLLM, count: int) -> None:
        self._llm, self._codec = llm, chunks.codec
        codes = list(chunks.codes())
        sample = np.random.default_rng(0).choice(len(codes), min(len(codes), 1000), replace=False)
        means = faiss.Kmeans(BITS, count, niter=ROUNDS, seed=0, max_points_per_centroid=SAMPLE)
        means.train(np.concatenate([_signs(codes[at]) for at in sample]))
        held = []
        sums, sizes = np.zeros((count, 8 * self._codec.size), np.float32), np.zeros(count)
        for own in codes:
            nearest = means.index.search(_signs(own), 1)[1][:, 0]
            held.append(np.unique(nearest))
            np.add.at(sums, nearest, _signs(own, None))
            sizes += np.bincount(nearest, minlength=count)
        self._vectors = sums / np.maximum(sizes, 1)[:, None] * self._codec.levels.numpy()
        self._held, self._starts = np.concatenate(held), np.cumsum([0, *map(len, held)])[:-1]
        chunks_with = np.bincount(self._held, minlength=count)
        self._idf = np.log1p(len(codes) / (1 + chunks_with))

    def __call__(self, question: str) -> list[int]:
        lower = self._llm.encoder.lower
        vectors = make_query(question, self._llm.tokenizer, lower).vectors
        if lower.query_projection is not None:
            vectors = unit(vectors @ lower.query_projection.T)
        near = (vectors @ self._codec.projection).numpy() @ self._vectors.T
        weights = self._idf[near.argmax(1)] ** 2
        top = np.maximum.reduceat(near[:, self._held], self._starts, axis=1)
        return best(weights @ (top - top.mean(1, keepdims=True)))


def _signs(codes: NDArray[np.uint8], bits: int | None = BITS) -> Rows:
    return 2 * np.unpackbits(codes, axis=1, bitorder="little")[:, :bits].astype(np.float32) - 1


class MiniLMs:
    """MiniLM's embeddings of the first 256 tokens of all chunks, kept in a file."""

    def __init__(self, chunks: Chunks, texts: Sequence[Text], path: Path) -> None:
        from sharedllm.hf.minilm import MiniLM

        self._embed = MiniLM()
        by_id = {text.id: text.text for text in texts}
        bodies = {row[0]: by_id[row[3]][row[1] : row[2]] for row in chunks.rows}
        if not path.exists():
            np.save(path, self._rows([bodies[chunk] for chunk in chunks.ids]))
        self._stored = np.load(path).astype(np.float32)

    def _rows(self, texts: list[str]) -> NDArray[np.float16]:
        with torch.autocast("cpu", torch.bfloat16):
            return np.asarray(self._embed(texts), np.float16)

    def __call__(self, question: str) -> list[int]:
        return best(self._stored @ self._rows([question])[0].astype(np.float32))


def rankings(
    args: argparse.Namespace, memory: TreeMemory, chunks: Chunks, texts: Sequence[Text]
) -> dict[str, Ranking]:
    llm = SharedLLM(memory.encoder)
    near = memory.encoder.near_words

    def stored(found: Sequence[tuple[int, int]]) -> list[int]:
        return [chunks.rank[chunk] for _, chunk in found if chunk in chunks.rank]

    @functools.lru_cache(1)
    def words(question: str) -> list[int]:
        with memory._database.read() as connection:
            return stored(by_words(Opened([connection]), question, DEEPEST))

    def near_words(question: str) -> list[int]:
        with memory._database.read() as connection:
            return stored(by_near_words(Opened([connection]), question, near, DEEPEST))

    def ours(question: str) -> list[int]:
        with memory._database.read() as connection:
            return stored(candidates_of(Opened([connection]), question, near, DEEPEST))

    out: dict[str, Ranking] = {"words": words, "near words": near_words, "ours": ours}
    mean = Mean(chunks, llm)
    out |= {"mean": mean, "words + mean": lambda q: fused(words(q), mean(q))}
    if args.minilm:
        minilm = MiniLMs(chunks, texts, args.minilm)
        out |= {"MiniLM": minilm, "words + MiniLM": lambda q: fused(words(q), minilm(q))}
    if args.centroids:
        centroids = Centroids(chunks, llm, args.centroids)
        out["centroids"] = centroids
        out["words + centroids"] = lambda q: behind(words(q), centroids(q))
    return out


# -- running ---------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, memory: TreeMemory, texts: Sequence[Text]) -> dict[str, Any]:
    """For each kind and ranking, the depth at which evidence is first found (0: it is not)."""
    chunks = Chunks(memory)
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    ranked = rankings(args, memory, chunks, texts)
    with torch.inference_mode():
        for text in texts:
            if text.item is None or text.half != args.half:
                continue
            gold = chunks.gold(text)
            for name, ranking in ranked.items():
                at = enumerate(ranking(text.item.question)[:DEEPEST], start=1)
                depth = next((rank for rank, chunk in at if chunk in gold), 0)
                found[text.item.kind][name].append(depth)
    return {"half": args.half, "documents": len(texts), "chunks": len(chunks.ids), "found": found}


def show(result: dict[str, Any]) -> None:
    """Print percentages at 32 / 64 / 128, and the difference from words at 128."""
    found = dict(result["found"])
    names = list(next(iter(found.values())))
    topics = [kind for kind in KINDS_OF_ITEMS[-3:] if kind in found]
    for title, kinds in (("all topics", topics), ("all", list(found))):
        found[title] = {name: [d for kind in kinds for d in found[kind][name]] for name in names}
    print("| kind | n | " + " | ".join(names) + " | ours - words |\n|" + "---|" * (len(names) + 3))
    for kind, depths in found.items():
        cells = [
            " / ".join(
                f"{100 * statistics.fmean(0 < d <= k for d in depths[name]):.1f}" for k in KS
            )
            for name in names
        ]
        inside = {name: [100.0 * (d > 0) for d in depths[name]] for name in ("ours", "words")}
        mean, half = paired(inside["ours"], inside["words"])
        row = [kind, str(len(depths["words"])), *cells, f"{mean:+.1f} ± {half:.1f}"]
        print("| " + " | ".join(row) + " |")


def speed(args: argparse.Namespace, memory: TreeMemory, texts: Sequence[Text]) -> dict[str, Any]:
    """Seconds of a question, wall and processor: the prefilter alone, and a whole search."""
    asked = [t.item.question for t in texts if t.item and t.half == args.half][: args.questions]

    def candidates(question: str) -> None:
        with memory._database.read() as connection:
            candidates_of(Opened([connection]), question, memory.encoder.near_words, DEEPEST)

    out: dict[str, Any] = {"documents": len(texts), "questions": len(asked)}
    before = _resident()
    steps: dict[str, Callable[[str], Any]] = {"prefilter": candidates, "search": memory.search}
    for name, step in steps.items():
        step(asked[0])
        spent = []
        for question in asked:
            wall, own = time.perf_counter(), time.process_time()
            step(question)
            spent.append((time.perf_counter() - wall, time.process_time() - own))
        ends = [
            sorted(column)[math.ceil(0.95 * len(column)) - 1] for column in zip(*spent, strict=True)
        ]
        medians = [statistics.median(column) for column in zip(*spent, strict=True)]
        out[name] = {"median wall, cpu": medians, "95 %": ends}
    out["MB added by searches"] = _resident() - before
    return out


def _resident() -> int:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() >> 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="the memory; filled if it is new")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--half", type=int, choices=(0, 1), default=REPORT)
    parser.add_argument("--centroids", type=int, default=0, help="number of centroids")
    parser.add_argument("--minilm", type=Path, default=None, help="file of embeddings, .npy")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--questions", type=int, default=40, help="that are timed")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    texts = read(args.corpus, args.documents)
    memory = filled(args, texts, SharedLLM.from_pretrained(device="cpu"))
    if args.speed:
        result = speed(args, memory, texts)
        print(json.dumps(result, indent=1))
    else:
        result = measure(args, memory, texts)
        show(result)
    if args.out:
        args.out.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
