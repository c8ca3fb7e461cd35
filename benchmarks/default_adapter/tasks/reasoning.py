"""Tasks of several steps: variables, facts about whoever another fact names, and lists."""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Callable

from benchmarks.default_adapter.tasks import names
from benchmarks.default_adapter.tasks.haystack import background, hide
from benchmarks.default_adapter.tasks.kinds import DRAW
from benchmarks.default_adapter.tasks.relations import RELATIONS, fact, write
from sharedllm.training.examples import Example, Past


def tracking(rng: random.Random, filler: str) -> Example:
    """Variables assigned to each other: all that hold the asked number (as in RULER)."""
    letters, size = string.ascii_uppercase, rng.choice((3, 5, 5))
    drawn = {"".join(rng.choices(letters, k=size)) for _ in range(24)}
    variables = sorted(drawn)
    rng.shuffle(variables)
    number, other = (str(n) for n in rng.sample(range(10000, 99999), 2))
    length = rng.randint(2, 6)
    chain, noise = variables[:length], variables[length : length + rng.randint(1, 6)]
    past = Past(background(rng, filler, None, set()), gap=rng.choice((" ", "\n")))
    for held, value in ((chain, number), (noise, other)):
        stated = [f"VAR {held[0]} = {value}"]
        stated += [f"VAR {new} = VAR {old}" for old, new in itertools.pairwise(held)]
        places = sorted(rng.random() for _ in stated)  # what is assigned has been named before
        for statement, where in zip(stated, places, strict=True):
            past.put(statement, where)
    text, spans = past.build()
    return Example(
        kind="tracking",
        past=text,
        question=rng.choice(VARIABLES).format(number=number),
        answer=", ".join(chain),
        evidence=spans[:length],
    )


VARIABLES = (
    "Find all variables that are assigned the value {number} in the text above.",
    "Find all variables that are assigned the value {number} in the text above.",
    "Which variables hold {number}? Follow the assignments.",
)
# from a thing or an organisation to a person, and from a person on
FIRST_HOPS = [of for of in RELATIONS if of.value in ("person", "company")]
SECOND_HOPS = {
    "person": [of for of in RELATIONS if of.subject == "person"],
    "company": [of for of in RELATIONS if of.subject == "company"],
}


def two_hop(rng: random.Random, filler: str) -> Example:
    """A fact about whoever another fact names; others have facts of the same two kinds."""
    used: set[str] = set()
    one = rng.choice(FIRST_HOPS)
    two = rng.choice([of for of in SECOND_HOPS[one.value] if of != one])
    first = fact(rng, one, used)
    second = fact(rng, two, used, subject=first.value)
    others = []
    for _ in range(rng.randint(0, 4)):
        rival = fact(rng, one, used)
        others.append(rival.statement)
        if rival.value != first.value:
            others.append(fact(rng, two, used, subject=rival.value).statement)
    text = background(rng, filler, one, used)
    past, spans = hide(rng, text, [first.statement, second.statement, *others])
    who = write(one.noun, first.subject)
    literal = f"What is {write(two.noun, who)}?"
    asks = [write(ask, who) for ask in two.asks if "{s}'s" not in ask]
    question = rng.choice(asks) if asks and rng.random() < 0.7 else literal
    return Example(
        kind="two_hop", past=past, question=question, answer=second.value, evidence=spans[:2]
    )


ORDINALS = "first second third fourth fifth sixth seventh eighth".split()
# what is listed, how the whole is stated, how one entry is, and what it is called
LISTS: tuple[tuple[Callable[[random.Random], str], str, str, str], ...] = (
    (
        DRAW["food"],
        "The shopping list of {s} reads: {items}.",
        "{s} wrote {item} on the shopping list.",
        "the shopping list of {s}",
    ),
    (
        names.person,
        "The guests invited by {s} were {items}.",
        "{s} sent an invitation to {item}.",
        "the guest list of {s}",
    ),
    (
        names.place,
        "On the journey {s} stopped in {items}.",
        "Then {s} stopped in {item}.",
        "the list of stops on the journey of {s}",
    ),
    (
        DRAW["animal"],
        "Animals seen by {s}: {items}.",
        "{s} saw a {item} and noted it down.",
        "the list of animals seen by {s}",
    ),
    (
        DRAW["book"],
        "{s} borrowed these books: {items}.",
        "{s} borrowed {item} from the library.",
        "the list of books borrowed by {s}",
    ),
    (
        DRAW["goods"],
        "In the storeroom of {s} they found {items}.",
        "Into the storeroom of {s} went a {item}.",
        "the inventory of the storeroom of {s}",
    ),
    (
        names.pair,
        "Servers run by {s}:\n- {items}",
        "{s} has set up the server {item}.",
        "the list of servers run by {s}",
    ),
)


def lists(rng: random.Random, filler: str) -> Example:
    """A list, told at once or entry by entry: asked for in full, counted, or one entry of it."""
    draw, whole, part, noun = rng.choice(LISTS)
    owner, *rivals = (names.person(rng) for _ in range(rng.randint(1, 3)))
    items = _different(rng, draw, rng.randint(2, 8))
    mark = "\n- " if "\n" in whole else ", "
    at_once = rng.random() < 0.5
    stated = (
        [whole.format(s=owner, items=mark.join(items))]
        if at_once
        else [part.format(s=owner, item=item) for item in items]
    )
    past = Past(filler, gap=rng.choice((" ", "\n", "\n\n")))
    places = sorted(rng.random() for _ in stated)
    for statement, where in zip(stated, places, strict=True):
        past.put(statement, where)
    for rival in rivals:  # lists of other people must not be mixed in
        others = mark.join(_different(rng, draw, rng.randint(2, 6)))
        past.put(whole.format(s=rival, items=others), rng.random())
    text, spans = past.build()
    question, answer = _about(rng, noun.format(s=owner), items)
    return Example(
        kind="lists", past=text, question=question, answer=answer, evidence=spans[: len(stated)]
    )


def _about(rng: random.Random, noun: str, items: list[str]) -> tuple[str, str]:
    """A question about a list, and its answer."""
    full = (
        f"List everything in {noun}.",
        f"What is in {noun}? Give all entries.",
        f"Write out {noun}, in order.",
    )
    at = rng.randrange(len(items))
    count = rng.choice((f"How many entries are in {noun}?", f"Count the entries of {noun}."))
    return rng.choice(
        (
            (rng.choice(full), ", ".join(items)),
            (rng.choice(full), ", ".join(items)),
            (count, str(len(items))),
            (f"In {noun}, what is the {ORDINALS[at]} entry?", items[at]),
            (f"What comes last in {noun}?", items[-1]),
        )
    )


def _different(rng: random.Random, draw: Callable[[random.Random], str], n: int) -> list[str]:
    out: list[str] = []
    while len(out) < n:
        item = draw(rng)
        if item not in out:
            out.append(item)
    return out
