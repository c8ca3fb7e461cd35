"""Looking again: what the best passage names, and the question does not, is searched for as well.

"In which town was the teacher of Anna Lund born?" finds who the teacher was, and not the town: the
statement about the town shares little with the question. So a second round searches for the name
that stands in the best sentence, a third for what the passages with that name name, and so on until
nothing rare is named that stands elsewhere. A link is rare if at most :data:`MOST_HELD` other
leaves hold it. Most sentences have none, so that looking again costs milliseconds and stops by
itself; leaves that the first round is nearly as sure of come before what it adds
(docs/experiments.md, 40).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sharedllm.encoding.document import Document
from sharedllm.search.bm25 import Asked, Leaves, names_in
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.sentences import sentences
from sharedllm.text.words import POINT, parts, wholes, words, words_at

SCORER = "fused"  # whose scores are log-odds, so that a difference says how much surer one is
SURE = 3.0  # leaves so near the best come before what later rounds find
STEP = 1e-3  # between the scores of those, which stand in order
MOST_HELD = 2  # other leaves that hold a link; of one name or compound, one
MOST_FOUND = 4  # leaves in a round
LEAST = 0.5  # of how sure a leaf must be that is added
FADES, FADES_FAST = 0.9, 0.6  # of how sure each round is; after one name or compound
DIGITS = 5  # of a number that links, at least: fewer are years and amounts

Widen = Callable[[int, int], tuple[int, int]]  # document, node -> its tokens in whole sentences


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """A leaf that a later round found.

    Attributes
    ----------
    document : int
        Index among the documents of the call.
    node : int
        Index in its forest.
    round : int
        From 2 on.
    sought : str
        What that round searched for, as it is written where it was found.
    score : float
        Below all that the first round is nearly as sure of as of its best.
    """

    document: int
    node: int
    round: int
    sought: str
    score: float


@dataclass(frozen=True, slots=True)
class Looked:
    """Leaves that looking again found, and names that it did not find.

    Attributes
    ----------
    followed : list of Followed
        By round, the surest first.
    unfound : tuple of str
        Names and codes that were searched for and stand in none of the other leaves: a large memory
        may have them in chunks that were not searched.
    """

    followed: list[Followed]
    unfound: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Link:
    """A name, number, code or compound: its words, how it is written, and who else may hold it."""

    words: tuple[str, ...]
    written: str
    most: int


@dataclass(frozen=True, slots=True)
class _Source:
    """Sentences of a leaf whose links are followed, and how surely they belong to the answer.

    Its text has parts of the leaves `near`, too: a sentence that an edge cuts is in two.
    """

    leaf: int
    near: range
    text: str
    sentences: tuple[str, ...]
    sure: float


@dataclass(slots=True)
class _Found:
    """A leaf that holds links of the round before, and how surely it belongs to the answer."""

    links: set[_Link]
    sure: float


def look_again(
    query: str,
    documents: Sequence[Document],
    scores: Sequence[Scores],
    *,
    most: int,
    widen: Widen,
) -> Looked:
    """Follow what the best leaf names.

    Parameters
    ----------
    scores : for the question, of the nodes of each document
    most : rounds, the question's own included
    widen : returns the tokens of a node with the sentences that its edges cut
    """
    if most < 2:
        return Looked([], ())
    named = _Named(documents, widen)
    flat = np.concatenate([s[d.forest.leaves] for d, s in zip(documents, scores, strict=True)])
    best, bound = int(flat.argmax()), float(flat.max()) - SURE
    seen = set(np.flatnonzero(flat >= bound).tolist())
    known = set(Asked.of(query).terms)
    sources, out = [named.matching(best, query, known)], list[Followed]()
    for number in range(2, most + 1):
        found = named.found_from(sources, known, seen)
        chosen = sorted(found, key=lambda leaf: (-found[leaf].sure, leaf))[:MOST_FOUND]
        known.update(term for one in sources for text in one.sentences for term in _words(text))
        seen.update(chosen)
        sources = [named.linked(leaf, found[leaf], known) for leaf in chosen]
        for leaf in chosen:
            document, node = named.place(leaf)
            sought = ", ".join(_longest(link.written for link in found[leaf].links))
            score = bound - STEP * (len(out) + 1)
            out.append(
                Followed(document=document, node=node, round=number, sought=sought, score=score)
            )
    return Looked(out, tuple(dict.fromkeys(named.unfound)))


class _Named:
    """The leaves of all documents as one row: their sentences, and what those name."""

    def __init__(self, documents: Sequence[Document], widen: Widen) -> None:
        self._documents, self._widen = documents, widen
        self._leaves = Leaves(documents)
        self.unfound: list[str] = []

    def place(self, leaf: int) -> tuple[int, int]:
        """Return the document and node of a leaf."""
        index = int(np.searchsorted(self._leaves.bounds, leaf, side="right")) - 1
        return index, int(self._documents[index].forest.leaves[leaf - self._leaves.bounds[index]])

    def matching(self, leaf: int, query: str, known: set[str]) -> _Source:
        """Take the sentence of a leaf that matches the question best."""
        text, near = self._text(leaf)
        content = Asked.of(query).content
        worth = {term: self._leaves.holding((term,)).idf for term in content}
        best = max(
            (text[start:end] for start, end in sentences(text)),
            key=lambda one: sum(worth[term] for term in content & _words(one)),
        )
        return self._with_linked(_Source(leaf, near, text, (best,), 1.0), known)

    def linked(self, leaf: int, found: _Found, known: set[str]) -> _Source:
        """Take the sentences of a leaf that hold the links by which it was found."""
        text, near = self._text(leaf)
        first = [
            text[start:end]
            for start, end in sentences(text)
            if any(_words(text[start:end]).issuperset(link.words) for link in found.links)
        ]
        return self._with_linked(_Source(leaf, near, text, tuple(first), found.sure), known)

    def found_from(
        self, sources: Sequence[_Source], known: set[str], seen: set[int]
    ) -> dict[int, _Found]:
        """Find the leaves, besides those `seen`, that hold a rare link of one of `sources`."""
        out: dict[int, _Found] = {}
        for source in sources:
            for sentence in source.sentences:
                for link in _links(sentence, known):
                    others = self._elsewhere(link, source)
                    if not others and link.most > 1:
                        self.unfound.append(link.written)
                    sure = source.sure / max(1, len(others))
                    if len(others) > link.most or sure < LEAST:
                        continue
                    sure *= FADES if link.most > 1 else FADES_FAST
                    for leaf in set(others) - seen:
                        found = out.setdefault(leaf, _Found(set(), 0.0))
                        found.links.add(link)
                        found.sure = max(found.sure, sure)
        return out

    def _with_linked(self, source: _Source, known: set[str]) -> _Source:
        """Add the sentences of the same text that hold a rare link of one that is taken."""
        own = [source.text[start:end] for start, end in sentences(source.text)]
        taken = list(source.sentences)
        for sentence in taken:  # it grows
            for link in _links(sentence, known):
                if len(self._elsewhere(link, source)) <= link.most:
                    more = (x for x in own if x not in taken and _words(x).issuperset(link.words))
                    taken += list(more)
        return replace(source, sentences=tuple(taken))

    def _elsewhere(self, link: _Link, source: _Source) -> list[int]:
        """Return the leaves that hold a link where it is not in the text of `source`."""
        held = self._leaves.holding(link.words)
        near = np.isin(held.leaves, source.near)
        if held.counts[near].sum() > _count(link, source.text):
            near = held.leaves == source.leaf
        out: list[int] = held.leaves[~near].tolist()
        return out

    def _text(self, leaf: int) -> tuple[str, range]:
        """Return the text of a leaf in whole sentences, and the leaves that it has parts of."""
        index, node = self.place(leaf)
        document = self._documents[index]
        start, end = self._widen(index, node)
        starts = document.forest.start[document.forest.leaves]
        first, last = np.searchsorted(starts, (start, end - 1), side="right") - 1
        before = int(self._leaves.bounds[index])
        return document.text_of(start, end), range(before + int(first), before + int(last) + 1)


def _longest(written: Iterable[str]) -> list[str]:
    """Return the texts that are in no other, in order of the alphabet."""
    every = set(written)
    return sorted(one for one in every if not any(one in other for other in every - {one}))


def _words(text: str) -> set[str]:
    """Return the terms of a text, as :class:`Asked` has them."""
    _, found = words_at(text)
    return {term for word in found for term in (*parts(word), *wholes(word))}


def _links(sentence: str, known: set[str]) -> list[_Link]:
    """Return what a sentence names besides what is known.

    A name may run over the end of a line, or end there.
    """
    whole = Asked.of(sentence)
    in_lines = itertools.chain.from_iterable(map(names_in, sentence.splitlines()))
    most: dict[tuple[str, ...], int] = {}
    for term in whole.terms:
        if term not in known and term in whole.exact | whole.compounds and not _is_amount(term):
            most[term,] = MOST_HELD if term in whole.exact else 1
    for name in (*whole.names, *in_lines):
        if not known.issuperset(name) and len("".join(name)) > 1:
            most[name] = 1 if len(name) == 1 else MOST_HELD
    return [_Link(link, _as_written(link, sentence), own) for link, own in most.items()]


def _is_amount(term: str) -> bool:
    """True for years, dates, amounts and small numbers, which link nothing; "14.2" is a clause."""
    sizes = [len(number) for number in term.split(POINT) if number.isdigit()]
    if len(sizes) < 1 + term.count(POINT):
        return False
    return max(sizes) < DIGITS if len(sizes) == 1 else max(sizes) > 3


def _count(link: _Link, text: str) -> int:
    """Count where `link` stands in `text`."""
    row = list[str]()
    codes = 0
    for word in words(text):
        row += parts(word.text)
        codes += link.words[0] in wholes(word.text)
    size = len(link.words)
    named = sum(tuple(row[at : at + size]) == link.words for at in range(len(row) - size + 1))
    return named + (codes if size == 1 else 0)


def _as_written(link: tuple[str, ...], sentence: str) -> str:
    """Return the piece of `sentence` that has the words of `link`."""
    found = list(words(sentence))
    for first, word in enumerate(found):
        held: tuple[str, ...] = ()
        for last in found[first:]:
            held += parts(last.text)
            if held[: len(link)] == link or link[0] in wholes(last.text):
                return " ".join(sentence[word.start : last.start + len(last.text)].split())
            if len(held) >= len(link):
                break
    return " ".join(link)
