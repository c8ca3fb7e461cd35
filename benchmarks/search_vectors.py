"""How few bytes a token keep MaxSim's decisions? Compact search vectors against exact ones.

    python benchmarks/search_vectors.py --data DEV_FOLDER --items 100 \
        --out benchmarks/results/search_vectors.json

Planted facts and real questions in documents of 128K tokens. Two decisions an item: whether the
best-scored leaf touches the evidence ("top"), and whether the evidence is among what is selected
("selected"). Kept: of the items where exact MaxSim is right, the share where the compact form is,
with its 95 % interval (Wilson). "+" counts items where only the compact form is right. At the end
come the items of all runs in the results file together.
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
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import torch
from items import KINDS, facts, questions, read_jsonl
from numpy.typing import NDArray
from torch import Tensor
from untrained import Placed, found, place_all

from sharedllm import Document, SharedLLM
from sharedllm.memory.codes import VectorCodec
from sharedllm.search.passages import cite, windows
from sharedllm.search.scorers import Query, token_weights
from sharedllm.text.tokens import tokenize
from sharedllm.text.tree import cut

BLOCK = 16384
QUERY = 20  # tokens of the query whose time is taken
EXACT = "float16, exact"
# The best levels for a normal variable of deviation 1 (Max 1960), by bits; the negative ones too.
LEVELS = {
    2: (0.4528, 1.510),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733),
}

Similar = Callable[[Tensor], NDArray[np.float32]]  # query vectors (Q, hidden) -> (Q, T)


@dataclass
class Candidate:
    """A form of search vectors; `encode` takes a document and gives its `Similar`."""

    name: str
    size: float
    fit_s: float
    encode: Callable[[Document], Similar]
    encode_s: list[float] = field(default_factory=list)
    query_s: list[float] = field(default_factory=list)
    top: list[bool] = field(default_factory=list)
    sel: list[bool] = field(default_factory=list)


def products(vectors: Tensor, unpack: Callable[[Tensor], Tensor] = lambda x: x) -> Similar:
    """Similarities by unpacking blocks of `vectors` to float32."""

    def similar(query: Tensor) -> NDArray[np.float32]:
        out = np.empty((len(query), len(vectors)), np.float32)
        for at in range(0, len(vectors), BLOCK):
            out[:, at : at + BLOCK] = (query @ unpack(vectors[at : at + BLOCK]).float().T).numpy()
        return out

    return similar


def signs(sample: Tensor, size: int) -> Candidate:
    """The package's own form."""
    started = time.perf_counter()
    codec = VectorCodec.fit(sample, size=size)

    def encode(document: Document) -> Similar:
        codes = codec.encode(document.vectors)
        return lambda query: codec.similarities(query, codes).numpy()

    return Candidate(f"signs, {8 * size} bits", size, time.perf_counter() - started, encode)


def low_rank(sample: Tensor, dims: int, bits: int, base: Tensor | None = None) -> Candidate:
    """The first principal directions, turned at random, so many bits each.

    With `base` (vocabulary, hidden) only the difference from the token's row is coded.
    """
    started = time.perf_counter()
    x = sample.float()
    directions = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)[:, :dims]
    turn = torch.randn(dims, dims, generator=torch.Generator().manual_seed(0))
    if bits < 8:
        directions = directions @ torch.linalg.qr(turn).Q
    deviation = (x @ directions).square().mean(0).sqrt()
    levels = torch.tensor(LEVELS.get(bits, ()))
    edges = (levels[1:] + levels[:-1]) / 2

    def rounded(part: Tensor) -> Tensor:
        y = part @ directions / deviation
        if bits == 8:
            return (y * 127 / 4).round().clamp(-127, 127) * 4 / 127 * deviation
        sign = torch.where(y < 0, -1.0, 1.0)
        return sign * levels[torch.bucketize(y.abs(), edges)] * deviation

    def encode(document: Document) -> Similar:
        ids = torch.from_numpy(document.tokens.ids).long()
        parts = []
        for at in range(0, len(document), BLOCK):
            part = document.vectors[at : at + BLOCK].float()
            parts.append(rounded(part - base[ids[at : at + BLOCK]] if base is not None else part))
        codes = torch.cat(parts)

        def similar(query: Tensor) -> NDArray[np.float32]:
            out = products(codes)(query @ directions)
            if base is not None:
                out += (query @ base.T).numpy()[:, ids.numpy()]
            return out

        return similar

    name = f"{dims} directions x {bits} bits" + (", over a token table" if base is not None else "")
    return Candidate(name, dims * bits / 8, time.perf_counter() - started, encode)


