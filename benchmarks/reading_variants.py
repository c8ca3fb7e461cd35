"""Which prompt, leaf size and order of evidence does the untrained base read best?

    python benchmarks/reading_variants.py --data DEV_FOLDER --items 150 --part tune

Tuned on the "tune" part of the questions and on other facts than the report uses; the outcome is in
docs/experiments.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import untrained
from rich.console import Console
from untrained import Method, Placed, line, load_items, run

import sharedllm.generation.prompt as prompt
import sharedllm.search.passages as evidence
from sharedllm import SharedLLM, TreeConfig
from sharedllm.text.tree import cut, grow

PROMPTS = {
    "short": ("", "\n\nQuestion: {question}\nAnswer:"),
    "read": (
        "Read the text below and answer the question about it.\n\nText:\n",
        "\n\nQuestion: {question}\nGive a short answer, using only the text.",
    ),
    "excerpts": (
        "Here are excerpts from a document:\n\n",
        "\n\nUsing only these excerpts, answer in a few words: {question}",
    ),
    "question twice": (
        "Question: {question}\nFind the answer in these excerpts:\n\n",
        "\n\nQuestion: {question}\nAnswer in a few words.",
    ),
    "context": (
        "Answer the question based on the given passages. Only give me the answer and do not "
        "output any other words.\n\nThe following are given passages.\n",
        "\n\nAnswer the question based on the given passages. Only give me the answer and do not "
        "output any other words.\n\nQuestion: {question}",
    ),
    "sentence": (
        "Text:\n",
        "\n\nAnswer this question about the text in one sentence: {question}",
    ),
    "quote": (
        "Text:\n",
        "\n\n{question}\nAnswer with the exact words of the text.",
    ),
    "passages": (
        "Answer the question based on the given passages. Give only the answer.\n\nPassages:\n",
        "\n\nAnswer the question based on the given passages. Give only the answer and no other "
        "words.\n\nQuestion: {question}",
    ),
    "short answer": ("Passages:\n", "\n\nQuestion: {question}\nShort answer:"),
}

STAGE_2 = ("read", "short", "context", "passages", "short answer")
SHAPES = (
    (2, (0.5,)),
    (3, ()),
    (3, (0.5,)),
    (3, (0.5, 0.25)),
    (4, (0.5, 0.25)),
    (4, (0.7, 0.5, 0.3)),
)


def with_height(llm: SharedLLM, placed: list[Placed], height: int) -> list[Placed]:
    """The same items over trees of another height."""
    llm.tree = TreeConfig(height=height, ratios=(*(2 ** (4 - i) for i in range(height - 1)), 1))
    made = {}
    for p in placed:
        if p.document.id not in made:
            forest = grow(cut(len(p.document), llm.tree.chunk), height, leaf=llm.tree.leaf)
            made[p.document.id] = dataclasses.replace(
                p.document, forest=forest, made_by=llm.identity, _derived={}
            )
    return [dataclasses.replace(p, document=made[p.document.id]) for p in placed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", type=int, default=150)
    parser.add_argument("--per-document", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--model", default=None)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--part", default="tune")
    parser.add_argument("--prompts", nargs="+", default=STAGE_2)
    parser.add_argument("--stage", type=int, default=2, choices=(1, 2))
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    console = Console(width=180)
    llm = SharedLLM.from_pretrained(args.model)
    placed = load_items(llm, args)
    results: list[dict] = []

    def measure(
        name: str, search: dict | None, budget: int, items: list[Placed], cache: dict
    ) -> None:
        if search is not None:
            search = {"policy": "hybrid", **search}  # the default when this was run
        result = run(llm, Method(name=name, search=search), budget, items, cache, args.batch)
        results.append(result)
        console.print(line(result) + "  " + by_kind(result))
        if args.out:
            args.out.write_text(json.dumps(results, indent=1))

    caches: dict[int, dict] = {2: {}, 3: {}, 4: {}}
    trees = {height: with_height(llm, placed, height) for height in caches}
    if args.stage == 1:
        best_last = evidence.pasted
        evidence.pasted = pasted_in(lambda window: window.start)
        for name, (before, after) in PROMPTS.items():
            use_prompt(before, after)
            items = with_height(llm, trees[3], 3)
            measure(f"prompt {name}", {}, 1024, items, caches[3])
            measure(f"prompt {name}, {untrained.BASELINE}", None, 1024, items, {})
        use_prompt(*PROMPTS["read"])
        for height, shares in SHAPES:
            items = with_height(llm, trees[height], height)
            for budget in (1024, 2048):
                name = f"height {height}, neighbours {shares}"
                measure(name, {"neighbours": shares}, budget, items, caches[height])
        evidence.pasted = best_last
    for name in args.prompts:
        use_prompt(*PROMPTS[name])
        for height in (2, 3):
            items = with_height(llm, trees[height], height)
            for budget in (512, 1024, 2048):
                measure(f"best last, {name}, height {height}", {}, budget, items, caches[height])


def use_prompt(before: str, after: str) -> None:
    prompt.BEFORE = untrained.BEFORE = before
    prompt.AFTER = untrained.AFTER = after


def pasted_in(order: Callable[[evidence.Window], float]) -> Callable[..., list[int]]:
    """Paste windows in another order."""
    paste = evidence.pasted
    return lambda document, found, *rest: paste(document, found, *rest, order=order)


def by_kind(result: dict) -> str:
    return " ".join(
        f"{kind} {100 * untrained.mean(result['rows'], 'right', kind):.0f}"
        for kind in untrained.KINDS
    )


if __name__ == "__main__":
    main()
