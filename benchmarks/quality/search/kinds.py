"""Kinds of questions, each over documents that suit it; all drawn from a seed.

Generated questions belong to the half of their seed, development questions to the half of their
context.
"""

from __future__ import annotations

import itertools
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.halves import half_of
from benchmarks.quality.items import (
    COLOURS,
    FACTS,
    FIRST,
    LAST,
    PLACES,
    QUESTION_SETS,
    SPICES,
    THINGS,
    Item,
    evidence_spans,
    facts,
    read_jsonl,
)
from benchmarks.quality.search.sought import Collection, Place, Sought, document
from sharedllm.training.examples import Past, Span

BOOK = 500_000  # characters of a book, about 128K tokens
FIVE = (125_000, 125_000, 250_000, 250_000, 500_000)
PER_TEXT = 100  # questions of a kind in one text of 128K tokens
SHORT = 120_000  # characters of a text that holds chains
CODE = 170_000  # characters of a package
RECORDS = 200  # of a collection
ANSWER = 80  # characters of a real answer, at most
VERBATIM = ("extractive", "table", "date", "number", "contract", "code")  # of the questions of qa2


class Sources:
    """The development texts and questions of one half.

    Parameters
    ----------
    data : folder with books, code, qa and qa2 (.jsonl.xz)
    """

    def __init__(self, data: Path, half: int) -> None:
        self.data, self.half = data, half

    def texts(self, name: str) -> list[str]:
        """Return every second text: those of the other half are never read."""
        return [row["text"] for row in read_jsonl(self.data / f"{name}.jsonl.xz")][self.half :: 2]

    def filler(self, rng: random.Random, length: int) -> str:
        """Return a stretch of books of `length` characters."""
        books = self.texts("books")
        rng.shuffle(books)
        text = "\n\n".join(books)
        while len(text) < 2 * length:
            text += "\n\n" + text
        start = text.find("\n", rng.randrange(len(text) - length))
        return text[start : start + length]

    def rows(self, name: str) -> list[dict]:
        rows = read_jsonl(self.data / f"{name}.jsonl.xz")
        return [row for row in rows if half_of(row["context"]) == self.half]

    def real(self, seed: int) -> list[Item]:
        """Return real questions with short answers that stand in their passage, in random order."""
        out: dict[tuple[str, str], Item] = {}
        rows = [row for row in self.rows("qa") if row["source"].startswith(QUESTION_SETS)]
        rows += [row for row in self.rows("qa2") if row["kind"] in VERBATIM]
        for row in rows:
            context, question = row["context"].strip(), row["question"].strip()
            answers = tuple(a.strip() for a in row["answer"] if 3 <= len(a.strip()) <= ANSWER)
            inside = [a for a in answers if a.lower() in context.lower()]
            if inside and 200 <= len(context) <= 6000 and len(question.split()) >= 4:
                item = Item(kind="question", passage=context, question=question, answers=answers)
                out[context, question] = item
        items = list(out.values())
        random.Random(seed).shuffle(items)
        return items


Maker = Callable[[Sources, int], Iterator[Collection]]  # of about so many questions of a kind


def seed_of(half: int, part: int) -> int:
    return 2 * part + half


def unique(items: Sequence[Item]) -> list[Item]:
    return list({item.question: item for item in items}.values())


# -- planted facts and real questions in long texts ------------------------------------------------


