"""Questions of yes or no, and questions that are close to answerable ones."""

from __future__ import annotations

import random

from benchmarks.default_adapter.cases import Case
from benchmarks.default_adapter.tasks.comparing import compared
from benchmarks.default_adapter.tasks.phrasing import check
from benchmarks.default_adapter.tasks.relations import (
    RELATIONS,
    Relation,
    capital,
    question,
    write,
)
from benchmarks.default_adapter.tasks.scenes import Scene, spread
from sharedllm.generation.prompt import ABSENT

TRUE = (
    "Is it true that {claim}?",
    "Is it right that {claim}?",
    "Can you confirm that {claim}?",
    "Somebody told me that {claim}. Is that so?",
    "{Claim}. Is this correct?",
    "{Claim}: yes or no?",
    "I seem to remember that {claim}. Am I right?",
    "Do the documents say that {claim}?",
    "Would it be correct to write that {claim}?",
)
# statements that name a wrong value beside the right one
CORRECTED = (
    "It was rumoured that {wrong}; in fact {right}.",
    "Some say that {wrong}. They are mistaken: {right}.",
    "{Right}. It is not true, as was printed yesterday, that {wrong}.",
    "Correction: we wrote that {wrong}. The truth is that {right}. We apologise.",
    "Contrary to what was believed for years, namely that {wrong}, {right}.",
)
DENIED = (
    "It is not true that {wrong}.",
    "The report that {wrong} is false.",
    "That {wrong} has been denied by all who were present.",
    "Nobody should believe that {wrong}; it is an invention of the newspapers.",
)
AFFIRMED = (
    "It is quite true that {right}.",
    "The report that {right} has been confirmed.",
    "That {right} was attested by all who were present.",
    "Nobody need doubt that {right}; the papers prove it.",
)
# nothing is told of what is asked
UNKNOWN = (
    "Nobody remembers {noun} any more.",
    "As to {noun}, the papers are silent.",
    "The line for {noun} has been left blank.",
    "{Noun} will be announced later.",
    "We asked about {noun} and got no reply.",
)


def yes_no(rng: random.Random, filler: str) -> Case:
    """Is something so? In half of the cases it is; in the others another value is asked for."""
    if rng.random() < 0.2:
        return compared(rng, filler)
    of, right = rng.choice(RELATIONS), rng.random() < 0.5
    if rng.random() < 0.3:
        return _contradicted(rng, filler, of, right)
    scene = Scene(rng, filler)
    asked = scene.tell(of)
    wrong = scene.value(of)
    if rng.random() < 0.5:  # another subject has the value that is asked for, or asked not to be
        scene.tell(of, value=wrong)
    scene.crowd(asked, 6)
    said = asked.value if right else wrong
    return Case(
        kind="yes_no",
        sources=scene.sources([asked], of=of),
        question=judged(rng, of, asked.subject, said),
        answer="Yes" if right else "No",
    )


def judged(rng: random.Random, of: Relation, subject: str, value: str) -> str:
    """A question of yes or no."""
    if rng.random() < 0.5:
        return check(of, subject, value)
    claim = write(of.claim, subject, value, of.subject)
    return rng.choice(TRUE).format(claim=claim, Claim=capital(claim))


def _contradicted(rng: random.Random, filler: str, of: Relation, right: bool) -> Case:
    """The text itself says what is wrong, and perhaps what is right."""
    scene = Scene(rng, filler)
    asked = scene.tell(of)
    wrong = scene.value(of)
    claims = {
        "right": asked.claim,
        "wrong": write(of.claim, asked.subject, wrong, of.subject),
    }
    held = {**claims, **{key.title(): capital(claim) for key, claim in claims.items()}}
    if rng.random() < 0.6:
        statement = rng.choice(CORRECTED).format(**held)
    else:
        statement = rng.choice(AFFIRMED if right else DENIED).format(**held)
    scene.facts.remove(asked)
    scene.crowd(asked, 5)
    others = [one.statement for one in scene.facts]
    return Case(
        kind="yes_no",
        sources=spread(rng, filler, [statement], others, scene.used, of),
        question=judged(rng, of, asked.subject, asked.value if right else wrong),
        answer="Yes" if right else "No",
    )


def near_absent(rng: random.Random, filler: str) -> Case:
    """The question could almost be answered.

    Other things are told of the subject, the same of others; or the text says that it is not so,
    or that it is not known.
    """
    scene = Scene(rng, filler)
    asked = scene.tell(rng.choice(RELATIONS))
    scene.facts.clear()
    of = asked.relation
    scene.crowd(asked, 8, apart=True)
    extra = []
    draw = rng.random()
    if draw < 0.3:
        wrong = write(of.claim, asked.subject, scene.value(of), of.subject)
        extra.append(rng.choice(DENIED).format(wrong=wrong))
    elif draw < 0.5:
        noun = write(of.noun, asked.subject)
        extra.append(rng.choice(UNKNOWN).format(noun=noun, Noun=capital(noun)))
    elif draw < 0.8:
        scene.tell(of)
    return Case(
        kind="near_absent",
        sources=scene.sources([], extra, of=of),
        question=question(rng, of, asked.subject),
        answer=ABSENT,
    )
