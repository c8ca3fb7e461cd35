"""Two things that a question compares -> where each is told of, and which number is the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sharedllm.encoding.document import Document
from sharedllm.search.citations import complete_sentences
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.sentences import content_words, matches, sentences, stem, trimmed
from sharedllm.text.words import parts, words
from sharedllm.whole.wording import Sides, wanted

LOOKED_AT = 8  # leaves for each side
NUMBER = re.compile(r"(?<![\w.,-])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w-])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """The sentence that tells most of one side.

    Attributes
    ----------
    side : str
        As the question names it.
    document, node : int
        The leaf that holds it.
    start, end : int
        Characters of the document's own text.
    score : float
    text : str
    """

    side: str
    document: int
    node: int
    start: int
    end: int
    score: float
    text: str

    @property
    def number(self) -> float | None:
        """Its only number; None if it has none, or several."""
        own = set(NUMBER.findall(self.side))
        found = [number for number in NUMBER.findall(self.text) if number not in own]
        return float(found[0].replace(",", "")) if len(found) == 1 else None


def fact_of(
    side: str,
    rest: str,
    documents: Sequence[Document],
    score: Callable[[str], Sequence[Scores]],
    sentence_tokens: int,
) -> Fact | None:
    """Find the sentence that tells of `side` what the `rest` of the question asks.

    It holds every name of the side, and matches the question best among the best leaves.

    Parameters
    ----------
    score : scores all nodes for a query
    """
    query = f"{rest} {side}"
    scores = score(query)
    leaves = [
        (float(scores[index][node]), index, int(node))
        for index, document in enumerate(documents)
        for node in document.forest.leaves
    ]
    named = {part for word in words(side) if _is_name(word.text) for part in parts(word.text)}
    said = {stem(word) for word in content_words(side.lower())}
    best: tuple[tuple[float, float], Fact] | None = None
    for value, index, node in sorted(leaves, reverse=True)[:LOOKED_AT]:
        document = documents[index]
        start, end = complete_sentences(document, node, sentence_tokens)
        first, last = document.tokens.characters(start, end)
        text = document.text[first:last]
        spans = sentences(text)
        for (a, b), match in zip(spans, matches(text, spans, query), strict=True):
            own = text[a:b]
            held = {part for word in words(own) for part in parts(word.text)}
            if not named <= held:
                continue
            stems = {stem(word) for word in content_words(own.lower())}
            rank = (len(said & stems) + match, value)
            if match and (best is None or rank > best[0]):
                a, b = trimmed(text, a, b)
                fact = Fact(
                    side=side,
                    document=index,
                    node=node,
                    start=first + a,
                    end=first + b,
                    score=value,
                    text=text[a:b],
                )
                best = rank, fact
    return None if best is None else best[1]


def decided(question: str, sides: Sides, facts: Sequence[Fact | None]) -> str | None:
    """Return what the numbers of two facts say; None if they, or the question's words, do not."""
    first, second = facts
    if first is None or second is None:
        return None
    numbers = first.number, second.number
    if numbers[0] is None or numbers[1] is None:
        return None
    if numbers[0] == numbers[1]:
        return f"Both are equal: {_shown(numbers[0])}."
    winner = wanted(question, (numbers[0], numbers[1]))
    if winner is None:
        return None
    names = sides.first, sides.second
    own, other = (_shown(numbers[index] or 0.0) for index in (winner, 1 - winner))
    return f"{names[winner]} ({own}; {names[1 - winner]}: {other})"


def leaf_at(document: Document, character: int) -> int:
    """Return the leaf that holds a character of the document's own text."""
    token = int(np.searchsorted(document.tokens.spans[:, 1], character, side="right"))
    token = min(token, len(document) - 1)
    return int(document.forest.leaves[document.leaf_of_token[token]])


def _is_name(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()


def _shown(number: float) -> str:
    return f"{number:,.0f}".replace(",", "") if number == int(number) else f"{number:g}"
