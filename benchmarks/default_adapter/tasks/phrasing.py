"""How a subject is called after it has been named: pronouns, possessives, the bare name."""

from __future__ import annotations

import random
import re

from benchmarks.default_adapter.tasks.relations import Fact, Relation, capital, pronouns, write

# after these words a pronoun is an object
OBJECT = frozenset(
    "of for to by with from at in on about after behind before near under upon against over "
    "around beside than between into through off below through like as "
    "made make makes keep keeps kept hold holds held stop stopped stops bring brought led drive "
    "drove give gives sent send ask tell call called see put reach start started put told let "
    "buy use uses run runs throw took take eat treat treats had drink get gets configure "
    "launch find please pleases helped represents lure climb climbed".split()
)
# at the end of a question a pronoun is a subject after these words, else an object
SUBJECT_LAST = frozenset(
    "is are was were did does do has have had will can may must should".split()
)
_NAMED = re.compile(
    r"(?:(?P<before>(?!(?:the|flight|order|parcel) )[\w,'-]+) )?"
    r"(?:the |flight |order |parcel )?\{s\}(?P<of>'s)?"
)
_OWNED = re.compile(
    r"\bthe ((?:(?!of\b|the\b|to\b|for\b|in\b)[\w'{}-]+ ){1,3})of (?:the )?\{s\}(?!')"
)
_OWNED_MANY = re.compile(r"\bof ((?!the\b)[\w-]+) of (?:the )?\{s\}(?!')")


_PHRASAL = re.compile(
    r"\b(hold\w*|brought|thought|took|call|put|set|pick\w*) (up|out|over|off) (it|them|him|her)\b"
)
# of these one says "there", not "at it" or "in it"
PLACES = frozenset("place house farm hotel museum school company event".split())
_THERE = re.compile(r"\b(?:at|in|(?<=going )to|(?<=go )to) it\b")


def pronounised(template: str, kind: str, subject: str) -> str:
    """`template` with a pronoun in place of its subject, for a name told before."""
    he, him, his, _ = pronouns(kind, subject)
    text = _OWNED.sub(lambda m: f"{his} {m.group(1).strip()}", template)
    text = _OWNED_MANY.sub(lambda m: f"of {his} {m.group(1)}", text)

    def put(match: re.Match[str]) -> str:
        before = match.group("before") or ""
        last = text[match.end() :].strip() in ("?", ".", "")
        if match.group("of"):
            word = his
        elif last:
            word = he if before.lower() in SUBJECT_LAST else him
        else:
            word = him if before.lower() in OBJECT else he
        return f"{before} {word}".strip()

    text = _PHRASAL.sub(r"\1 \3 \2", _NAMED.sub(put, text))
    if kind in PLACES:
        text = _THERE.sub("there", text).replace("there there", "there")
    return text


def called(of: Relation, subject: str) -> str:
    """The subject as it is named in the relation: with or without an article."""
    found = re.search(r"(the |flight |order |parcel )\{s\}", of.noun)
    return f"{found.group(1) if found else ''}{subject}"


def check(of: Relation, subject: str, value: str, *, pronoun: bool = False) -> str:
    """The question of yes or no."""
    template = pronounised(of.check, of.subject, subject) if pronoun else of.check
    return capital(write(template, subject, value, of.subject))


def lowered(text: str) -> str:
    """A question as it goes on after a word: only its first letter changes."""
    return text[0].lower() + text[1:]


def whole(fact: Fact) -> str:
    """The fact as a sentence of its own."""
    return capital(fact.claim) + "."


def joined(rng: random.Random, facts: list[Fact]) -> str:
    """Facts about one subject, in one or two sentences."""
    first, *rest = facts
    clauses = [
        write(
            pronounised(one.relation.claim, one.relation.subject, one.subject),
            one.subject,
            one.value,
        )
        for one in rest
    ]
    if len(clauses) == 1 and rng.random() < 0.6:
        return f"{capital(first.claim)}, and {clauses[0]}."
    if len(clauses) == 2:
        return f"{capital(first.claim)}. {capital(clauses[0])}, and {clauses[1]}."
    return " ".join([whole(first), *(capital(clause) + "." for clause in clauses)])
