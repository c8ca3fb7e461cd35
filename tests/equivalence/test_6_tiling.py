"""Rule 6: leaves tile their chunk; ceil(l / alpha) entries; any length, down to one token."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharedllm import SharedLLM, TreeConfig
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import ConfigError, DocumentError
from sharedllm.text.tree import cut, grow
from tests.models import shared


@pytest.mark.parametrize("n_tokens", [0, 1, 2, 63, 64, 65, 127, 128, 129, 200])
@pytest.mark.parametrize("height", [0, 1, 3, 9])
def test_leaves_tile_the_document(n_tokens: int, height: int) -> None:
    forest = grow(cut(n_tokens, 64), height)
    starts, ends = forest.start[forest.leaves], forest.end[forest.leaves]
    assert np.concatenate([[0], ends]).tolist() == [*starts.tolist(), n_tokens]
    assert (ends > starts).all()
    assert len(forest.roots) == math.ceil(n_tokens / 64)


@pytest.mark.parametrize("ratio", [1.0, 1.1, 2.0, 2.5, 4.0, 31.0, 32.0, 1000.0])
def test_encoded_nodes_keep_as_many_entries_as_they_should(
    tiny_llm: SharedLLM, ratio: float
) -> None:
    lengths = (1, 2, 3, 10, 31, 32, 33, 64)
    requests = [NodeRequest(start=0, end=n, ratio=ratio) for n in lengths]
    ids = np.arange(64, dtype=np.int32)
    for request, kv in tiny_llm.encoder.lower.encode(ids, requests):
        assert len(kv) == math.ceil(request.end / ratio)
        assert kv.keys.shape == kv.values.shape == (3, 2, len(kv), 8)


@pytest.mark.parametrize("text", ["x", "xy", "\u00e9", "x" * 63, "x" * 64, "x" * 65, "x" * 129])
@pytest.mark.parametrize("leaves", ["text", "kv"])
def test_documents_of_any_length_are_answered_from(
    tiny_llm: SharedLLM, text: str, leaves: str
) -> None:
    document = tiny_llm.remember(text)
    answer = tiny_llm.answer(
        "What?", document, leaves=leaves, coarse="all", budget=400, max_new_tokens=2
    )
    assert answer.usage.context_tokens == len(text.encode())
    assert sorted(c.char_start for c in answer.citations)[0] == 0
    assert max(c.char_end for c in answer.citations) == len(text)


@pytest.mark.parametrize("text", ["", " ", "\r\n\t"])
def test_a_text_without_text_is_refused(tiny_llm: SharedLLM, text: str) -> None:
    with pytest.raises(DocumentError, match="only white space"):
        tiny_llm.remember(text)


def test_a_chunk_longer_than_the_trained_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="512"):
        shared("llama", tree=TreeConfig(chunk=513, height=0, ratios=()))
