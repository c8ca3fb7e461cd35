"""What facts are hidden in: real text, noise sentences again and again, or other facts."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.default_adapter.tasks.relations import Fact, Relation, fact
from sharedllm.training.examples import Past, Span

NOISE = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.",
    "Rain fell all day. The wind was low. Nothing else happened. The clock ticked on.",
    "The road goes on. The river runs. The hills are far away. We walk and we rest.",
    "Lorem ipsum dolor sit amet. Consectetur adipiscing elit. Sed do eiusmod tempor.",
)
TEXT, NOISY = 0.72, 0.12  # shares of the first two kinds; the rest is other facts


def like(rng: random.Random, name: str, used: set[str]) -> str | None:
    """Another name that shares a word with `name`; None where there is none."""
    for mark in (" ", "-"):
        parts = name.split(mark)
        if len(parts) == 2:
            other = rng.choice(("Rowan", "Selby", "Hollis") if mark == " " else ("dim", "odd"))
            made = mark.join((parts[0], other) if rng.random() < 0.5 else (other, parts[1]))
            return None if made in used else made
    return None


def rivals(
    rng: random.Random,
    asked: Fact,
    others: Sequence[Relation],
    n: int,
    used: set[str],
    *,
    apart: bool = False,
) -> list[Fact]:
    """`n` facts that could be taken for the `asked` one.

    They tell the same of another subject (sometimes of one with half the same name), or something
    else of the same subject; with `apart` nothing that could pass for an answer.
    """
    out: list[Fact] = []
    left = [of for of in others if of.subject == asked.relation.subject and of != asked.relation]
    if apart:
        left = [of for of in left if sort(of.value) != sort(asked.relation.value)]
    rng.shuffle(left)
    for _ in range(n):
        if left and rng.random() < 0.35:
            out.append(fact(rng, left.pop(), used, subject=asked.subject))
            continue
        near = like(rng, asked.subject, used) if asked.relation.subject in NEAR else None
        subject = near if rng.random() < 0.3 else None
        out.append(_other(rng, asked.relation, used, subject, asked.value))
    return out


NEAR = ("person", "pair")


# kinds of values that may answer the same question
ALIKE = (
    ("rank", "job", "company", "committee"),
    ("place", "street", "room", "room_name", "event", "code", "small"),
    ("date", "date_only", "year", "day", "month", "season", "clock", "hours"),
    ("days", "weeks", "years", "minutes"),
    ("subject", "topic", "language", "hobby", "sport"),
    ("food", "drink", "herb", "dish"),
    ("material", "wood", "fabric"),
    ("price", "percent"),
    ("animal", "species", "livestock"),
    ("number", "count", "small"),
)


def sort(kind: str) -> str:
    """A name that is the same for all kinds of values between which a question may not tell."""
    return next((group[0] for group in ALIKE if kind in group), kind)


def _other(
    rng: random.Random, of: Relation, used: set[str], subject: str | None, value: str
) -> Fact:
    """A fact with another value; where the values are few it may take several draws."""
    made = fact(rng, of, used, subject)
    for _ in range(20):
        if made.value != value:
            break
        made = fact(rng, of, used, made.subject)
    return made


def background(rng: random.Random, filler: str, of: Relation | None, used: set[str]) -> str:
    """Text of about the length of `filler`: most often the filler itself."""
    draw = rng.random()
    if draw < TEXT or (of is None and draw >= TEXT + NOISY):
        return filler
    if draw < TEXT + NOISY:
        noise = rng.choice(NOISE) + rng.choice((" ", "\n"))
        return noise * max(1, len(filler) // len(noise))
    mark, lines, length = rng.choice((" ", "\n")), list[str](), 0
    while of is not None and length < len(filler):
        lines.append(fact(rng, of, used).statement)
        length += len(lines[-1]) + 1
    return mark.join(lines) + mark


def hide(rng: random.Random, text: str, statements: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """The statements at random places of the text, and their spans."""
    past = Past(text, gap=rng.choice((" ", "\n", "\n\n")))
    for statement in statements:
        past.put(statement, rng.random())
    return past.build()
