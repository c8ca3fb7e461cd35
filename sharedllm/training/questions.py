"""The tasks "qa" and "summary": rows of questions -> examples, passages among unrelated text."""

from __future__ import annotations

import itertools
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharedllm.errors import ConfigError
from sharedllm.generation.prompt import ABSENT
from sharedllm.text.words import STOP
from sharedllm.training.examples import Example, Past, Span
from sharedllm.training.streams import Row, endless

HELD = 96  # contexts held at once, from which questions are drawn
POOL = 800  # passages held at once, with which those of other questions are mixed
LONGEST_PASSAGE = 4000  # characters of a passage in the pool
# Share of the answerable questions that are asked without their passage. Unanswerable rows of the
# file come on top.
ABSENT_SHARE = 0.1
MOST_OF_ONE = 64  # questions of one context
PATIENCE = 50_000  # contexts in a row without a usable question, after which the file is refused
ENDS = (". ", ".\n", "? ", "! ", "\n\n")  # of sentences; a single line feed may be a wrap
_SUMMARY = re.compile(r"\b(?:summar(?:y|i[sz]e)|tl;?dr)\b", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"\W*(?:unanswerable|no answer|not answerable|cannotanswer|cannot be answered|unknown|"
    r"not (?:mentioned|given|stated|known|specified)|no information|n/a|none)\W*",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about a passage.

    Attributes
    ----------
    text : str
    answers : tuple of str
        Right answers, the chosen one first; (ABSENT,) if the passage holds none.
    passage : str
    words : frozenset of str
        The content words of the question.
    is_summary : bool
    """

    text: str
    answers: tuple[str, ...]
    passage: str
    words: frozenset[str]
    is_summary: bool


@dataclass(frozen=True, slots=True)
class Passage:
    text: str
    words: frozenset[str]


class Questions:
    """Makes examples of a file of questions.

    Parameters
    ----------
    path : Path
        Rows of context, question and answer (a text, or a list), and perhaps `options`.
    skip : sequence of str
        Prefixes of `source` whose rows are left out.
    texts : callable
        Returns unrelated text of a given number of characters.
    length : callable
        Draws the characters of the next past.
    longest : int
        Characters of a text to be summarised, at most.
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
        """Yield examples of questions: answerable, unanswerable, and several at once."""
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
        """Yield the questions of one context, which are neighbours in the file."""
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
                raise ConfigError(f"{self._path} holds no usable {what}")
            if not group:
                continue
            if len(group[0].passage) <= LONGEST_PASSAGE:
                words = content_words(group[0].passage)
                self._pool.append(Passage(group[0].passage, words))
            self._rng.shuffle(group)
            yield group

    def _read(self, row: Row) -> Question | None:
        """Read a row; None if its source is left out."""
        if str(row.get("source", "")).startswith(self._skip):
            return None
        return read(row, self._path, self._rng)

    def _example(self, group: list[Question]) -> Example:
        """Make one example of the questions that are left of a context."""
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
        """Ask a real question about other passages, similar ones if possible, and text."""
        length = self._length()
        joined = (
            self._rng.random() < 0.4
        )  # as often as with an answer, so that the form tells nothing
        others = self._others([asked], length if joined else self._rng.choice((0, 1500, 3000)))
        if joined and others:
            past, _ = _joined(others, self._rng)
        else:
            past, _ = self._among(others, length)
        return Example(kind="qa_absent", past=past, question=asked.text, answer=ABSENT)

    def _around(self, passage: str, asked: list[Question], length: int) -> tuple[str, Span]:
        """Put the passage alone, among text, or among other passages; return its span, too."""
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
        """Draw passages that do not answer, by turns the most similar and at random."""
        question, rng = asked[0], self._rng
        pool = rng.sample(list(self._pool), len(self._pool))
        near = sorted(pool, key=lambda one: -len(question.words & one.words))
        own = len(question.words & content_words(question.passage))
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
        """Ask for the summary of a text alone, or of a part with a heading among other text."""
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


def read(row: Row, path: Path, rng: random.Random) -> Question:
    """Read a row as a question.

    Raises
    ------
    ConfigError
        If the row lacks a field, or a field is empty.
    """
    given = row.get("answer")
    text, passage = (str(row.get(key) or "").strip() for key in ("question", "context"))
    answers = [str(one).strip() for one in (given if isinstance(given, list) else [given])]
    if not text or not passage or given is None or not all(answers):
        raise ConfigError(
            f"{path} has a row with {', '.join(map(repr, sorted(row)))}; needed are context, "
            "question and answer (a text, or a list of them; an empty list if the context has no "
            "answer); a text may not be empty"
        )
    summary = is_summary(text)
    options = [str(option).strip() for option in row.get("options") or ()]
    if not answers or (_UNKNOWN.fullmatch(answers[0]) and not contains_answer(answers[0], passage)):
        answers = [ABSENT]
    elif options:
        text, answers = _with_options(text, answers, options, rng)
    elif not summary:
        answers = _chosen_first(answers, passage)
    return Question(
        text=text,
        answers=tuple(answers),
        passage=passage,
        words=content_words(text),
        is_summary=summary,
    )


def is_summary(question: str) -> bool:
    """Return True if a question asks for a summary."""
    return bool(_SUMMARY.search(question)) and not question.lower().startswith(
        ("who", "what is the")
    )


def content_words(text: str) -> frozenset[str]:
    return frozenset(word for word in _WORD.findall(text.lower()) if word not in STOP)


def contains_answer(answer: str, passage: str) -> bool:
    """Return True if the passage contains the answer as whole words, ignoring case."""
    return bool(_found(answer).search(passage))


def evidence(question: Question) -> Span:
    """Return the characters of the passage from which the answer follows.

    These are the sentences around the occurrence of the answer that is nearest to the question's
    words. If the passage does not contain the answer, they are all of a short passage, or the part
    of a long one that has most words in common.
    """
    passage = question.passage
    if question.is_summary:
        return 0, len(passage)
    best, most = None, -1
    for number, match in enumerate(_found(question.answers[0]).finditer(passage)):
        near = passage[max(0, match.start() - 200) : match.end() + 200].lower()
        common = sum(word in near for word in question.words)
        if common > most:
            best, most = match.span(), common
        if number == 50:
            break
    if best:
        return _sentences(passage, best)
    if len(passage) <= 1600:
        return 0, len(passage)
    wanted = question.words | content_words(question.answers[0])
    starts = range(0, len(passage) - 800, 400)
    start = max(starts, key=lambda at: len(wanted & content_words(passage[at : at + 1200])))
    return start, min(start + 1200, len(passage))


def _of_one_context(stream: Iterator[Row]) -> Iterator[list[Row]]:
    """Group neighbours of one context, at most MOST_OF_ONE: a file may have a single context."""
    held: list[Row] = []
    for row in stream:
        if held and (row["context"] != held[0]["context"] or len(held) == MOST_OF_ONE):
            yield held
            held = []
        held.append(row)


def _is_specific(question: Question) -> bool:
    """Return True if a question is specific enough that unrelated text does not answer it."""
    words = question.text.split()[1:]
    named = any(word[:1].isupper() or any(map(str.isdigit, word)) for word in words)
    return len(question.words) >= (2 if named else 4)


def _may_answer(other: Passage, asked: list[Question], own: int) -> bool:
    """Return True if another passage contains an answer, or most of the question's words."""
    question = asked[0]
    if any(other.text == one.passage for one in asked):
        return True
    if len(question.words & other.words) > max(1, 0.7 * own):
        return True
    text = other.text.lower()
    return any(a.lower() in text for one in asked for a in one.answers if len(a) > 3)


def _window(asked: list[Question], length: int, rng: random.Random) -> tuple[str, tuple[Span, ...]]:
    """Return the passage, or the part of a long one around the evidence, and its spans."""
    passage = asked[0].passage
    if asked[0].answers[0] == ABSENT:
        return passage, ()
    spans = [evidence(one) for one in asked]
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    if len(passage) > max(length, 2000, last - first):
        room = max(length, 2000) - (last - first)
        start = max(0, min(first, first - rng.randrange(max(1, room))))
        if start:  # begin at a word
            start = max(0, min(first, passage.find(" ", start) + 1))
        passage = passage[start : start + max(room, 0) + (last - first)]
        spans = [(a - start, b - start) for a, b in spans]
    return passage, tuple((a, min(b, len(passage))) for a, b in spans)


def _joined(passages: Sequence[str], rng: random.Random) -> tuple[str, tuple[Span, ...]]:
    """Join passages, with or without headings; return the span of each, too."""
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


def _found(answer: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)


def _sentences(passage: str, span: Span, most: int = 300) -> Span:
    """Extend a span to the ends of its sentences, by at most `most` characters."""
    start, end = span
    before = max(passage.rfind(mark, max(0, start - most), start) for mark in ENDS)
    after = [passage.find(mark, end, end + most) for mark in ENDS]
    ends = [at + 1 for at in after if at >= 0]
    first = before + 1 if before >= 0 else max(0, start - most)
    first += len(passage[first:start]) - len(passage[first:start].lstrip())
    return first, min(ends) if ends else min(len(passage), end + most)


def _chosen_first(answers: list[str], passage: str) -> list[str]:
    """Put the shortest answer that the passage contains first."""
    inside = [answer for answer in answers if contains_answer(answer, passage)]
    first = min(inside, key=len) if inside else answers[0]
    return [first, *(answer for answer in answers if answer != first)]


def _with_options(
    text: str, answers: list[str], options: list[str], rng: random.Random
) -> tuple[str, list[str]]:
    """Append shuffled options to the question; an answer may be given as a letter."""
    letter = answers[0].strip("(). ").upper()
    if answers[0] not in options and len(letter) == 1 and 0 <= ord(letter) - 65 < len(options):
        answers = [options[ord(letter) - 65]]
    shown = rng.sample(options, len(options))
    lines = "\n".join(f"({chr(65 + at)}) {option}" for at, option in enumerate(shown))
    return f"{text}\nOptions:\n{lines}", answers
