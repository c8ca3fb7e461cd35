"""Questions about a whole document with known answers: lists, counts and comparisons, planted.

Facts of one kind stand far apart in a book, each in words of its own, among facts of a sibling (of
another society, another yard) that do not belong to the answer. Even seeds choose, odd ones are
reported (halves.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.quality.items import FIRST, LAST, PLACES

KINDS = ("list", "count", "comparison")
FEWEST, MOST = 5, 12  # facts that belong to a list
SIBLINGS = 4  # facts of another society, yard, ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """A question about facts that are to be planted.

    Attributes
    ----------
    kind : "list", "count" or "comparison"
    question : str
    facts : what belongs to the answer, in the order in which it is to be planted
    others : facts beside it that do not
    answers : the items of a list or count in that order; of a comparison the one that is right
    """

    kind: str
    group: str
    question: str
    facts: tuple[str, ...]
    others: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Facts {x} about one {of}; the questions ask for all of them, or how many there are."""

    name: str
    of: tuple[str, ...]
    values: tuple[str, ...]
    facts: tuple[str, ...]
    lists: tuple[str, ...]
    counts: tuple[str, ...]


PEOPLE = tuple(f"{first} {last}" for first in FIRST for last in LAST)
SOCIETIES = tuple("Lantern Heron Thimble Almanac Compass Bellrope Gooseberry Sextant".split())
SHIPS = (
    "Halcyon", "Merrydown", "Saltmaiden", "Corncrake", "Petrel", "Lady Ysolde", "Grey Widgeon",
    "Northern Plover", "Amaranth", "Fair Rosalind", "Stormcock", "Turnstone", "Quicksilver",
    "Old Faithful", "Patience", "Ringdove", "Sandpiper",
)  # fmt: skip
DISHES = (
    "roast peacock",
    "eel pie",
    "pickled walnuts",
    "quince jelly",
    "barley broth",
    "smoked trout",
    "gooseberry fool",
    "venison pasties",
    "turnip soup",
    "candied ginger",
    "goose liver",
    "almond cakes",
    "stewed pears",
    "oyster stew",
    "mutton chops",
    "rhubarb tart",
)
THINGS = (
    "a brass telescope", "a stuffed owl", "a cracked bell", "a box of seashells", "a wooden leg",
    "a silver thimble", "a blue velvet cloak", "a violin without strings", "a map of Iceland",
    "a rusty sabre", "a birdcage", "a pewter jug", "a bundle of letters", "an ivory comb",
    "a copper kettle", "a child's sledge",
)  # fmt: skip
GROUPS = (
    Group(
        name="society",
        of=tuple(f"{one} Society" for one in SOCIETIES),
        values=PEOPLE,
        facts=(
            "{x} has been a member of the {of} since the winter of the great frost.",
            "That spring the {of} elected {x} as a member.",
            "Among the members of the {of} was {x}, who never missed a meeting.",
            "As a member of the {of}, {x} paid a guinea every Lady Day.",
            "{x} joined the {of} against the wishes of an aunt.",
            "The {of} counted {x} among its members.",
        ),
        lists=(
            "List all members of the {of}.",
            "Who are all the members of the {of}?",
            "Name everyone who belongs to the {of}.",
        ),
        counts=(
            "How many members of the {of} are named in the text?",
            "Count the members of the {of}.",
        ),
    ),
    Group(
        name="yard",
        of=tuple(f"{one} yard" for one in PLACES),
        values=tuple(f"the {ship}" for ship in SHIPS),
        facts=(
            "{x} was built at the {of} and painted green.",
            "It was at the {of} that they built {x}.",
            "The shipwrights of the {of} built {x} in eleven months.",
            "{x} came from the {of}, where she had been built of oak.",
            "Nobody at the {of} forgot the year in which {x} was built there.",
        ),
        lists=(
            "List all ships that were built at the {of}.",
            "Which ships were built at the {of}?",
        ),
        counts=(
            "How many ships built at the {of} are mentioned?",
            "How many different ships in the text were built at the {of}?",
        ),
    ),
    Group(
        name="feast",
        of=tuple(f"the feast of {one}" for one in PLACES),
        values=DISHES,
        facts=(
            "At {of} the guests were served {x}.",
            "{x} was served at {of}, and nothing was left of it.",
            "The cook had made {x} for {of}.",
            "Those who had been at {of} still spoke of the {x} that was served there.",
        ),
        lists=(
            "List all dishes that were served at {of}.",
            "What dishes were served at {of}? Name all of them.",
        ),
        counts=("How many different dishes served at {of} are mentioned in the book?",),
    ),
    Group(
        name="cellar",
        of=tuple(f"the cellar of {one} House" for one in PLACES),
        values=THINGS,
        facts=(
            "In {of} they found {x}.",
            "{x} was found in {of}, wrapped in a newspaper.",
            "Behind a barrel in {of} somebody had found {x}.",
            "When {of} was cleared, {x} was found there.",
        ),
        lists=(
            "List all things that were found in {of}.",
            "Which things were found in {of}? List every one.",
        ),
        counts=("How many things found in {of} does the text mention?",),
    ),
    Group(
        name="visits",
        of=tuple(f"{person} visited the hermit of {place}" for person, place in zip(
            PEOPLE[::37], PLACES * 2, strict=False)),
        values=tuple(
            f"{day} {month}" for month in (
                "January February March April May June July August September October".split())
            for day in (3, 9, 14, 21, 27)),
        facts=(
            "On {x} {of}.",
            "{of} on {x}, in the rain.",
            "It is written that {of} on {x}.",
        ),
        lists=("List all dates on which {of}.", "On which dates did it happen that {of}?"),
        counts=("How many times is it told that {of}?", "How often is it said that {of}?"),
    ),
)  # fmt: skip
# what is compared: fact, question, right if the larger (or the smaller) number is its own
COMPARISONS = (
    ("The tower of {a} is {n} feet high.", "Which is higher, the tower of {a} or the tower of {b}?",
     "larger", (60, 400)),
    ("{p} was born in the year {n}.", "Who was born earlier, {p} or {q}?", "smaller", (1702, 1899)),
    ("The bridge at {a} has {n} arches.",
     "Compare the bridges at {a} and {b}: which of them has more arches?", "larger", (3, 40)),
    ("{p} left {n} pounds to the hospital.",
     "Who left more money to the hospital, {p} or {q}?", "larger", (50, 9000)),
    ("It takes {n} hours to walk from the mill to {a}.",
     "Which is nearer to the mill, {a} or {b}?", "smaller", (2, 30)),
    ("There are {n} bells in the church of {a}.",
     "Does the church of {a} or the church of {b} have fewer bells?", "smaller", (2, 24)),
)  # fmt: skip


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def planted(kind: str, seed: int) -> Planted:
    """The question of `kind` that belongs to `seed`."""
    rng = random.Random(f"whole {kind} {seed}")
    if kind == "comparison":
        return _comparison(rng)
    group = GROUPS[(seed // 2) % len(GROUPS)]
    of, sibling = rng.sample(group.of, 2)
    values = rng.sample(group.values, rng.randint(FEWEST, MOST) + SIBLINGS)
    belong, other = values[SIBLINGS:], values[:SIBLINGS]
    asked = rng.choice(group.lists if kind == "list" else group.counts)

    def told(value: str, about: str) -> str:
        return sentence(rng.choice(group.facts).format(x=value, of=about))

    return Planted(
        kind=kind,
        group=group.name,
        question=asked.format(of=of),
        facts=tuple(told(value, of) for value in belong),
        others=tuple(told(value, sibling) for value in other),
        answers=tuple(re.sub(r"^(?:the|an?) ", "", value) for value in belong),
    )


def _comparison(rng: random.Random) -> Planted:
    fact, question, wanted, (least, most) = rng.choice(COMPARISONS)
    people, places = rng.sample(PEOPLE, 3), rng.sample(PLACES, 3)
    numbers = rng.sample(range(least, most), 3)
    names = people if "{p}" in fact else places
    told = [
        fact.format(p=person, a=place, n=number)
        for person, place, number in zip(people, places, numbers, strict=True)
    ]
    right = (max if wanted == "larger" else min)((0, 1), key=lambda i: numbers[i])
    return Planted(
        kind="comparison",
        group=fact,
        question=question.format(p=people[0], q=people[1], a=places[0], b=places[1]),
        facts=tuple(told[:2]),
        others=tuple(told[2:]),
        answers=(names[right], names[1 - right], str(numbers[0]), str(numbers[1])),
    )


def plant(item: Planted, filler: str, seed: int) -> str:
    """Put the facts into `filler`, each a paragraph, in their order, spread over all of it."""
    rng = random.Random(f"plant {item.kind} {seed}")
    told = list(item.facts)
    for other in item.others:
        told.insert(rng.randint(0, len(told)), other)
    ends = [found.end() for found in re.finditer(r"[.!?][\"'\u201d\u2019]?\s*\n\s*\n", filler)]
    places = []
    for index in range(len(told)):
        wanted = (index + rng.uniform(0.15, 0.85)) / len(told) * len(filler)
        places.append(min(ends, key=lambda end: abs(end - wanted)))
    out, at = [], 0
    for place, fact in zip(sorted(places), told, strict=True):
        out += [filler[at:place], fact, "\n\n"]
        at = place
    return "".join([*out, filler[at:]])


def plant_all(items: Sequence[Planted], filler: str, seed: int) -> str:
    """Put the facts of several questions into one text."""
    text = filler
    for item in items:
        text = plant(item, text, seed)
    return text
