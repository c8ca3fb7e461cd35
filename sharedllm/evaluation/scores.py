"""How answers are scored: RULER's, SQuAD's, ROUGE-L, LongBench's for code, and refusals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

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


def string_match_all(answer: str, gold: Sequence[str]) -> float:
    """RULER: the share of the gold strings that stand in the answer, in any case."""
    printed = NOT_PRINTED.sub("\n", answer).strip().lower()
    return sum(text.lower() in printed for text in gold) / len(gold)


def normal(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD's normalisation)."""
    text = re.sub(r"[^\w\s]", "", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(answer: str, gold: Sequence[str]) -> float:
    """1 if the answer is one of the gold answers, normalised."""
    return float(any(normal(answer) == normal(text) for text in gold))


def contains(answer: str, gold: Sequence[str]) -> float:
    """1 if one of the gold answers stands in the answer, normalised, as whole words."""
    given = f" {normal(answer)} "
    return float(any(f" {normal(text)} " in given for text in gold if normal(text)))


def f1(answer: str, gold: Sequence[str]) -> float:
    """Word F1 with the best gold answer, normalised."""
    return max(_f1(normal(answer).split(), normal(text).split()) for text in gold)


def _f1(given: list[str], wanted: list[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))


def rouge_l(answer: str, gold: Sequence[str]) -> float:
    """ROUGE-L's F-measure with the best gold answer, over lower-case words, without stemming."""
    return max(_overlap(_words(answer), _words(text)) for text in gold)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def edit_similarity(answer: str, gold: Sequence[str]) -> float:
    """LongBench's score of code: the answer's first line that is no comment, against the gold.

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
    """The length of the longest common subsequence."""
    numbers = {word: i for i, word in enumerate(dict.fromkeys((*a, *b)))}
    row = np.array([numbers[word] for word in b])
    best = np.zeros(len(b) + 1, dtype=np.int64)
    for word in a:
        diagonal = np.where(row == numbers[word], best[:-1] + 1, best[1:])
        best[1:] = np.maximum.accumulate(diagonal)
    return int(best[-1])


def refuses(answer: str) -> bool:
    """Whether the answer says that the documents do not hold what was asked for.

    Counted are: "not (...) in the documents" and the like, "the text does not mention", "is not
    stated", "cannot be answered", "unanswerable", "no information", "I don't know".
    """
    return bool(REFUSAL.search(answer.replace("\u2019", "'")))
