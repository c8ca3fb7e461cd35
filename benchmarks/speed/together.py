"""Questions a second, asked by one thread and by several whose answers share a batch.

    python -m benchmarks.speed.together --out benchmarks/results/together.jsonl
    python -m benchmarks.speed.together --processes 1 4 8 --threads 1 2 --out processes.jsonl

The default model answers questions about one of the shipped novels, or one of a shape with random
weights about random letters; each number of threads answers the same questions. `same` counts the
answers that are word for word those of one thread. Several processes share the device, each with a
model of its own, and divide the questions; their threads are each one's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.speed.models import SHAPES, made, text
from sharedllm import Answer, Document, SharedLLM
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.evaluation.run import hardware

NOVEL = Path("cookbooks/data/the_mayor_of_casterbridge.txt")
QUESTIONS = (
    "Who buys Susan?",
    "How much did the sailor pay for Susan?",
    "What was mixed into the furmity?",
    "What did Henchard swear in the church?",
    "Which machine did Farfrae recommend?",
    "Where did Lucetta come from?",
    "What did Henchard leave for Elizabeth-Jane as a wedding present?",
    "Who is the father of Elizabeth-Jane?",
)


class Run(NamedTuple):
    """Questions that were answered, from `began` to `ended` (seconds of the system's clock)."""

    began: float
    ended: float
    texts: dict[int, str]  # by the question's number
    new_tokens: int
    prompt_tokens: int


def asked(llm: SharedLLM, document: Document, threads: int, numbers: range, **options: Any) -> Run:
    """Answer the questions of these numbers."""

    def answer(number: int) -> Answer:
        return llm.answer(QUESTIONS[number % len(QUESTIONS)], document, **options)

    began = time.time()
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(answer, numbers))
    return Run(
        began,
        time.time(),
        {number: one.text for number, one in zip(numbers, answers, strict=True)},
        sum(one.usage.new_tokens for one in answers),
        sum(one.usage.prompt_tokens for one in answers),
    )


def loaded(model: str, device_name: str | None) -> tuple[SharedLLM, Document]:
    """The model, and the document that is asked about."""
    if model == "default":
        llm = SharedLLM.from_pretrained(device=device_name)
        return llm, llm.remember(NOVEL.read_text(encoding="utf-8"))
    # random weights, whose answers have no end: decoding alone
    device = torch.device(device_name or ("cuda" if torch.cuda.is_available() else "cpu"))
    made_model, tokenizer = made(model, device, torch.bfloat16)
    llm = SharedLLM(DocumentEncoder(made_model, tokenizer))
    return llm, llm.remember(text(16_384))


def warmed(llm: SharedLLM, document: Document, threads: int, most: int, options: Any) -> None:
    """Answer some questions first: several threads capture graphs."""
    if threads == 1:
        asked(llm, document, 1, range(4), **options)
        return
    if not llm.reader.shares:
        llm.share_passes(most)
    asked(llm, document, threads, range(3 * threads), **options)


def one_of(
    number: int,
    count: int,
    threads: int,
    start: Any,
    told: Any,
    args: argparse.Namespace,
    options: Any,
) -> None:
    """A process that answers its share of the questions when all have their model."""
    llm, document = loaded(args.model, args.device)
    warmed(llm, document, threads, threads, options)
    start.wait()
    told.put(asked(llm, document, threads, range(number, args.questions, count), **options))


def together(processes: int, threads: int, args: argparse.Namespace, options: Any) -> Run:
    """Processes that answer at once, as one run."""
    spawn = multiprocessing.get_context("spawn")
    start, told = spawn.Barrier(processes), spawn.Queue()
    started = [
        spawn.Process(target=one_of, args=(n, processes, threads, start, told, args, options))
        for n in range(processes)
    ]
    for process in started:
        process.start()
    runs = [told.get(timeout=600) for _ in started]
    for process in started:
        process.join()
    return Run(
        min(run.began for run in runs),
        max(run.ended for run in runs),
        {number: text for run in runs for number, text in run.texts.items()},
        sum(run.new_tokens for run in runs),
        sum(run.prompt_tokens for run in runs),
    )


def measured(args: argparse.Namespace, options: Any) -> Iterator[tuple[int, int, Run]]:
    """Processes, threads of each, and what they did."""
    if args.processes:
        for processes, threads in itertools.product(args.processes, args.threads):
            yield processes, threads, together(processes, threads, args, options)
        return
    llm, document = loaded(args.model, args.device)
    for threads in args.threads:
        warmed(llm, document, threads, max(args.threads), options)
        yield 1, threads, asked(llm, document, threads, range(args.questions), **options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="default", help=f"default, or {', '.join(SHAPES)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--processes", type=int, nargs="+", default=[], help="none: this one")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--budget", default="auto", help="tokens, or auto")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[32], help="at most")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    budget: Any = args.budget if args.budget == "auto" else int(args.budget)
    rows: list[Any] = []
    for new_tokens in args.new_tokens:
        alone: Run | None = None
        for processes, threads, run in measured(
            args, {"budget": budget, "max_new_tokens": new_tokens}
        ):
            alone = alone or run
            seconds = run.ended - run.began
            row = {
                "model": args.model,
                "processes": processes,
                "threads": threads,
                "new_tokens": new_tokens,
                "questions_s": round(args.questions / seconds, 2),
                "tokens_s": round(run.new_tokens / seconds, 1),
                "prompt_tokens": round(run.prompt_tokens / args.questions),
                "ratio": round((alone.ended - alone.began) / seconds, 2),
                "same": sum(run.texts[n] == text for n, text in alone.texts.items()),
                "questions": args.questions,
                "hardware": hardware(device),
                "torch_threads": torch.get_num_threads(),
                "date": time.strftime("%Y-%m-%d"),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    if args.out:
        args.out.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
