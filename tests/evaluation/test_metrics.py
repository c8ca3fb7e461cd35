"""Scores and intervals against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharedllm.evaluation import metrics
from sharedllm.evaluation.metrics import difference, mean, ratio


def test_string_match_all_is_the_share_found() -> None:
    assert metrics.string_match_all("It is ABC-1 and 22.", ["abc-1", "22", "333", "4"]) == 0.5
    assert metrics.string_match_all("", ["x"]) == 0.0
    assert metrics.string_match_all("a\x00b", ["ab"]) == 0.0


def test_f1_and_exact_match() -> None:
    assert metrics.f1("the red house", ["A red barn", "zebra"]) == pytest.approx(0.5)
    assert metrics.f1("one two three", ["two three four five"]) == pytest.approx(4 / 7)
    assert metrics.f1("", ["x"]) == 0.0
    assert metrics.exact("The  Red, house!", ["red house"]) == 1.0
    assert metrics.exact("red houses", ["red house"]) == 0.0
    assert metrics.contains("It was a red house there", ["Red house"]) == 1.0
    assert metrics.contains("the redder house", ["red"]) == 0.0


def test_rouge_l() -> None:
    # common subsequence "police the gunman" of 4 and 4 words
    assert metrics.rouge_l("police kill the gunman", ["police the big gunman"]) == pytest.approx(
        2 * 3 / 8
    )
    assert metrics.rouge_l("b a", ["a b"]) == pytest.approx(0.5)


def test_edit_similarity_takes_the_first_line_of_code() -> None:
    assert metrics.edit_similarity("# a comment\nabcd\nxyz", ["abce"]) == pytest.approx(6 / 8)
    assert metrics.edit_similarity("", ["abc"]) == 0.0


def test_the_longest_common_subsequence() -> None:
    assert metrics.common_subsequence("ABCBDAB", "BDCABA") == 4
    assert metrics.common_subsequence("abc", "xyz") == 0


@pytest.mark.parametrize(
    "text",
    [
        "This is not in the documents.",
        "The answer is not in the text",
        "The text does not mention a town.",
        "It isn\u2019t stated in the passage.",
        "I don't know.",
        "The question cannot be answered.",
        "unanswerable",
    ],
)
def test_refusals_are_seen(text: str) -> None:
    assert metrics.refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "Brookfield.",
        "He did not go to the town.",
        "in the documents of 1871",
        "She was not happy. He found it in the text.",
        "No.",
    ],
)
def test_answers_are_no_refusals(text: str) -> None:
    assert not metrics.refuses(text)


def test_intervals() -> None:
    same = mean([2.0] * 10)
    assert (same.value, same.low, same.high, same.items) == (2.0, 2.0, 2.0, 10)
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = mean(values.tolist())
    half = 1.96 * values.std() / 20
    assert found.half == pytest.approx(half, rel=0.1)
    assert found.low is not None
    assert found.low < 5 < values.mean() + half
    assert mean([3.0]).low is None
    assert ratio([1, 2], [2, 4]).value == 0.5
    assert difference([3, 4], [1, 2]).value == 2
    assert ratio([1, 2, 3], [1, 1, 1]).mapped(np.exp).value == pytest.approx(math.exp(2))
    with pytest.raises(ValueError, match="at least one"):
        mean([])
