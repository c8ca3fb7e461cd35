"""The task "planted": a made-up statement planted in text, and a question about it.

Names and values are drawn from spaces too large to be memorised. Other statements of the same form
are planted as well, and some questions ask for a statement that is missing.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from sharedllm.generation.prompt import ABSENT
from sharedllm.training.examples import Example, Past

ABSENT_SHARE = 0.1
MOST_RIVALS = 6
SYLLABLES = (
    "ba be bel bo bri ca cor da del do el en fa fen gar gil ha hol il ja ka kel la lin lo ma mar "
    "mi mo na nel no ol or pa pel ra ren ri ro sa sel so ta tel ti tor ul va ven vi wil ya za"
).split()
# kinds of subject and value; statements of the value {v} of the subject {s}; questions for it
RELATIONS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "person",
        "number",
        ("The telephone number of {s} is {v}.", "{s} can be reached on {v}."),
        ("What is the telephone number of {s}?", "Which number do I dial to talk to {s}?"),
    ),
    (
        "person",
        "place",
        ("{s} was born in {v}.", "The birthplace of {s} is {v}."),
        ("Where was {s} born?", "Which town does {s} come from?"),
    ),
    (
        "person",
        "year",
        ("{s} retired in {v}.", "The year in which {s} stopped working was {v}."),
        ("When did {s} retire?", "In which year did {s} stop working?"),
    ),
    (
        "place",
        "person",
        ("The mayor of {s} is {v}.", "{v} was elected mayor of {s}."),
        ("Who is the mayor of {s}?", "Who governs {s}?"),
    ),
    (
        "place",
        "number",
        ("{s} has {v} inhabitants.", "The number of people who live in {s} is {v}."),
        ("How many people live in {s}?", "What is the population of {s}?"),
    ),
    (
        "product",
        "price",
        ("The {s} costs {v}.", "You can have the {s} for {v}."),
        ("What is the price of the {s}?", "How much do I pay for the {s}?"),
    ),
    (
        "product",
        "code",
        ("The serial number of the {s} is {v}.", "Stamped on the {s} is {v}."),
        ("Which serial number does the {s} have?", "What is stamped on the {s}?"),
    ),
    (
        "product",
        "person",
        ("The {s} was designed by {v}.", "{v} drew the plans of the {s}."),
        ("Who designed the {s}?", "Whose design is the {s}?"),
    ),
)


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))).capitalize()


DRAW: dict[str, Callable[[random.Random], str]] = {
    "person": lambda rng: f"{_word(rng)} {_word(rng)}",
    "place": lambda rng: f"{_word(rng)}{rng.choice(('ford', 'ton', 'by', ' Bay', ' Hill'))}",
    "product": lambda rng: f"{_word(rng)} {rng.randint(10, 99)}",
    "number": lambda rng: str(rng.randint(10**4, 10**7)),
    "year": lambda rng: str(rng.randint(1700, 2020)),
    "price": lambda rng: f"{rng.randint(2, 999)} {rng.choice(('dollars', 'euros', 'crowns'))}",
    "code": lambda rng: f"{_word(rng)[:3].upper()}-{rng.randint(1000, 9999)}",
}


def planted(rng: random.Random, filler: str) -> Example:
    """Make an example: a statement in `filler` among similar ones, and a question for its value.

    A share ABSENT_SHARE of questions asks for a statement that is missing.
    """
    subject_kind, value_kind, statements, questions = rng.choice(RELATIONS)
    subjects: dict[str, None] = {}
    wanted = 1 + rng.randint(1, MOST_RIVALS)
    while len(subjects) < wanted:
        subjects[DRAW[subject_kind](rng)] = None
    asked, *rivals = subjects
    values = {subject: DRAW[value_kind](rng) for subject in subjects}
    absent = rng.random() < ABSENT_SHARE
    past = Past(filler, gap=rng.choice((" ", "\n", "\n\n")))
    for subject in rivals if absent else (asked, *rivals):
        stated = rng.choice(statements).format(s=subject, v=values[subject])
        past.put(stated, rng.random())
    text, spans = past.build()
    return Example(
        kind="planted_absent" if absent else "planted",
        past=text,
        question=rng.choice(questions).format(s=asked),
        answer=ABSENT if absent else values[asked],
        evidence=() if absent else spans[:1],
    )
