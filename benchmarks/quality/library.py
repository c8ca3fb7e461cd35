"""A small library of long documents: stretches of books, with questions about what is put in them.

Used by chains.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.items import Item, facts, place, questions, read_jsonl
from sharedllm.text.tokens import tokenize

SIZES = (32_768, 32_768, 65_536, 65_536, 131_072)  # tokens of the documents, about


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One document of a library."""

    id: str
    title: str
    text: str

    @property
    def named(self) -> dict[str, str]:
        return {"title": self.title, "source": f"{self.id}.txt"}


@dataclass(frozen=True, kw_only=True)
class Library:
    """Documents, and questions about them."""

    volumes: tuple[Volume, ...]
    items: tuple[Item, ...]


def library(data: Path, n: int, seed: int, tokenizer: Any) -> Library:
    """`n` questions in turn of three kinds, spread evenly over the documents.

    A third are facts asked for in their own words, a third facts in other words, and a third real
    questions whose passage stands in a document.
    """
    third = -(-n // 3)
    kinds = (
        facts("literal", third, seed + 1),
        facts("reworded", third, seed + 2),
        questions(data / "qa.jsonl.xz", third, seed),
    )
    items = [item for group in zip(*kinds, strict=True) for item in group][:n]
    rng = random.Random(seed)
    books = [row["text"] for row in read_jsonl(data / "books.jsonl.xz")]
    volumes = []
    for index, (size, book) in enumerate(zip(SIZES, rng.sample(books, len(SIZES)), strict=True)):
        start = rng.randrange(max(1, len(book) - 5 * size))
        tokens = tokenize(book[start : start + 6 * size], tokenizer)
        text = book[start : start + tokens.characters(0, min(size, len(tokens)))[1]]
        for item in items[index :: len(SIZES)]:
            text, _, _ = place(item, text, rng.random())
        number = index + 1
        volumes.append(Volume(id=f"volume-{number}", title=f"Volume {number}", text=text))
    return Library(volumes=tuple(volumes), items=tuple(items))
