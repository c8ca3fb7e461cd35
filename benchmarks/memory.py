"""A tree memory of 10, 1,000 and 10,000 documents and of one of 1M tokens, beside plain FAISS.

    python -m benchmarks.memory --corpus corpus.jsonl.xz --folder SCRATCH --out FILE.json

Phases, each in a fresh process: "grow" adds documents and measures what one more costs, "ask" opens
the memory, searches and answers, "append" lengthens the long document, which is the first 1,000
documents in one. The folder is kept: what it holds already is not encoded again. "forms" makes a
memory of each form of `keep` with documents of 1,024 and 16,384 tokens, and measures their bytes,
and the time of writing and reading what was encoded. `--only` runs some of the phases. What it was
compared with stands in docs/experiments.md, 13.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cpu import hardware
from benchmarks.quality.corpus import Text, read
from benchmarks.quality.items import is_right
from benchmarks.speed.leaves import forget_file
from sharedllm import loaded_for
from sharedllm.memory.manifest import KEEPS

SIZES = (10, 1_000, 10_000)
LONG = 1_000  # documents that are joined into one of about 1M tokens
BETWEEN = "\n\n"
EXTRA = 10  # single documents whose addition is timed
QUESTIONS, ANSWERS = 40, 10
AT_ONCE = 200  # documents that one add() is given
FORM_TOKENS = (1024, 16384)  # of the documents in each form
TIMES = 5  # that a reading is repeated


def rss_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


def sizes(folder: Path) -> dict[str, int]:
    """Bytes on disk."""
    own = sum(path.stat().st_size for path in folder.glob("memory.sqlite*"))
    return {"sqlite": own}


def parts(folder: Path) -> dict[str, int]:
    """Bytes of what stands in the SQLite file, by kind."""
    import sqlite3

    kinds = {
        "texts": "SELECT sum(length(body)) FROM texts",
        "tokens": "SELECT sum(length(layout)) FROM chunks",
        "words": "SELECT sum(length(block)) FROM words_data",
        "words' text": "SELECT sum(length(c0)) FROM words_content",
        "search vectors": "SELECT sum(length(data)) FROM vectors",
        "KV": "SELECT sum(length(data)) FROM kv",
    }
    connection = sqlite3.connect(f"file:{folder / 'memory.sqlite'}?mode=ro", uri=True)
    out = {name: int(connection.execute(sql).fetchone()[0] or 0) for name, sql in kinds.items()}
    connection.close()
    return out


def joined(texts: Sequence[Text]) -> str:
    return BETWEEN.join(text.text for text in texts)


def asked(texts: Sequence[Text], *, long: bool) -> list[dict[str, Any]]:
    """Questions to report, with the document and the spans of their evidence."""
    out, at = [], 0
    for text in texts:
        if text.item and text.part == "report":
            spans = [(at + a, at + b) if long else (a, b) for a, b in text.spans]
            document = "long" if long else text.id
            out.append({"item": text.item, "document": document, "spans": spans})
        at += len(text.text) + len(BETWEEN)
    return out


# -- what runs in a fresh process ----------------------------------------------------------------


def child_grow(args: argparse.Namespace) -> dict[str, Any]:
    """Add documents up to `--size`, then time single ones."""
    from sharedllm import MemoryDocument, TreeMemory

    texts = read(args.corpus, args.size)
    memory = TreeMemory(args.store)
    loaded_for(memory).encoder.lower.vocabulary()  # loaded and warm: what is timed is adding
    if args.long:
        new = [MemoryDocument(id="long", text=joined(texts), title="long")]
    else:
        new = [MemoryDocument(id=t.id, text=t.text, title=f"text {t.id}") for t in texts]
    new = [document for document in new if document.id not in memory]
    started = time.perf_counter()
    for at in range(0, len(new), AT_ONCE):
        memory.add(new[at : at + AT_ONCE])
    seconds = time.perf_counter() - started
    held = memory.list()
    out = {
        "documents": len(held),
        "tokens": sum(document.tokens for document in held),
        "chunks": sum(document.chunks for document in held),
        "added": len(new),
        "added_tokens": sum(d.tokens for d in held if d.id in {n.id for n in new}),
        "add_s": seconds,
        "peak_rss_mib": rss_mib(),
    }
    memory.close()
    out |= {"bytes": sizes(args.store), "parts": parts(args.store)}
    memory = TreeMemory(args.store, llm=loaded_for(memory))
    return out | {"one_more_s": one_more(memory, texts)}


def one_more(memory: Any, texts: Sequence[Text]) -> list[float]:
    """Seconds of adding documents of about 1,000 tokens one by one; they are deleted again."""
    from sharedllm import MemoryDocument

    out = []
    for index, text in enumerate(texts[:EXTRA]):
        turned = " ".join(reversed(text.text[:4000].split(" ")))  # as long, and new
        document = MemoryDocument(id=f"extra {index}", text=turned)
        started = time.perf_counter()
        memory.add(document)
        out.append(time.perf_counter() - started)
    memory.delete([f"extra {index}" for index in range(min(EXTRA, len(texts)))])
    return out


def child_ask(args: argparse.Namespace) -> dict[str, Any]:
    """Open, search, answer."""
    texts = read(args.corpus, max(args.size, LONG))
    questions = asked(texts, long=args.long)[:QUESTIONS]
    del texts
    started = time.perf_counter()
    from sharedllm import TreeMemory

    imported = time.perf_counter()
    memory = TreeMemory(args.store, create=False)
    held = len(memory)
    opened = time.perf_counter()
    llm = loaded_for(memory)
    llm.encoder.lower.vocabulary()
    out = {"documents": held, "import_s": imported - started, "open_s": opened - imported}
    out |= {"model_s": time.perf_counter() - opened, "rss_mib": [rss_mib()]}
    search_s, processor_s, found = [], [], []
    for question in questions:
        at = time.perf_counter(), time.process_time()
        hits = memory.search(question["item"].question, k=8)
        search_s.append(time.perf_counter() - at[0])
        processor_s.append(time.process_time() - at[1])
        if question["document"] in memory:  # a small memory has few of those that are asked about
            found.append(any(_touches(hit, question) for hit in hits))
        out["rss_mib"].append(round(rss_mib(), 1))
    started = time.perf_counter()
    memory.search(questions[0]["item"].question, k=8)
    out["same_again_s"] = time.perf_counter() - started
    answer_s, answer_processor_s, right = [], [], []
    for question in questions[-ANSWERS:]:
        at = time.perf_counter(), time.process_time()
        answer = llm.answer(question["item"].question, memory, max_new_tokens=32)
        answer_s.append(time.perf_counter() - at[0])
        answer_processor_s.append(time.process_time() - at[1])
        if question["document"] in memory:
            right.append(is_right(answer.text, question["item"].answers))
    return out | {
        "questions": len(questions),
        "search_s": search_s,
        "search_processor_s": processor_s,
        "found": found,
        "answer_s": answer_s,
        "answer_processor_s": answer_processor_s,
        "right": right,
        "rss_after_answers_mib": rss_mib(),
    }


def _touches(hit: Any, question: dict[str, Any]) -> bool:
    return hit.id == question["document"] and any(
        hit.char_start < end and start < hit.char_end for start, end in question["spans"]
    )


def child_append(args: argparse.Namespace) -> dict[str, Any]:
    """Lengthen the long document by two documents; how much of it is encoded?"""
    from sharedllm import MemoryDocument, TreeMemory
    from sharedllm.memory.ingest import Ingest

    texts = read(args.corpus, args.size + 2)
    memory = TreeMemory(args.store)
    loaded_for(memory).encoder.lower.vocabulary()
    encoded: list[int] = []
    own = Ingest._encode

    def counted(self: Any, pieces: Any) -> Any:
        encoded.extend(map(len, pieces))
        return own(self, pieces)

    Ingest._encode = counted  # type: ignore[method-assign]
    at = time.perf_counter(), time.process_time()
    memory.update(MemoryDocument(id="long", text=joined(texts), title="long"))
    seconds, processor = time.perf_counter() - at[0], time.process_time() - at[1]
    tokens = memory.list()[0].tokens
    memory.update(MemoryDocument(id="long", text=joined(texts[:-2]), title="long"))
    return {
        "append_s": seconds,
        "append_processor_s": processor,
        "encoded_chunks": len(encoded),
        "encoded_tokens": sum(encoded),
        "tokens": tokens,
    }


def child_forms(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes of one form of `keep`, and the time of writing and reading it."""
    from sharedllm import MemoryDocument, TreeMemory
    from sharedllm.text.tokens import tokenize

    if args.store.exists():  # so that adding is measured
        shutil.rmtree(args.store)
    memory = TreeMemory(args.store, keep=args.keep)
    llm = loaded_for(memory)
    llm.encoder.lower.vocabulary()  # loaded and warm
    words = joined(read(args.corpus, 40))
    ends = tokenize(words, llm.tokenizer).spans[:, 1]
    out: dict[str, Any] = {}
    for at, count in enumerate(FORM_TOKENS):
        first = sum(FORM_TOKENS[:at])
        text = words[int(ends[first]) : int(ends[first + count])]
        started = time.perf_counter()
        memory.add(MemoryDocument(id=str(count), text=text))
        add_s = time.perf_counter() - started
        (held,) = memory.list({"id": str(count)})
        out[str(count)] = {"tokens": held.tokens, "bytes": held.bytes, "add_s": add_s}
        out[str(count)] |= {"write_s": written_s(memory, llm, args, str(count))}
        out[str(count)] |= read_back(memory, llm, args.keep, str(count))
    memory.close()
    return out | {"file": sizes(args.store), "parts": parts(args.store)}


