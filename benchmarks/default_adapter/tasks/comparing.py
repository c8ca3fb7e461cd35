"""Numbers and dates of two or more facts: which is more, which came first, how long between."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.default_adapter.cases import Case
from benchmarks.default_adapter.tasks.kinds import DRAW
from benchmarks.default_adapter.tasks.names import MONTHS
from benchmarks.default_adapter.tasks.relations import FACTS, RELATIONS, capital, fact
from benchmarks.default_adapter.tasks.scenes import spread

WIDEST = 60  # differences are of numbers that a small model can subtract
THE = frozenset("thing river ship dish machine contract journey".split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A number that every subject of a kind has; see ``facts/measures.toml``."""

    subject: str
    low: int
    high: int
    form: str
    unit: str
    more: tuple[str, ...]
    less: tuple[str, ...]
    most: str
    least: str
    check: str
    difference: str
    says: tuple[str, ...]

    def write(self, number: int) -> str:
        """The number with its unit; years without a comma."""
        grouped = f"{number:,}" if self.low < 1000 else str(number)
        return self.form.format(n=grouped)


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Events of a subject in their order: each a noun and clauses; dated by days or years."""

    subject: str
    events: tuple[tuple[str, ...], ...]
    days: bool = False


def _tables(name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    with (FACTS / name).open("rb") as file:
        for subject, entries in tomllib.load(file).items():
            for entry in entries:
                yield subject, {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}


MEASURES = tuple(Measure(subject=subject, **entry) for subject, entry in _tables("measures.toml"))
HISTORIES = tuple(
    History(
        subject=subject,
        events=tuple(tuple(event) for event in entry["events"]),
        days=entry.get("days", False),
    )
    for subject, entry in _tables("histories.toml")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A subject, its number, and the statement that tells it."""

    name: str
    number: int
    statement: str


