"""Which tokens would give an item of a list again."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sharedllm.generation.logits_processors import Lists
from tests.models import make_tokenizer

BYTES = make_tokenizer()


def spelled(lists: Lists, tokenizer: PreTrainedTokenizerFast, text: str) -> set[str]:
    return {tokenizer.decode([token]) for token in lists.repeating(text)}


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("", ""),
        ("Ann", ""),  # nothing was given yet
        ("Ann, ", "A"),
        ("Ann,", "A"),
        ("Ann, A", "n"),
        ("Ann, An", "n"),
        ("Ann, Ann", ""),  # too late
        ("Ann, B", ""),
        ("Ann and ", "A"),
        ("Ann, Bob, and ", "AB"),
        ("Ann\nBob\n", "AB"),
        ("101, 202; ", "12"),
        ("101, 121, 1", "02"),
        ("one of the five men, ", ""),  # a clause
        ("Ann, , ", "A"),
        ("Zoë, Zo", ""),  # its bytes are no text by themselves
    ],
)
def test_what_goes_on_as_an_item_did(text: str, again: str) -> None:
    assert spelled(Lists(BYTES), BYTES, text) == set(again)


def test_longer_tokens_and_those_that_begin_with_a_space() -> None:
    vocabulary = {
        "A": 0,
        "n": 1,
        "An": 2,
        "Ann": 3,
        "\u0120Ann": 4,
        "\u0120A": 5,
        "Anne": 6,
        ",": 7,
    }
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    lists = Lists(tokenizer)
    assert spelled(lists, tokenizer, "Ann,") == {"A", "An", "Ann", " Ann", " A"}
    assert spelled(lists, tokenizer, "Ann, A") == {"n"}
