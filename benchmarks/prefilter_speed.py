"""What each prefilter costs: seconds and bytes, on a memory of 10,000 documents.

    python benchmarks/prefilter_speed.py --corpus corpus.jsonl.xz --store SCRATCH \
        --minilm FILE.npy --out FILE.json

The time of one process on one thread, processor seconds beside those of the clock, since other work
may share the machine; medians over questions that nothing is chosen or reported by. Exact is MaxSim
over all codes, held in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from corpus import read
from cpu import hardware
from exhaustive import Everything
from prefilter import MiniLMs, by_embedding

from sharedllm import TreeMemory, loaded_for
from sharedllm.memory.prefilter import by_words
from sharedllm.text.tokens import tokenize

K = 128


def timed(work: Callable[[str], Any], questions: list[str]) -> dict[str, Any]:
    """Median seconds of `work` over the questions, after a first one."""
    work(questions[0])
    clock, processor = [], []
    for question in questions[1:]:
        at = time.perf_counter(), time.process_time()
        work(question)
        clock.append(time.perf_counter() - at[0])
        processor.append(time.process_time() - at[1])
    return {
        "clock_s": statistics.median(clock),
        "processor_s": statistics.median(processor),
        "slowest_processor_s": max(processor),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=41)
    parser.add_argument("--exact", type=int, default=6, help="questions over everything")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    texts = read(args.corpus)
    asked = [t.item.question for t in texts if t.item and t.part == "tune"][: args.questions]
    memory = TreeMemory(args.store, create=False)
    reader, llm = memory._open.reader, loaded_for(memory)
    dense = reader._prefilter._dense

    def words(question: str) -> None:
        with memory._database.read() as connection:
            by_words(connection, question, K)

    def states(question: str) -> None:
        embedding = reader._embedding(question, llm)
        with memory._database.read() as connection:
            dense.search(connection, embedding, K)

    rows = {"words": timed(words, asked), "dense": timed(states, asked)}
    before = psutil.Process().memory_info().rss
    everything = Everything(memory, "cpu")
    minilm = MiniLMs(everything, texts, args.minilm)
    rows["MiniLM"] = timed(lambda q: by_embedding(minilm.chunks, minilm.query(q), K), asked)

    def exact(question: str) -> None:
        ids = tokenize(question, llm.tokenizer).ids
        best = everything.best(llm.encoder.lower.vectors(ids, [(0, len(ids))]).float())
        everything.scores(best, ids, None)

    rows["no prefilter"] = timed(exact, asked[: args.exact])
    held = {"words": 0, "dense": everything.embeddings.nbytes, "MiniLM": minilm.chunks.nbytes}
    held["no prefilter"] = everything.codes.nbytes
    for name, size in held.items():
        rows[name]["bytes_in_memory"] = int(size)
        print(name, {key: round(value, 4) for key, value in rows[name].items()})
    if args.out:
        result = {
            "command": "python benchmarks/prefilter_speed.py --corpus CORPUS --store SCRATCH "
            "--minilm MINILM --out prefilter_speed.json",
            "date": time.strftime("%Y-%m-%d"),
            "hardware": hardware(),
            "load_average": round(os.getloadavg()[0], 1),
            "chunks": len(everything.chunks),
            "rss_grown_by_everything": psutil.Process().memory_info().rss - before,
            "question_tokens": int(np.median([len(llm.tokenizer(q)["input_ids"]) for q in asked])),
            "rows": rows,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
