"""Arrays of a memory in files of their own, or as BLOBs of SQLite rows: the same work in both.

    python benchmarks/memory_form.py --form files=CHECKOUT --form rows=CHECKOUT --folder SCRATCH \
        --out FILE.json

Each form is a checkout of the project. Texts are random words and what would be encoded is random
numbers of the right shapes, so that what is timed is the memory and not the model: an upper bound
of what the form costs. Phases run in fresh processes, the forms alternating:

add     documents of about 1,000 tokens; then ten single ones
search  40 questions in a memory of them
kv      one document of 128K tokens, keep="coarse" and "all": written, then every node read once
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORDS = 20_000  # that texts are made of
AT_ONCE = 200


def words(seed: int, count: int) -> str:
    draw = random.Random(seed)
    # frequent and rare words, as in a language
    return " ".join(f"w{int(WORDS ** draw.random())}x" for _ in range(count))


def without_model() -> dict[str, float]:
    """Let numbers of the right shapes stand for what the model would give; times of writing."""
    import numpy as np
    import torch

    from sharedllm.injection import NodeKV
    from sharedllm.memory import writer
    from sharedllm.memory.vectors import VectorCodec
    from sharedllm.tokens import Tokens
    from sharedllm.memory.database import Database
    from sharedllm.memory.encoding import PieceEncoder

    spent = {"write_s": 0.0}

    def nodes(self: Any, ids: Any, spans: Any) -> Any:
        lower, out, made = self._llm.lower, {}, {}
        shape = self._llm.shape
        for start, end in spans:
            for requests in self._levels(end - start).groups().values():
                for r in requests:
                    from sharedllm.compression import kept_count

                    k = kept_count(r.end - r.start, r.ratio)
                    if k not in made:
                        x = torch.randn(lower.layers, shape.kv_heads, k, shape.head_dim)
                        made[k] = NodeKV(keys=x, values=x)
                    from dataclasses import replace

                    out[replace(r, start=r.start + start, end=r.end + start)] = made[k]
        return out

    own = PieceEncoder.encode

    def encode(self: Any, pieces: Any, done: Any = None) -> Any:
        hidden = self._llm.lower.vocabulary().shape[1]
        if "codes" not in drawn:
            drawn["codes"] = torch.randint(0, 256, (40_000, 64), dtype=torch.uint8)
            drawn["vectors"] = torch.randn(40_000, hidden)
        self._llm.lower.vectors = lambda ids, spans, done=None: drawn["vectors"][: len(ids)]
        return own(self, pieces, done)

    def codes(self: Any, vectors: Any) -> Any:
        first = random.randrange(20_000)
        return drawn["codes"][first : first + len(vectors)]

    def tokens(text: str, tokenizer: Any) -> Any:
        """A token a word: tokenising is no part of what is compared."""
        lengths = np.asarray([len(word) for word in text.split(" ")], np.int32)
        ends = np.cumsum(lengths + 1) - 1
        spans = np.stack([ends - lengths, ends], axis=1).astype(np.int32)
        return Tokens(ids=(lengths * 7919 + ends.astype(np.int32)) % 40_000, spans=spans)

    drawn: dict[str, Any] = {}
    VectorCodec.encode = codes  # type: ignore[method-assign]
    writer.tokenize = tokens  # type: ignore[attr-defined]
    PieceEncoder._nodes, PieceEncoder.encode = nodes, encode  # type: ignore[method-assign]
    write = Database.write

    @contextmanager
    def timed(self: Any) -> Any:
        started = time.perf_counter()
        with write(self) as connection:
            yield connection
        spent["write_s"] += time.perf_counter() - started

    Database.write = timed  # type: ignore[method-assign]
    return spent


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def child_add(store: Path, count: int) -> dict[str, Any]:
    from sharedllm import MemoryDocument, SharedLLM, TreeMemory

    spent = without_model()
    memory = TreeMemory(store, llm=SharedLLM.from_pretrained())
    memory.llm.lower.vocabulary()
    texts = [words(i, 1_000) for i in range(count)]
    started, at = time.perf_counter(), time.process_time()
    for at_document in range(0, count, AT_ONCE):
        memory.add(
            [
                MemoryDocument(id=str(i), text=texts[i])
                for i in range(at_document, min(count, at_document + AT_ONCE))
            ]
        )
    out = {
        "add_s": time.perf_counter() - started,
        "processor_s": time.process_time() - at,
        "tokens": sum(d.tokens for d in memory.list()),
        **spent,
    }
    more = []
    for index in range(10):
        document = MemoryDocument(id=f"one {index}", text=words(-1 - index, 1_000))
        started = time.perf_counter()
        memory.add(document)
        more.append(time.perf_counter() - started)
    memory.delete([f"one {index}" for index in range(10)])
    memory.close()
    return out | {"one_more_s": statistics.median(more), "bytes": size(store)}


def child_search(store: Path, count: int) -> dict[str, Any]:
    from sharedllm import SharedLLM, TreeMemory

    llm = SharedLLM.from_pretrained()
    llm.lower.vocabulary()
    started = time.perf_counter()
    memory = TreeMemory(store, llm=llm, create=False)
    opened = time.perf_counter() - started
    seconds, processor = [], []
    for index in range(40):
        query = words(10_000_000 + index, 8)
        at = time.perf_counter(), time.process_time()
        memory.search(query, k=8)
        seconds.append(time.perf_counter() - at[0])
        processor.append(time.process_time() - at[1])
    return {
        "open_s": opened,
        "first_s": seconds[0],
        "median_s": statistics.median(seconds[1:]),
        "least_s": min(seconds[1:]),
        "median_processor_s": statistics.median(processor[1:]),
        "total_processor_s": sum(processor),
    }


def child_kv(store: Path, count: int, keep: str, form: str) -> dict[str, Any]:
    from sharedllm import MemoryDocument, SharedLLM, TreeMemory
    from sharedllm.memory import kv

    spent = without_model()
    llm = SharedLLM.from_pretrained()
    memory = TreeMemory(store, llm=llm, keep=keep, kv=form)
    llm.lower.vocabulary()
    text = words(7, count)
    started = time.perf_counter()
    memory.add(MemoryDocument(id="long", text=text))
    out = {"add_s": time.perf_counter() - started, **spent, "bytes": size(store)}
    out["tokens"] = memory.list()[0].tokens
    memory.close()
    memory = TreeMemory(store, llm=llm)
    runs = memory.documents_for("ba re", llm)
    read, bytes_read = 0, 0
    for again in ("first", "again"):
        wanted = []
        for document in runs:
            document.nodes.limit = 0
            for at, (_, start, end) in enumerate(document.nodes._chunks):
                levels = kv.Levels.of(end - start, llm.tree, keep)
                requests = levels.coarse + (levels.fine if keep == "all" else ())
                from dataclasses import replace

                wanted += [
                    (document, replace(r, start=r.start + start, end=r.end + start))
                    for r in requests
                ]
        random.Random(1).shuffle(wanted)
        wanted = wanted[:2000]
        started = time.perf_counter()
        for document, request in wanted:
            got = document.nodes.get(request)
            read += 1
            bytes_read += got.keys.nbytes * 2
        out[f"read_{again}_s"] = time.perf_counter() - started
    return out | {"read": read, "read_mib": bytes_read / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", action="append", default=[])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=["add", "search", "kv"])
    parser.add_argument("--child", nargs="+")
    args = parser.parse_args()
    if args.child:
        kind, store, count, *rest = args.child
        print(json.dumps(globals()[f"child_{kind}"](Path(store), int(count), *rest)))
        return
    forms = dict(one.split("=") for one in args.form)
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    plan: list[tuple[str, ...]] = []
    for number in range(args.rounds):
        plan += [("add", str(number))] if "add" in args.only else []
    plan += [("search", str(n)) for n in range(2 * args.rounds)] if "search" in args.only else []
    if "kv" in args.only:
        plan += [("kv", str(n), k, f) for n in range(args.rounds) for k, f in
                 (("coarse", "bf16"), ("all", "bf16"), ("all", "int8"))]
    for kind, number, *rest in plan:
        order = list(forms) if int(number) % 2 == 0 else list(forms)[::-1]
        for form in order:
            store = args.folder / f"{form}-{'kv' if kind == 'kv' else args.documents}"
            if kind != "search":
                shutil.rmtree(store, ignore_errors=True)
            count = 131_072 if kind == "kv" else args.documents
            variables = dict(v.split(":") for v in form.split("/")[1:])
            done = subprocess.run(
                [sys.executable, __file__, "--child", kind, str(store), str(count), *rest],
                env={**os.environ, **variables, "PYTHONPATH": forms[form], "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE, text=True, check=True,
            )
            got = json.loads(done.stdout.splitlines()[-1])
            got = {k: round(v, 4) if isinstance(v, float) else v for k, v in got.items()}
            row = {"kind": kind, "round": number, "with": rest, "form": form,
                   "load": round(os.getloadavg()[0], 1), **got}
            results.append(row)
            args.out.write_text(json.dumps(results, indent=1) + "\n")
            print(row, flush=True)
            if kind == "kv":
                shutil.rmtree(store, ignore_errors=True)


if __name__ == "__main__":
    main()
