"""Facts placed in one document or several, for tasks that are asked in a conversation."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.default_adapter.cases import Source
from benchmarks.default_adapter.tasks.haystack import background, hide, rivals
from benchmarks.default_adapter.tasks.kinds import DRAW
from benchmarks.default_adapter.tasks.relations import RELATIONS, Fact, Relation, fact

TITLES = ("notes.txt", "letter", "report {n}", "page {n}", "minutes.md", "mail {n}", "document {n}")
SEVERAL = 0.25  # share of scenes in several documents
# relations of each kind of subject
OF: dict[str, list[Relation]] = {}
for _relation in RELATIONS:
    OF.setdefault(_relation.subject, []).append(_relation)


class Scene:
    """A set of facts, of which some are evidence, and the text that they stand in.

    No two facts of one relation have values that could be taken for each other.
    """

    def __init__(self, rng: random.Random, filler: str) -> None:
        self._rng, self._filler = rng, filler
        self.used: set[str] = set()
        self.facts: list[Fact] = []
        self._values: list[tuple[Relation, str]] = []

    def tell(self, of: Relation, subject: str | None = None, value: str = "") -> Fact:
        """Add a fact."""
        if subject is None:
            subject = self._subject(of)
        value = value or self.value(of, subject)
        told = fact(self._rng, of, self.used, subject, value)
        self._values.append((of, value))
        self.facts.append(told)
        return told

    def _subject(self, of: Relation) -> str:
        while True:
            drawn = DRAW[of.subject](self._rng)
            if drawn not in self.used:
                return drawn

    def value(self, of: Relation, subject: str = "") -> str:
        """A value that no other fact of the relation has, and that the `subject` does not name."""
        held = [value for relation, value in self._values if relation == of]
        for _ in range(60):
            drawn = DRAW[of.value](self._rng)
            if drawn.lower() not in subject.lower() and all(
                differs(drawn, other) for other in held
            ):
                break
        self._values.append((of, drawn))
        return drawn

    def crowd(self, asked: Fact, most: int, *, apart: bool = False) -> None:
        """Add up to `most` facts that could be taken for `asked`."""
        told = {(one.relation, one.subject) for one in self.facts}
        held = [value for relation, value in self._values if relation == asked.relation]
        count = self._rng.randint(0, most)
        for other in rivals(self._rng, asked, RELATIONS, count, self.used, apart=apart):
            same = other.relation == asked.relation
            if (other.relation, other.subject) in told or (
                same and not all(differs(other.value, value) for value in held)
            ):
                continue
            self.facts.append(other)
            told.add((other.relation, other.subject))

    def sources(
        self, evidence: Sequence[Fact], extra: Sequence[str] = (), *, of: Relation | None = None
    ) -> tuple[Source, ...]:
        """The documents, with the spans of the `evidence`; `extra` is told besides."""
        statements = [one.statement for one in evidence]
        others = [one.statement for one in self.facts if one not in evidence]
        return spread(self._rng, self._filler, statements, [*others, *extra], self.used, of)


def spread(
    rng: random.Random,
    filler: str,
    evidence: Sequence[str],
    others: Sequence[str],
    used: set[str],
    of: Relation | None = None,
) -> tuple[Source, ...]:
    """Put statements into the text, or into several documents made of it."""
    count = rng.randint(2, 4) if rng.random() < SEVERAL and len(filler) > 400 else 1
    size = len(filler) // count
    places: list[list[tuple[str, bool]]] = [[] for _ in range(count)]
    for statement, wanted in [*((e, True) for e in evidence), *((o, False) for o in others)]:
        rng.choice(places).append((statement, wanted))
    out = []
    for n, held in enumerate(places):
        part = filler[n * size : (n + 1) * size]
        text, spans = hide(
            rng, background(rng, part, of, used), [statement for statement, _ in held]
        )
        marked = tuple(span for span, (_, wanted) in zip(spans, held, strict=True) if wanted)
        if text.strip():
            title = rng.choice(TITLES).format(n=n + 1)
            out.append(Source(text=text, title=title, evidence=marked))
    return tuple(out)


def differs(value: str, other: str) -> bool:
    """True if neither value contains the other."""
    one, two = value.lower(), other.lower()
    return one not in two and two not in one


def companions(rng: random.Random, of: Relation, count: int) -> list[Relation]:
    """Other relations of the same kind of subject, about other kinds of values."""
    others = [one for one in OF[of.subject] if one != of]
    rng.shuffle(others)
    out: list[Relation] = []
    for one in others:
        if one.value not in {of.value, *(kept.value for kept in out)}:
            out.append(one)
        if len(out) == count:
            break
    return out
