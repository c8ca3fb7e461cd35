"""Relations: what can be stated about somebody or something, and how it is asked for.

They are data, in ``facts/*.toml``: a table for each kind of subject, an entry for each relation.
``{s}`` is the subject and ``{v}`` the value; ``{a v}`` puts the indefinite article before it; in
statements about persons ``{he}``, ``{him}``, ``{his}`` and ``{himself}`` stand for the subject.
"""

from __future__ import annotations

import random
import re
import tomllib
import zlib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.default_adapter.tasks.kinds import DRAW, article
from benchmarks.default_adapter.tasks.names import FIRST

FACTS = Path(__file__).with_name("facts")
THEMES = (
    "people_basics",
    "people_home",
    "people_work",
    "people_money",
    "places",
    "nature",
    "things_basics",
    "objects",
    "organisations",
    "travel",
    "culture",
    "study_and_law",
)


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
    claim : str
        The statement as a clause, without capital and full stop; empty for RULER's.
    check : str
        The question of yes or no, with {s} and {v}.
    """

    subject: str
    value: str
    says: tuple[str, ...]
    noun: str
    asks: tuple[str, ...]
    claim: str = ""
    check: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A relation with its two ends, and one statement of it."""

    relation: Relation
    subject: str
    value: str
    statement: str

    @property
    def claim(self) -> str:
        return write(self.relation.claim, self.subject, self.value)


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


def read_relations(path: Path) -> tuple[Relation, ...]:
    """Read the relations of one file.

    Raises
    ------
    TypeError
        If an entry lacks a field or has an unknown one.
    """
    with path.open("rb") as file:
        tables = tomllib.load(file)
    return tuple(
        Relation(
            subject=subject,
            says=tuple(entry.pop("says")),
            asks=tuple(entry.pop("asks")),
            **entry,
        )
        for subject, entries in tables.items()
        for entry in entries
    )


RELATIONS = tuple(of for theme in THEMES for of in read_relations(FACTS / f"{theme}.toml"))

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
REWORDED = 0.7  # share of questions that share few words with the statement
# claims are reported, joined with an unrelated remark, or put on record, as in real text
FRAMES = (
    "It is well known that {claim}.",
    "I am told that {claim}, but you may check it yourself.",
    "The weather had been fair for a week; {claim}; nobody spoke of the war.",
    "For the record: {claim}.",
    "PS: you asked, and the answer is that {claim}.",
    "It appears from the papers that {claim}, and that the roof leaks.",
    "As everybody in the office knows by now, {claim}.",
    "Let it be noted that {claim}, whatever the newspapers may say.",
    "While the kettle boiled she mentioned that {claim}.",
    "The third paragraph, which few will read, says that {claim}.",
    "Note to self: {claim}. Also buy stamps.",
    "There can be no doubt that {claim}, as the undersigned has seen with his own eyes.",
)
FRAMED = 0.12
FEMALE = frozenset(
    "Brenna Dorothy Fiona Helga Judith Lavinia Nadia Prudence Sabina Ursula Wilhelmina Clarissa "
    "Eleanor Gwendolyn Imogen Amina Carmen Elif Fatima Hana Jing Lucia Mei Olga Sofia Mary Linda "
    "Susan Karen Emma Laura Anna".split()
)
PRONOUNS = {
    "he": ("he", "him", "his", "himself"),
    "she": ("she", "her", "her", "herself"),
    "it": ("it", "it", "its", "itself"),
    "they": ("they", "them", "their", "themselves"),
}
_FIELD = re.compile(r"\{(?:([aA]) )?(\w+)\}")


def pronouns(kind: str, subject: str) -> tuple[str, str, str, str]:
    """The pronouns of a subject; of a name that does not tell, always the same ones."""
    if kind == "team":
        return PRONOUNS["they"]
    if kind != "person":
        return PRONOUNS["it"]
    title, _, first = subject.partition(" ")
    if title in ("Mr", "Mrs"):
        return PRONOUNS["he" if title == "Mr" else "she"]
    name = (first if title in ("Dr", "Professor") else subject).split(" ")[0]
    if name in FIRST:
        return PRONOUNS["she" if name in FEMALE else "he"]
    return PRONOUNS["he" if zlib.crc32(subject.encode()) % 2 else "she"]


def write(template: str, subject: str, value: str = "", kind: str = "person") -> str:
    """Fill a statement, a claim or a question."""
    he, him, his, himself = pronouns(kind, subject)
    held = {"s": subject, "v": value, "he": he, "him": him, "his": his, "himself": himself}

    def filled(match: re.Match[str]) -> str:
        mark, field = match.groups()
        text = held[field.lower()]
        if field[0].isupper():
            text = capital(text)
        if mark:
            word = article(text)
            return f"{capital(word) if mark == 'A' else word} {text}"
        return text

    return _FIELD.sub(filled, template)


def capital(text: str) -> str:
    """`text` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


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
    if of.claim and rng.random() < FRAMED:
        template = rng.choice(FRAMES).replace("{claim}", of.claim)
    else:
        template = rng.choice(of.says)
    statement = capital(write(template, subject, value, of.subject))
    return Fact(relation=of, subject=subject, value=value, statement=statement)


def question(rng: random.Random, of: Relation, subject: str) -> str:
    """A question for the value, literal or reworded."""
    if of in MAGIC:
        return rng.choice(MAGIC_ASKING).format(noun=of.noun.format(s=subject))
    if of.asks and rng.random() < REWORDED:
        return capital(write(rng.choice(of.asks), subject))
    return for_noun(of, rng.choice(ASKING)).format(noun=write(of.noun, subject))


def bare_question(rng: random.Random, of: Relation, subject: str) -> str:
    """A question that may stand behind a colon: no request and no reference to a text."""
    if of.asks and rng.random() < REWORDED:
        return capital(write(rng.choice(of.asks), subject))
    return for_noun(of, ASKING[0]).format(noun=write(of.noun, subject))


def for_noun(of: Relation, asking: str) -> str:
    """Persons are asked for with "who"."""
    return re.sub(r"\b([Ww])hat is\b", r"\1ho is", asking) if of.value == "person" else asking
