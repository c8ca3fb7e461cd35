"""The words of a question and of documents' leaves, and BM25 over them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sharedllm.encoding.document import Document
from sharedllm.search.leaf_scores import LeafScorer, Scores
from sharedllm.search.query import Query
from sharedllm.text.words import STOP, is_exact, parts, wholes, words, words_at

Numbers = NDArray[np.int64]
# a phrase in quotation marks; a straight single one is an apostrophe more often than not
_QUOTED = re.compile(
    r'"([^"\n]+)"|\u201c([^\u201d\n]+)\u201d|\u00ab([^\u00bb\n]+)\u00bb|\u201e([^\u201c\u201d\n]+)[\u201c\u201d]'
    r"|`([^`\n]+)`|(?<!\w)['\u2018]([^'\u2019\n]+)['\u2019](?!\w)"
)
_BETWEEN_NAMES = re.compile(r"\s+|\.\s+|\s*[-\u2010-\u2013]\s*")


@dataclass(frozen=True, slots=True)
class Asked:
    """The words of a question, each once.

    Attributes
    ----------
    terms : tuple of str
        Parts and wholes of words, in the compared spelling.
    exact : frozenset of str
        Those that belong to a number, a code or an identifier.
    compounds : frozenset of str
        Those that are wholes of several parts.
    content : frozenset of str
        Those that are not stop words; all of them where there is nothing else.
    pairs : tuple of (str, str)
        Neighbouring words, at least one of them of content.
    names : tuple of tuple of str
        Neighbouring words that begin with a capital letter, word by word; not the first word of
        the question by itself.
    phrases : tuple of tuple of str
        What stands in quotation marks, word by word.
    """

    terms: tuple[str, ...]
    exact: frozenset[str]
    compounds: frozenset[str]
    content: frozenset[str]
    pairs: tuple[tuple[str, str], ...]
    names: tuple[tuple[str, ...], ...]
    phrases: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, text: str) -> Asked:
        terms: dict[str, None] = {}
        exact, compounds = set[str](), set[str]()
        row: list[str] = []
        for word in words(text):
            own, whole = parts(word.text), wholes(word.text)
            row += own
            terms |= dict.fromkeys((*own, *whole))
            compounds.update(whole)
            if is_exact(word.text):
                numbers = [part for part in own if any(map(str.isdigit, part)) or len(own) == 1]
                exact.update(whole or numbers)
        content = {term for term in terms if term not in STOP} or set(terms)
        pairs = dict.fromkeys(
            (a, b) for a, b in itertools.pairwise(row) if a in content or b in content
        )
        quoted = [next(filter(None, found.groups())) for found in _QUOTED.finditer(text)]
        phrases = [tuple(p for word in words(one) for p in parts(word.text)) for one in quoted]
        return cls(
            terms=tuple(terms),
            exact=frozenset(exact),
            compounds=frozenset(compounds),
            content=frozenset(content),
            pairs=tuple(pairs),
            names=tuple(dict.fromkeys(names_in(text))),
            phrases=tuple(dict.fromkeys(phrase for phrase in phrases if phrase)),
        )


def names_in(text: str) -> Iterator[tuple[str, ...]]:
    """Yield runs of words that begin with a capital letter and are no stop words.

    Only white space, a hyphen or the point of an abbreviation stands between the words of a name.
    """
    every = list(words(text))
    first = 0
    while first < len(every):
        last = first
        while last < len(every) and _is_name(every[last].text):
            end = every[last].start + len(every[last].text)
            last += 1
            if last < len(every) and not _BETWEEN_NAMES.fullmatch(text, end, every[last].start):
                break
        if last - first > 1 or (last > first > 0):
            own = [part for word in every[first:last] for part in parts(word.text)]
            yield tuple(own[:-1] if own[-1] == "s" and len(own) > 1 else own)
        first = max(last, first + 1)


def _is_name(word: str) -> bool:
    return word[0].isupper() and not STOP.issuperset(parts(word))


@dataclass(frozen=True, slots=True, eq=False)
class WordIndex:
    """The places of a document's words, which count up from its first word.

    Attributes
    ----------
    rows : term -> its row; shared by documents that were indexed together
    terms : int32 (entries,)
        The row of each entry, rising.
    places : int32 (entries,)
        Rising in each row. A whole stands at the place of its first part.
    leaf : int32 (words,)
        The rank of the leaf in which each word begins.
    lengths : float (leaves,)
        Words per leaf.
    """

    rows: dict[str, int]
    terms: NDArray[np.int32]
    places: NDArray[np.int32]
    leaf: NDArray[np.int32]
    lengths: NDArray[np.float64]

    @classmethod
    def of(cls, document: Document) -> WordIndex:
        return cls.of_all([document])[0]

    @classmethod
    def of_all(cls, documents: Sequence[Document]) -> list[WordIndex]:
        """Index the words of `documents`; an index is kept with its document."""
        return Document.derived_of_all(documents, "words", cls._make)

    @classmethod
    def _make(cls, documents: list[Document]) -> list[WordIndex]:
        """Index documents together, which takes half of the time of one by one."""
        numbers: dict[str, int] = {}
        starts, kinds, ends = [], list[int](), [0]
        for document in documents:
            at, found = words_at(document.text)
            kinds += [numbers.setdefault(text, len(numbers)) for text in found]
            starts.append(at)
            ends.append(len(kinds))
        rows: dict[str, int] = {}
        terms, offsets, sizes, spans = list[int](), list[int](), list[int](), list[int]()
        for text in numbers:
            forms, places_within, count = _forms(text)
            terms += [rows.setdefault(term, len(rows)) for term in forms]
            offsets += places_within
            sizes.append(len(forms))
            spans.append(count)
        kind = np.array(kinds, np.int64)
        size, span = np.array(sizes, np.int64)[kind], np.array(spans, np.int64)[kind]
        first = np.array([0, *sizes], np.int64).cumsum()[kind]
        entry = np.repeat(first - np.cumsum(size) + size, size) + np.arange(size.sum())
        place = np.repeat(np.cumsum(span) - span, size) + np.array(offsets, np.int64)[entry]
        term = np.array(terms, np.int64)[entry]
        owner = np.repeat(np.repeat(np.arange(len(documents)), np.diff(ends)), size)
        order = np.argsort(owner * len(rows) + term, kind="stable")  # places rise already
        row, place = term[order].astype(np.int32), place[order]
        edges = np.searchsorted(owner, np.arange(len(documents) + 1))
        places = np.array([0, *span], np.int64).cumsum()[ends]
        out = []
        for index, document in enumerate(documents):
            entries = slice(edges[index], edges[index + 1])
            leaf = _leaves_of(document, starts[index], span[ends[index] : ends[index + 1]])
            lengths = np.bincount(leaf, minlength=len(document.forest.leaves))
            out.append(
                cls(
                    rows=rows,
                    terms=row[entries],
                    places=(place[entries] - places[index]).astype(np.int32),
                    leaf=leaf,
                    lengths=lengths.astype(np.float64),
                )
            )
        return out

    def places_of(self, term: str) -> NDArray[np.int32]:
        row = self.rows.get(term)
        if row is None:
            return self.places[:0]
        first, last = self.terms.searchsorted(np.array((row, row + 1), np.int32))
        return self.places[first:last]

    def places_of_phrase(self, phrase: Sequence[str]) -> NDArray[np.int32]:
        """Return the places at which `phrase` begins, word by word."""
        found = self.places_of(phrase[0])
        for distance, term in enumerate(phrase[1:], start=1):
            if not len(found):
                break
            others = self.places_of(term) - distance
            found = found[_are_among(found, others)]
        return found


def _are_among(some: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Tell which of `some` are in `others`, which rise: the fewer these are, the faster."""
    if not len(others):
        return np.zeros(len(some), bool)
    at = np.minimum(others.searchsorted(some), len(others) - 1)
    among: NDArray[np.bool_] = others[at] == some
    return among


