"""10,000 documents of about 1,000 tokens, some of which hold what a question is about.

    python -m benchmarks.quality.corpus --data DEV_FOLDER --distractors TRAIN_FOLDER \
        --out corpus.jsonl.xz

Books, code, manuals and papers are cut into documents; planted facts and real questions (those of
items.py and topics.py) are placed in some of them, one each, and the document stays about as long
as it was. A text that is asked for by its topic is a document by itself. The documents around are
the books of DEV and all kinds of TRAIN: the other texts of DEV are asked for. All items are among
the first `--within` documents, so that the beginning of the corpus is a smaller one with the same
questions. Items belong to the halves of halves.py; no two ask the same.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.halves import CHOOSE, REPORT, half_of
from benchmarks.quality.items import Item, evidence_spans, facts, place, questions, read_jsonl
from benchmarks.quality.topics import other_words, plain_words, summaries, titles
from sharedllm import SharedLLM
from sharedllm.text.tokens import tokenize

KINDS = ("books", "code", "docs", "papers")
TOPICS = ("summary", "title", "plain words")  # kinds of items that are documents by themselves
KINDS_OF_ITEMS = ("literal", "reworded", "other words", "question", *TOPICS)
PIECES_A_TEXT = 60  # of a text of TRAIN at most, so that many texts are there
LEAST_FILLER = 0.1  # of a document, beside a long passage


@dataclass(frozen=True, kw_only=True)
class Text:
    """A document; with an item, `spans` are the characters that hold its evidence."""

    id: str
    text: str
    half: int | None = None
    item: Item | None = None
    spans: tuple[tuple[int, int], ...] = ()


def read(path: Path, limit: int | None = None) -> list[Text]:
    """The documents of a corpus file, the first `limit` of them."""
    out = []
    for row in read_jsonl(path):
        if limit is not None and len(out) == limit:
            break
        given, spans = row.pop("item"), tuple(map(tuple, row.pop("spans")))
        item = Item(**{**given, "answers": tuple(given["answers"])}) if given else None
        out.append(Text(**row, item=item, spans=spans))
    return out


def pieces(text: str, tokenizer: Any, length: int) -> Iterator[str]:
    """`text` cut every `length` tokens; the rest is left out."""
    tokens = tokenize(text, tokenizer)
    for at in range(0, len(tokens) - length + 1, length):
        first, last = tokens.characters(at, at + length)
        yield text[first:last]


def filler(args: argparse.Namespace, tokenizer: Any) -> list[str]:
    """The books of DEV, then as many texts of TRAIN as are needed, equally many of each kind."""
    books = read_jsonl(args.data / "books.jsonl.xz")
    out = [piece for row in books for piece in pieces(row["text"], tokenizer, args.tokens)]
    own = len(out)
    for index, kind in enumerate(KINDS):
        wanted = own + (args.documents - own) * (index + 1) // len(KINDS)
        for row in read_jsonl(args.distractors / f"{kind}.jsonl.xz"):
            if len(out) >= wanted:
                break
            found = list(
                pieces(row["text"][: 6 * PIECES_A_TEXT * args.tokens], tokenizer, args.tokens)
            )
            out += found[: min(PIECES_A_TEXT, wanted - len(out))]
    print(f"{own:,} documents of {args.data.name}, {len(out) - own:,} of {args.distractors.name}")
    return out[: args.documents]


def chosen(args: argparse.Namespace) -> Iterator[tuple[int, Item]]:
    """Items of both halves; of those that ask the same, the first."""
    seen: set[str] = set()

    def new(drawn: Sequence[Item], count: int) -> list[Item]:
        unique = {item.question: item for item in drawn if item.question not in seen}
        kept = list(unique.values())[:count]
        seen.update(item.question for item in kept)
        return kept

    layman = list(plain_words(args.data))
    topics = [*summaries(args.data / "qa.jsonl.xz"), *layman]
    taken = {item.answers for item in layman}
    topics += [item for item in titles(args.data) if item.answers not in taken]
    real = questions(args.data / "qa.jsonl.xz", 1 << 20, 0) + questions(
        args.data / "qa.jsonl.xz", 1 << 20, 0, "tune"
    )
    for half in (CHOOSE, REPORT):
        count = args.items
        for drawn in (
            facts("literal", 2 * count, 100 + half),
            facts("reworded", 2 * count, 200 + half),
            other_words(2 * count, 300 + half),
            [item for item in real if half_of(item.passage) == half],
        ):
            yield from ((half, item) for item in new(drawn, count))
        own = [item for item in topics if half_of(item.passage) == half]
        yield from ((half, item) for item in new(own, len(own)))


def make(args: argparse.Namespace, tokenizer: Any) -> list[Text]:
    """The documents in random order."""
    rng = random.Random(args.seed)
    texts = filler(args, tokenizer)
    rng.shuffle(texts)
    items = list(chosen(args))
    rng.shuffle(items)
    at = set(rng.sample(range(args.within), len(items)))
    waiting = iter(items)
    out = []
    for index, text in enumerate(texts):
        if index not in at:
            out.append(Text(id=str(index), text=text))
            continue
        half, item = next(waiting)
        if item.kind in TOPICS:
            whole = shortened(item.passage, tokenizer, args.tokens)
            spans: tuple[tuple[int, int], ...] = ((0, len(whole)),)
        else:
            share = 1 - len(tokenize(item.passage, tokenizer)) / args.tokens
            rest = text[: int(len(text) * max(LEAST_FILLER, share))]
            whole, start, end = place(item, rest, rng.random())
            spans = evidence_spans(whole, item, start, end)
        out.append(Text(id=str(index), text=whole, half=half, item=item, spans=spans))
    return out


def shortened(text: str, tokenizer: Any, length: int) -> str:
    """`text`, cut after `length` tokens."""
    tokens = tokenize(text, tokenizer)
    return text if len(tokens) <= length else text[: tokens.characters(0, length)[1]]


def write(path: Path, texts: Sequence[Text]) -> None:
    with lzma.open(path, "wt", encoding="utf-8", preset=2) as file:
        for text in texts:
            file.write(json.dumps(asdict(text)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--distractors", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=1000, help="of a document")
    parser.add_argument("--items", type=int, default=120, help="of each kind and half")
    parser.add_argument("--within", type=int, default=2_000, help="first documents that hold items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = SharedLLM.from_pretrained(device="cpu", dtype="bfloat16").tokenizer
    texts = make(args, tokenizer)
    write(args.out, texts)
    held = [text for text in texts if text.item]
    for half in (CHOOSE, REPORT):
        own = [t.item.kind for t in held if t.half == half and t.item]
        print(f"half {half}:", {kind: own.count(kind) for kind in sorted(set(own))})
    print(f"{len(texts):,} documents, {sum(len(t.text) for t in texts):,} characters")


if __name__ == "__main__":
    main()
