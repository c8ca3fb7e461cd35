"""10,000 documents of about 1,000 tokens, some of which hold what a question is about.

    python -m benchmarks.quality.corpus --data DEV_FOLDER --distractors TRAIN_FOLDER \
        --out corpus.jsonl.xz

Books, code, manuals and papers are cut into documents; planted facts and real questions (those of
items.py) are placed in some of them, one each, and the document stays about as long as it was. All
texts of DEV are there; what they lack is filled up with texts of TRAIN. "tune" items are there to
choose by, "report" items to report; no two items ask the same.
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

from benchmarks.quality.items import Item, evidence_spans, facts, place, questions, read_jsonl
from sharedllm import SharedLLM
from sharedllm.text.tokens import tokenize

KINDS = ("books", "code", "docs", "papers")
PARTS = ("tune", "report")
FACT_SEEDS = {"tune": 500, "report": 0}
PIECES_A_TEXT = 60  # of a text of TRAIN at most, so that many texts are there
LEAST_FILLER = 0.1  # of a document, beside a long passage


@dataclass(frozen=True, kw_only=True)
class Text:
    """A document; with an item, `spans` are the characters that hold its evidence."""

    id: str
    text: str
    part: str = ""
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
    """All documents of DEV, then as many of TRAIN as are needed, equally many of each kind."""
    out = [
        piece
        for kind in KINDS
        for row in read_jsonl(args.data / f"{kind}.jsonl.xz")
        for piece in pieces(row["text"], tokenizer, args.tokens)
    ]
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


def chosen(args: argparse.Namespace) -> Iterator[tuple[str, Item]]:
    """Items of both parts; of those that ask the same, the first."""
    seen: set[str] = set()
    for part, count in (("report", args.items), ("tune", args.tune)):
        seed = FACT_SEEDS[part]
        for drawn in (
            facts("literal", 2 * count, seed),
            facts("reworded", 2 * count, seed + 1),
            questions(args.data / "qa.jsonl.xz", 2 * count, 0, part),
        ):
            unique = {item.question: item for item in drawn if item.question not in seen}
            kept = list(unique.values())[:count]
            seen |= {item.question for item in kept}
            yield from ((part, item) for item in kept)


def make(args: argparse.Namespace, tokenizer: Any) -> list[Text]:
    """The documents in random order."""
    rng = random.Random(args.seed)
    texts = filler(args, tokenizer)
    rng.shuffle(texts)
    items = list(chosen(args))
    rng.shuffle(items)
    step = len(texts) // len(items)  # items are spread evenly: small corpora are its beginning
    out = []
    for index, text in enumerate(texts):
        given = items[index // step] if not index % step and index // step < len(items) else None
        if given is None:
            out.append(Text(id=str(index), text=text))
            continue
        part, item = given
        share = 1 - len(tokenize(item.passage, tokenizer)) / args.tokens
        rest = text[: int(len(text) * max(LEAST_FILLER, share))]
        whole, start, end = place(item, rest, rng.random())
        spans = evidence_spans(whole, item, start, end)
        out.append(Text(id=str(index), text=whole, part=part, item=item, spans=spans))
    return out


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
    parser.add_argument("--items", type=int, default=300, help="of each kind, to report")
    parser.add_argument("--tune", type=int, default=150, help="of each kind, to choose by")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = SharedLLM.from_pretrained(device="cpu", dtype="bfloat16").tokenizer
    texts = make(args, tokenizer)
    write(args.out, texts)
    held = [text for text in texts if text.item]
    for part in PARTS:
        of_part = [t.item.kind for t in held if t.part == part and t.item]
        print(part, {kind: of_part.count(kind) for kind in sorted(set(of_part))})
    print(f"{len(texts):,} documents, {sum(len(t.text) for t in texts):,} characters")


if __name__ == "__main__":
    main()
