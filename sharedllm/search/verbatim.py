"""Names and numbers of an answer -> where they stand in the passages that were read, or nowhere.

A model may write a name or a number that no passage holds. Words are compared in the spelling in
which search compares them (:mod:`sharedllm.text.words`), so that "48,013" is 48013 and "MÜLLER" is
Müller; a number up to twelve may stand in words. What the question says itself is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharedllm.search.citations import Citation
from sharedllm.search.selection import Searched
from sharedllm.search.sentences import EMPTY, sentences
from sharedllm.text.document_text import DocumentText
from sharedllm.text.pages import page_of
from sharedllm.text.words import Word, is_exact, parts, wholes, words

MOST = 8  # places of one statement that are kept
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)", re.IGNORECASE)
NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()
# words that begin sentences and are no names, besides those that carry no meaning
OPENERS = EMPTY | frozenset(
    "according although based because chapter document documents during finally first however "
    "information it's here just later near neither next nobody none nothing once otherwise page "
    "passage passages please question second section several similarly since sorry text therefore "
    "third thus today together unfortunately unknown until usually when yes yet".split()
)
JOINING = frozenset("of the de la le van von der den du di da del".split())  # within a name


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A place in a document where a name or number of an answer stands.

    Attributes
    ----------
    citation : int or None
        Index of the citation whose text holds it; None where it stands in a passage that was read,
        beside what is cited.
    document, title, source : str
        As in the citation.
    page : int or None
    char_start, char_end : int
        Characters [char_start, char_end) of the document's text.
    """

    citation: int | None
    document: str
    title: str
    source: str
    page: int | None
    char_start: int
    char_end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A name, number or code that an answer states.

    Attributes
    ----------
    text : str
    start, end : int
        Characters [start, end) of the answer.
    places : tuple of Place
        Those in citations first; empty where it stands in none of the passages.
    """

    text: str
    start: int
    end: int
    places: tuple[Place, ...] = ()


def statements(
    answer: str, question: str, searched: Sequence[Searched], citations: Sequence[Citation]
) -> tuple[Statement, ...]:
    """Look up the names and numbers of `answer` in the passages that were read.

    Parameters
    ----------
    question : what it says is not looked up
    searched : the documents, with the nodes that were selected
    citations : those of the answer
    """
    said = {key for word in words(question) for key in _keys(word.text)}
    passages = [passage for one in searched for passage in _passages(one)]
    found = []
    for own in _terms(answer):
        if all(_keys(word.text) & said for word in own):
            continue
        start, end = own[0].start, own[-1].start + len(own[-1].text)
        places = tuple(_places(own, passages, citations))[:MOST]
        found.append(Statement(text=answer[start:end], start=start, end=end, places=places))
    return tuple(found)


class _Passage:
    """The words of one passage, and where it stands."""

    def __init__(self, document: DocumentText, start: int, end: int) -> None:
        self.document = document
        self.first, last = document.tokens.characters(start, end)
        self.words = list(words(document.text[self.first : last]))
        self.keys = [_keys(word.text) for word in self.words]
        self.known = frozenset[str]().union(*self.keys)

    def text(self, start: int, end: int) -> str:
        """Return characters [start, end) of the whole text."""
        return self.document.text[start - self.document.offset : end - self.document.offset]

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return the characters of the whole text that the words [first, last] cover."""
        at = self.document.offset + self.first
        return at + self.words[first].start, at + self.words[last].start + len(
            self.words[last].text
        )


def _passages(one: Searched) -> Iterator[_Passage]:
    for node in one.nodes:
        if node.fine:
            yield _Passage(one.document, node.start, node.end)


def _terms(answer: str) -> Iterator[tuple[Word, ...]]:
    """Yield numbers and codes, each alone, and names, which may be of several words."""
    for start, end in sentences(answer):
        name: list[Word] = []
        joining: list[Word] = []
        own = [Word(start + word.start, word.text) for word in words(answer[start:end])]
        for index, word in enumerate(own):
            if is_exact(word.text) or word.text.lower() in NUMBERS[2:]:
                if name:
                    yield tuple(name)
                name, joining = [], []
                yield (word,)
            elif _is_name(word.text, opens=index == 0):
                near = name and answer[name[-1].start + len(name[-1].text) : word.start]
                if name and (joining or not str(near).strip(" -'\u2019.")):
                    name += [*joining, word]
                else:
                    if name:
                        yield tuple(name)
                    name = [word]
                joining = []
            elif name and word.text in JOINING and len(joining) < 2:
                joining.append(word)
            else:
                if name:
                    yield tuple(name)
                name, joining = [], []
        if name:
            yield tuple(name)


def _is_name(word: str, *, opens: bool) -> bool:
    """Tell a word that is written as a name; the first of a sentence may be none."""
    if not word[0].isupper() or word.lower() in ("i", "i'm", "i'll"):
        return False
    return not opens or not (word.lower() in OPENERS or word.endswith(("ly", "ing", "ed")))


def _keys(word: str) -> frozenset[str]:
    """Return what `word` is called in the compared spelling; words that share one are the same."""
    own = parts(word)
    keys = {*wholes(word)} or {own[0] if len(own) == 1 else "".join(own)}
    if len(own) > 1 and own[1] in ("s", "t"):
        keys.add(own[0])  # "Anna's"
    for key in tuple(keys):
        if ordinal := ORDINAL.fullmatch(key):
            keys.add(ordinal[1])
        if key.isdigit() and len(key) < 3 and int(key) < len(NUMBERS):
            keys.add(NUMBERS[int(key)])
        elif key in NUMBERS[1:]:
            keys.add(str(NUMBERS.index(key)))
    return frozenset(keys)


def _places(
    term: tuple[Word, ...], passages: Sequence[_Passage], citations: Sequence[Citation]
) -> Iterator[Place]:
    """Yield where the words of `term` stand together, or else all of them in one passage."""
    wanted = [_keys(word.text) for word in term]
    spans = [(passage, span) for passage in passages for span in _together(wanted, passage)]
    if not spans:
        wanted = [_keys(word.text) for word in term if word.text not in JOINING]
        spans = [(passage, span) for passage in passages for span in _apart(wanted, passage)]
    seen = set()
    placed = []
    for passage, (start, end) in spans:
        document = passage.document
        if (document.id, start) in seen:
            continue
        seen.add((document.id, start))
        cited = [
            index
            for index, one in enumerate(citations)
            if one.document == document.id and one.char_start <= start and end <= one.char_end
        ]
        placed.append(
            Place(
                citation=cited[0] if cited else None,
                document=document.id,
                title=document.title,
                source=document.source,
                page=page_of(document.pages, start, passage.text(start, end)),
                char_start=start,
                char_end=end,
            )
        )
    uncited = len(citations)
    yield from sorted(placed, key=lambda p: uncited if p.citation is None else p.citation)


def _together(wanted: Sequence[frozenset[str]], passage: _Passage) -> Iterator[tuple[int, int]]:
    if not all(keys & passage.known for keys in wanted):
        return
    length = len(wanted)
    for at in range(len(passage.keys) - length + 1):
        if all(keys & passage.keys[at + n] for n, keys in enumerate(wanted)):
            yield passage.span(at, at + length - 1)


def _apart(wanted: Sequence[frozenset[str]], passage: _Passage) -> Iterator[tuple[int, int]]:
    """Yield the first place of the last word, where every word stands somewhere in the passage."""
    if all(keys & passage.known for keys in wanted):
        at = next(n for n, keys in enumerate(passage.keys) if keys & wanted[-1])
        yield passage.span(at, at)
