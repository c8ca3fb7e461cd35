"""What can be stated about somebody or something, and the ways in which it is asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks.default_adapter.tasks.names import DRAW
from benchmarks.default_adapter.tasks.people import PEOPLE
from benchmarks.default_adapter.tasks.things import THINGS


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A relation between a subject {s} and a value {v}.

    Attributes
    ----------
    subject, value : str
        Keys of :data:`DRAW`.
    says : tuple of str
        Statements, with {s} and {v}.
    noun : str
        The value in words: "the age of {s}".
    asks : tuple of str
        Questions with {s}, which a user would ask and which share few words with a statement.
    """

    subject: str
    value: str
    says: tuple[str, ...]
    noun: str
    asks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A relation with its two ends, and one statement of it."""

    relation: Relation
    subject: str
    value: str
    statement: str


# RULER's own needle and questions, for each of its kinds of key and value
MAGIC_SAYS = "One of the special magic {kind}s for {{s}} is: {{v}}."
MAGIC_NOUN = "the special magic {kind} for {{s}}"


def _magic(subject: str, value: str, kind: str) -> Relation:
    noun = MAGIC_NOUN.format(kind=kind)
    return Relation(
        subject=subject, value=value, says=(MAGIC_SAYS.format(kind=kind),), noun=noun, asks=()
    )


MAGIC = (
    _magic("pair", "number7", "number"),
    _magic("pair", "number7", "number"),
    _magic("pair", "uuid", "uuid"),
    _magic("uuid", "uuid", "uuid"),
    _magic("pair", "pair", "word"),
)
RELATIONS = tuple(
    Relation(
        subject=subject,
        value=value,
        noun=noun,
        says=tuple(says.split(" | ")),
        asks=tuple(asks.split(" | ")),
    )
    for subject, value, noun, says, asks in (*PEOPLE, *THINGS)
)
ASKING = (
    "What is {noun}?",
    "What is {noun}?",
    "Tell me {noun}.",
    "According to the text, what is {noun}?",
    "Find {noun}.",
    "Can you look up {noun}?",
)
MAGIC_ASKING = (
    "What is {noun} mentioned in the provided text?",
    "What is {noun} mentioned in the provided text?",
    "What is {noun}?",
)


def relation(rng: random.Random, magic: float = 0.2) -> Relation:
    """One of the relations, RULER's with the share `magic`."""
    return rng.choice(MAGIC) if rng.random() < magic else rng.choice(RELATIONS)


def fact(
    rng: random.Random, of: Relation, used: set[str], subject: str | None = None, value: str = ""
) -> Fact:
    """A fact about `subject`, or about one that is not among the `used`."""
    while subject is None:
        drawn = DRAW[of.subject](rng)
        if drawn not in used:
            subject = drawn
    used.add(subject)
    value = value or DRAW[of.value](rng)
    statement = rng.choice(of.says).format(s=subject, v=value)
    statement = statement[0].upper() + statement[1:]
    return Fact(relation=of, subject=subject, value=value, statement=statement)


def question(rng: random.Random, of: Relation, subject: str) -> str:
    """A question for the value, literal or reworded."""
    if of in MAGIC:
        return rng.choice(MAGIC_ASKING).format(noun=of.noun.format(s=subject))
    if of.asks and rng.random() < 0.6:
        return rng.choice(of.asks).format(s=subject)
    return rng.choice(ASKING).format(noun=of.noun.format(s=subject))
