"""Collections to train on: of all sizes and kinds, from texts and generators of train/.

Facts, records and names are not those of the bench (benchmarks/quality/search): other generators
make them, of other words.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.default_adapter.records import _ask_one, make_table, write_table
from benchmarks.default_adapter.tasks.haystack import rivals
from benchmarks.default_adapter.tasks.reasoning import FIRST_HOPS, SECOND_HOPS
from benchmarks.default_adapter.tasks.relations import MAGIC, RELATIONS, fact, question, relation
from benchmarks.quality.items import read_jsonl
from benchmarks.quality.search.kinds import (
    CODE_ASKS,
    SPELLINGS,
    Sources,
    answers_in,
    defined_once,
    quoted,
    spelt_as_words,
)
from benchmarks.quality.search.sought import Collection, Sought, document
from sharedllm.training.examples import Past

MOST_TEXTS = 60  # of a file
MOST_ROWS = 24_000
ACCENTS = str.maketrans("aeiouncslz", "áéíöüñçšłž")


class TrainSources(Sources):
    """The beginning of each file of train/."""

    def __init__(self, data: Path) -> None:
        super().__init__(data, 0)
        self._texts: dict[str, list[str]] = {}
        self._groups: list[list[dict]] = []

    def texts(self, name: str) -> list[str]:
        if name not in self._texts:
            rows = itertools.islice(read_jsonl(self.data / f"{name}.jsonl.xz"), MOST_TEXTS)
            self._texts[name] = [row["text"] for row in rows]
        return self._texts[name]

    def groups(self) -> list[list[dict]]:
        """Return the rows of each context."""
        if not self._groups:
            rows: list[dict] = []
            for name in ("qa", "qa2"):
                given = read_jsonl(self.data / f"{name}.jsonl.xz")
                rows += itertools.islice(given, 0, 4 * MOST_ROWS, 4)
            by_context: dict[str, list[dict]] = {}
            for row in rows:
                if 60 <= len(row["context"]) <= 8000:
                    by_context.setdefault(row["context"].strip(), []).append(row)
            self._groups = list(by_context.values())
            random.Random(5).shuffle(self._groups)
        return self._groups


def asked_of(row: dict, name: str, shift: int = 0) -> Sought | None:
    """Return a row's question, if an answer stands in its context."""
    spans = answers_in(row["context"].strip(), row["answer"])
    if not 0 < len(spans) <= 12 or not row["question"].strip():
        return None
    places = tuple((name, start + shift, end + shift) for start, end in spans)
    kind = "follow-up" if row.get("kind") == "followup" else "question"
    return Sought(kind=kind, question=row["question"].strip(), evidence=(places,))


PLANTED = {"fact": 0.45, "spelling": 0.2, "hops": 0.1, "rows": 0.25}


def planted(rng: random.Random, kind: str, used: set[str]) -> tuple[str, list[str], list[str]]:
    """Return a question, the statements that answer it, and others that could be taken for them."""
    if kind == "hops":
        one = rng.choice(FIRST_HOPS)
        two = rng.choice([of for of in SECOND_HOPS[one.value] if of != one])
        first = fact(rng, one, used)
        second = fact(rng, two, used, subject=first.value)
        asked = f"What is {two.noun.format(s=one.noun.format(s=first.subject))}?"
        return asked, [first.statement, second.statement], []
    of = relation(rng)
    if kind == "spelling":
        of = rng.choice(SECOND_HOPS["person"])
        subject = accented(rng, fact(rng, of, used).subject)
        made, other = fact(rng, of, used, subject=subject), rng.choice(SPELLINGS)(subject)
        if rng.random() < 0.3:  # the text has the other spelling
            made = fact(rng, of, used, subject=other)
            other = subject
        asked = question(rng, of, other)
    else:
        made = fact(rng, of, used)
        asked = question(rng, of, made.subject)
    kindred = MAGIC if of in MAGIC else RELATIONS
    count = rng.choice((0, 1, 2, 4))
    others = [other.statement for other in rivals(rng, made, kindred, count, used)]
    return asked, [made.statement], others