def written_s(memory: Any, llm: Any, args: argparse.Namespace, document: str) -> list[float]:
    """Seconds of copying a document into an empty memory: rows are read, checked and committed."""
    from sharedllm import TreeMemory

    out = []
    for number in range(TIMES):
        folder = args.store.with_name(f"{args.store.name}-copy-{number}")
        with TreeMemory(folder, llm=llm, keep=args.keep) as other:
            started = time.perf_counter()
            other.import_from(memory.path, [document])
            out.append(time.perf_counter() - started)
        shutil.rmtree(folder)
    return out


def read_back(memory: Any, llm: Any, keep: str, document: str) -> dict[str, Any]:
    """Seconds of reading all KV of a document as the model takes it, and how much that is."""
    from sharedllm.memory.codes import kept_nodes

    (held,) = memory.documents_for("", llm, {"id": document})
    starts, ends = (
        part[held.forest.roots].tolist() for part in (held.forest.start, held.forest.end)
    )
    nodes = [
        replace(one, start=start + one.start, end=start + one.end)
        for start, end in zip(starts, ends, strict=True)
        for one in kept_nodes(end - start, llm.tree, keep)
    ]
    seconds: dict[str, list[float]] = {"read_s": [], "read_evicted_s": []}
    for name in seconds:
        for _ in range(TIMES):
            held.nodes._nodes.clear()  # each node is read anew
            if name == "read_evicted_s":
                forget_file(memory.path)
            started = time.perf_counter()
            found = held.nodes.get_all(nodes)
            seconds[name].append(time.perf_counter() - started)
            if len(found) != len(nodes):
                raise SystemExit(f"keep={keep!r} lacks a node of document {document}")
    return {"nodes": len(nodes), **seconds}


