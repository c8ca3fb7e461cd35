"""A plain chunk store: windows of 256 tokens, MiniLM, a flat FAISS index, texts in SQLite.

    python benchmarks/faiss_store.py --corpus corpus.jsonl.xz --folder SCRATCH --windows FILE.npy \
        --memory memory.json

What most programs would build, beside the tree memory on the same documents and questions. Adding
is timed on `--sample` documents; for the stores the windows' embeddings are taken from a file that
prefilter.py wrote, since MiniLM takes long to read 10M tokens here. The rows go into `--memory`,
the results of memory.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from corpus import Text, read
from memory import LONG, QUESTIONS, SIZES, asked
from numpy.typing import NDArray

from sharedllm import SharedLLM
from sharedllm.hf.minilm import MiniLM
from sharedllm.text.tokens import tokenize

WINDOW, K = 256, 4  # 1,024 tokens are found, as many as the memory's budget


class ChunkStore:
    """A folder with an index and a table of texts."""

    def __init__(self, folder: Path, embed: MiniLM) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.embed = folder, embed
        self.texts = sqlite3.connect(folder / "texts.sqlite")
        self.texts.execute(
            "CREATE TABLE IF NOT EXISTS windows "
            "(window INTEGER PRIMARY KEY, document TEXT, start INT, end INT, text TEXT)"
        )
        file = folder / "index.faiss"
        self.index = faiss.read_index(str(file)) if file.exists() else faiss.IndexFlatIP(384)

    def add(self, windows: Sequence[tuple[str, int, int, str]], rows: NDArray | None) -> None:
        if rows is None:
            rows = self.embed([window[3] for window in windows])
        first = self.index.ntotal
        self.index.add(rows)
        self.texts.executemany(
            "INSERT INTO windows VALUES (?, ?, ?, ?, ?)",
            [(first + i, *window) for i, window in enumerate(windows)],
        )
        self.texts.commit()
        faiss.write_index(self.index, str(self.folder / "index.faiss"))

    def search(self, query: str) -> list[tuple[Any, ...]]:
        _, found = self.index.search(self.embed([query]), K)
        sql = "SELECT document, start, end, text FROM windows WHERE window = ?"
        return [self.texts.execute(sql, (int(at),)).fetchone() for at in found[0]]

    def close(self) -> None:
        self.texts.close()

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())


def windows_of(
    texts: Sequence[Text], tokenizer: Any
) -> tuple[list[tuple[str, int, int, str]], int]:
    """Windows of all texts, and how many tokens they hold."""
    out, count = [], 0
    for text in texts:
        tokens = tokenize(text.text, tokenizer)
        count += len(tokens)
        for at in range(0, len(tokens), WINDOW):
            start, end = tokens.characters(at, min(at + WINDOW, len(tokens)))
            out.append((text.id, start, end, text.text[start:end]))
    return out, count


def measure(
    args: argparse.Namespace, texts: Sequence[Text], tokenizer: Any, embed: MiniLM
) -> dict[str, Any]:
    """One store of these texts."""
    folder = args.folder / f"faiss-{len(texts)}"
    for left in folder.glob("*"):
        left.unlink()
    store = ChunkStore(folder, embed)
    windows, tokens = windows_of(texts, tokenizer)
    store.add(windows, np.load(args.windows)[: len(windows)].astype(np.float32))
    store.close()
    started = time.perf_counter()
    store = ChunkStore(folder, embed)
    opened = time.perf_counter() - started
    seconds, processor, found = [], [], []
    for question in asked(texts, long=False)[:QUESTIONS]:
        at = time.perf_counter(), time.process_time()
        hits = store.search(question["item"].question)
        seconds.append(time.perf_counter() - at[0])
        processor.append(time.process_time() - at[1])
        found.append(
            any(
                hit[0] == question["document"] and hit[1] < end and start < hit[2]
                for hit in hits
                for start, end in question["spans"]
            )
        )
    out = {
        "documents": len(texts),
        "tokens": tokens,
        "bytes": store.bytes(),
        "open_s": opened,
        "search_s": seconds,
        "search_processor_s": processor,
        "found": found,
        "load_average": round(os.getloadavg()[0], 1),
    }
    store.close()
    return out


def adding(args: argparse.Namespace, texts: Sequence[Text], tokenizer: Any, embed: MiniLM) -> dict:
    """Tokens a second with MiniLM on this machine."""
    store = ChunkStore(args.folder / "faiss-sample", embed)
    windows, tokens = windows_of(texts, tokenizer)
    embed([windows[0][3]])
    at = time.perf_counter(), time.process_time()
    store.add(windows, None)
    clock, processor = time.perf_counter() - at[0], time.process_time() - at[1]
    store.close()
    load = round(os.getloadavg()[0], 1)
    return {"tokens": tokens, "seconds": clock, "processor_s": processor, "load_average": load}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=30)
    parser.add_argument("--memory", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = SharedLLM.from_pretrained(device="cpu", dtype="bfloat16").tokenizer
    embed, texts = MiniLM(), read(args.corpus)
    rows: dict[str, Any] = {"adding": adding(args, texts[: args.sample], tokenizer, embed)}
    for size in sorted({*SIZES, LONG}):
        rows[str(size)] = got = measure(args, texts[:size], tokenizer, embed)
        warm = 1e3 * statistics.median(got["search_s"][1:] or got["search_s"] or [0])
        print(
            f"{size:,} documents: {got['bytes'] / got['tokens']:.1f} bytes a token, open "
            f"{1e3 * got['open_s']:.1f} ms, search {warm:.0f} ms, "
            f"found {sum(got['found'])}/{len(got['found'])}"
        )
    rate = rows["adding"]["tokens"] / rows["adding"]["processor_s"]
    print(f"adding: {rate:,.0f} tokens a processor second")
    result = json.loads(args.memory.read_text())
    args.memory.write_text(json.dumps({**result, "plain": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
