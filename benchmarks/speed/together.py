"""Questions a second, asked by one thread and by several whose answers share a batch.

    python -m benchmarks.speed.together --out benchmarks/results/together.jsonl

The default model answers questions about one of the shipped novels, or one of a shape with random
weights about random letters; each number of threads answers the same questions. `same` counts the
answers that are word for word those of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


def asked(
    llm: SharedLLM, document: Document, threads: int, questions: int, **options: Any
) -> tuple[float, list[Answer]]:
    """Seconds, and the answers."""

    def answer(number: int) -> Answer:
        return llm.answer(QUESTIONS[number % len(QUESTIONS)], document, **options)

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(answer, range(questions)))
    return time.perf_counter() - started, answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="default", help=f"default, or {', '.join(SHAPES)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--budget", default="auto", help="tokens, or auto")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[32], help="at most")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.model == "default":
        llm = SharedLLM.from_pretrained(device=args.device)
        document = llm.remember(NOVEL.read_text(encoding="utf-8"))
    else:  # random weights, whose answers have no end: decoding alone
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model, tokenizer = made(args.model, device, torch.bfloat16)
        llm = SharedLLM(DocumentEncoder(model, tokenizer))
        document = llm.remember(text(16_384))
    budget: Any = args.budget if args.budget == "auto" else int(args.budget)
    rows = []
    for new_tokens in args.new_tokens:
        options = {"budget": budget, "max_new_tokens": new_tokens}
        alone: tuple[float, list[str]] = 0.0, []
        for threads in args.threads:
            if threads > 1:
                if not llm.reader.shares:
                    llm.share_passes(max(args.threads))
                asked(llm, document, threads, 3 * threads, **options)  # captures graphs
            else:
                asked(llm, document, 1, 4, **options)
            seconds, answers = asked(llm, document, threads, args.questions, **options)
            texts = [one.text for one in answers]
            alone = alone if alone[1] else (seconds, texts)
            row = {
                "model": args.model,
                "threads": threads,
                "new_tokens": new_tokens,
                "questions_s": round(args.questions / seconds, 2),
                "tokens_s": round(sum(one.usage.new_tokens for one in answers) / seconds, 1),
                "prompt_tokens": round(
                    sum(one.usage.prompt_tokens for one in answers) / len(answers)
                ),
                "ratio": round(alone[0] / seconds, 2),
                "same": sum(a == b for a, b in zip(texts, alone[1], strict=True)),
                "questions": args.questions,
                "hardware": hardware(llm.upper.device),
                "torch_threads": torch.get_num_threads(),
                "date": time.strftime("%Y-%m-%d"),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    if args.out:
        args.out.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