CHILDREN = {"grow": child_grow, "ask": child_ask, "append": child_append, "forms": child_forms}


# -- running -------------------------------------------------------------------------------------


def in_child(kind: str, args: argparse.Namespace, **options: Any) -> dict[str, Any]:
    """Run one of `CHILDREN` in a fresh process."""
    given = [f"--{name}={value}" for name, value in options.items() if value is not True]
    given += [f"--{name}" for name, value in options.items() if value is True]
    command = [sys.executable, "-m", "benchmarks.memory", f"--child={kind}"]
    command += [f"--corpus={args.corpus}", *given]
    load = round(os.getloadavg()[0], 1)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "load_average": load}


def measure(args: argparse.Namespace) -> None:
    """All phases; results are written after each."""
    result = json.loads(args.out.read_text()) if args.out.exists() else {"stores": {}}
    result |= {
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.memory --corpus CORPUS --folder SCRATCH --out FILE.json",
        "hardware": hardware(),
    }
    plan = [(f"{size:,} documents", size, False) for size in SIZES]
    plan.append(("one of 1M tokens", LONG, True))
    for name, size, long in plan:
        store = args.folder / ("long" if long else str(size))
        for phase in ("grow", "ask", *(["append"] if long else [])):
            if (args.only and phase not in args.only) or (
                args.sizes and store.name not in args.sizes
            ):
                continue
            if phase == "grow" and not long:
                begun(args.folder, size)
            options = {"store": store, "size": size, **({"long": True} if long else {})}
            got = in_child(phase, args, **options)
            of_store = result["stores"].setdefault(name, {})
            if phase != "grow" or got["added"]:  # else it was there already
                of_store[phase] = got
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            print(name, phase, line(phase, got), flush=True)
    if args.only and "forms" not in args.only:
        return
    for keep in KEEPS:
        got = in_child("forms", args, store=args.folder / f"keep-{keep}", keep=keep)
        result.setdefault("forms", {})[keep] = got
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"keep={keep!r}", line_of_form(got), flush=True)