@lru_cache(1 << 16)
def _forms(word: str) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    """Return the parts and wholes of a word, the place of each within it, and how many parts."""
    own, whole = parts(word), wholes(word)
    return (*own, *whole), (*range(len(own)), *([0] * len(whole))), len(own)


def _leaves_of(document: Document, starts: list[int], span: Numbers) -> NDArray[np.int32]:
    """Return the leaf of each word; `span` is how many words the word at each start counts as."""
    edges = document.tokens.spans[document.forest.start[document.forest.leaves], 0]
    leaf = np.maximum(np.searchsorted(edges, starts, side="right") - 1, 0)
    return np.repeat(leaf, span).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The leaves that hold a term or a phrase.

    Attributes
    ----------
    leaves : int (n,)
        Ranks among the leaves of all documents.
    counts : int (n,)
        Occurrences in each.
    idf : float
        ln(1 + (leaves without + 0.5) / (leaves with + 0.5)), over all documents.
    """

    leaves: Numbers
    counts: Numbers
    idf: float


class Leaves:
    """The leaves of several documents as one row, and what they hold."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.indexes = WordIndex.of_all(documents)
        sizes = [len(index.lengths) for index in self.indexes]
        self.bounds = np.cumsum([0, *sizes])
        self.lengths = np.concatenate([index.lengths for index in self.indexes])

    def __len__(self) -> int:
        return len(self.lengths)

    def holding(self, phrase: Sequence[str]) -> Held:
        """Find the leaves that hold the words of `phrase`, one after the other."""
        leaves, counts = [], []
        for index, first in zip(self.indexes, self.bounds, strict=False):
            places = index.places_of(phrase[0])
            if len(places) and len(phrase) > 1:
                places = index.places_of_phrase(phrase)
            if len(places):
                at = index.leaf[places]  # rising
                begins = np.flatnonzero(np.diff(at, prepend=-1))
                leaves.append(at[begins] + first)
                counts.append(np.diff(begins, append=len(at)))
        held = sum(map(len, leaves))
        idf = math.log1p((len(self) - held + 0.5) / (held + 0.5))
        if not held:
            return Held(np.zeros(0, np.int64), np.zeros(0, np.int64), idf)
        return Held(np.concatenate(leaves), np.concatenate(counts), idf)

    def divided(self, scores: NDArray[np.floating]) -> list[Scores]:
        """Divide one value per leaf among the documents."""
        return [part.astype(np.float32) for part in np.split(scores, self.bounds[1:-1])]


class BM25(LeafScorer):
    """Okapi BM25 over leaves, with statistics pooled over all documents of the call."""

    def __init__(self, k1: float = 1.2, b: float = 0.75) -> None:
        self.k1, self.b = k1, b

    def leaf_scores(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        leaves = Leaves(documents)
        found = [leaves.holding((term,)) for term in Asked.of(query.text).terms]
        return leaves.divided(self.of(found, leaves))

    def of(self, found: Sequence[Held], leaves: Leaves) -> NDArray[np.float64]:
        """Sum up what has been `found` of a question's terms; (leaves,)."""
        out = np.zeros(len(leaves))
        norm = self.k1 * (1 - self.b + self.b * leaves.lengths / max(leaves.lengths.mean(), 1.0))
        for term in found:
            counts = term.counts
            out[term.leaves] += term.idf * counts * (self.k1 + 1) / (counts + norm[term.leaves])
        return out