def table_alone(base: Tensor) -> Candidate:
    """Every token's vector is its row of `base`: nothing is stored for a document."""

    def encode(document: Document) -> Similar:
        ids = document.tokens.ids
        return lambda query: (query @ base.T).numpy()[:, ids]

    return Candidate("token table alone", 0, 0.0, encode)


def product_quantiser(sample: Tensor, size: int, *, learned: bool) -> Candidate:
    """Product quantisation, 8 bits a part, after a random or a learned turn (OPQ)."""
    started = time.perf_counter()
    hidden = sample.shape[1]
    x = sample.float().numpy()
    turn = faiss.OPQMatrix(hidden, size) if learned else faiss.RandomRotationMatrix(hidden, hidden)
    if learned:
        turn.niter, turn.niter_pq, turn.niter_pq_0 = 8, 2, 8
        turn.train(x)
    else:
        turn.init(0)
    quantiser = faiss.ProductQuantizer(hidden, size, 8)
    quantiser.cp.niter = 12
    quantiser.train(turn.apply(x))

    def encode(document: Document) -> Similar:
        codes = quantiser.compute_codes(turn.apply(document.vectors.float().numpy()))

        def unpack(part: Tensor) -> Tensor:
            return torch.from_numpy(quantiser.decode(part.numpy()))

        at = products(torch.from_numpy(codes), unpack)
        return lambda query: at(torch.from_numpy(turn.apply(query.numpy())))

    name = f"{'OPQ' if learned else 'PQ'} {size} x 8 bits"
    return Candidate(name, size, time.perf_counter() - started, encode)


def candidates(llm: SharedLLM, books: list[str], which: str) -> list[Candidate]:
    """All forms; those that need training data get the whole vocabulary, read in random order."""
    out = [Candidate(EXACT, 1152, 0.0, lambda document: products(document.vectors))]
    started = time.perf_counter()
    sample = llm.encoder.lower.vocabulary()
    read_s = time.perf_counter() - started
    out += [signs(sample, size) for size in (64, 32)]
    for candidate in out[1:]:
        candidate.fit_s += read_s
    if which == "signs":
        return out
    started = time.perf_counter()
    ids = np.random.default_rng(1).permutation(llm.model.config.vocab_size).astype(np.int32)
    vocabulary = llm.encoder.lower.vectors(
        ids, [(c.start, c.end) for c in cut(len(ids), 512)]
    ).float()
    table = torch.empty_like(vocabulary)
    table[torch.from_numpy(ids).long()] = vocabulary
    text = tokenize(books[0][:200_000], llm.tokenizer).ids
    read = llm.encoder.lower.vectors(text, [(c.start, c.end) for c in cut(len(text), 1024)]).float()
    context = read - table[torch.from_numpy(text).long()]
    read_s = time.perf_counter() - started
    rest = [table_alone(table)]
    rest += [low_rank(context, d, b, table) for d, b in ((64, 8), (32, 8), (16, 8))]
    rest += [low_rank(vocabulary, d, b) for d, b in ((64, 8), (128, 4), (256, 2))]
    if which == "all":
        rest += [low_rank(vocabulary, 64, 4), low_rank(context, 64, 4, table)]
        rest += [product_quantiser(vocabulary, size, learned=False) for size in (64, 32)]
        rest += [product_quantiser(vocabulary[:16384], 64, learned=True)]
    for candidate in rest:
        candidate.fit_s += read_s
    return out + rest


