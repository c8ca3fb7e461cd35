"""Generated records: tables, CSV rows and cards with numbers, and questions about single ones.

A question names a record by its key; the answer is one of its fields, or that no such record exists
although others have similar keys.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.default_adapter.cases import Case, Source
from sharedllm.generation.prompt import ABSENT
from sharedllm.training.examples import Past, Span

FIRST = (
    "Anna Ben Clara David Elena Felix Greta Hassan Ines Jonas Karin Liam Mara Nils Olga Pavel "
    "Rosa Sven Tara Umar Vera Walid Yara Zoe Amir Bianca Carlos Dora Emil Fatima"
).split()
LAST = (
    "Becker Costa Dubois Eriksen Fischer Garcia Haddad Ivanova Jensen Kowalski Larsen Moreau Novak "
    "Okafor Petrov Quinn Rossi Schmidt Tanaka Ueda Vargas Weber Xu Yilmaz Zimmer Adler Blum Cohen"
).split()
CITIES = (
    "Aarhus Bergen Cork Dresden Essen Faro Ghent Haifa Izmir Jena Kyoto Lyon Malmo Nantes Oslo "
    "Porto Quito Riga Split Turin Utrecht Vilnius Warsaw Zagreb Leeds Boston Denver Perth"
).split()
THINGS = (
    "laptop printer desk chair monitor keyboard cable router camera battery scanner headset "
    "projector switch tablet shelf lamp filter pump valve motor sensor gasket bearing"
).split()
COMPANIES = (
    "Northwind Acme Globex Initech Umbra Vantage Solaris Helix Orion Brightside Redwood Bluebird "
    "Kestrel Atlas Meridian Summit Harbour Falcon Juniper Cobalt"
).split()
STATES = "open paid late shipped returned cancelled pending approved rejected delivered".split()
DEPARTMENTS = "Sales Support Legal Finance Research Logistics Design Quality Purchasing".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()


def _date(rng: random.Random) -> str:
    year, month, day = rng.randint(1998, 2026), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice(
        (
            f"{year}-{month:02}-{day:02}",
            f"{year}-{month:02}-{day:02}",
            f"{day} {MONTHS[month - 1]} {year}",
            f"{MONTHS[month - 1]} {day}, {year}",
            f"{day:02}.{month:02}.{year}",
        )
    )


def _amount(rng: random.Random) -> str:
    value = rng.choice((rng.uniform(3, 200), rng.uniform(200, 9000), rng.uniform(9000, 250000)))
    return rng.choice((f"{value:.2f}", f"{value:,.2f}", f"${value:,.2f}", f"{value:.2f} EUR"))


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choices("ABCDEFGHKLMNPRSTUVWX", k=rng.randint(1, 3)))
    return rng.choice(
        (
            f"{letters}-{rng.randint(100, 99999)}",
            f"{letters}{rng.randint(1000, 99999)}",
            f"{rng.randint(2018, 2026)}/{rng.randint(100, 9999)}",
            f"{rng.randint(10000, 9999999)}",
            f"{letters}-{rng.randint(10, 99)}-{rng.randint(100, 999)}",
        )
    )


def _person(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def _of(words: list[str]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A column: its heading, its values, and questions for it of a record."""

    name: str
    make: Callable[[random.Random], str]
    asks: tuple[str, ...]