def begun(folder: Path, size: int) -> None:
    """Begin a memory with what the next smaller one holds."""
    smaller = max((s for s in SIZES if s < size), default=0)
    if smaller and not (folder / str(size)).exists():
        shutil.copytree(folder / str(smaller), folder / str(size))


def line(phase: str, got: dict[str, Any]) -> str:
    """One phase's figures at a glance."""
    if phase == "append":
        return (
            f"{got['append_s']:.2f} s, {got['encoded_chunks']} chunks of {got['tokens']:,} tokens"
        )
    if phase == "grow":
        rate = got["added_tokens"] / max(1e-9, got["add_s"])
        size = sum(got["bytes"].values()) / got["tokens"]
        more = statistics.median(got["one_more_s"])
        return f"{rate:,.0f} tokens/s, {size:.1f} bytes a token, one more {more:.3f} s"
    found, right = (f"{sum(got[name])}/{len(got[name])}" for name in ("found", "right"))
    return (
        f"open {1e3 * got['open_s']:.1f} ms, first search {got['search_s'][0]:.2f} s, then "
        f"{1e3 * statistics.median(got['search_s'][1:]):.0f} ms "
        f"({1e3 * statistics.median(got['search_processor_s'][1:]):.0f} of a processor); "
        f"answer {statistics.median(got['answer_s']):.2f} s; found {found}, right {right}; "
        f"{got['rss_mib'][0]:.0f} -> {got['rss_mib'][-1]:.0f} MiB"
    )


def line_of_form(got: dict[str, Any]) -> str:
    """One form's figures at a glance."""
    out = []
    for count in map(str, FORM_TOKENS):
        one = got[count]
        out.append(
            f"{one['bytes'] / one['tokens']:,.0f} bytes a token; {count}: write "
            f"{1e3 * statistics.median(one['write_s']):.1f} ms, read "
            f"{1e3 * statistics.median(one['read_s']):.1f} ms, evicted "
            f"{1e3 * statistics.median(one['read_evicted_s']):.1f} ms"
        )
    return "; ".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=None, help="where the memories are kept")
    parser.add_argument("--only", nargs="+", choices=CHILDREN, help="phases; all without")
    parser.add_argument("--sizes", nargs="+", help="10, 1000, 10000, long; all without")
    parser.add_argument("--out", type=Path, default=None)
    for name, kind in (("store", Path), ("size", int), ("keep", str)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--long", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child](args)))
        return
    measure(args)


if __name__ == "__main__":
    main()
