"""Words near each other in a model's vocabulary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sharedllm.encoding import near_words
from sharedllm.encoding.near_words import NearWords
from tests.models import shared

TOKENS = (
    "Ġboat",
    "ĠBoat",
    "Ġvessel",
    "Ġlamp",
    "Ġ48013",
    "boat",
    "ĠcafÃ©",
    "Ġa",
    "ĠHTTPServer",
    "x",
)
ROWS = ([1, 0, 0], [0, 0, 1], [0.9, 0.1, 0], [-1, 0.2, 0], [1, 0, 0], [1, 0, 0], *[[0, -1, 0]] * 4)


def vocabulary(tokens: tuple[str, ...] = TOKENS, mark: str = "Ġ") -> Any:
    found = {token.replace("Ġ", mark): row for row, token in enumerate(tokens)}
    return SimpleNamespace(backend_tokenizer=SimpleNamespace(get_vocab=lambda: found))


@pytest.mark.parametrize("mark", ["Ġ", "▁"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_words_of_like_embeddings_are_near(mark: str, dtype: torch.dtype) -> None:
    near = NearWords(torch.tensor(ROWS, dtype=dtype), vocabulary(mark=mark))
    assert list(near.of("boat")) == ["vessel"]  # in lower case: "Boat" has another row
    assert 0.9 < near.of("boat")["vessel"] <= 1
    assert near.of("vessel")["boat"] == pytest.approx(near.of("boat")["vessel"], abs=1e-3)
    assert near.of("lamp") == {}  # it stands alone


@pytest.mark.parametrize("word", ["48013", "x", "a", "unheard", "", "httpserver", "Boat"])
def test_what_is_no_word_of_the_vocabulary_has_none_near(word: str) -> None:
    assert NearWords(torch.tensor(ROWS), vocabulary()).of(word) == {}


def test_a_vocabulary_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    near = shared("llama").encoder.near_words  # its tokens are bytes
    assert len(near) == 0
    assert near.of("boat") == {}


def test_wide_embeddings_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_words, "WIDEST", 64)
    monkeypatch.setattr(near_words, "BLOCK", 3)
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(len(TOKENS), 512, generator=draw)
    rows[2] = rows[0] + 0.1 * rows[3]
    near = NearWords(rows, vocabulary())
    assert list(near.of("boat")) == ["vessel"]
    assert near._index.d == 64


def test_more_rows_in_the_tokenizer_than_in_the_model() -> None:
    near = NearWords(torch.tensor(ROWS[:2]), vocabulary())
    assert len(near) == 1
