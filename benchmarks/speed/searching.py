"""Search alone, part by part: from a question to the selected nodes, in one long document.

    python -m benchmarks.speed.searching --model llama8b-shaped --tokens 128K

The document is a shipped novel in the default model's tokens, with search vectors in the 64 bytes a
token of a TreeMemory. Search needs the first layer only, so a shape has two. Each question is asked
once, after others; settings are the default ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.quality.novels import QUESTIONS
from benchmarks.speed.__main__ import number
from benchmarks.speed.card import Clock, hardware
from benchmarks.speed.models import SHAPES, made
from benchmarks.speed.ours import as_stored, codec_of
from sharedllm import Document, SharedLLM
from sharedllm.encoding.document_encoder import DocumentEncoder, loaded_encoder
from sharedllm.memory.codes import VectorCodec
from sharedllm.search import finding, fused, scorers

NOVEL = Path(__file__).parents[2] / "cookbooks" / "data" / "alas.txt"
WARM = 8  # questions that are not timed
# functions in the order of their work; a part holds what it calls
PARTS = {
    "question's vectors": (scorers, "make_query"),
    "comparing codes": (VectorCodec, "similarities"),
    "words and network": (fused.Fused, "leaf_scores"),
    "later rounds": (finding, "look_again"),
    "selection": (finding.Found, "select"),
}


def main() -> None:
    """Ask the questions, print the medians and write them as one line of JSON."""
    args = _arguments()
    clock = Clock(torch.device(args.device))
    llm = _model(args.model, clock)
    document = as_stored(_document(llm, args.tokens), codec_of(llm))
    taken: list[dict[str, float]] = []
    for _, question, _ in QUESTIONS:
        spent: dict[str, float] = dict.fromkeys(PARTS if args.parts else (), 0.0)
        with _timed(spent, clock) if args.parts else nullcontext():
            spent["search"] = clock.seconds(lambda asked=question: llm.select(asked, document))  # type: ignore[misc]
        taken.append(spent)
    own = taken[WARM:]
    row: dict[str, Any] = {
        "hardware": hardware(clock),
        "model": args.model,
        "tokens": len(document),
        "questions": len(own),
        "ms": {name: round(1e3 * statistics.median(s[name] for s in own), 2) for name in own[0]},
        "slowest_ms": round(1e3 * max(s["search"] for s in own), 2),
    }
    print(json.dumps(row, indent=1))
    if args.out:
        with Path(args.out).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="default", help=f"default, {', '.join(SHAPES)}")
    parser.add_argument("--tokens", type=number, default=number("128K"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", action="store_true", help="time the parts, which adds waiting")
    parser.add_argument("--out", help="JSON lines to add to")
    return parser.parse_args()


def _model(name: str, clock: Clock) -> SharedLLM:
    if name == "default":
        return SharedLLM.from_pretrained(device=str(clock.device))
    dtype = torch.float32 if clock.device.type == "cpu" else torch.bfloat16
    model, _ = made(name, clock.device, dtype, num_hidden_layers=2)
    return SharedLLM(DocumentEncoder(model, loaded_encoder().tokenizer))


def _document(llm: SharedLLM, tokens: int) -> Document:
    text = NOVEL.read_text(encoding="utf-8")
    spans = llm.encoder.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    if len(spans) < tokens:
        raise SystemExit(f"--tokens {tokens}: {NOVEL.name} has {len(spans)}")
    return llm.remember(text[: spans[tokens - 1][1]])


@contextmanager
def _timed(spent: dict[str, float], clock: Clock) -> Any:
    """Add up in `spent` the time in each of :data:`PARTS`."""

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            out = []
            spent[name] += clock.seconds(lambda: out.append(call(*args, **options)))
            return out[0]

        return timed

    with ExitStack() as stack:
        for name, (owner, attribute) in PARTS.items():
            call = wrapped(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, call))
        yield


if __name__ == "__main__":
    main()