def in_texts(
    name: str, sources: Sources, n: int, sizes: Sequence[int], extra: Sequence[str] = ()
) -> Iterator[Collection]:
    """Spread facts, real questions and the `extra` kinds over texts of `sizes` characters."""
    per = PER_TEXT
    real = iter(sources.real(0))
    for part in range(-(-n // per)):
        seed = seed_of(sources.half, part)
        count = min(per, n - part * per)
        rng = random.Random(f"{name} {seed}")
        planted: list[tuple[str, Item]] = []
        planted += [("literal", item) for item in unique(facts("literal", count, 4 * seed))]
        planted += [("reworded", item) for item in unique(facts("reworded", count, 4 * seed + 1))]
        planted += [("real", item) for item in itertools.islice(real, count)]
        if "spelling" in extra:
            planted += [("spelling", spelt(rng)) for _ in range(count)]
        rng.shuffle(planted)
        documents, sought = [], []
        for index, size in enumerate(sizes):
            own = planted[index :: len(sizes)]
            filler = sources.filler(rng, size)
            past = Past(filler, gap="\n\n")
            for _, item in own:
                past.put(item.passage, rng.random())
            text, spans = past.build()
            title = f"volume-{index + 1}"
            documents.append(document(title, text))
            for (kind, item), (start, end) in zip(own, spans, strict=True):
                places = evidence_spans(text, item, start, end)
                evidence = tuple((title, *span) for span in places)
                sought.append(
                    Sought(
                        kind=f"{kind}, {name}",
                        question=item.question,
                        evidence=(evidence,),
                        answers=item.answers,
                    )
                )
            if "quoted" in extra:
                sought += quoted(rng, title, text, count)
        yield Collection(
            name=f"{name.replace(' ', '-')}-{seed}",
            documents=tuple(documents),
            sought=tuple(sought),
        )


def one_book(sources: Sources, n: int) -> Iterator[Collection]:
    return in_texts("one book", sources, n, (BOOK,), ("quoted", "spelling"))


def five_books(sources: Sources, n: int) -> Iterator[Collection]:
    return in_texts("five books", sources, n, FIVE)


def quoted(rng: random.Random, name: str, text: str, n: int) -> Iterator[Sought]:
    """Ask where phrases of three to six words of the text stand, which stand there once."""
    found = list(re.finditer(r"[A-Za-z]+(?: [A-Za-z]+){2,5}(?=[ .,;])", text))
    asks = ('Where does it say "{p}"?', "Who says \u201c{p}\u201d?", 'What comes after "{p}"?')
    taken = 0
    for one in rng.sample(found, min(8 * n, len(found))):
        if taken < n and text.lower().count(one.group().lower()) == 1:
            taken += 1
            question = rng.choice(asks).format(p=one.group())
            place: Place = (name, *one.span())
            yield Sought(kind="quoted phrases", question=question, evidence=((place,),))


GIVEN = (
    "Zoë José André Renée Jürgen Søren Łukasz Ángela Noël Anaïs Björn Chloé Günther Inês Jokūbas "
    "Mélanie Raúl Šárka Thérèse Władysław Jean-Luc Anne-Marie Karl-Heinz Mary-Kate"
).split()
FAMILY = (
    "Müller-Lüdenscheidt Gonçalves Nuñez Dvořák Ångström Björnsdóttir Lefèvre Saint-Exupéry Böll "
    "Çelik Fernández Gärtner Håkansson Kovač Løvgren O'Brien Peña Rösler Smith-Jones Škoda "
    "Truffaut-Lévy Wójcik Zürcher D'Angelo"
).split()


def bare(name: str) -> str:
    """Return `name` without accents."""
    special = name.translate(str.maketrans({"ø": "o", "Ł": "L", "ł": "l", "Ø": "O"}))
    parts = unicodedata.normalize("NFD", special)
    return "".join(c for c in parts if not unicodedata.combining(c))


SPELLINGS: tuple[Callable[[str], str], ...] = (
    bare,
    lambda name: bare(name).replace("-", " "),
    lambda name: name.replace("-", "\u2010").replace("'", "\u2019"),
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: name.upper(),
    lambda name: bare(name).replace("-", "").replace("'", ""),
    lambda name: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in bare(name)),
    lambda name: bare(re.sub("([äöüÄÖÜ])", r"\1e", name)),
)


def spelt(rng: random.Random) -> Item:
    """Draw a fact about a name, asked for in another spelling; sometimes the text has the other."""
    name = f"{rng.choice(GIVEN)} {rng.choice(FAMILY)}"
    other = rng.choice(SPELLINGS)(name)
    if rng.random() < 0.3:
        name, other = other, name
    literal, _, question, answer = rng.choice(FACTS)
    colour, thing = rng.choice(COLOURS), rng.choice(THINGS)
    values = {
        "q": f"{rng.choice(FIRST)} {rng.choice(LAST)}", "c": colour, "t": thing,
        "C": colour.title(), "T": thing.title(), "l": rng.choice(PLACES),
        "f": rng.choice(SPICES), "n": str(rng.randint(100, 999)),
        "m": f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}",
        "y": str(rng.randint(1702, 1899)),
    }  # fmt: skip
    return Item(
        kind="spelling",
        passage=literal.format(p=name, **values),
        question=question.format(p=other, **values),
        answers=(answer.format(p=name, **values),),
    )


# -- records ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record; each of its first four fields finds it."""

    number: str
    code: str
    date: str
    name: str
    amount: str
    town: str
    item: str


