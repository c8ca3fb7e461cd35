"""What does node KV lose when it is stored as bf16, int8 or int4?

    python benchmarks/quantised_kv.py --data DEV_FOLDER --out benchmarks/results/quantised_kv.json

Every node is injected as KV, leaves too (`finest="kv"`, `rest="all"`), after it went through the
form in which a memory stores it. Perplexity: 256 tokens of running text after 2,048 of its book, of
which 1,024 entries are there as KV. Needles: planted facts in as much text; right answers and the
likelihood of the right one. "exact" is the model's own type. All forms see the same nodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cpu import hardware
from items import Item, facts, is_right, place, read_jsonl

from sharedllm import Document, SharedLLM
from sharedllm.encoding.document import NodeCache
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.evaluation.framing import frame
from sharedllm.evaluation.intervals import difference, mean
from sharedllm.evaluation.items import Item as Case_Item
from sharedllm.evaluation.memory import Memory
from sharedllm.evaluation.methods import Case
from sharedllm.generation.prompt import part_ids
from sharedllm.memory import kv
from sharedllm.text.tokens import tokenize

FORMS = ("exact", "bf16", "int8", "int4")
PAST, RUNNING, BUDGET, NEW = 2048, 256, 1024, 16
SEARCH = {"finest": "kv", "rest": "all", "budget": BUDGET}
CACHE_BYTES = 2 << 30


class Stored(NodeCache):
    """Nodes as they come back from a memory that keeps them in one form."""

    def __init__(self, nodes: NodeCache, form: str, head_dim: int) -> None:
        super().__init__(nodes.limit)
        self._exact, self._form, self._head_dim = nodes, form, head_dim

    def __contains__(self, request: NodeRequest) -> bool:
        return request in self._exact

    def get(self, request: NodeRequest) -> NodeKV | None:
        found = self._exact.get(request)
        if found is None or self._form == "exact":
            return found
        written = kv.stored("x", [found], self._form)
        values = kv.read(
            "x",
            {name: array.values for name, array in written.items()},
            {name: array.dtype for name, array in written.items()},
            self._form,
            (0, found.keys.shape[2]),
            self._head_dim,
        ).to(found.keys.dtype)
        return NodeKV(keys=values[0].contiguous(), values=values[1].contiguous())

    def put(self, request: NodeRequest, kv: NodeKV) -> None:
        self._exact.put(request, kv)


def forms_of(llm: SharedLLM, document: Document) -> dict[str, Document]:
    """The document with its nodes in every form."""
    exact = NodeCache(CACHE_BYTES)
    return {
        form: dataclasses.replace(document, nodes=Stored(exact, form, llm.encoder.shape.head_dim))
        for form in FORMS
    }


def needle(llm: SharedLLM, fact: Item, filler: str, where: float) -> dict[str, dict[str, float]]:
    """Whether the fact is told, and the loss of the right answer, in each form."""
    text, _, _ = place(fact, filler, where)
    gold = llm.tokenizer(fact.answers[0], add_special_tokens=False)["input_ids"]
    prepared = [
        llm.prepare(fact.question, document, max_new_tokens=NEW, **SEARCH)
        for document in forms_of(llm, llm.remember(text)).values()  # "exact" fills the cache
    ]
    answers = llm.generate(prepared, max_new_tokens=NEW)
    losses = llm.upper.nll([p.prompt for p in prepared], [gold] * len(FORMS))
    return {
        form: {"right": float(is_right(answer.text, fact.answers)), "nll": loss}
        for form, answer, loss in zip(FORMS, answers, losses, strict=True)
    }


def window(llm: SharedLLM, text: str, at: int) -> dict[str, dict[str, float]]:
    """The mean loss of running text after its past, in each form."""
    tokens = tokenize(text, llm.tokenizer)

    def between(first: int, last: int) -> str:
        return text[slice(*tokens.characters(first, last))]

    item = Case_Item(
        id=str(at),
        task="lm",
        text=between(at - PAST, at),
        after=between(at, at + 1),
        target=between(at + 1, at + RUNNING),
        query=between(at, at + RUNNING),
        new_tokens=1,
        chat=False,
    )
    method = Memory(llm, 1, finest="kv", rest="all")
    target = part_ids(item.target, llm.tokenizer)
    ready = [
        method.prepare(Case(item=item, frame=frame(item, llm.tokenizer), document=document), BUDGET)
        for document in forms_of(llm, llm.remember(item.text)).values()
    ]
    losses = method.losses(ready, [target] * len(FORMS))
    return {form: {"nll": float(np.mean(own))} for form, own in zip(FORMS, losses, strict=True)}


def summary(rows: Sequence[dict[str, dict[str, float]]], key: str) -> dict[str, Any]:
    """Means, and paired differences from exact, with 95 % intervals over items."""
    out: dict[str, Any] = {}
    for form in FORMS:
        own, exact = ([row[name][key] for row in rows] for name in (form, "exact"))
        whole, gap = mean(own), difference(own, exact)
        out[form] = {
            "mean": whole.value,
            "interval": [whole.low, whole.high],
            "difference": gap.value,
            "difference_interval": [gap.low, gap.high],
        }
    return out


def show(result: dict[str, Any]) -> None:
    for title, rows, key in (
        ("log perplexity", result["windows"], "nll"),
        ("needles, right", result["needles"], "right"),
        ("needles, NLL of the answer", result["needles"], "nll"),
    ):
        if len(rows) < 2:
            continue
        print(f"{title}, {len(rows)} items")
        for form, got in summary(rows, key).items():
            low, high = got["difference_interval"]
            print(
                f"  {form:6} {got['mean']:.4f}  {got['difference']:+.5f} [{low:+.5f}, {high:+.5f}]"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--needles", type=int, default=60, help="half literal, half reworded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="stop after the item then begun")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    llm = SharedLLM.from_pretrained(device="cpu", dtype="float32")
    rng = random.Random(args.seed)
    books = [row["text"][:600_000] for row in read_jsonl(args.data / "books.jsonl.xz")]
    half = args.needles // 2
    asked = [*facts("literal", half, args.seed), *facts("reworded", half, args.seed + 1)]
    rng.shuffle(asked)
    result: dict[str, Any] = {"windows": [], "needles": []}
    until = time.monotonic() + 60 * args.minutes
    for index in range(max(args.windows, args.needles)):
        if time.monotonic() > until:
            break
        at = rng.randrange(5_000, 400_000)
        book = books[index % len(books)][at : at + 6 * (PAST + RUNNING)]
        if index < args.windows:
            result["windows"].append(window(llm, book, PAST))
        if index < len(asked):
            result["needles"].append(needle(llm, asked[index], book[: 4 * PAST], rng.random()))
        if args.out:
            save(args, result)
    show(result)


def save(args: argparse.Namespace, result: dict[str, Any]) -> None:
    command = " ".join(["python benchmarks/quantised_kv.py", *sys.argv[1:]])
    command = command.replace(str(args.data), "DATA").replace(str(args.out), args.out.name)
    run = {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "load_average": round(os.getloadavg()[0], 1),
        "seed": args.seed,
        "adapter": "default",
        **result,
    }
    args.out.write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    main()
