"""Rows of questions by kind -> cases: alone, among text, among passages, as several documents.

A row holds a context, a question, its answers, its kind, and for follow-ups the earlier turns.
Kinds are drawn by weight and rows within a kind evenly, because a third of the rows are yes/no
questions. Some questions get earlier turns: other questions about the same context, the same
question, or the same question with a wrong answer.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.default_adapter.cases import Case, Source, Turn
from sharedllm.generation.prompt import ABSENT
from sharedllm.training.examples import Past, Span
from sharedllm.training.questions import Question, content_words, evidence

LONGEST_ANSWER = 900  # characters
LONGEST_PASSAGE = 24_000
NEAR = 400  # passages that are compared with a question, to find similar ones
AGAIN = ("", "Again: ", "I ask again: ", "Sorry, once more: ", "Please repeat: ", "So, ")
DOUBTS = (
    "That is wrong. {question}",
    "No, look again. {question}",
    "Are you sure? {question}",
    "I do not think that is right. {question}",
    "Please check the documents again: {question}",
)
WHOLE = ("Explain in full: {question}", "{question} Answer in whole sentences.", "{question}")
TITLES = ("notes.txt", "report.pdf", "page {n}", "document {n}", "file{n}.md", "Appendix {n}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One question; the first of the `right` answers is the one to learn."""

    kind: str
    context: str
    question: str
    right: tuple[str, ...]
    history: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Shares of a passage's surroundings, and of earlier turns.

    Attributes
    ----------
    alone, text, passages : the passage alone, within text, beside others in one document; else
        every passage is a document of its own
    chat : earlier questions about the same context
    again : the same question, answered
    doubted : the same question, answered wrongly
    """

    alone: float = 0.34
    text: float = 0.26
    passages: float = 0.22
    chat: float = 0.12
    again: float = 0.05
    doubted: float = 0.03


class Bank:
    """All rows, by kind and by context; rows of one context share its text."""

    def __init__(self, path: Path, *, seed: int = 0) -> None:
        contexts: dict[str, str] = {}
        self.kinds: dict[str, list[Row]] = defaultdict(list)
        self.siblings: dict[str, list[Row]] = defaultdict(list)
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = _row(json.loads(line), contexts)
                if row is not None:
                    self.kinds[row.kind].append(row)
                    self.siblings[row.context].append(row)
        self.pool = [context for context in contexts if len(context) <= 3000]
        random.Random(seed).shuffle(self.pool)


def _row(given: Mapping[str, object], contexts: dict[str, str]) -> Row | None:
    context = str(given["context"]).strip()
    right = [str(a).strip() for a in given["answer"] if str(a).strip()]  # type: ignore[attr-defined]
    question = str(given["question"]).strip()
    if not (context and right and question) or len(right[0]) > LONGEST_ANSWER:
        return None
    if len(context) > LONGEST_PASSAGE:
        return None
    history = tuple((str(q).strip(), str(a).strip()) for q, a in given.get("history") or ())  # type: ignore[attr-defined]
    return Row(
        kind=str(given["kind"]),
        context=contexts.setdefault(context, context),
        question=question,
        right=tuple(right),
        history=tuple((q, a) for q, a in history if q and a),
    )


class Questions:
    """Cases drawn from a bank.

    Parameters
    ----------
    weights : of the kinds
    texts : returns unrelated text of a given number of characters
    length : draws the characters of a past

    Raises
    ------
    ValueError
        If the bank has no row of one of the kinds.
    """

    def __init__(
        self,
        bank: Bank,
        weights: Mapping[str, float],
        texts: Callable[[int], str],
        length: Callable[[], int],
        rng: random.Random,
        shares: Shares | None = None,
    ) -> None:
        self._bank, self._texts, self._length, self._rng = bank, texts, length, rng
        self._shares = shares or Shares()
        self._names, self._weights = list(weights), list(weights.values())
        missing = [name for name in self._names if not bank.kinds.get(name)]
        if missing:
            raise ValueError(f"no rows of kind {missing}; there are {list(bank.kinds)}")

    def __iter__(self) -> Iterator[Case]:
        while True:
            (kind,) = self._rng.choices(self._names, self._weights)
            yield self.case(self._rng.choice(self._bank.kinds[kind]))

    def case(self, row: Row) -> Case:
        """Make a case of `row`: its surroundings, and perhaps earlier turns."""
        question, history = self._ask(row)
        sources = self._surround(row)
        sought = " ".join([*(f"{q} {a}" for q, a in row.history[-1:]), question])
        return Case(
            kind=row.kind if history == row.history else "again",
            sources=sources,
            question=question,
            answer=row.right[0],
            history=history,
            sought=sought,
            sentences=len(row.right[0]) > 120,
        )

    def _ask(self, row: Row) -> tuple[str, tuple[Turn, ...]]:
        """Return the question and its earlier turns."""
        rng, shares = self._rng, self._shares
        if row.history:
            return row.question, row.history
        draw = rng.random()
        if draw < shares.again:
            before = self._before(row, rng.choice((0, 0, 1)))
            question = rng.choice(AGAIN) + row.question
            said = row.right[0] if rng.random() < 0.85 else ABSENT
            return question, (*before, (row.question, said))
        draw -= shares.again
        if draw < shares.doubted:
            question = rng.choice(DOUBTS).format(question=row.question)
            return question, ((row.question, self._wrong(row)),)
        draw -= shares.doubted
        if draw < shares.chat:
            return row.question, self._before(row, rng.choice((1, 1, 2, 3)))
        if len(row.right[0]) > 120 and rng.random() < 0.5:
            return rng.choice(WHOLE).format(question=row.question), ()
        return row.question, ()

    def _before(self, row: Row, count: int) -> tuple[Turn, ...]:
        others = [r for r in self._bank.siblings[row.context] if r != row and not r.history]
        chosen = self._rng.sample(others, min(count, len(others)))
        return tuple((r.question, r.right[0]) for r in chosen)

    def _wrong(self, row: Row) -> str:
        if row.right[0].lower() in ("yes", "no"):
            return "No" if row.right[0].lower() == "yes" else "Yes"
        if row.right[0] != ABSENT and self._rng.random() < 0.4:
            return ABSENT
        other = self._rng.choice(self._bank.kinds[row.kind]).right[0]
        return other if other not in row.right else "I do not know."

    def _surround(self, row: Row) -> tuple[Source, ...]:
        rng, shares = self._rng, self._shares
        spans = find_evidence(row)
        draw, length = rng.random(), self._length()
        if draw < shares.alone or length < len(row.context) + 400:
            return (Source(text=row.context, title=self._title(), evidence=spans),)
        draw -= shares.alone
        if draw < shares.text:
            return (self._within(row, spans, length - len(row.context)),)
        draw -= shares.text
        others = self._others(row, rng.choice((1, 2, 3, 4, 6)))
        passages: list[tuple[str, tuple[Span, ...]]] = [(row.context, spans)]
        passages += [(text, ()) for text in others]
        rng.shuffle(passages)
        if draw < shares.passages:
            return (_join(passages, rng),)
        titles = [self._title(n) for n in range(1, len(passages) + 1)]
        return tuple(
            Source(text=text, title=title, evidence=own)
            for (text, own), title in zip(passages, titles, strict=True)
        )

    def _within(self, row: Row, spans: tuple[Span, ...], missing: int) -> Source:
        past = Past(self._texts(max(200, missing)), gap=self._rng.choice(("\n", "\n\n")))
        past.put(row.context, self._rng.random())
        text, ((start, _),) = past.build()
        moved = tuple((a + start, b + start) for a, b in spans)
        return Source(text=text, title=self._title(), evidence=moved)

    def _others(self, row: Row, count: int) -> list[str]:
        """Draw passages that share words with the question and do not contain the answer."""
        pool = self._bank.pool
        start = self._rng.randrange(max(1, len(pool) - NEAR))
        words = content_words(row.question)
        found: list[tuple[int, str]] = []
        for text in pool[start : start + NEAR]:
            low = text.lower()
            if text == row.context or any(len(a) > 3 and a.lower() in low for a in row.right):
                continue
            shared = sum(word in low for word in words)
            if shared <= max(1, 0.7 * len(words)):
                found.append((shared, text))
        found.sort(key=lambda pair: -pair[0])
        near = [text for _, text in found[: 2 * count]]
        return self._rng.sample(near, min(count, len(near)))

    def _title(self, n: int = 1) -> str:
        return self._rng.choice(TITLES).format(n=n)


def find_evidence(row: Row) -> tuple[Span, ...]:
    """Return the spans from which the answer follows; all of a short context if in doubt."""
    if row.right[0] == ABSENT:
        return ()
    question = Question(
        text=row.question,
        answers=row.right,
        passage=row.context,
        words=content_words(" ".join([row.question, *(q for q, _ in row.history[-1:])])),
        is_summary=False,
    )
    return (evidence(question),)


def _join(passages: Sequence[tuple[str, tuple[Span, ...]]], rng: random.Random) -> Source:
    """Join passages into one document, with or without headings."""
    heading = rng.choice(("", "", "Document {n}:\n", "[{n}] ", "## Part {n}\n"))
    out, spans, length = list[str](), list[Span](), 0
    for n, (passage, own) in enumerate(passages, start=1):
        head = heading.format(n=n)
        first = length + len(head)
        spans += [(first + a, first + b) for a, b in own]
        out += [head, passage, "\n\n"]
        length = first + len(passage) + 2
    return Source(text="".join(out), evidence=tuple(spans))