Ask = tuple[str, str]  # a question, and the field that answers it
KEYS: dict[str, tuple[Ask, ...]] = {
    "number": (
        ("What is the amount of {noun} {key}?", "amount"),
        ("Which town does {noun} no. {key} go to?", "town"),
        ("{noun} {key}: what was ordered?", "item"),
        ("Who is named in {key}?", "name"),
    ),
    "code": (
        ("What is the amount under reference {key}?", "amount"),
        ("Which item has the reference {key}?", "item"),
        ("Who is behind {key}?", "name"),
        ("reference {key} town", "town"),
    ),
    "date": (
        ("Which {noun} is dated {key}?", "number"),
        ("What was ordered on {key}?", "item"),
        ("Who ordered on {key}?", "name"),
        ("What is the amount of the {noun} of {key}?", "amount"),
    ),
    "name": (
        ("What did {key} order?", "item"),
        ("What is the amount that {key} owes?", "amount"),
        ("In which town does {key} live?", "town"),
        ("Which {noun} belongs to {key}?", "number"),
    ),
}
NOUNS = ("delivery note", "work order", "permit", "receipt", "reservation", "complaint")


CODES = ("{a}{b}{c}-{n2}-{n3}", "{n2}/{n4}", "{a}{b}{n4}", "{n1}.{n2}.{n3}", "{a}-{n4}{b}")


def records_of(rng: random.Random) -> list[Record]:
    """Draw records whose first four fields are all different, and similar to one another."""
    seen: set[str] = set()
    first = rng.randint(10_000, 700_000)
    dotted = rng.random() < 0.3
    codes = rng.choice(
        ("{a}{b}{c}-{n2}-{n3}", "{n2}/{n4}", "{a}{b}{n4}", "{n1}.{n2}.{n3}", "{a}-{n4}{b}")
    )

    def fresh(make: Callable[[], str]) -> str:
        while (value := make()) in seen:
            pass
        seen.add(value)
        return value

    def code() -> str:
        letters = {x: rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") for x in "abc"}
        digits = {f"n{n}": f"{rng.randrange(10 ** (n - 1), 10**n)}" for n in range(1, 5)}
        return codes.format(**letters, **digits)

    def date() -> str:
        day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2015, 2025)
        return f"{day:02}.{month:02}.{year}" if dotted else f"{year}-{month:02}-{day:02}"

    return [
        Record(
            number=fresh(lambda: str(first + rng.randrange(9 * RECORDS))),
            code=fresh(code),
            date=fresh(date),
            name=fresh(lambda: f"{rng.choice(FIRST)} {rng.choice(LAST)}"),
            amount=f"{rng.uniform(5, 9000):.2f}",
            town=rng.choice(PLACES),
            item=f"{rng.choice(COLOURS)} {rng.choice(THINGS)}",
        )
        for _ in range(RECORDS)
    ]


def as_card(one: Record, noun: str) -> str:
    return (
        f"{noun.capitalize()} {one.number}\nReference: {one.code}\nDate: {one.date}\n"
        f"Customer: {one.name}\nItem: {one.item}\nAmount: {one.amount}\nTown: {one.town}\n"
    )


def as_line(one: Record, noun: str) -> str:
    return (
        f"{noun.capitalize()} {one.number} of {one.date} ({one.code}): {one.item} for {one.name}, "
        f"{one.town}, amount {one.amount}."
    )


def as_row(one: Record, noun: str) -> str:
    return ",".join((one.number, one.date, one.code, one.name, one.item, one.town, one.amount))


