"""Answers to parts -> a list of things: each once, in document order, with all its places.

A thing that a model names counts only where it stands in the part that was read, and near what the
question is about. Nothing is merged by a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sharedllm.encoding.document import Document
from sharedllm.search.sentences import (
    EMPTY,
    WORD,
    Span,
    content_words,
    sentences,
    stem,
)
from sharedllm.text.normalise import normalise
from sharedllm.text.words import is_exact, parts, words
from sharedllm.whole.reading import Said

LONGEST = 12  # words of one thing
ABOUT = 0.5  # share of the question's words from which a sentence is about it
LEAST = 2  # of its words, at least
BULLET = re.compile(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,3}[.)])\s+")
BETWEEN = re.compile(r"\s*[;\n]\s*|,\s+(?:(?:and|or|as well as)\s+)?|\s+(?:and|as well as)\s+")
BESIDE = re.compile(r"\s*(?:[:(\u2013\u2014]| - )")  # what is said of a thing in a bulleted list
DETERMINER = re.compile(r"^(?:the|an?|some|his|her|its|their|also|and|or|mr|mrs)\b\.?\s+", re.I)
# titles with which a name is the same as without, and those that tell one bearer from another
TITLES = frozenset(
    "mr sir captain capt dr doctor professor prof colonel major general lieutenant sergeant "
    "reverend rev herr monsieur mijnheer signor".split()
)
APART = frozenset(
    "mrs miss ms lady madame mme mademoiselle frau fraulein vrouw mevrouw signora".split()
)
# words that begin what is said of a thing, rather than a thing
CLAUSE = frozenset(
    "who whom whose which that where when while because as since but if so than then he she it "
    "they there this these those is are was were has have had in on at by with from for "
    "to of".split()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Characters [start, end) of a document's own text, in the sentence [first, last) of it."""

    document: int
    start: int
    end: int
    first: int
    last: int
    score: float


@dataclass(kw_only=True, slots=True)
class Thing:
    """Something that a document names, under the longest name that it was given."""

    text: str
    key: tuple[str, ...]
    places: list[Place] = field(default_factory=list)


def things_of(said: Sequence[Said], documents: Sequence[Document], question: str) -> list[Thing]:
    """Return what the answers name, each thing once, in document order."""
    found: dict[tuple[str, ...], Thing] = {}
    asked, names = _stems(question), names_of(question)
    for one in sorted(said, key=lambda s: (s.part.document, s.part.start)):
        document = documents[one.part.document]
        first, last = document.tokens.characters(one.part.start, one.part.end)
        part = _PartText(document.text[first:last], asked)
        if names and not part.holds(names):
            continue  # it cannot be known from there of whom it is told
        for name in _alike(list(named_in(one.text))):
            key = _key(name)
            if not key or _is_asked(name, asked):
                continue
            for start, end, sentence in part.places(key):
                thing = found.setdefault(key, Thing(text=name, key=key))
                place = Place(
                    document=one.part.document,
                    start=first + start,
                    end=first + end,
                    first=first + sentence[0],
                    last=first + sentence[1],
                    score=one.part.score,
                )
                if place not in thing.places:
                    thing.places.append(place)
    return sorted(_joined(list(found.values())), key=_order)


def named_in(answer: str) -> Iterator[str]:
    """Yield the things that an answer lists: lines, or what stands between commas and "and"."""
    lines = [line for line in answer.splitlines() if line.strip()]
    bulleted = sum(bool(BULLET.match(line)) for line in lines) >= max(1, len(lines) // 2)
    for line in lines:
        if bulleted:
            if BULLET.match(line):
                whole = BULLET.sub("", line).strip(" *_.")
                yield BESIDE.split(whole, maxsplit=1)[0].strip(" *_\"'\u201c\u201d")
            continue
        for piece in BETWEEN.split(line.strip()):
            name = piece.strip(" .*_\"'\u201c\u201d")
            if name and len(name.split()) <= LONGEST:
                yield name


def names_of(question: str) -> frozenset[str]:
    """Return the names and numbers that a question is about; none of one that is all in capitals.

    Words that have a capital letter because they begin a sentence are none.
    """
    own = list(words(question))
    starts = {start + len(question[start:end]) - len(question[start:end].lstrip())
              for start, end in sentences(question)}  # fmt: skip
    content = [word for word in own if word.text.lower() not in EMPTY]
    named = [
        word
        for word in content
        if is_exact(word.text) or (word.text[0].isupper() and word.start not in starts)
    ]
    if 2 * len(named) > len(content) + 1:
        return frozenset()
    return frozenset(part for word in named for part in parts(word.text)[:1])


def _alike(names: Sequence[str]) -> Iterator[str]:
    """Yield those of the form of the first: after a name or number, no word that is none."""
    kept = [bare for name in names if (bare := _bare(name)) and not _is_clause(bare)]
    strict = bool(kept) and _is_proper(kept[0])
    for name in kept:
        if not strict or _is_proper(name):
            yield name


def _bare(name: str) -> str:
    while (shorter := DETERMINER.sub("", name)) != name and not re.match(r"mrs?\b", name, re.I):
        name = shorter
    return name


def _is_clause(name: str) -> bool:
    return name.split()[0].lower() in CLAUSE


def _is_proper(name: str) -> bool:
    """Tell a name or number by its spelling."""
    return any(word.text[0].isupper() or is_exact(word.text) for word in words(name))


def _is_asked(name: str, asked: frozenset[str]) -> bool:
    """Tell what says little that the question does not say itself."""
    own = _stems(name)
    return 2 * len(own & asked) > len(own) or not own


def _key(name: str) -> tuple[str, ...]:
    return tuple(part for word in words(name) for part in parts(word.text))


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in content_words(normalise(text).text.lower()))


