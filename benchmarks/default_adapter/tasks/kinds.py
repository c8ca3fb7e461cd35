"""The kinds of subjects and values that a relation may have, and how each is drawn.

`names.py` holds the general ones; what belongs to a few relations is listed here.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable
from pathlib import Path

from benchmarks.default_adapter.tasks import names
from benchmarks.default_adapter.tasks.names import (
    ADJECTIVES,
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    GOODS,
    JOBS,
    LANGUAGES,
    LAST,
    MATERIALS,
    MONTHS,
    NOUNS,
    TOWNS,
    name_of,
    place,
    syllables,
    word_of,
)

Draw = Callable[[random.Random], str]

with Path(__file__).with_name("facts").joinpath("values.toml").open("rb") as _file:
    LISTED: dict[str, list[str]] = tomllib.load(_file)
# Share of words of real texts among these kinds. Fewer than among the others (OPEN_SHARE), so that
# most statements make sense: reworded ones are understood by what they mean. None would let short
# lists be learned by heart (entry 34 of docs/experiments.md).
LISTED_OPEN = 0.5
MODIFIED = 0.2  # share with an adjective in front
# kinds whose entries are names or phrases: nothing is put in front or in their place
FIXED = frozenset(
    "voice body season subject language_code licence database side_effect trick ghost weather "
    "blood saint quality illness topic card_game fear rank crime hobby sport wood".split()
)


def _listed(kind: str) -> Draw:
    entries = LISTED[kind]

    def draw(rng: random.Random) -> str:
        if kind in FIXED:
            return rng.choice(entries)
        drawn = rng.choice(entries)
        if names.OPEN["words"] and rng.random() < LISTED_OPEN:
            drawn = rng.choice(names.OPEN["words"])
        if rng.random() < MODIFIED:
            return f"{word_of(rng, ADJECTIVES)} {drawn}"
        return drawn

    return draw


def _from(words: list[str]) -> Draw:
    def draw(rng: random.Random) -> str:
        drawn = word_of(rng, words)
        if rng.random() < 0.25:
            drawn = f"{word_of(rng, ADJECTIVES)} {drawn}"
        return drawn.replace("-", " ")

    return draw


# causes of delays, losses and failures; {x} is drawn from another kind
CAUSES: tuple[tuple[str, str], ...] = (
    ("a strike of the {x}s", "job"),
    ("a broken {x}", "part"),
    ("a fallen {x}", "tree"),
    ("a quarrel with {x}", "person"),
    ("the sudden illness of {x}", "person"),
    ("a letter from {x}", "person"),
    ("an outbreak of {x}", "illness"),
    ("a shortage of {x}", "cargo"),
    ("a lawsuit over {x}", "product"),
    ("a fire in the {x}", "room_name"),
    ("a flood near {x}", "place"),
    ("heavy snow near {x}", "place"),
    ("a riot in {x}", "place"),
    ("the loss of the {x}", "thing"),
    ("a leak in the {x}", "room_name"),
    ("a runaway {x}", "species"),
    ("a collision with {a x}", "vehicle"),
    ("a swarm of {x}", "insect"),
    ("a missing {x}", "paper"),
    ("{x}", "weather"),
    ("an error in the {x}", "paper"),
    ("a scandal about {x}", "product"),
)
INSECTS = "bees wasps locusts midges ants moths beetles hornets flies".split()
PAPERS = (
    "permit;signature;invoice;timetable;visa;blueprint;certificate;wiring plan;ledger;"
    "weather report;lease;seating plan;map;address list"
).split(";")
UNITS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()


def article(word: str) -> str:
    """The indefinite article before `word`."""
    low = word.lower()
    if low.startswith(("uni", "use", "usu", "uti", "eu", "ewe", "one ", "once", "ukr")):
        return "a"
    vowel = low.startswith((*"aeiou", "hour", "honest", "honour", "heir"))
    spoken = low.split("-")[0].split(" ")[0].replace(",", "")
    return "an" if vowel or spoken in ("8", "11", "18") else "a"


def reason(rng: random.Random) -> str:
    """A cause, as a noun phrase."""
    form, kind = rng.choice(CAUSES)
    drawn = DRAW[kind](rng)
    return form.replace("{a x}", f"{article(drawn)} {drawn}").replace("{x}", drawn)


def count(rng: random.Random) -> str:
    """A number of at least two; half of the small ones in words."""
    number = rng.randint(2, rng.choice((12, 20, 60)))
    return UNITS[number - 2] if number <= 20 and rng.random() < 0.5 else str(number)


def amount(least: int, most: int, *units: str) -> Draw:
    """Draw a number with one of the units."""
    return lambda rng: f"{rng.randint(least, most)} {rng.choice(units)}"


def _hall(rng: random.Random, *tails: str) -> str:
    head = name_of(rng, TOWNS) if rng.random() < 0.5 else syllables(rng).title()
    return f"{head} {rng.choice(tails)}"


def _titled(rng: random.Random, *tails: str) -> str:
    head = name_of(rng, LAST) if rng.random() < 0.5 else syllables(rng).title()
    return f"{head} {rng.choice(tails)}"


def _picture(rng: random.Random) -> str:
    return f"{article(word := word_of(rng, NOUNS)).title()} {word.title()} in {place(rng)}"


def _film(rng: random.Random) -> str:
    first = rng.choice((word_of(rng, ADJECTIVES).title(), f"{rng.choice(LAST)}'s"))
    return f"{first} {word_of(rng, NOUNS).title()}"


def _pet(rng: random.Random) -> str:
    return (word_of(rng, NOUNS) if rng.random() < 0.6 else syllables(rng)).title()


def _path(rng: random.Random) -> str:
    folder = rng.choice(("/etc", "/opt", "/srv", "/usr/local/etc", "~/.config", "/var/lib"))
    return (
        f"{folder}/{syllables(rng)}/{syllables(rng)}.{rng.choice(('conf', 'yaml', 'toml', 'ini'))}"
    )


def _command(rng: random.Random) -> str:
    verb = rng.choice(("start", "run", "serve", "up", "launch", "boot"))
    flag = rng.choice(("", " --daemon", " -q", f" -n {rng.randint(2, 64)}", " --safe"))
    return f"{syllables(rng)} {verb}{flag}"


def _version(rng: random.Random) -> str:
    return f"{rng.randint(0, 24)}.{rng.randint(0, 19)}.{rng.randint(0, 30)}"


def _software(rng: random.Random) -> str:
    return syllables(rng).title() + rng.choice(("", "", "DB", "Sync", "Mail", "Desk", "Flow"))


def _flight(rng: random.Random) -> str:
    letters = "".join(rng.choices("ABDFGHKLMNQRTUVXZ", k=2))
    return f"{letters} {rng.randint(100, 9899)}"


def _date_only(rng: random.Random) -> str:
    return f"{rng.randint(2, 28)} {rng.choice(MONTHS)}"


def _shelf(rng: random.Random) -> str:
    return f"{rng.choice('BCFGKLPQ')}{rng.choice('AEIRTX')} {rng.randint(10, 9999)}"


# what a relation's subject or value may be
DRAW: dict[str, Draw] = {
    "person": names.person,
    "place": place,
    "pair": names.pair,
    "uuid": names.uuid,
    "thing": names.thing,
    "company": names.company,
    "project": names.project,
    "code": names.code,
    "secret": names.secret,
    "phone": names.phone,
    "clock": names.clock,
    "date": names.date,
    "price": names.price,
    "word": lambda rng: syllables(rng) if rng.random() < 0.5 else word_of(rng, NOUNS),
    "number7": lambda rng: str(rng.randint(10**6, 10**7 - 1)),
    "number": lambda rng: str(rng.randint(10 ** rng.randint(1, 5), 10**6)),
    "small": lambda rng: str(rng.randint(2, 99)),
    "year": lambda rng: str(rng.randint(1650, 2025)),
    "day": lambda rng: rng.choice(DAYS),
    "month": lambda rng: rng.choice(MONTHS),
    "colour": lambda rng: rng.choice(("", "", "dark ", "pale ")) + word_of(rng, COLOURS),
    "job": _from(JOBS),
    "food": _from(FOODS),
    "animal": _from(ANIMALS),
    "material": _from(MATERIALS),
    "language": _from(LANGUAGES),
    "goods": _from(GOODS),
    "dish": lambda rng: (
        f"{word_of(rng, ADJECTIVES)} {word_of(rng, FOODS)} {word_of(rng, names.DISHES)}"
    ),
    "event": lambda rng: (
        f"{word_of(rng, ADJECTIVES)} {word_of(rng, names.EVENTS)} of {names.person(rng)}"
    ),
    "room": lambda rng: f"{rng.choice('ABCDEFGH')}{rng.randint(1, 499)}",
    "ship": lambda rng: f"{word_of(rng, ADJECTIVES)} {word_of(rng, ANIMALS)}".title(),
    "book": lambda rng: f"The {word_of(rng, NOUNS)} of {place(rng)}".title(),
    "email": lambda rng: f"{syllables(rng)}@{syllables(rng)}.{rng.choice(('com', 'org', 'net'))}",
    "kilometres": amount(3, 900, "km", "miles", "kilometres"),
    "weight": amount(2, 900, "kg", "pounds", "tonnes"),
    "hours": lambda rng: (
        f"{rng.randint(6, 11)}:{rng.choice(('00', '30'))} to {rng.randint(13, 22)}:00"
    ),
    "percent": lambda rng: f"{rng.randint(1, 99)}.{rng.randint(0, 9)}%",
    # subjects
    "house": lambda rng: _hall(rng, "Hall", "Manor", "House", "Lodge", "Grange", "Priory"),
    "farm": lambda rng: _hall(rng, "Farm", "Barton", "Croft"),
    "river": lambda rng: f"River {syllables(rng, 1, 2).title()}",
    "mountain": lambda rng: f"Mount {syllables(rng, 1, 3).title()}",
    "school": lambda rng: _hall(rng, "School", "College", "Academy", "Grammar School"),
    "team": lambda rng: _hall(rng, "Rovers", "Wanderers", "Lions", "Rangers", "Hornets", "Kickers"),
    "hotel": lambda rng: _titled(rng, "Hotel", "Inn", "Guest House", "Palace Hotel"),
    "museum": lambda rng: _hall(rng, "Museum", "Gallery", "Folk Museum", "Collection"),
    "machine": lambda rng: (
        f"{names.code(rng)} {rng.choice(('press', 'pump', 'lathe', 'crane', 'generator', 'loom'))}"
    ),
    "software": _software,
    "medicine": lambda rng: (
        syllables(rng, 1, 2).title() + rng.choice(("pril", "zole", "xin", "mab", "tine", "dol"))
    ),
    "pet": _pet,
    "film": _film,
    "journey": lambda rng: (
        f"{rng.choice(('crossing', 'march', 'voyage', 'pilgrimage', 'trek'))} to {place(rng)}"
    ),
    "contract": lambda rng: _titled(rng, "agreement", "lease", "contract", "charter", "loan"),
    "flight": _flight,
    "course": lambda rng: (
        f"{rng.choice(('BIO', 'PHY', 'LAW', 'HIS', 'CHE', 'ART'))}{rng.randint(100, 499)}"
    ),
    # values
    "reason": reason,
    "count": count,
    "newspaper": lambda rng: _hall(rng, "Gazette", "Herald", "Courier", "Observer", "Mercury"),
    "award": lambda rng: _titled(rng, "Medal", "Prize", "Cross", "Award", "Cup"),
    "committee": lambda rng: (
        f"{rng.choice(('finance', 'safety', 'garden', 'harbour', 'music', 'water', 'housing'))} "
        f"committee of {place(rng)}"
    ),
    "street": lambda rng: (
        f"{rng.randint(1, 240)} {_titled(rng, 'Street', 'Lane', 'Road', 'Square')}"
    ),
    "artwork": _picture,
    "score": lambda rng: f"{rng.randint(0, 9)}-{rng.randint(0, 9)}",
    "path": _path,
    "command": _command,
    "version": _version,
    "port": lambda rng: str(rng.randint(1024, 65535)),
    "gate": lambda rng: f"{rng.choice('ABCDEF')}{rng.randint(1, 79)}",
    "shelf": _shelf,
    "date_only": _date_only,
    "course_room": lambda rng: (
        f"{rng.choice(('Hall', 'Room', 'Theatre'))} {rng.choice('ABCDEGKM')}{rng.randint(1, 90)}"
    ),
    "centimetres": amount(148, 209, "cm", "centimetres"),
    "metres": amount(812, 6890, "m", "metres"),
    "hectares": amount(9, 980, "hectares", "acres"),
    "kilograms": amount(2, 640, "kg", "pounds"),
    "temperature": lambda rng: f"{rng.randint(31, 290)} {rng.choice(('°C', 'degrees'))}",
    "heat": lambda rng: (
        f"{rng.randint(31, 54)}.{rng.randint(0, 9)} {rng.choice(('°C', 'degrees'))}"
    ),
    "power": amount(3, 900, "kW", "horsepower"),
    "knots": amount(6, 34, "knots"),
    "dose": amount(5, 900, "mg", "milligrams"),
    "minutes": amount(61, 240, "minutes"),
    "days": amount(3, 90, "days"),
    "weeks": amount(2, 40, "weeks"),
    "years": amount(2, 40, "years"),
    "insect": lambda rng: rng.choice(INSECTS),
    "paper": lambda rng: rng.choice(PAPERS),
    **{kind: _listed(kind) for kind in LISTED},
}