@dataclass(frozen=True)
class Asked:
    """The questions about one document: their search vectors, and MaxSim's weight of each token."""

    group: Sequence[Placed]
    vectors: list[Tensor]
    weights: list[NDArray[np.float32]]

    @classmethod
    def of(cls, llm: SharedLLM, group: Sequence[Placed]) -> Asked:
        vectors, weights = [], []
        for placed in group:
            ids = tokenize(placed.item.question, llm.tokenizer).ids
            vectors.append(llm.encoder.lower.vectors(ids, [(0, len(ids))]).float())
            query = Query(text=placed.item.question, ids=ids, vectors=vectors[-1])
            weights.append(token_weights(query, [placed.document]))
        return cls(group, vectors, weights)


def decide(llm: SharedLLM, asked: Asked, similar: Similar) -> Iterator[tuple[bool, bool]]:
    """(best leaf touches the evidence, evidence is selected) for the items of one document."""
    document = asked.group[0].document
    forest = document.forest
    starts, ends = forest.start[forest.leaves], forest.end[forest.leaves]
    best = np.maximum.reduceat(similar(torch.cat(asked.vectors)), starts, axis=1)
    of_items = np.split(best, np.cumsum([len(w) for w in asked.weights])[:-1])
    for placed, weights, rows in zip(asked.group, asked.weights, of_items, strict=True):
        scores = (weights @ rows).astype(np.float32)
        top = int(scores.argmax())
        first, last = document.tokens.characters(int(starts[top]), int(ends[top]))
        chosen = llm.select(placed.item.question, document, scores=[forest.from_leaves(scores)])
        cited = cite(document, list(windows(document, chosen.nodes)))
        yield (
            any(first < end and start < last for start, end in placed.spans),
            found(placed, [(c.char_start, c.char_end) for c in cited]),
        )