FIELDS: tuple[Field, ...] = (
    Field(
        name="date",
        make=_date,
        asks=(
            "When was {key} issued?",
            "What is the date of {key}?",
            "Which date does {key} have?",
        ),
    ),
    Field(
        name="amount",
        make=_amount,
        asks=(
            "What is the amount of {key}?",
            "How much is {key}?",
            "What does {key} come to?",
            "Amount of {key}?",
        ),
    ),
    Field(
        name="customer",
        make=_person,
        asks=("Who is the customer of {key}?", "Which customer does {key} belong to?"),
    ),
    Field(
        name="contact",
        make=_person,
        asks=("Who is the contact for {key}?", "Whom do I ask about {key}?"),
    ),
    Field(
        name="company",
        make=_of(COMPANIES),
        asks=("Which company is {key} from?", "What company stands in {key}?"),
    ),
    Field(name="city", make=_of(CITIES), asks=("In which city is {key}?", "Where is {key}?")),
    Field(
        name="item",
        make=_of(THINGS),
        asks=("What item is in {key}?", "What was bought in {key}?", "Which item does {key} name?"),
    ),
    Field(
        name="quantity",
        make=lambda rng: str(rng.randint(1, 950)),
        asks=("What is the quantity of {key}?", "How many pieces are in {key}?"),
    ),
    Field(
        name="status", make=_of(STATES), asks=("What is the status of {key}?", "Status of {key}?")
    ),
    Field(
        name="department",
        make=_of(DEPARTMENTS),
        asks=("Which department handles {key}?", "What is the department of {key}?"),
    ),
    Field(
        name="phone",
        make=lambda rng: (
            f"{rng.randint(20, 999)}-{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"
        ),
        asks=("What is the phone number for {key}?", "Which phone number belongs to {key}?"),
    ),
    Field(
        name="rate",
        make=lambda rng: f"{rng.uniform(0.1, 99):.1f}%",
        asks=("What is the rate of {key}?", "What percentage does {key} have?"),
    ),
)
KEYS = "invoice order ticket contract shipment part account claim case policy project batch".split()


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Records of one form."""

    noun: str
    fields: tuple[Field, ...]
    rows: tuple[tuple[str, ...], ...]  # the key first

    @property
    def names(self) -> tuple[str, ...]:
        return (self.noun, *(field.name for field in self.fields))


def make_table(rng: random.Random, rows: int) -> Table:
    """Make a table of `rows` records under distinct keys, which are similar to one another."""
    fields = tuple(rng.sample(FIELDS, rng.randint(2, 6)))
    shape, keys = _code(rng), dict[str, None]()
    while len(keys) < rows:
        near = "".join(
            rng.choice("0123456789") if c.isdigit() and rng.random() < 0.7 else c for c in shape
        )
        keys[near if rng.random() < 0.8 else _code(rng)] = None
    return Table(
        noun=rng.choice(KEYS),
        fields=fields,
        rows=tuple((key, *(field.make(rng) for field in fields)) for key in keys),
    )


def write_table(rng: random.Random, of: Table) -> tuple[str, list[Span]]:
    """Write the table in one of its usual forms; return the span of each record, too."""
    names, form = of.names, rng.choice(("csv", "csv", "pipe", "tab", "cards", "pairs", "prose"))
    heads = [name.title() if rng.random() < 0.5 else name for name in names]
    if form in ("csv", "tab", "pipe"):
        mark = {"csv": rng.choice((",", ",", ";")), "tab": "\t", "pipe": " | "}[form]
        head = mark.join(heads) + "\n"
        if form == "pipe":
            head = f"| {head.strip()} |\n|" + "---|" * len(names) + "\n"
        lines = [_line(row, mark, form) for row in of.rows]
        between = "\n"
    elif form == "cards":
        head, between = "", "\n\n"
        lines = ["\n".join(f"{h}: {v}" for h, v in zip(heads, row, strict=True)) for row in of.rows]
    elif form == "pairs":
        head, between = "", "\n"
        lines = ["; ".join(f"{h}: {v}" for h, v in zip(heads, row, strict=True)) for row in of.rows]
    else:
        head, between = "", rng.choice((" ", "\n"))
        lines = [
            f"{of.noun.title()} {row[0]}: "
            + ", ".join(f"{n} {v}" for n, v in zip(names[1:], row[1:], strict=True))
            + "."
            for row in of.rows
        ]
    spans, length = list[Span](), len(head)
    for line in lines:
        spans.append((length, length + len(line)))
        length += len(line) + len(between)
    return head + between.join(lines), spans


def _line(row: tuple[str, ...], mark: str, form: str) -> str:
    if form == "pipe":
        return f"| {mark.join(row)} |"
    return mark.join(f'"{v}"' if mark in v else v for v in row)


def make_record(rng: random.Random, filler: Callable[[int], str], length: int) -> Case:
    """Ask about one record, two, all that share a value, or one that is missing."""
    rows = max(1, min(260, int(length / 55 * rng.choice((0.1, 0.4, 0.9)))))
    made = make_table(rng, rows)
    text, spans = write_table(rng, made)
    if rng.random() < 0.35:
        past = Past(filler(max(200, length - len(text))), gap="\n\n")
        past.put(text, rng.random())
        text, ((start, _),) = past.build()
        spans = [(a + start, b + start) for a, b in spans]
    (ask,) = rng.choices(list(ASKS), list(ASKS.values()))
    question, answer, wanted = ask(rng, made)
    return Case(
        kind="records",
        sources=(
            Source(
                text=text,
                title=rng.choice(("records.csv", "table.txt", f"{made.noun}s.csv", "data")),
                evidence=tuple(spans[at] for at in wanted),
            ),
        ),
        question=question,
        answer=answer,
    )


Asked = tuple[str, str, list[int]]


def _called(rng: random.Random, of: Table, key: str) -> str:
    return rng.choice((f"{of.noun} {key}", f"{of.noun} {key}", f"{of.noun} number {key}", key))


def _ask_one(rng: random.Random, of: Table) -> Asked:
    at, column = rng.randrange(len(of.rows)), rng.randrange(len(of.fields))
    row, field = of.rows[at], of.fields[column]
    value = row[column + 1]
    unique = sum(value == other[column + 1] for other in of.rows) == 1
    if unique and rng.random() < 0.3:  # the other way round
        return f"Which {of.noun} has the {field.name} {value}?", row[0], [at]
    return rng.choice(field.asks).format(key=_called(rng, of, row[0])), value, [at]


def _ask_two(rng: random.Random, of: Table) -> Asked:
    """Compare two records by a number, or ask for the same field of both."""
    if len(of.rows) < 2:
        return _ask_one(rng, of)
    first, second = rng.sample(range(len(of.rows)), 2)
    keys = of.rows[first][0], of.rows[second][0]
    numbers = [n for n, f in enumerate(of.fields) if f.name in ("amount", "quantity", "rate")]
    if numbers:
        column = rng.choice(numbers)
        a, b = (_number(of.rows[at][column + 1]) for at in (first, second))
        if a != b:
            more = rng.random() < 0.6
            word, name = ("higher" if more else "lower"), of.fields[column].name
            answer = keys[0] if (a > b) == more else keys[1]
            question = f"Which has the {word} {name}, {of.noun} {keys[0]} or {of.noun} {keys[1]}?"
            return question, answer, [first, second]
    column = rng.randrange(len(of.fields))
    values = of.rows[first][column + 1], of.rows[second][column + 1]
    name = of.fields[column].name
    question = f"What is the {name} of {of.noun} {keys[0]} and of {of.noun} {keys[1]}?"
    return question, f"{values[0]} and {values[1]}", [first, second]


def _number(text: str) -> float:
    return float("".join(c for c in text if c.isdigit() or c == "."))


def _ask_sharing(rng: random.Random, of: Table) -> Asked:
    """Ask for all records with one value, two to eight of them."""
    options = []
    for column, field in enumerate(of.fields):
        held: dict[str, list[int]] = {}
        for at, row in enumerate(of.rows):
            held.setdefault(row[column + 1], []).append(at)
        options += [(field.name, v, rows) for v, rows in held.items() if 2 <= len(rows) <= 8]
    if not options:
        return _ask_one(rng, of)
    name, value, rows = rng.choice(options)
    question = rng.choice(
        (
            "List every {n} whose {f} is {v}.",
            "Which {n}s have the {f} {v}?",
            "All {n}s with {f} {v}?",
        )
    ).format(n=of.noun, f=name, v=value)
    return question, ", ".join(of.rows[at][0] for at in rows), rows


def _ask_missing(rng: random.Random, of: Table) -> Asked:
    """Ask for a missing key that is similar to those of the table."""
    keys = {row[0] for row in of.rows}
    while True:
        key = rng.choice(of.rows)[0]
        near = "".join(rng.choice("0123456789") if c.isdigit() else c for c in key)
        if near not in keys and not any(near in other or other in near for other in keys):
            break
    field = rng.choice(of.fields)
    return rng.choice(field.asks).format(key=f"{of.noun} {near}"), ABSENT, []


def _ask_true(rng: random.Random, of: Table) -> Asked:
    """Ask a question of yes or no; both are equally frequent."""
    at, column = rng.randrange(len(of.rows)), rng.randrange(len(of.fields))
    row, field = of.rows[at], of.fields[column]
    value, said = row[column + 1], row[column + 1]
    right = rng.random() < 0.5
    while not right and said == value:
        said = rng.choice(of.rows)[column + 1] if rng.random() < 0.5 else field.make(rng)
    question = rng.choice(
        (
            "Is the {f} of {n} {k} {v}?",
            "Does {n} {k} have the {f} {v}?",
            "Is it true that the {f} of {n} {k} is {v}?",
        )
    ).format(f=field.name, n=of.noun, k=row[0], v=said)
    return question, "Yes" if right else "No", [at]


# the share of each form of question
ASKS: dict[Callable[[random.Random, Table], Asked], float] = {
    _ask_one: 0.52,
    _ask_two: 0.1,
    _ask_sharing: 0.12,
    _ask_missing: 0.1,
    _ask_true: 0.16,
}
