"""Generated retrieval tasks: facts with made-up keys and values, hidden in real text.

Each maker takes a random generator and filler text and gives an :class:`Example` whose answer is
short and stands in the text, or is :data:`ABSENT`. Keys, values and wordings vary, so that what is
learned is looking up, not a phrase.
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Callable, Sequence

from sharedllm.training.examples import Example, Past

ABSENT = "not in the documents"

ADJECTIVES = (
    "ancient brittle careful distant eager faded gentle hollow idle jolly keen lucid mellow narrow "
    "orderly patient quiet rapid solemn tidy urgent vivid wary young zealous bitter clever dusty "
    "frozen golden humble lonely misty noble polished rugged silent tender velvet wooden"
).split()
NOUNS = (
    "acorn beacon canyon dagger engine falcon garden harbor island jacket kettle ladder meadow "
    "needle orchard pillar quarry ribbon saddle temple valley walnut yarn bridge candle "
    "desert feather glacier hammer lantern mirror oyster pepper rocket shovel thistle violin "
    "whistle anchor basket"
).split()
NAMES = (
    "Aldous Brenna Caspian Dorothy Edmund Fiona Gareth Helga Isidore Judith Kasimir Lavinia "
    "Mortimer Nadia Oswald Prudence Rupert Sabina Tobias Ursula Vincent "
    "Wilhelmina Barnaby Clarissa Desmond Eleanor Frederick Gwendolyn Horace Imogen"
).split()
SURNAMES = (
    "Ashdown Bellweather Crabtree Dunmore Elderkin Fairweather Goodfellow Harkness Ironside Jessop "
    "Kilbride Loxley Merriman Nightingale Oakley Pemberton Quill Rowntree Sandringham Tolliver "
    "Underhill Vickers Whitlock Yardley"
).split()
TOWNS = (
    "Applecross Bramblewick Carrowby Dunwold Eastmere Fallowfield Greystoke Hazelmoor Ivybridge "
    "Kingsfold Langmere Mosswell Netherfield Oxenholme Pinewold Ravensby Stonebeck Thornwick"
).split()

# how a key's value is stated, and how it is asked for
WORDINGS = (
    (
        "One of the special magic {kind}s for {key} is: {value}.",
        "the special magic {kind} for {key}",
    ),
    ("The {kind} of {key} is {value}.", "the {kind} of {key}"),
    ("Remember that {key} has the {kind} {value}.", "the {kind} of {key}"),
    ("As everyone here knows, {value} is the {kind} that belongs to {key}.", "the {kind} of {key}"),
    ("For {key}, the {kind} was set to {value}.", "the {kind} for {key}"),
    ("{key}: {kind} {value}", "the {kind} of {key}"),
    ("They wrote down {value} as the {kind} for {key}.", "the {kind} for {key}"),
)
ASKING = (
    "What is {what}?",
    "What is {what} mentioned in the provided text?",
    "Tell me {what}.",
    "According to the text, what is {what}?",
    "Find {what}.",
)

Maker = Callable[[random.Random, str], Example]


def key(rng: random.Random) -> str:
    """A made-up thing or person."""
    if rng.random() < 0.5:
        return f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def value(rng: random.Random) -> tuple[str, str]:
    """What kind of value it is, and the value."""
    kind = rng.choice(("number", "code", "word", "town", "date", "uuid"))
    if kind == "number":
        return kind, str(rng.randint(10 ** rng.randint(1, 6), 10**7 - 1))
    if kind == "code":
        letters = "".join(rng.choices(string.ascii_uppercase, k=3))
        return kind, f"{letters}-{rng.randint(100, 9999)}"
    if kind == "word":
        return kind, f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if kind == "town":
        return kind, rng.choice(TOWNS)
    if kind == "date":
        month = rng.choice(("March", "June", "October"))
        return kind, f"{rng.randint(1, 28)} {month} {rng.randint(1600, 2020)}"
    digits = "".join(rng.choices("0123456789abcdef", k=32))
    return kind, "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _facts(
    rng: random.Random, n: int, kind: str | None = None
) -> list[tuple[str, str, str, str, str]]:
    """`n` facts with different keys: (statement, what is asked, key, kind, value)."""
    out: list[tuple[str, str, str, str, str]] = []
    used: set[str] = set()
    while len(out) < n:
        name, (of, what) = key(rng), value(rng)
        if name in used or (kind is not None and of != kind):
            continue
        used.add(name)
        statement, asked = rng.choice(WORDINGS)
        words = {"kind": of, "key": name, "value": what}
        out.append((statement.format(**words), asked.format(**words), name, of, what))
    return out


def single(rng: random.Random, filler: str) -> Example:
    """One fact."""
    return _lookup(rng, filler, "single", 1, 1)


def multi_key(rng: random.Random, filler: str) -> Example:
    """One fact among others of the same kind."""
    return _lookup(rng, filler, "multi_key", rng.randint(2, 12), 1)


def multi_query(rng: random.Random, filler: str) -> Example:
    """Several facts asked for at once."""
    return _lookup(rng, filler, "multi_query", rng.randint(2, 6), rng.randint(2, 4))


def _lookup(rng: random.Random, filler: str, task: str, facts: int, asked: int) -> Example:
    made = _facts(rng, facts, kind=value(rng)[0])
    text, spans = _hidden(rng, filler, [fact[0] for fact in made])
    chosen = list(range(min(asked, facts)))
    what = " and ".join(made[i][1] for i in chosen)
    return Example(
        kind=task,
        past=text,
        question=rng.choice(ASKING).format(what=what),
        answer=", ".join(made[i][4] for i in chosen),
        evidence=tuple(spans[i] for i in chosen),
    )


def multi_value(rng: random.Random, filler: str) -> Example:
    """All values of one key, which stand in different places."""
    (_, _, name, kind, _), *others = _facts(rng, rng.randint(1, 4))
    values: list[str] = []
    for _ in range(500):  # towns and the like may repeat
        of, what = value(rng)
        if of == kind and what not in values:
            values.append(what)
        if len(values) == 4:
            break
    statement = WORDINGS[0][0]
    stated = [statement.format(kind=kind, key=name, value=v) for v in values]
    text, spans = _hidden(rng, filler, [*stated, *(fact[0] for fact in others)])
    order = sorted(range(len(values)), key=lambda i: spans[i][0])
    return Example(
        kind="multi_value",
        past=text,
        question=f"What are all the special magic {kind}s for {name} mentioned in the text?",
        answer=", ".join(values[i] for i in order),
        evidence=tuple(spans[i] for i in order),
    )


def absent(rng: random.Random, filler: str) -> Example:
    """A question that looks like the others and whose answer is not there."""
    asked, *others = _facts(rng, rng.randint(2, 6))
    text, _ = _hidden(rng, filler, [fact[0] for fact in others])
    question = rng.choice(ASKING).format(what=asked[1])
    return Example(kind="absent", past=text, question=question, answer=ABSENT)


def tracking(rng: random.Random, filler: str) -> Example:
    """Variables assigned to each other: all that hold the asked number (as in RULER)."""
    names = rng.sample(
        [
            "".join(p)
            for p in zip(
                *[rng.choices(string.ascii_uppercase, k=40) for _ in range(5)], strict=True
            )
        ],
        12,
    )
    number, other = (str(n) for n in rng.sample(range(10000, 99999), 2))
    length = rng.randint(2, 5)
    chain, noise = names[:length], names[length : length + rng.randint(2, 5)]
    stated = [f"VAR {chain[0]} = {number}"]
    stated += [f"VAR {new} = VAR {old}" for old, new in itertools.pairwise(chain)]
    false = [f"VAR {noise[0]} = {other}"]
    false += [f"VAR {new} = VAR {old}" for old, new in itertools.pairwise(noise)]
    past = Past(filler)
    for statements in (stated, false):  # in order, so that what is assigned has been named
        places = sorted(rng.random() for _ in statements)
        for statement, where in zip(statements, places, strict=True):
            past.put(statement, where)
    text, spans = past.build()
    return Example(
        kind="tracking",
        past=text,
        question=f"Find all variables that are assigned the value {number} in the text above.",
        answer=", ".join(chain),
        evidence=spans[:length],
    )


def two_hop(rng: random.Random, filler: str) -> Example:
    """A fact about whoever another fact names."""
    person = f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    thing = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    town = rng.choice(TOWNS)
    number = str(rng.randint(100, 99999))
    first, second, question, answer = rng.choice(
        (
            (
                f"The {thing} belongs to {person}.",
                f"{person} lives in {town}.",
                f"In which town does the owner of the {thing} live?",
                town,
            ),
            (
                f"The {thing} was made by {person}.",
                f"The licence number of {person} is {number}.",
                f"What is the licence number of the maker of the {thing}?",
                number,
            ),
            (
                f"{person} keeps the {thing} at home.",
                f"The home of {person} stands in {town}.",
                f"In which town is the {thing} kept?",
                town,
            ),
        )
    )
    others = [fact[0] for fact in _facts(rng, rng.randint(0, 4))]
    text, spans = _hidden(rng, filler, [first, second, *others])
    return Example(kind="two_hop", past=text, question=question, answer=answer, evidence=spans[:2])


def quotation(rng: random.Random, filler: str) -> Example:
    """The sentence that follows a given one, word for word."""
    sentences = [s.strip() for s in filler.replace("\n", " ").split(". ")]
    pairs = [
        (a, b)
        for a, b in itertools.pairwise(sentences)
        if 30 <= len(a) <= 160 and 30 <= len(b) <= 200 and f"{a}. {b}. " in filler
    ]
    if not pairs:
        return single(rng, filler)
    first, second = rng.choice(pairs)
    start = filler.index(f"{first}. {second}. ")
    return Example(
        kind="quotation",
        past=filler,
        question=f'Quote the sentence that follows "{first}."',
        answer=f"{second}.",
        evidence=((start, start + len(first) + len(second) + 3),),
    )


def _hidden(
    rng: random.Random, filler: str, statements: Sequence[str]
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The statements at random places of the filler, and their spans."""
    past = Past(filler)
    for statement in statements:
        past.put(statement, rng.random())
    return past.build()


MAKERS: dict[str, Maker] = {
    "single": single,
    "multi_key": multi_key,
    "multi_value": multi_value,
    "multi_query": multi_query,
    "tracking": tracking,
    "two_hop": two_hop,
    "quotation": quotation,
    "absent": absent,
}