def _measured(rng: random.Random, of: Measure, count: int, used: set[str]) -> list[Measured]:
    """Distinct subjects with distinct numbers; half of them with numbers near each other."""
    near = rng.random() < 0.5
    width = min(of.high - of.low, max(count + 8, (of.high - of.low) // 12))
    start = rng.randint(of.low, of.high - width) if near else of.low
    numbers = rng.sample(range(start, (start + width if near else of.high) + 1), count)
    out = []
    for number in numbers:
        subject = _subject(rng, of.subject, used)
        name = f"the {subject}" if of.subject in THE else subject
        statement = rng.choice(of.says).format(
            s=subject, name=name, Name=capital(name), n=of.write(number)
        )
        out.append(Measured(name=name, number=number, statement=capital(statement)))
    return out


def _subject(rng: random.Random, kind: str, used: set[str]) -> str:
    while True:
        drawn = DRAW[kind](rng)
        if not any(drawn in other or other in drawn for other in used):
            used.add(drawn)
            return drawn


def _distractors(rng: random.Random, subject: str, used: set[str]) -> list[str]:
    """Other facts of the same kind of subject, about others."""
    relations = [of for of in RELATIONS if of.subject == subject]
    return [fact(rng, rng.choice(relations), used).statement for _ in range(rng.randint(0, 3))]


def comparison(rng: random.Random, filler: str) -> Case:
    """Which of two or more is the older, dearer, larger; or by how much."""
    of, used = rng.choice(MEASURES), set[str]()
    count = 2 if rng.random() < 0.7 else rng.randint(3, 4)
    told = _measured(rng, of, count + rng.randint(0, 3), used)
    asked, rest = told[:count], told[count:]
    ranked = sorted(asked, key=lambda one: one.number)
    upwards = rng.random() < 0.5
    if count > 2:
        listed = ", ".join(one.name for one in asked[:-1]) + f" or {asked[-1].name}"
        form = of.most if upwards else of.least
        if " of {all}" in form:
            listed = listed.replace(" or ", " and ")
        text, answer = form.format(all=listed), ranked[-1 if upwards else 0].name
    elif rng.random() < 0.2 and ranked[1].number - ranked[0].number <= WIDEST:
        text = of.difference.format(a=ranked[1].name, b=ranked[0].name)
        answer = f"{ranked[1].number - ranked[0].number:,} {of.unit}"
        answer = _singular(answer)
    else:
        form = rng.choice(of.more if upwards else of.less)
        text = form.format(a=asked[0].name, b=asked[1].name)
        answer = ranked[1 if upwards else 0].name
    others = [*(one.statement for one in rest), *_distractors(rng, of.subject, used)]
    return Case(
        kind="comparison",
        sources=spread(rng, filler, [one.statement for one in asked], others, used),
        question=text,
        answer=answer,
    )


def _singular(text: str) -> str:
    """The unit without its s after the number one."""
    return text[:-1] if text.startswith("1 ") and text.endswith("s") else text


def compared(rng: random.Random, filler: str) -> Case:
    """Is one more than the other? In half of the cases it is."""
    of, used = rng.choice(MEASURES), set[str]()
    told = _measured(rng, of, 2 + rng.randint(0, 2), used)
    first, second = told[:2]
    others = [*(one.statement for one in told[2:]), *_distractors(rng, of.subject, used)]
    return Case(
        kind="yes_no",
        sources=spread(rng, filler, [first.statement, second.statement], others, used),
        question=of.check.format(a=first.name, b=second.name),
        answer="Yes" if first.number > second.number else "No",
    )


# {c} is a clause, {n} a noun, {w} the year or day
DATED = {
    False: (
        "In {w} {c}.",
        "{C} in {w}.",
        "It was in {w} that {c}.",
        "{w} was the year in which {c}.",
        "{N}: {w}.",
        "The chronicle has this for {w}: {c}.",
        "Nobody was surprised when, in {w}, {c}.",
    ),
    True: (
        "On {w} {c}.",
        "{C} on {w}.",
        "It was on {w} that {c}.",
        "{N}: {w}.",
        "Entry of {w}: {c}.",
        "Two letters report that {c} on {w}.",
        "By the evening of {w} it was known that {c} that day.",
    ),
}
BETWEEN = (
    "How many {u} passed between {n} and {m}?",
    "How many {u} lie between {n} and {m}?",
    "How long after {n} was {m}?",
    "How much time was there from {n} to {m}?",
    "By how many {u} did {n} precede {m}?",
)
ORDER = {
    "first": (
        "Which came first, {n} or {m}?",
        "What happened earlier, {n} or {m}?",
        "Which is the older event: {n} or {m}?",
    ),
    "last": (
        "Which came later, {n} or {m}?",
        "What happened last, {n} or {m}?",
        "Which is the more recent event: {n} or {m}?",
    ),
}
NEXT = {
    1: ("What came next after {n}?", "Which event followed {n}?"),
    -1: ("What came right before {n}?", "Which event preceded {n}?"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dated:
    """An event: its noun, when it was as a number, and the statement that tells it."""

    noun: str
    when: int
    statement: str


def _dated(rng: random.Random, of: History, subject: str) -> list[Dated]:
    """The events of one subject, at growing years or days."""
    count = len(of.events)
    if of.days:
        least = 2
        numbers = sorted(rng.sample(range(least, 29), count))
        month, year = rng.choice(MONTHS), rng.randint(1840, 2026)
        written = [f"{day} {month} {year}" for day in numbers]
    else:
        start = rng.randint(1650, 1960)
        numbers = sorted(rng.sample(range(start, start + 60), count))
        written = [str(year) for year in numbers]
    out = []
    for (noun, *clauses), number, when in zip(of.events, numbers, written, strict=True):
        noun = noun.format(s=subject)
        clause = rng.choice(clauses).format(s=subject)
        statement = rng.choice(DATED[of.days]).format(
            w=when, c=clause, C=capital(clause), n=noun, N=capital(noun)
        )
        out.append(Dated(noun=noun, when=number, statement=capital(statement)))
    return out


def interval(rng: random.Random, filler: str) -> Case:
    """How many years or days lie between two events, which came first, or what came next."""
    of, used = rng.choice(HISTORIES), set[str]()
    events = _dated(rng, of, _subject(rng, of.subject, used))
    unit = "days" if of.days else "years"
    others: list[str] = []
    if rng.random() < 0.5:  # the same of another subject
        rival = _dated(rng, of, _subject(rng, of.subject, used))
        others += [one.statement for one in rng.sample(rival, 2)]
    draw = rng.random()
    if draw < 0.25:
        step, at = rng.choice((1, -1)), rng.randrange(1, len(events) - 1)
        asked = [events[at], events[at + step]]
        others += [one.statement for one in events if one not in asked]
        text, answer = rng.choice(NEXT[step]).format(n=asked[0].noun), asked[1].noun
    else:
        asked = sorted(rng.sample(events, 2), key=lambda one: one.when)
        others += [one.statement for one in events if one not in asked and rng.random() < 0.6]
        if draw < 0.7:
            gap = asked[1].when - asked[0].when
            answer = _singular(f"{gap} {unit}")
            text = rng.choice(BETWEEN).format(u=unit, n=asked[0].noun, m=asked[1].noun)
        else:
            order = rng.choice(list(ORDER))
            answer = asked[0 if order == "first" else 1].noun
            nouns = rng.sample([one.noun for one in asked], 2)
            text = rng.choice(ORDER[order]).format(n=nouns[0], m=nouns[1])
    others += _distractors(rng, of.subject, used)
    return Case(
        kind="interval",
        sources=spread(rng, filler, [one.statement for one in asked], others, used),
        question=text,
        answer=answer,
    )
