"""Scores of answers, and their means with 95 % intervals, by bootstrap over items.

Scores: RULER's, SQuAD's, ROUGE-L, LongBench's for code, and whether an answer abstains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NOT_PRINTED = re.compile(r"[\x00-\x1f]")
COMMENT_MARKS = ("`", "#", "//")
REFUSAL = re.compile(
    r"(?:n't|\b(?:not|no(?: information| mention| answer)?|cannot|unable|never))\b"
    r"[^.!?]{0,60}\b(?:in|from|by) (?:the|this|these|any|any of the|your|my) "
    r"(?:given |provided |above )?(?:document|documents|text|texts|passage|context|story)\b"
    r"|\b(?:document|documents|text|passage|context)\b (?:does|do|did)(?:n't| not) "
    r"(?:say|mention|state|contain|provide|specify|give|tell|include)\b"
    r"|\b(?:is|are|was|were)(?: not|n't) "
    r"(?:mentioned|stated|specified|given|provided|found|answerable)\b"
    r"|\b(?:cannot|can't|can not) (?:be )?(?:answer|answered|found|determined)\b"
    r"|\bunanswerable\b|\bi (?:do not|don't) know\b|\bno information\b",
    re.IGNORECASE,
)
RESAMPLES = 2000

Row = dict[str, Any]


def string_match_all(answer: str, gold: Sequence[str]) -> float:
    """Return RULER's score: the share of the gold strings in the answer, ignoring case."""
    printed = NOT_PRINTED.sub("\n", answer).strip().lower()
    return sum(text.lower() in printed for text in gold) / len(gold)


def normal(text: str) -> str:
    """Normalise as SQuAD does: lower case, no punctuation, no articles, single spaces."""
    text = re.sub(r"[^\w\s]", "", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(answer: str, gold: Sequence[str]) -> float:
    """Return 1 if the answer equals a gold answer, normalised (SQuAD's EM)."""
    return float(any(normal(answer) == normal(text) for text in gold))


def contains(answer: str, gold: Sequence[str]) -> float:
    """Return 1 if the answer contains a gold answer as whole words, normalised."""
    given = f" {normal(answer)} "
    return float(any(f" {normal(text)} " in given for text in gold if normal(text)))


def f1(answer: str, gold: Sequence[str]) -> float:
    """Return word F1 with the best gold answer, normalised (SQuAD's F1)."""
    return max(_f1(normal(answer).split(), normal(text).split()) for text in gold)


def _f1(given: list[str], wanted: list[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))


def rouge_l(answer: str, gold: Sequence[str]) -> float:
    """Return ROUGE-L's F-measure with the best gold answer, on lower-case words, unstemmed."""
    return max(_overlap(_words(answer), _words(text)) for text in gold)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def edit_similarity(answer: str, gold: Sequence[str]) -> float:
    """Return LongBench's score of code: the answer's first line of code against the gold.

    2 * (longest common subsequence) / (both lengths), over characters.
    """
    lines = [line for line in answer.lstrip("\n").split("\n") if line.strip()]
    code = [line for line in lines if not any(mark in line for mark in COMMENT_MARKS)]
    first = code[0] if code else ""
    return max(_overlap(list(first.strip()), list(text.strip())) for text in gold)


def _overlap(given: list[str], wanted: list[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    return 2 * common_subsequence(given, wanted) / (len(given) + len(wanted))


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    numbers = {word: i for i, word in enumerate(dict.fromkeys((*a, *b)))}
    row = np.array([numbers[word] for word in b])
    best = np.zeros(len(b) + 1, dtype=np.int64)
    for word in a:
        diagonal = np.where(row == numbers[word], best[:-1] + 1, best[1:])
        best[1:] = np.maximum.accumulate(diagonal)
    return int(best[-1])


def refuses(answer: str) -> bool:
    """Return True if the answer abstains.

    Counted are: "not (...) in the documents" and the like, "the text does not mention", "is not
    stated", "cannot be answered", "unanswerable", "no information", "I don't know".
    """
    return bool(REFUSAL.search(answer.replace("\u2019", "'")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with its 95 % interval, whose bounds are None for fewer than two items."""

    value: float
    low: float | None
    high: float | None
    items: int

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def mapped(self, function: np.ufunc) -> Estimate:
        """Apply an increasing `function` to value and bounds."""
        low, high = (None if x is None else float(function(x)) for x in (self.low, self.high))
        return Estimate(value=float(function(self.value)), low=low, high=high, items=self.items)


def ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Estimate:
    """Estimate the sum of `above` over the sum of `below`, resampled item by item.

    With ones in `below` it is the mean.
    """
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if len(a) == 0 or not b.sum():
        raise ValueError("an estimate needs at least one item that counts")
    value = float(a.sum() / b.sum())
    if len(a) < 2:
        return Estimate(value=value, low=None, high=None, items=len(a))
    draws = np.random.default_rng(seed).integers(len(a), size=(RESAMPLES, len(a)))
    sums = b[draws].sum(1)
    drawn = a[draws].sum(1)[sums != 0] / sums[sums != 0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high), items=len(a))


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    return ratio(values, [1.0] * len(values), seed)


def difference(values: Sequence[float], others: Sequence[float], seed: int = 0) -> Estimate:
    """Estimate the mean difference of pairs."""
    return mean([a - b for a, b in zip(values, others, strict=True)], seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One measure of the tables: the mean of a value of the rows, or a ratio of sums.

    Attributes
    ----------
    key : str
    title : str
        The column's heading.
    weight : str or None
        The value summed in the denominator; None counts items.
    exp : bool
        True to show the exponential of the mean (perplexity).
    scale : float
        Factor for display (100 for shares).
    digits : int
    lower : bool
        True if lower is better.
    """

    key: str
    title: str
    weight: str | None = None
    exp: bool = False
    scale: float = 1.0
    digits: int = 2
    lower: bool = False

    def estimate(self, rows: Sequence[Row], seed: int) -> Estimate | None:
        """Estimate over the rows that have the value; None without any."""
        have = [row for row in rows if row.get(self.key) is not None]
        below = [float(row[self.weight]) if self.weight else 1.0 for row in have]
        if not sum(below):
            return None
        found = ratio([float(row[self.key]) for row in have], below, seed)
        if self.exp:
            return found.mapped(np.exp)
        return found

    def of(self, row: Row) -> float | None:
        """Return the value of one row; None if it lacks it."""
        if row.get(self.key) is None or (self.weight and not row[self.weight]):
            return None
        return float(row[self.key]) / (float(row[self.weight]) if self.weight else 1.0)

    def shown(self, estimate: Estimate | None, *, interval: bool = True) -> str:
        if estimate is None:
            return ""
        text = f"{self.scale * estimate.value:.{self.digits}f}"
        if interval and self.exp and estimate.low is not None and estimate.high is not None:
            return f"{text} [{estimate.low:.{self.digits}f}, {estimate.high:.{self.digits}f}]"
        if interval and estimate.half is not None:
            text += f" ±{self.scale * estimate.half:.{self.digits}f}"
        return text
