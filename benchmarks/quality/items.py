"""Items with known evidence, to be placed in long text: planted facts and real questions.

Used by the quality benchmarks. Everything is drawn from a seed; nothing here is seen in training.
"""

from __future__ import annotations

import json
import lzma
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("literal", "reworded", "question")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A passage to place, a question about it, and the answers that are right."""

    kind: str
    passage: str
    question: str
    answers: tuple[str, ...]


FIRST = (
    "Alaric Beatrix Cosmo Delphine Eamon Farida Gideon Hester Ivor Jocasta Kester Leonie Magnus "
    "Nerys Osric Petra Quentin Rosalba Silas Tamsin Ulric Verity Wilfred Xenia Yorick Zelda"
).split()
LAST = (
    "Abernathy Brackwell Carrowmore Dunstable Eversleigh Fothergill Grimshaw Hollingbourne "
    "Inchbald Jellicoe Kirkbride Lanyon Marchbanks Netherby Ormerod Penhaligon Quillfeather "
    "Ravenhill Stanhope Thistlewood Umfraville Vandermeer Wolstenholme Yarborough"
).split()
COLOURS = "amber crimson emerald indigo ivory jade ochre scarlet silver teal umber violet".split()
THINGS = (
    "anchor bellows candle dagger easel fiddle goblet hammer inkwell kettle lantern mirror needle "
    "orrery pendulum quill ribbon sundial trumpet urn"
).split()
PLACES = (
    "Ashgrove Brindlemere Coldharbour Dunmarrow Elverton Fenwick Gallowmoor Hartsmouth Inverleigh "
    "Kestrelton Lowmarsh Millbrook Northcott Oakhanger Pendlebury Quarrington Rushford Saltash "
    "Thornbury Wexcombe"
).split()

# statement as asked, the same fact in other words, question, answer
FACTS = (
    (
        "The password that {p} chose for the archive is {c}-{t}-{n}.",
        "To enter the archive, {p} would always type {c}-{t}-{n}.",
        "What is the password that {p} chose for the archive?",
        "{c}-{t}-{n}",
    ),
    (
        "{p} hid the {c} {t} in the cellar of a house in {l}.",
        "Under a house at {l}, where the wine was kept, lay the {c} {t} that {p} had put away.",
        "In which town did {p} hide the {c} {t}?",
        "{l}",
    ),
    (
        "The telephone number of {p} is {m}.",
        "Whoever wished to ring {p} up had to dial {m}.",
        "What is the telephone number of {p}?",
        "{m}",
    ),
    (
        "{p} was born in the town of {l} in the year {y}.",
        "It was at {l} that {p} first saw the light of day, in {y}.",
        "In which town was {p} born?",
        "{l}",
    ),
    (
        "The favourite instrument of {p} is the {c} {t}.",
        "Nothing pleased {p} so much as to play upon the {c} {t}.",
        "What is the favourite instrument of {p}?",
        "{c} {t}",
    ),
    (
        "{p} paid {n} guineas for the {c} {t} at the auction.",
        "When the bidding for the {c} {t} ended, it was knocked down to {p} for {n} guineas.",
        "How many guineas did {p} pay for the {c} {t}?",
        "{n}",
    ),
    (
        "The secret ingredient of the soup that {p} cooks is {c} {f}.",
        "What makes the broth of {p} taste unlike any other is a pinch of {c} {f}.",
        "What is the secret ingredient of the soup that {p} cooks?",
        "{c} {f}",
    ),
    (
        "The ship that {p} commanded was called the {C} {T}.",
        "As captain, {p} walked the deck of the {C} {T} for many years.",
        "What was the name of the ship that {p} commanded?",
        "{C} {T}",
    ),
    (
        "The teacher of {p} was {q}.",
        "Everything that {p} knew had been learned from {q}.",
        "Who was the teacher of {p}?",
        "{q}",
    ),
    (
        "{p} works as a clockmaker in {l}.",
        "In a little workshop at {l}, {p} earns a living by mending watches and clocks.",
        "In which town does {p} work as a clockmaker?",
        "{l}",
    ),
)
SPICES = "saffron thyme fennel clove cumin ginger nutmeg pepper sorrel tarragon".split()


def facts(kind: str, n: int, seed: int) -> list[Item]:
    """`n` planted facts; `kind` is "literal" or "reworded". The same seed gives the same facts."""
    rng = random.Random(seed)
    out = []
    for index in range(n):
        literal, reworded, question, answer = FACTS[index % len(FACTS)]
        colour, thing = rng.choice(COLOURS), rng.choice(THINGS)
        values = {
            "p": f"{rng.choice(FIRST)} {rng.choice(LAST)}",
            "q": f"{rng.choice(FIRST)} {rng.choice(LAST)}",
            "c": colour,
            "t": thing,
            "C": colour.title(),
            "T": thing.title(),
            "l": rng.choice(PLACES),
            "f": rng.choice(SPICES),
            "n": str(rng.randint(100, 999)),
            "m": f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}",
            "y": str(rng.randint(1702, 1899)),
        }
        text = literal if kind == "literal" else reworded
        out.append(
            Item(
                kind=kind,
                passage=text.format(**values),
                question=question.format(**values),
                answers=(answer.format(**values),),
            )
        )
    return out


QUESTION_SETS = (
    "NQ-open",
    "SQuAD",
    "FairytaleQA",
    "AdversarialQA",
    "Quoref",
    "COVID-QA",
    "FriendsQA",
)


def questions(path: Path, n: int, seed: int, part: str = "report") -> list[Item]:
    """`n` real questions with short answers that stand in their passage, few of one passage.

    The passages are divided into two disjoint parts, "report" and "tune".
    """
    pool: dict[str, list[Item]] = {}
    for row in read_jsonl(path):
        if not row["source"].startswith(QUESTION_SETS):
            continue
        if (zlib.crc32(row["context"].encode()) % 3 == 0) != (part == "tune"):
            continue
        context, answers = row["context"], [a for a in row["answer"] if a.strip()]
        short = [a for a in answers if len(a.split()) <= 6]
        inside = any(a.lower() in context.lower() for a in answers)
        if short and inside and 200 <= len(context) <= 6000 and len(row["question"].split()) >= 4:
            item = Item(
                kind="question",
                passage=context.strip(),
                question=row["question"].strip(),
                answers=tuple(answers),
            )
            pool.setdefault(context, []).append(item)
    rng = random.Random(seed)
    groups = [rng.sample(pool[key], len(pool[key])) for key in sorted(pool)]
    rng.shuffle(groups)
    rounds = range(max(map(len, groups)))
    in_turn = [group[k] for k in rounds for group in groups if k < len(group)]
    return in_turn[:n]


def read_jsonl(path: Path) -> Iterator[dict]:
    """Rows of a .jsonl or .jsonl.xz file."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def place(item: Item, filler: str, where: float) -> tuple[str, int, int]:
    """Put the passage into `filler` at the paragraph or sentence end nearest to the share `where`.

    Returns
    -------
    (text, start, end)
        The passage stands at characters [start, end) of the text.
    """
    at = int(where * len(filler))
    found = re.compile(r"(?<=[.!?])\s+").search(filler, at)
    at = found.end() if found else len(filler)
    before, after = filler[:at].rstrip() + "\n\n", "\n\n" + filler[at:].lstrip()
    return before + item.passage + after, len(before), len(before) + len(item.passage)


def normal(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD's normalisation)."""
    text = re.sub(r"[^\w\s]", " ", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def is_right(answer: str, answers: tuple[str, ...]) -> bool:
    """Whether one of the right `answers` stands in `answer`."""
    given = f" {normal(answer)} "
    return any(f" {normal(a)} " in given for a in answers if normal(a))


def f1(answer: str, answers: tuple[str, ...]) -> float:
    """Token F1 with the best of the right `answers`."""
    best = 0.0
    given = normal(answer).split()
    for right in answers:
        wanted = normal(right).split()
        common = sum(min(given.count(w), wanted.count(w)) for w in set(wanted))
        if common:
            best = max(best, 2 * common / (len(given) + len(wanted)))
    return best


def evidence_spans(text: str, item: Item, start: int, end: int) -> tuple[tuple[int, int], ...]:
    """The whole fact; for a question, every right answer in its passage."""
    if item.kind != "question":
        return ((start, end),)
    low, out = text[start:end].lower(), []
    for answer in item.answers:
        at = low.find(answer.lower())
        while at >= 0:
            out.append((start + at, start + at + len(answer)))
            at = low.find(answer.lower(), at + 1)
    return tuple(out)