def of_text(sources: TrainSources, rng: random.Random, at: int, several: bool) -> Collection:
    """Plant facts, names, hops and passages in one long text, or in several."""
    size = int(30_000 * 16 ** rng.random())
    sizes = [size // 2 + 5000] * rng.randint(2, 8) if several else [size]
    documents, sought, used = [], list[Sought](), set[str]()
    groups = iter(rng.sample(sources.groups(), 400))
    for index, length in enumerate(sizes):
        name = f"text-{index}"
        filler = stretch(sources, rng, length)
        past = Past(filler, gap=rng.choice(("\n", "\n\n", " ")))
        pending: list[tuple[str, str, int, list[dict]]] = []  # kind, question, statements, rows
        for _ in range(64 // len(sizes) + 2):
            kind = rng.choices(list(PLANTED), list(PLANTED.values()))[0]
            if kind == "rows":
                group = next(groups)
                past.put(group[0]["context"].strip(), rng.random())
                pending.append(("rows", "", 1, group))
                continue
            asked, statements, others = planted(rng, kind, used)
            for statement in (*statements, *others):
                past.put(statement, rng.random())
            pending.append((kind, asked, len(statements), []))
            pending.append(("", "", len(others), []))  # not asked for
        text, spans = past.build()
        left = iter(spans)
        for kind, asked, count, rows in pending:
            own = list(itertools.islice(left, count))
            if rows:
                found = [asked_of(row, name, own[0][0]) for row in rows[:3]]
                sought += [one for one in found if one]
                continue
            if kind:
                evidence = tuple((name, *span) for span in own)
                sought.append(Sought(kind=kind, question=asked, evidence=(evidence,)))
        documents.append(document(name, text))
        sought += quoted(rng, name, text, 8 // len(sizes) + 1)
    kind = "texts" if several else "text"
    return Collection(name=f"{kind}-{at}", documents=tuple(documents), sought=tuple(sought))


def stretch(sources: TrainSources, rng: random.Random, length: int) -> str:
    text = ""
    while len(text) < length:
        whole = rng.choice(sources.texts(rng.choice(("books", "books", "docs", "papers"))))
        start = rng.randrange(max(1, len(whole) - length))
        text += whole[start : start + length]
    return text[:length]


def accented(rng: random.Random, name: str) -> str:
    """Give a name accents, and sometimes a hyphen."""
    out = "".join(c.translate(ACCENTS) if rng.random() < 0.3 else c for c in name)
    return out.replace(" ", "-", 1) if out.count(" ") > 1 or rng.random() < 0.2 else out


def passages(sources: TrainSources, rng: random.Random, at: int) -> Collection:
    """Ask questions of passages, each a document, or all in one."""
    count = int(4 * 60 ** rng.random())
    documents, sought = [], []
    for index, group in enumerate(rng.sample(sources.groups(), count)):
        name = f"passage-{index}"
        title = str(group[0].get("title") or name) if rng.random() < 0.5 else name
        documents.append(document(name, group[0]["context"].strip(), title))
        found = [asked_of(row, name) for row in group[:6]]
        sought += [one for one in found if one]
    sought = rng.sample(sought, min(100, len(sought)))
    return Collection(name=f"passages-{at}", documents=tuple(documents), sought=tuple(sought))


def records(sources: TrainSources, rng: random.Random, at: int) -> Collection:
    table = make_table(rng, int(5 * 50 ** rng.random()))
    text, spans = write_table(rng, table)
    if rng.random() < 0.4:
        documents = [document(f"row-{i}", text[a:b]) for i, (a, b) in enumerate(spans)]
        places = [(d.id, 0, len(d.text)) for d in documents]
    else:
        if rng.random() < 0.4:
            past = Past(stretch(sources, rng, rng.randint(2000, 60_000)), gap="\n\n")
            past.put(text, rng.random())
            text, ((shift, _),) = past.build()
            spans = [(a + shift, b + shift) for a, b in spans]
        documents = [document("records", text)]
        places = [("records", a, b) for a, b in spans]
    sought = []
    for _ in range(40):
        asked, _, (row,) = _ask_one(rng, table)
        sought.append(Sought(kind="records", question=asked, evidence=((places[row],),)))
    return Collection(name=f"records-{at}", documents=tuple(documents), sought=tuple(sought))


def code(sources: TrainSources, rng: random.Random, at: int) -> Collection:
    documents, sought = [], []
    for index, whole in enumerate(rng.sample(sources.texts("code"), rng.randint(1, 4))):
        length = int(15_000 * 8 ** rng.random())
        start = rng.randrange(max(1, len(whole) - length))
        name, text = f"package-{index}", whole[start : start + length]
        documents.append(document(name, text))
        once = defined_once(text)
        for one in rng.sample(once, min(14, len(once))):
            spaced = spelt_as_words(one[1])
            asked = rng.choice(CODE_ASKS if " " in spaced else CODE_ASKS[:3])
            asked = asked.format(name=one[1], spaced=spaced)
            places = ((name, *one.span(1)),)
            sought.append(Sought(kind="code", question=asked, evidence=(places,)))
    return Collection(name=f"code-{at}", documents=tuple(documents), sought=tuple(sought))


def sentences(sources: TrainSources, rng: random.Random, at: int) -> Collection:
    """Ask facts, each of which is a document."""
    used: set[str] = set()
    made = [fact(rng, relation(rng), used) for _ in range(int(5 * 50 ** rng.random()))]
    documents = [document(f"note-{i}", one.statement) for i, one in enumerate(made)]
    pairs = list(zip(documents, made, strict=True))
    sought = [
        Sought(
            kind="sentences",
            question=question(rng, one.relation, one.subject),
            evidence=(((d.id, 0, len(d.text)),),),
        )
        for d, one in rng.sample(pairs, min(40, len(pairs)))
    ]
    return Collection(name=f"sentences-{at}", documents=tuple(documents), sought=tuple(sought))


SHARES = {"text": 9, "texts": 5, "passages": 36, "records": 16, "code": 7, "sentences": 7}


def collections(data: Path, seed: int = 7) -> Iterator[Collection]:
    """Yield all collections, the kinds in turn; the first ones have all kinds, too."""
    sources = TrainSources(data)
    left = dict(SHARES)
    while any(left.values()):
        for kind in [kind for kind, count in left.items() if count]:
            left[kind] -= 1
            at = left[kind]
            rng = random.Random(f"{seed} {kind} {at}")
            if kind in ("text", "texts"):
                yield of_text(sources, rng, at, kind == "texts")
            else:
                yield MAKERS[kind](sources, rng, at)


MAKERS = {"passages": passages, "records": records, "code": code, "sentences": sentences}
