"""Sentences of a text: where they end, and which of them matches a question best.

A record (an object of JSON, a row of CSV, a paragraph of fields) counts as one sentence: half of
its values say nothing.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from sharedllm.text.normalise import normalise
from sharedllm.text.words import STOP

Span = tuple[int, int]  # characters [start, end)

ABBREVIATIONS = ("Mr", "Mrs", "Ms", "Dr", "St", "Prof", "No", "Fig", "vs", "e.g", "i.e", "cf")
_STOPS = ".!?\u2026\u061f\u06d4\u0964\u0965"  # ellipsis, Arabic question mark, Urdu stop, dandas
_WIDE = "\u3002\uff01\uff1f\uff61"  # of Chinese and Japanese: no space follows
_ENDS_SPEECH = r"(?!(?<=[\"'\u201d\u2019])\s+[a-z])"  # not in '"Why?" said he.'
# The white space after an end, best kind first: of a sentence or paragraph, a line, a word.
ENDS = (
    re.compile(
        rf"[{_STOPS}]"
        + "".join(rf"(?<!\b{re.escape(word)}\.)" for word in ABBREVIATIONS)
        + rf"[{_STOPS}\"'\u201d\u2019)\]*_]*{_ENDS_SPEECH}(\s+)"
        + rf"|[{_WIDE}]+[\u300d\u300f\u201d\u2019\uff09]*(\s*)|(\n[^\S\n]*\n\s*)"
    ),
    re.compile(r"(\n\s*)"),
    re.compile(r"(\s+)"),
)
HEADING = re.compile(r"^#{1,6} [^\n]*(\n\s*)", re.MULTILINE)  # of Markdown
OBJECT = re.compile(
    r"^([ \t]*)\{(?:[^\n]*\}|[ \t]*\n(?:.*?\n)??\1\}),?[ \t]*$", re.MULTILINE | re.DOTALL
)
FIELD = re.compile(r"([^\s:][^:\n]{0,60}):(?: [^\n]*)?")
PARAGRAPH = re.compile(r"[^\n]+(?:\n[^\S\n]*[^\s][^\n]*)*")
SEPARATORS = re.compile(r"[,;](?=\S|$)|\t|\|")
QUOTED = re.compile(r'"[^"\n]*"')
FEWEST = 2  # separators in a row of a table
RECORD = 2000  # characters; what is longer is no sentence
LONGEST = 600  # characters of a sentence; what is longer is cut at lines, else at words
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af"
WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+")
STEM = 6  # characters
CODE = 3  # words that one with a digit is worth
# words that say nothing of what is asked for
EMPTY = STOP | frozenset(
    (
        "again article describe details else ever explain few first further get got "
        "happen happened hers information interesting itself just know last let like long "
        "mention might next now off ok okay old others own per please s same say section "
        "see shall should t thank thanks thing things too until us very want yes"
    ).split()
)


def spaces_after(text: str) -> Iterator[list[Span]]:
    """Yield a list for each kind of :data:`ENDS`: the white space after each end in `text`."""
    yield _sentence_ends(text, list(_records(text)))
    for kind in ENDS[1:]:
        yield _found(kind, text)


def _sentence_ends(text: str, records: list[Span]) -> list[Span]:
    """Find the ends of sentences: none within records, and one before and after each of them."""
    starts = [start for start, _ in records]

    def within(at: int) -> bool:
        index = bisect.bisect_right(starts, at) - 1
        return index >= 0 and records[index][0] < at < records[index][1]

    found = _found(ENDS[0], text) + (_found(HEADING, text) if "#" in text else [])
    kept = {span for span in found if not within(span[0])}
    for edge in (edge for record in records for edge in record):
        before = len(text[:edge].rstrip())
        after = edge + len(text[edge:]) - len(text[edge:].lstrip())
        if before > 0 and "\n" in text[before:after]:
            kept.add((before, after))
    return sorted(kept)


def _found(kind: re.Pattern[str], text: str) -> list[Span]:
    return [match.span(match.lastindex or 0) for match in kind.finditer(text)]


def _records(text: str) -> Iterator[Span]:
    """Yield the records of `text` in order, disjoint."""
    found = sorted({*_objects(text), *_rows(text), *_paragraphs_of_fields(text)})
    last = 0
    for start, end in found:
        if start >= last and end - start <= RECORD:
            yield start, end
            last = end


def _objects(text: str) -> Iterator[Span]:
    at = 0
    while "{" in text and (found := OBJECT.search(text, at)):
        long = found.end() - found.start() > RECORD  # a list of them, perhaps
        if not long:
            yield found.span()
        at = found.start() + 1 if long else found.end()


def _rows(text: str) -> Iterator[Span]:
    """Yield lines with as many separators as a neighbour of theirs."""
    lines, at = [], 0
    for line in text.split("\n"):
        count = sum(map(line.count, ",;\t|"))
        if count >= FEWEST:  # most lines have fewer, whatever of these is a separator
            count = len(SEPARATORS.findall(QUOTED.sub("", line)))
        lines.append((at, at + len(line), count if count >= FEWEST else 0))
        at += len(line) + 1
    for before, (start, end, count), after in zip(
        [(0, 0, 0), *lines], lines, [*lines[1:], (0, 0, 0)], strict=False
    ):
        if count and count in (before[2], after[2]):
            yield start, end


def _paragraphs_of_fields(text: str) -> Iterator[Span]:
    """Yield paragraphs in which each line names a field, each another."""
    for paragraph in PARAGRAPH.finditer(text) if ":" in text else ():
        lines = paragraph.group().split("\n")
        names = set[str]()
        for line in lines:
            field = FIELD.fullmatch(line.strip())
            if field is None:
                break
            names.add(field[1])
        if len(names) == len(lines) > 1:
            yield paragraph.span()


def sentences(text: str) -> list[Span]:
    """Divide `text` into sentences, each with the white space after it."""
    records = list(_records(text))
    whole = {start for start, _ in records}
    ends = [end for _, end in _sentence_ends(text, records)]
    out: list[Span] = []
    for start, end in pairwise(sorted({0, *ends, len(text)})):
        out += [(start, end)] if start in whole else _cut(text, start, end)
    return out


def _cut(text: str, start: int, end: int) -> Iterator[Span]:
    """Cut what is too long for a sentence at its lines, else at its words."""
    while end - start > LONGEST:
        part = text[start : start + LONGEST]
        places = (match.end() for kind in ENDS[1:] for match in reversed([*kind.finditer(part)]))
        at = start + next(filter(None, places), LONGEST)
        yield start, at
        start = at
    yield start, end


def matching_sentence(text: str, query: str) -> Span | None:
    """Return the sentence of `text` that matches `query` best; None if none shares a word with it.

    The more of the question's words it holds, and the fewer sentences hold those, the better.
    """
    spans = sentences(text)
    scores = matches(text, spans, query)
    best = max(scores, default=0.0)
    if not best:
        return None
    start, end = spans[scores.index(best)]
    return trimmed(text, start, end)


def matches(text: str, spans: list[Span], query: str) -> list[float]:
    """Score the sentences `spans` of `text`: each word counts the more, the fewer hold it.

    A number or code counts as several words: it is what was asked about.
    """
    held = [_stems(text[start:end]) for start, end in spans]
    number = Counter(stem for stems in held for stem in stems)
    sought = {stem(word) for word in content_words(normalise(query).text.lower())}
    worth = {
        one: (CODE if any(map(str.isdigit, one)) else 1) / number[one]
        for one in sought & set(number)
    }
    return [sum(worth[one] for one in stems & sought) for stems in held]


def trimmed(text: str, start: int, end: int) -> Span:
    """Return the characters [start, end) without white space around; all if nothing else is."""
    part = text[start:end]
    first = start + len(part) - len(part.lstrip())
    return (first, start + len(part.rstrip())) if first < end else (start, end)


def _stems(text: str) -> set[str]:
    return {stem(match.group().lower()) for match in WORD.finditer(normalise(text).text)}


def stem(word: str) -> str:
    """Return how a word begins: "appointed" counts as "appoints" does."""
    return word[:STEM]


def content_words(low: str) -> set[str]:
    """Return the words of a text in lower case that say what it is about."""
    return {match.group() for match in WORD.finditer(low)} - EMPTY