class _PartText:
    """The words of a part, and which of its sentences are about the question."""

    def __init__(self, text: str, asked: frozenset[str]) -> None:
        self._text = text
        self._keys: list[str] = []
        self._ends: list[Span] = []
        for word in words(text):
            for part in parts(word.text):
                self._keys.append(part)
                self._ends.append((word.start, word.start + len(word.text)))
        self._sentences = sentences(text)
        self._about = _about(text, self._sentences, asked)

    def holds(self, names: frozenset[str]) -> bool:
        """Tell a part in which one of `names` stands."""
        return not names.isdisjoint(self._keys)

    def places(self, key: tuple[str, ...]) -> Iterator[tuple[int, int, Span]]:
        """Yield (start, end, sentence) where the words of `key` stand together."""
        size = len(key)
        for at in range(len(self._keys) - size + 1):
            if tuple(self._keys[at : at + size]) != key:
                continue
            start, end = self._ends[at][0], self._ends[at + size - 1][1]
            own = next(i for i, (_, last) in enumerate(self._sentences) if start < last)
            if not self._about or own in self._about or self._continues(own):
                yield start, end, self._sentences[own]

    def _continues(self, sentence: int) -> bool:
        """Tell a sentence that follows one about the question within its paragraph."""
        if sentence - 1 not in self._about:
            return False
        start, end = self._sentences[sentence - 1]
        return "\n\n" not in self._text[start:end]


def _about(text: str, spans: Sequence[Span], asked: frozenset[str]) -> list[int]:
    """Return the sentences that hold most of the question's words; none if no sentence does."""
    held = [
        len({stem(match.group()) for match in WORD.finditer(text[a:b].lower())} & asked)
        for a, b in spans
    ]
    best = max(held, default=0)
    if best < LEAST or best < ABOUT * len(asked):
        return []
    return [index for index, count in enumerate(held) if count >= max(LEAST, ABOUT * best + 0.5)]


def _joined(things: list[Thing]) -> list[Thing]:
    """Join a short name with the longer one that it is the beginning or end of, if only one is.

    "Gillat", "Mr. Gillat" and "Johnny Gillat" are one, "Mrs. Gillat" is not.
    """
    out: list[Thing] = []
    for thing in sorted(things, key=lambda one: (-len(_untitled(one.key)), -len(one.key))):
        longer = [other for other in out if _is_longer(other, thing)]
        same = [other for other in longer if _untitled(other.key) == _untitled(thing.key)]
        if len(same) == 1 or len(longer) == 1:
            other = (same or longer)[0]
            other.places += [place for place in thing.places if place not in other.places]
        else:
            out.append(thing)
    for thing in out:
        thing.places.sort(key=lambda place: (place.document, place.start))
    return out


def _is_longer(other: Thing, thing: Thing) -> bool:
    """Tell a name that may be meant by the shorter name of `thing`."""
    own, given = _untitled(thing.key), _untitled(other.key)
    if given[0] in APART and own[0] != given[0]:
        return False
    titled = own != thing.key and given != other.key
    if titled and thing.key[0] != other.key[0]:
        return False  # Mr. Lund and Dr. Lund may be two
    size = len(own)
    ends = (given[:size], given[-size:], other.key[:size])
    return own in ends and not all(part.isdigit() for part in own) and _is_proper(thing.text)


def _untitled(key: tuple[str, ...]) -> tuple[str, ...]:
    return key[1:] if len(key) > 1 and key[0] in TITLES else key


def _order(thing: Thing) -> tuple[int, int]:
    return thing.places[0].document, thing.places[0].start
