"""Answers in whole sentences, and documents that disagree with one another."""

from __future__ import annotations

import random

from benchmarks.default_adapter.cases import Case, Source
from benchmarks.default_adapter.tasks.haystack import hide
from benchmarks.default_adapter.tasks.names import MONTHS
from benchmarks.default_adapter.tasks.phrasing import called, joined, lowered
from benchmarks.default_adapter.tasks.relations import RELATIONS, Fact, bare_question, write
from benchmarks.default_adapter.tasks.scenes import OF, Scene, companions
from benchmarks.default_adapter.tasks.turns import ASKED

ALL_OF = (
    "Tell me all you know about {s}.",
    "What do the documents say about {s}? Answer in whole sentences.",
    "Describe {s}.",
    "Describe {s} in one or two sentences.",
    "Write a sentence or two about {s}.",
    "What can you tell me about {s}?",
    "Summarize what is known about {s}.",
    "Give me a short account of {s}.",
)
IN_A_SENTENCE = (
    "{ask} Answer in a whole sentence.",
    "{ask} Please answer in a full sentence.",
    "{ask} Give me one complete sentence.",
)
WHY = "the reason why "


def sentence(rng: random.Random, filler: str) -> Case:
    """Two or three facts about one subject as sentences; or one, where a sentence is wanted."""
    scene = Scene(rng, filler)
    draw = rng.random()
    if draw < 0.3:
        one = scene.tell(rng.choice(ASKED))
        asked = bare_question(rng, one.relation, one.subject)
        return _case(rng, scene, [one], rng.choice(IN_A_SENTENCE).format(ask=asked))
    if draw < 0.42:
        one = scene.tell(rng.choice(REASONS))
        clause = write(one.relation.noun, one.subject).removeprefix(WHY)
        return _case(rng, scene, [one], f"Explain why {clause}.")
    of = rng.choice(MANY_SIDED)
    first = scene.tell(of)
    rest = [
        scene.tell(other, first.subject) for other in companions(rng, of, rng.choice((1, 1, 2)))
    ]
    asked = rng.choice(ALL_OF).format(s=called(of, first.subject))
    return _case(rng, scene, [first, *rest], asked)


MANY_SIDED = [of for of in ASKED if len({one.value for one in OF[of.subject]}) > 2]
REASONS = [of for of in RELATIONS if of.noun.startswith(WHY)]


def _case(rng: random.Random, scene: Scene, told: list[Fact], asked: str) -> Case:
    # others tell the same of other subjects; more about this one would belong to the answer
    for _ in range(rng.randint(0, 5)):
        scene.tell(rng.choice(told).relation)
    return Case(
        kind="sentence",
        sources=scene.sources(told),
        question=asked,
        answer=joined(rng, told),
        sentences=True,
    )


# a document, and how it is named in a question; {y} is the year, {d} the date
PAPERS: tuple[tuple[str, str, str], ...] = (
    ("Handbook, edition of {y}", "the {y} edition of the handbook", "handbook {y}"),
    ("Annual report {y}", "the annual report for {y}", "report-{y}.pdf"),
    ("Minutes of {d}", "the minutes of {d}", "minutes"),
    ("Letter of {d}", "the letter of {d}", "letter"),
    ("Directory {y}/1", "the directory of {y}", "directory {y}"),
    ("Statement made on {d}", "the statement of {d}", "statement"),
    ("Guide, revised in {y}", "the guide as revised in {y}", "guide {y}"),
    ("Memo ({d})", "the memo of {d}", "memo.txt"),
    ("Fact sheet, version of {d}", "the version of {d}", "facts.md"),
)
NAMED = (
    "According to {paper}, {ask}",
    "In {paper}: {ask}",
    "What is written in {paper}: {ask}",
    "I only care about {paper}. {Ask}",
    "{Ask} Use {paper}.",
    "Going by {paper}, {ask}",
)
NEWEST = (
    "According to the newest document, {ask}",
    "{Ask} Take the latest version.",
    "{Ask} Only the most recent document counts.",
)
OLDEST = (
    "According to the oldest document, {ask}",
    "{Ask} I need what was said first.",
    "Before anything was changed: {ask}",
)


def conflicting(rng: random.Random, filler: str) -> Case:
    """Versions of a document that disagree, and one about other things; the question says which."""
    scene = Scene(rng, "")
    of = rng.choice(ASKED)
    count = rng.choice((2, 2, 3))
    first = scene.tell(of)
    facts = [first, *(scene.tell(of, first.subject) for _ in range(count - 1))]
    heading, paper, title = rng.choice(PAPERS)
    dates = _dates(rng, count)  # oldest first
    parts = _parts(rng, filler, count + 1)
    sources = []
    at = rng.randrange(count)
    for n, (one, (year, day)) in enumerate(zip(facts, dates, strict=True)):
        head = heading.format(y=year, d=f"{day} {year}")
        text, ((start, end),) = hide(rng, parts[n], [one.statement])
        marks = ((0, len(head)), (start + len(head) + 2, end + len(head) + 2)) if n == at else ()
        name = title.format(y=year)
        sources.append(Source(text=f"{head}\n\n{text}", title=name, evidence=marks))
    if rng.random() < 0.7:  # an irrelevant one
        other = Scene(rng, parts[count])
        other.used.update(scene.used)
        other.tell(rng.choice(RELATIONS))
        sources += other.sources([])[:1]
    rng.shuffle(sources)
    ask = bare_question(rng, of, first.subject)
    year, day = dates[at]
    forms = NAMED
    if at == count - 1 and rng.random() < 0.4:
        forms = NEWEST
    elif at == 0 and rng.random() < 0.3:
        forms = OLDEST
    named = paper.format(y=year, d=f"{day} {year}")
    asked = rng.choice(forms).format(paper=named, ask=lowered(ask), Ask=ask)
    return Case(
        kind="conflicting",
        sources=tuple(sources),
        question=asked,
        answer=facts[at].value,
    )


def _dates(rng: random.Random, count: int) -> list[tuple[int, str]]:
    """Years, the oldest first, each with a day."""
    years = sorted(rng.sample(range(1988, 2027), count))
    return [(year, f"{rng.randint(1, 28)} {rng.choice(MONTHS)}") for year in years]


def _parts(rng: random.Random, filler: str, count: int) -> list[str]:
    """Pieces of the text, at most of moderate length: versions of a document are short."""
    size = min(len(filler) // count, rng.choice((150, 600, 1500)))
    return [filler[n * size : (n + 1) * size] or "Nothing else has changed." for n in range(count)]