def records(sources: Sources, n: int) -> Iterator[Collection]:
    """Ask for records by each field: as documents, as lines, and as rows of CSV."""
    collections = max(1, n // 100)
    per = max(1, n // (3 * collections))
    for part in range(collections):
        for layout in ("documents", "lines", "CSV"):
            seed = seed_of(sources.half, part)
            rng = random.Random(f"records {layout} {seed}")
            noun, made = rng.choice(NOUNS), records_of(rng)
            if layout == "documents":
                documents = tuple(
                    document(f"record-{at}", as_card(one, noun), f"{noun} {at + 1}")
                    for at, one in enumerate(made)
                )
                places = [(d.id, 0, len(d.text.rstrip())) for d in documents]
            else:
                head = "number,date,reference,customer,item,town,amount" if layout == "CSV" else ""
                write = as_row if layout == "CSV" else as_line
                text, places = head, list[Place]()
                for one in made:
                    start = len(text) + 1
                    text += "\n" + write(one, noun)
                    places.append(("records", start, len(text)))
                documents = (document("records", text + "\n"),)
            sought = [
                Sought(
                    kind=f"records by {field}",
                    question=ask.format(noun=noun, key=getattr(made[at], field)),
                    evidence=((places[at],),),
                    answers=(getattr(made[at], answer),),
                )
                for field, asks in KEYS.items()
                for at in rng.sample(range(RECORDS), min(per, RECORDS))
                for ask, answer in (rng.choice(asks),)
            ]
            yield Collection(
                name=f"records-{layout}-{seed}", documents=documents, sought=tuple(sought)
            )


# -- code ------------------------------------------------------------------------------------------

DEFINED = re.compile(r"^[ \t]*(?:async def|def|class|fn|func|function|struct)[ \t]+(\w{7,})", re.M)
CODE_ASKS = (
    "What does {name} do?",
    "Where is {name} defined?",
    "Which arguments does {name} take?",
    "What does the function {spaced} do?",
    "How is {spaced} implemented?",
)


def defined_once(text: str) -> list[re.Match[str]]:
    """Return the names that are defined once and seldom used, as group 1."""
    found = list(DEFINED.finditer(text))
    counts = Counter(one[1] for one in found)
    return [one for one in found if counts[one[1]] == 1 and text.count(one[1]) <= 6]


def spelt_as_words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ")).strip().lower()


def arguments_of(text: str, at: int) -> tuple[str, ...]:
    """Return the names of up to six arguments in the parentheses at `at`; none if it is unclear."""
    found = re.compile(r"\(([^()\[\]]*)\)").match(text, at)
    parts = [part.strip() for part in found[1].split(",")] if found else []
    names = [re.match(r"\*{0,2}([A-Za-z_]\w*)(?=\s*(?:[:=]|$))", part) for part in parts if part]
    own = [one[1] for one in names if one and one[1] not in ("self", "cls")]
    return tuple(own) if all(names) and 1 <= len(own) <= 6 else ()


def identifiers(sources: Sources, n: int) -> Iterator[Collection]:
    """Ask for what is defined once in the sources of packages, by name or spelt as words."""
    texts = sources.texts("code")
    rng = random.Random(f"code {sources.half}")
    documents, sought = [], []
    for index, whole in enumerate(texts):
        start = rng.randrange(max(1, len(whole) - CODE))
        text, name = whole[start : start + CODE], f"package-{index + 1}"
        documents.append(document(name, text))
        once = defined_once(text)
        for one in rng.sample(once, min(-(-n // len(texts)), len(once))):
            spaced = spelt_as_words(one[1])
            ask = rng.choice(CODE_ASKS if " " in spaced else CODE_ASKS[:3])
            question = ask.format(name=one[1], spaced=spaced)
            sought.append(
                Sought(
                    kind="identifiers in code",
                    question=question,
                    evidence=(((name, *one.span(1)),),),
                    answers=arguments_of(text, one.end()) if "arguments" in ask else (),
                )
            )
    yield Collection(name=f"code-{sources.half}", documents=tuple(documents), sought=tuple(sought))


# -- several statements ----------------------------------------------------------------------------


def hops(sources: Sources, n: int) -> Iterator[Collection]:
    """Ask for chains of variables, and for a fact about whoever another fact names."""
    for part in range(-(-n // PER_TEXT)):
        seed = seed_of(sources.half, part)
        rng = random.Random(f"hops {seed}")
        past = Past(sources.filler(rng, SHORT), gap="\n")
        asked: list[tuple[str, str, int, tuple[str, ...]]] = []
        people = [f"{a} {b}" for a in FIRST for b in LAST]
        rng.shuffle(people)
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        for _ in range(min(PER_TEXT, n - part * PER_TEXT) // 2):
            number = str(rng.randint(10_000, 99_999))
            names = ["".join(rng.choices(letters, k=5)) for _ in range(5)]
            past.put(f"VAR {names[0]} = {number}", rng.random())
            for old, new in itertools.pairwise(names):
                past.put(f"VAR {new} = VAR {old}", rng.random())
            question = f"Find all variables that are assigned the value {number}."
            asked.append(("chains", question, 5, tuple(names)))
        for _ in range(min(PER_TEXT, n - part * PER_TEXT)):
            first, second, town = people.pop(), people.pop(), rng.choice(PLACES)
            third, thing = rng.choice(people), f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"
            (said, ask), (then, about) = rng.choice(FIRST_HOP), rng.choice(SECOND_HOP)
            values = {"p": first, "q": second, "l": town, "t": thing, "o": third}
            past.put(said.format(**values), rng.random())
            past.put(then.format(**values), rng.random())
            answer = town if "{l}" in then else thing
            asked.append(("two hops", about.format(who=ask.format(**values)), 2, (answer,)))
            if len(people) < 2:
                break
        text, spans = past.build()
        left = iter(spans)
        sought = [
            Sought(
                kind=kind,
                question=question,
                evidence=tuple((("hops", *span),) for span in itertools.islice(left, count)),
                answers=answers,
            )
            for kind, question, count, answers in asked
        ]
        yield Collection(
            name=f"hops-{seed}", documents=(document("hops", text),), sought=tuple(sought)
        )


FIRST_HOP = (
    ("The teacher of {p} was {q}.", "the teacher of {p}"),
    ("{p} is married to {q}.", "the spouse of {p}"),
    ("{p} bought the house from {q}.", "the person who sold the house to {p}"),
    ("The physician who treats {p} is {q}.", "the physician of {p}"),
)
SECOND_HOP = (
    ("{q} was born in the town of {l}.", "In which town was {who} born?"),
    ("The favourite instrument of {q} is the {t}.", "What is the favourite instrument of {who}?"),
    ("{q} keeps a {t} on the desk.", "What does {who} keep on the desk?"),
    ("Every summer {q} travels to {l}.", "Where does {who} travel every summer?"),
)


# -- short documents, and conversations ------------------------------------------------------------


def short_documents(sources: Sources, n: int) -> Iterator[Collection]:
    """Ask 200 documents of one sentence each; and 150 passages, of real questions."""
    for part in range(-(-n // RECORDS)):
        seed = seed_of(sources.half, part)
        count = min(RECORDS, n - part * RECORDS)
        items = facts("literal", count // 2, 4 * seed + 2)
        items = unique([*items, *facts("reworded", count - count // 2, 4 * seed + 3)])
        documents = [document(f"note-{at}", item.passage) for at, item in enumerate(items)]
        sought = [
            Sought(
                kind="one-sentence documents",
                question=item.question,
                evidence=(((d.id, 0, len(d.text)),),),
                answers=item.answers,
            )
            for d, item in zip(documents, items, strict=True)
        ]
        yield Collection(name=f"sentences-{seed}", documents=tuple(documents), sought=tuple(sought))
    yield from passages(sources, n)


def passages(sources: Sources, n: int) -> Iterator[Collection]:
    """Ask real questions of passages, each a document."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in sources.real(1):
        groups[item.passage].append(item)
    pieces = list(groups)
    for part, start in enumerate(range(0, len(pieces), 150)):
        documents, sought = [], []
        for at, passage in enumerate(pieces[start : start + 150]):
            name = f"passage-{at}"
            documents.append(document(name, passage))
            for item in groups[passage]:
                spans = evidence_spans(passage, item, 0, len(passage))
                evidence = tuple((name, *span) for span in spans)
                sought.append(
                    Sought(
                        kind="real, passages",
                        question=item.question,
                        evidence=(evidence,),
                        answers=item.answers,
                    )
                )
        yield Collection(
            name=f"passages-{sources.half}-{part}",
            documents=tuple(documents),
            sought=tuple(sought[:n]),
        )


def conversations(sources: Sources, n: int) -> Iterator[Collection]:
    """Ask follow-up questions, with their conversation, of all conversations' contexts."""
    rows = [row for row in sources.rows("qa2") if row["kind"] == "followup" and row.get("history")]
    documents: dict[str, str] = {}
    sought = []
    for row in rows:
        context = row["context"].strip()
        spans = answers_in(context, row["answer"])
        if not spans:
            continue
        name = documents.setdefault(context, f"conversation-{len(documents)}")
        messages = [
            {"role": role, "content": text}
            for turn in row["history"]
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        messages.append({"role": "user", "content": row["question"]})
        evidence = tuple((name, *span) for span in spans)
        answers = tuple(answer.strip() for answer in row["answer"])
        sought.append(
            Sought(kind="follow-ups", question=messages, evidence=(evidence,), answers=answers)
        )
    if sought:
        texts = tuple(document(name, context) for context, name in documents.items())
        yield Collection(
            name=f"conversations-{sources.half}", documents=texts, sought=tuple(sought[:n])
        )


def answers_in(context: str, answers: Sequence[str]) -> list[Span]:
    """Return where an answer stands in `context` as it is; short and long ones do not count."""
    low, out = context.lower(), []
    for answer in answers:
        wanted = answer.strip().lower().rstrip(".")
        if 3 <= len(wanted) <= 400:
            out += [one.span() for one in re.finditer(re.escape(wanted), low)]
    return out


KINDS: dict[str, Maker] = {
    "one book": one_book,
    "five books": five_books,
    "records": records,
    "code": identifiers,
    "hops": hops,
    "short": short_documents,
    "conversations": conversations,
}
