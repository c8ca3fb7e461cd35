from __future__ import annotations

from typing import Any

import pytest
from tokenizers import normalizers

from sharedllm.errors import DocumentError
from sharedllm.text.tokens import tokenize
from tests.models import SPECIAL, make_tokenizer

TOKENIZER = make_tokenizer()


def test_ids_and_character_spans() -> None:
    tokens = tokenize("a\u00e9\U0001f600b", TOKENIZER)
    assert len(tokens) == 8
    assert tokens.spans.tolist() == [[0, 1], *[[1, 2]] * 2, *[[2, 3]] * 4, [3, 4]]
    assert TOKENIZER.decode(tokens.ids) == "a\u00e9\U0001f600b"
    assert tokens.characters(2, 4) == (1, 3)


@pytest.mark.parametrize("text", ["", " \n", None, 3, b"bytes"])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(DocumentError):
        tokenize(text, TOKENIZER)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(DocumentError, match="character 2 is half of a surrogate pair"):
        tokenize("ab\ud800c", TOKENIZER)


def test_a_text_that_gives_no_token_is_refused() -> None:
    forgetful = make_tokenizer()
    forgetful.backend_tokenizer.normalizer = normalizers.Replace("a", "")  # type: ignore[assignment]
    with pytest.raises(DocumentError, match="no token"):
        tokenize("aaa", forgetful)


@pytest.mark.parametrize("special", SPECIAL)
def test_special_tokens_in_a_text_are_plain_characters(special: str) -> None:
    text = f"a {special} b"
    tokens = tokenize(text, TOKENIZER)
    assert max(tokens.ids) < 256
    assert TOKENIZER.decode(tokens.ids) == text
    assert tokens.spans.tolist() == [[i, i + 1] for i in range(len(text))]
    assert TOKENIZER(special)["input_ids"] == [256 + SPECIAL.index(special)]  # left as it was
