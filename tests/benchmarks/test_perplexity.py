"""Running texts with growing pasts, and LongPPL's key tokens."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.perplexity import Windows, is_key, items, key_tokens
from sharedllm import SharedLLM
from sharedllm.errors import ConfigError, DocumentError
from tests.texts import FERRY, GARDEN, STORY

TEXT = "\n".join(f"{i}. {STORY} {FERRY} {GARDEN}" for i in range(4))


def test_key_tokens_gain_and_are_sure() -> None:
    windows = Windows(pasts=(0,), gain=2.0, sure=-2.0)
    short = np.array([5.0, 5.0, 3.0, 1.0, 4.1])
    long = np.array([1.0, 2.5, 1.5, 0.1, 2.0])
    # gains: 4, 2.5, 1.5, 0.9, 2.1; log-probabilities: -1, -2.5, -1.5, -0.1, -2
    assert is_key(short, long, windows).tolist() == [True, False, False, False, False]


def test_one_running_text_has_all_its_pasts(llm: SharedLLM) -> None:
    windows = Windows(pasts=(0, 100, 900), running=60, scored=20)
    made = list(items([GARDEN, TEXT], windows, 3, llm, seed=1, group=2))
    assert [item.length for item in made] == [0, 0, 100, 100, 900, 900, 0, 100, 900]
    for name in "012":
        own = [item for item in made if item.id.startswith(name)]
        assert len({(item.after, item.target, item.query) for item in own}) == 1
        assert len({str(item.notes["keys"]) for item in own}) == 1
        long = own[-1].text + own[-1].after + own[-1].target
        assert long in TEXT
        assert own[-1].text.endswith(own[1].text)
        assert own[0].text == ""
        assert 895 <= len(own[-1].text.encode()) <= 905
        assert 55 <= len((own[0].after + own[0].target).encode()) <= 65
    again = list(items([GARDEN, TEXT], windows, 3, llm, seed=1, group=2))
    assert again == made


def test_key_tokens_are_judged_by_the_gain_of_full_attention(llm: SharedLLM) -> None:
    windows = Windows(pasts=(0, 900), running=60, scored=20, gain=0.0, sure=-1e9)
    first, *_, last = items([TEXT], windows, 1, llm, seed=1)
    gained = key_tokens(llm, first, last, windows)
    lost = key_tokens(llm, last, first, windows)
    assert sorted(gained + lost) == list(range(20))
    assert gained
    assert lost


def test_what_cannot_be_scored_is_refused(llm: SharedLLM) -> None:
    with pytest.raises(DocumentError, match="give longer texts"):
        list(items([GARDEN], Windows(pasts=(900,), running=60, scored=20), 1, llm, 0))
    short = [GARDEN] * (900 // len(GARDEN) + 1)
    made = items(short, Windows(pasts=(600,), running=60, scored=20), 1, llm, 0, join=True)
    assert "\n\n" in next(made).text
    with pytest.raises(ConfigError, match="--scored"):
        Windows(pasts=(0,), running=60, scored=60)
