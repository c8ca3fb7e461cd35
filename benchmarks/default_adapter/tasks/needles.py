"""Needles: one fact or several among others like them, asked for by name; or not there at all."""

from __future__ import annotations

import random

from benchmarks.default_adapter.tasks.haystack import background, hide, rivals
from benchmarks.default_adapter.tasks.relations import (
    MAGIC,
    RELATIONS,
    Fact,
    Relation,
    fact,
    question,
    relation,
    write,
)
from sharedllm.generation.prompt import ABSENT
from sharedllm.training.examples import Example, Span

PREAMBLE = "Some special magic {kind}s are hidden within the text. "


def single(rng: random.Random, filler: str) -> Example:
    """One fact in text where nothing is like it, or in noise."""
    used: set[str] = set()
    asked = fact(rng, relation(rng), used)
    past, spans = hide(rng, background(rng, filler, None, used), [asked.statement])
    return Example(
        kind="single",
        past=past,
        question=question(rng, asked.relation, asked.subject),
        answer=asked.value,
        evidence=spans,
    )


def multi_key(rng: random.Random, filler: str) -> Example:
    """One fact among others that could be taken for it."""
    used: set[str] = set()
    asked = fact(rng, relation(rng), used)
    past, spans = _among(rng, filler, [asked], used)
    return Example(
        kind="multi_key",
        past=past,
        question=question(rng, asked.relation, asked.subject),
        answer=asked.value,
        evidence=spans,
    )


def absent(rng: random.Random, filler: str) -> Example:
    """A question like the others. The text tells the same of others, and other things of this."""
    used: set[str] = set()
    asked = fact(rng, relation(rng), used)
    others = rivals(rng, asked, _kindred(asked.relation), rng.randint(1, 10), used, apart=True)
    if rng.random() < 0.85:
        text = background(rng, filler, asked.relation, used)
    else:  # nothing like it is there
        text, others = filler, []
    past, _ = hide(rng, text, [other.statement for other in others])
    return Example(
        kind="absent",
        past=past,
        question=question(rng, asked.relation, asked.subject),
        answer=ABSENT,
    )


def multi_query(rng: random.Random, filler: str) -> Example:
    """Several facts asked for at once: of several subjects, or several of one subject."""
    used: set[str] = set()
    of = relation(rng, magic=0.35)
    n = rng.randint(2, 4)
    if of not in MAGIC and rng.random() < 0.4:
        kinds = rng.sample([other for other in RELATIONS if other.subject == of.subject], 2)
        asked = [fact(rng, kinds[0], used)]
        asked.append(fact(rng, kinds[1], used, subject=asked[0].subject))
    else:
        asked = [fact(rng, of, used) for _ in range(n)]
    past, spans = _among(rng, filler, asked, used)
    return Example(
        kind="multi_query",
        past=past,
        question=_all_of(rng, asked),
        answer=", ".join(one.value for one in asked),
        evidence=spans,
    )


def multi_value(rng: random.Random, filler: str) -> Example:
    """All values of one subject, which stand in different places."""
    used: set[str] = set()
    of = rng.choice(MAGIC) if rng.random() < 0.4 else rng.choice(_MANY)
    asked = [fact(rng, of, used)]
    for _ in range(20):  # values may repeat
        other = fact(rng, of, used, subject=asked[0].subject)
        if other.value not in {one.value for one in asked}:
            asked.append(other)
        if len(asked) == 4 or (len(asked) > 1 and rng.random() < 0.3):
            break
    past, spans = _among(rng, filler, asked, used)
    order = sorted(range(len(asked)), key=lambda i: spans[i])
    return Example(
        kind="multi_value",
        past=past,
        question=_every(rng, of, asked[0].subject),
        answer=", ".join(asked[i].value for i in order),
        evidence=tuple(spans[i] for i in order),
    )


# relations that one subject may well have several times
_MANY = [of for of in RELATIONS if of.value in ("phone", "food", "book", "code", "email", "number")]


def _kindred(of: Relation) -> tuple[Relation, ...]:
    return MAGIC if of in MAGIC else RELATIONS


def _among(
    rng: random.Random, filler: str, asked: list[Fact], used: set[str]
) -> tuple[str, tuple[Span, ...]]:
    """The asked facts and rivals of the first, hidden; the spans of the asked ones."""
    of = asked[0].relation
    kindred = [other for other in _kindred(of) if other not in {one.relation for one in asked}]
    others = rivals(rng, asked[0], kindred, rng.randint(1, 10), used)
    text = background(rng, filler, of, used)
    past, spans = hide(rng, text, [one.statement for one in (*asked, *others)])
    return past, spans[: len(asked)]


def _all_of(rng: random.Random, asked: list[Fact]) -> str:
    of = asked[0].relation
    if of in MAGIC:
        keys = ", ".join(one.subject for one in asked[:-1]) + f", and {asked[-1].subject}"
        return _every(rng, of, keys)
    if all(one.relation == of for one in asked) and rng.random() < 0.5:
        keys = ", ".join(one.subject for one in asked[:-1]) + f" and {asked[-1].subject}"
        noun = write(of.noun.replace("the {s}", "{s}"), "each of these")
        return f"What is {noun}: {keys}?"
    nouns = [write(one.relation.noun, one.subject) for one in asked]
    what = ", ".join(nouns[:-1]) + f" and {nouns[-1]}"
    return rng.choice(("What are {w}?", "Tell me {w}.", "I need {w}.")).format(w=what)


def _every(rng: random.Random, of: Relation, subject: str) -> str:
    if of in MAGIC:
        kind = of.noun.split("magic ")[1].split(" ")[0]
        asked = (
            f"What are all the special magic {kind}s for {subject} mentioned in the provided text?"
        )
        return (PREAMBLE.format(kind=kind) if rng.random() < 0.15 else "") + asked
    noun = write(of.noun, subject)
    return rng.choice(
        (
            f"Different places of the text tell {noun}. List all that is said.",
            f"Which answers does the text give to this: {noun}? Name every one.",
            f"The text gives more than one answer for {noun}. What are they?",
        )
    )