def wilson(kept: int, of: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z2, share = 1.96**2, kept / of
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = math.sqrt(z2) / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return middle - half, min(1.0, middle + half)


def compared(exact: Sequence[bool], compact: Sequence[bool], kinds: Sequence[str]) -> dict:
    """How many of exact MaxSim's right decisions are kept, in all and by kind."""
    out = {}
    for kind in ("all", *KINDS):
        pairs = [
            (e, c) for e, c, k in zip(exact, compact, kinds, strict=True) if kind in ("all", k)
        ]
        right = sum(e for e, _ in pairs)
        kept = sum(e and c for e, c in pairs)
        gained = sum(c and not e for e, c in pairs)
        out[kind] = {"right": right, "kept": kept, "gained": gained}
    low, high = wilson(out["all"]["kept"], max(1, out["all"]["right"]))
    return {
        **out,
        "share": out["all"]["kept"] / max(1, out["all"]["right"]),
        "interval": [low, high],
    }


def seconds(similar: Similar, query: Tensor) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    similar(query)
    return time.perf_counter() - started


def results(forms: Sequence[Candidate], kinds: Sequence[str]) -> list[dict]:
    """One row a form, the exact one first."""
    exact = forms[0]
    return [
        {
            "form": form.name,
            "bytes_a_token": form.size,
            "fit_s": round(form.fit_s, 2),
            "encode_s_a_document": round(float(np.median(form.encode_s)), 3),
            "query_s": round(float(np.median(form.query_s)), 4),
            "top": compared(exact.top, form.top, kinds),
            "selected": compared(exact.sel, form.sel, kinds),
            "items": {
                "top": "".join(map(str, map(int, form.top))),
                "selected": "".join(map(str, map(int, form.sel))),
            },
        }
        for form in forms
    ]


def pooled(path: Path) -> list[dict]:
    """The rows of all runs in a results file over their items together."""
    runs = json.loads(path.read_text())["runs"]
    shared = set.intersection(*({row["form"] for row in run["rows"]} for run in runs))
    kinds = [KINDS[int(k)] for run in runs for k in run["kinds"]]
    forms = []
    for row in (row for row in runs[-1]["rows"] if row["form"] in shared):
        form = Candidate(row["form"], row["bytes_a_token"], row["fit_s"], lambda document: None)
        for run in runs:
            of_run = next(r for r in run["rows"] if r["form"] == form.name)
            form.encode_s.append(of_run["encode_s_a_document"])
            form.query_s.append(of_run["query_s"])
            form.top += [c == "1" for c in of_run["items"]["top"]]
            form.sel += [c == "1" for c in of_run["items"]["selected"]]
        forms.append(form)
    return results(forms, kinds)


def show(rows: Sequence[dict]) -> None:
    print(f"{'form':44} {'bytes':>5}  {'top kept':>28}  {'selected kept':>28}  encode  query")
    for row in rows:
        cells = []
        for name in ("top", "selected"):
            a, (low, high) = row[name]["all"], row[name]["interval"]
            share = f"{100 * row[name]['share']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            cells.append(f"{a['kept']}/{a['right']} +{a['gained']} {share}")
        print(
            f"{row['form']:44} {row['bytes_a_token']:5.0f}  {cells[0]:>28}  {cells[1]:>28}  "
            f"{row['encode_s_a_document']:5.2f}s  {row['query_s']:.3f}s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", type=int, default=100, help="of each kind")
    parser.add_argument("--forms", choices=("signs", "most", "all"), default="most")
    parser.add_argument("--per-document", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    llm = SharedLLM.from_pretrained(device="cpu", dtype="float32")
    books = [row["text"] for row in read_jsonl(args.data / "books.jsonl.xz")]
    items = facts("literal", args.items, args.seed) + facts("reworded", args.items, args.seed + 1)
    items += questions(args.data / "qa.jsonl.xz", args.items, args.seed, "report")
    forms, kinds = candidates(llm, books, args.forms), []
    settings = SimpleNamespace(seed=args.seed, per_document=args.per_document, tokens=args.tokens)
    placed = place_all(llm, items, books, settings)
    for _, same in groupby(placed, key=lambda p: p.document.id):
        group = list(same)
        kinds += [p.item.kind for p in group]
        asked = Asked.of(llm, group)
        question = group[0].document.vectors[:QUERY].float()
        for form in forms:
            started = time.perf_counter()
            similar = form.encode(group[0].document)
            form.encode_s.append(time.perf_counter() - started)
            form.query_s.append(min(seconds(similar, question) for _ in range(3)))
            for top, sel in decide(llm, asked, similar):
                form.top.append(top)
                form.sel.append(sel)
        rows = results(forms, kinds)
        if args.out:
            save(args, rows, kinds)
    show(rows)
    if args.out:
        print(f"all runs in {args.out.name}:")
        show(pooled(args.out))


def save(args: argparse.Namespace, rows: list[dict], kinds: Sequence[str]) -> None:
    """Write the rows with the hardware, the load and the command."""
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    command = " ".join(["python benchmarks/search_vectors.py", *sys.argv[1:]])
    command = command.replace(str(args.data), "DATA").replace(str(args.out), args.out.name)
    run = {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{cpu_name()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 1),
        "seed": args.seed,
        "tokens": args.tokens,
        "torch": torch.__version__,
        "kinds": "".join(str(KINDS.index(kind)) for kind in kinds),
        "rows": rows,
    }
    runs = [r for r in runs if r["command"] != command]
    args.out.write_text(json.dumps({"runs": [*runs, run]}, indent=1))


def cpu_name() -> str:
    """The processor's public name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0]


if __name__ == "__main__":
    main()
