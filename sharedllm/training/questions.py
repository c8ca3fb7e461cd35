"""Reading comprehension and summaries: passages among unrelated text, and questions about them."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharedllm.errors import ConfigError
from sharedllm.generation.prompt import ABSENT
from sharedllm.training import reading
from sharedllm.training.examples import Example, Past, Span
from sharedllm.training.reading import Question
from sharedllm.training.rows import Row, endless

HELD = 96  # contexts whose questions are drawn from together
POOL = 800  # passages that other questions' passages are mixed with
LONGEST_PASSAGE = 4000  # characters of those
ABSENT_SHARE = (
    0.1  # of the questions that can be asked elsewhere; rows that say so themselves come on top
)
LONG_ANSWERS = 0.25  # the share that is kept of answers of more than LONG characters
LONG = 250
MOST_OF_ONE = 64  # questions of one context
PATIENCE = 50_000  # contexts in a row without a question that can be used


@dataclass(frozen=True, slots=True)
class Passage:
    text: str
    words: frozenset[str]


class Questions:
    """Examples of a file of questions.

    Parameters
    ----------
    path : Path
        Rows of context, question and answer (a list); `options` and `short` where there are any.
    skip : sequence of str
        Rows are left out whose `source` starts with one of these.
    texts : callable
        Gives unrelated text of so many characters.
    length : callable
        Draws the characters of the next past.
    longest : int
        Characters of the longest text that is summarised.
    """

    def __init__(
        self,
        path: Path,
        skip: Sequence[str],
        texts: Callable[[int], str],
        length: Callable[[], int],
        longest: int,
        rng: random.Random,
    ) -> None:
        self._path, self._skip = path, tuple(skip)
        self._texts, self._length, self._longest = texts, length, longest
        self._rng = rng
        self._pool: deque[Passage] = deque(maxlen=POOL)

    def reading(self) -> Iterator[Example]:
        """Questions with answers, without one, and several at once."""
        held: list[list[Question]] = []
        for group in self._groups(summaries=False):
            held.append(group)
            if len(held) < HELD:
                continue
            while len(held) == HELD:
                at = self._rng.randrange(HELD)
                yield self._example(held[at])
                if not held[at]:
                    held.pop(at)

    def summaries(self) -> Iterator[Example]:
        for group in self._groups(summaries=True):
            yield self._summary(self._rng.choice(group))

    def _groups(self, summaries: bool) -> Iterator[list[Question]]:
        """The questions of one context, which stand next to each other in the file."""
        idle = 0
        for same in _of_one_context(endless(self._path, self._rng)):
            found = {
                question.text: question
                for question in (self._read(row) for row in same)
                if question and question.is_summary == summaries
            }
            group = list(found.values())
            if summaries:
                group = [one for one in group if len(one.passage) <= self._longest]
            idle = 0 if group else idle + 1
            if idle > PATIENCE:
                what = "summaries" if summaries else "questions"
                raise ConfigError(f"{self._path} holds no {what} that can be used")
            if not group:
                continue
            if len(group[0].passage) <= LONGEST_PASSAGE:
                words = reading.content_words(group[0].passage)
                self._pool.append(Passage(group[0].passage, words))
            self._rng.shuffle(group)
            yield group

    def _read(self, row: Row) -> Question | None:
        if str(row.get("source", "")).startswith(self._skip):
            return None
        question = reading.read(row, self._rng)
        if question is None or question.is_summary:
            return question
        long = len(question.answers[0]) > LONG
        return None if long and self._rng.random() >= LONG_ANSWERS else question

    def _example(self, group: list[Question]) -> Example:
        """One example of the questions that are left of a context."""
        asked = [group.pop()]
        if asked[0].answers[0] != ABSENT:
            if _is_specific(asked[0]) and self._rng.random() < ABSENT_SHARE:
                return self._absent(asked[0])
            if self._rng.random() < 0.1:
                while group and len(asked) < 3 and len(group[-1].answers[0]) < 80:
                    asked.append(group.pop())
        length = self._length()
        passage, spans = _window(asked, length, self._rng)
        past, (at, _) = self._around(passage, asked, length)
        return Example(
            kind="qa" if asked[0].answers[0] != ABSENT else "qa_absent",
            past=past,
            question=_ask(asked),
            answer=_answer(asked),
            evidence=tuple((at + start, at + end) for start, end in spans),
        )

    def _absent(self, asked: Question) -> Example:
        """A real question over other passages, like its own where there are such, and text."""
        length = self._length()
        joined = self._rng.random() < 0.4  # as often as with an answer, so that form tells nothing
        others = self._others([asked], length if joined else self._rng.choice((0, 1500, 3000)))
        if joined and others:
            past, _ = _joined(others, self._rng)
        else:
            past, _ = self._among(others, length)
        return Example(kind="qa_absent", past=past, question=asked.text, answer=ABSENT)

    def _around(self, passage: str, asked: list[Question], length: int) -> tuple[str, Span]:
        """The passage alone, among text, or among other passages; and where it stands."""
        missing, draw = length - len(passage), self._rng.random()
        if missing < 200 or draw < 0.08:
            return passage, (0, len(passage))
        most = missing if draw < 0.45 else self._rng.choice((0, 0, 1500, 3000))
        others = self._others(asked, min(missing, most))
        if draw < 0.45 and others:
            at = self._rng.randint(0, len(others))
            past, spans = _joined([*others[:at], passage, *others[at:]], self._rng)
            return past, spans[at]
        past, spans = self._among([passage, *others], missing)
        return past, spans[0]

    def _among(self, passages: list[str], length: int) -> tuple[str, tuple[Span, ...]]:
        taken = sum(map(len, passages[1:]))
        past = Past(self._texts(max(200, length - taken)), gap=self._rng.choice(("\n", "\n\n")))
        for passage in passages:
            past.put(passage, self._rng.random())
        return past.build()

    def _others(self, asked: list[Question], characters: int) -> list[str]:
        """Passages that do not answer, the nearest and some at random, up to so many characters."""
        question, rng = asked[0], self._rng
        pool = rng.sample(list(self._pool), len(self._pool))
        near = sorted(pool, key=lambda one: -len(question.words & one.words))
        own = len(question.words & reading.content_words(question.passage))
        taken: dict[str, None] = {}
        for one in itertools.chain.from_iterable(zip(near, pool, strict=True)):
            if characters < 200:
                break
            if one.text in taken or len(one.text) > characters or _may_answer(one, asked, own):
                continue
            taken[one.text] = None
            characters -= len(one.text)
        out = list(taken)
        rng.shuffle(out)
        return out

    def _summary(self, asked: Question) -> Example:
        """A text alone, or named by a heading among other text."""
        length = self._length()
        missing = length - len(asked.passage)
        if missing < 400 or self._rng.random() < 0.5:
            past, span, question = asked.passage, (0, len(asked.passage)), asked.text
        else:
            title = f"Part {self._rng.randint(2, 99)}"
            heading = f"== {title} ==\n"
            past, (whole,) = self._among(
                [f"{heading}{asked.passage}\n== End of {title} =="], missing
            )
            span = (whole[0] + len(heading), whole[0] + len(heading) + len(asked.passage))
            question = f"{asked.text} This is about {title} only."
        return Example(
            kind="summary",
            past=past,
            question=question,
            answer=asked.answers[0],
            evidence=(span,),
        )


def _of_one_context(stream: Iterator[Row]) -> Iterator[list[Row]]:
    """Neighbours with the same context, so many at most: a file may hold a single context."""
    held: list[Row] = []
    for row in stream:
        if held and (row["context"] != held[0]["context"] or len(held) == MOST_OF_ONE):
            yield held
            held = []
        held.append(row)


def _is_specific(question: Question) -> bool:
    """Whether a question says what it is about, so that other texts do not answer it."""
    words = question.text.split()[1:]
    named = any(word[:1].isupper() or any(map(str.isdigit, word)) for word in words)
    return len(question.words) >= (2 if named else 4)


def _may_answer(other: Passage, asked: list[Question], own: int) -> bool:
    """Whether another passage has an answer in it, or nearly all that the question speaks of."""
    question = asked[0]
    if any(other.text == one.passage for one in asked):
        return True
    if len(question.words & other.words) > max(1, 0.7 * own):
        return True
    text = other.text.lower()
    return any(a.lower() in text for one in asked for a in one.answers if len(a) > 3)


def _window(asked: list[Question], length: int, rng: random.Random) -> tuple[str, tuple[Span, ...]]:
    """The passage, or a part of a long one that holds the evidence; and the evidence in it."""
    passage = asked[0].passage
    if asked[0].answers[0] == ABSENT:
        return passage, ()
    spans = [reading.evidence(one) for one in asked]
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    if len(passage) > max(length, 2000, last - first):
        room = max(length, 2000) - (last - first)
        start = max(0, min(first, first - rng.randrange(max(1, room))))
        if start:  # at a word
            start = max(0, min(first, passage.find(" ", start) + 1))
        passage = passage[start : start + max(room, 0) + (last - first)]
        spans = [(a - start, b - start) for a, b in spans]
    return passage, tuple((a, min(b, len(passage))) for a, b in spans)


def _joined(passages: Sequence[str], rng: random.Random) -> tuple[str, tuple[Span, ...]]:
    """Passages one after another, with or without headings; each one's span."""
    heading = rng.choice(("", "", "Document {n}:\n", "[{n}] ", "Passage {n}\n"))
    out, spans, length = list[str](), list[Span](), 0
    for n, passage in enumerate(passages, start=1):
        head = heading.format(n=n)
        spans.append((length + len(head), length + len(head) + len(passage)))
        out += [head, passage, "\n\n"]
        length = spans[-1][1] + 2
    return "".join(out), tuple(spans)


def _ask(asked: list[Question]) -> str:
    if len(asked) == 1:
        return asked[0].text
    lines = "\n".join(f"{n}. {one.text}" for n, one in enumerate(asked, start=1))
    return f"Answer each question:\n{lines}"


def _answer(asked: list[Question]) -> str:
    if len(asked) == 1:
        return asked[0].answers[0]
    return "\n".join(f"{n}. {one.answers[0]}" for n, one in enumerate(asked, start=1))
