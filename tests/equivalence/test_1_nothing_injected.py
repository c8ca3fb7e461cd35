"""Rule 1: with nothing injected, logits equal the stock model's."""

from __future__ import annotations

import pytest
import torch

from sharedllm.injection.positions import Prompt
from tests.equivalence.prompts import CLOSE, by_cache
from tests.models import FAMILIES, MODES, make_model, shared, some_ids, stock

IDS = some_ids(30)  # well beyond the sliding window


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
@pytest.mark.parametrize(("family", "mode"), MODES)
def test_logits_are_the_stock_models(family: str, mode: str, attention: str) -> None:
    upper = shared(family, mode=mode, attention=attention).upper
    with torch.no_grad():
        expected = stock(family)(input_ids=torch.tensor([IDS])).logits[0]
        (keyword,) = upper.logits([Prompt(text=(IDS,))])
    torch.testing.assert_close(keyword, expected, **CLOSE)
    cached = by_cache(upper, [Prompt(text=(IDS[:20],))], IDS[20:])
    torch.testing.assert_close(torch.cat(cached), expected[19:], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_places_change_nothing(family: str) -> None:
    llm = shared(family)
    with torch.no_grad():
        plain, placed = llm.upper.logits(
            [Prompt(text=(IDS,)), Prompt(text=(IDS[:9], IDS[9:]), memory=(None,))]
        )
    torch.testing.assert_close(plain, placed, **CLOSE)


def test_giving_the_model_its_attention_back_restores_it() -> None:
    llm = shared("llama")
    llm.model.set_attn_implementation("eager")
    with torch.no_grad():
        found = llm.model(input_ids=torch.tensor([IDS])).logits
        expected = make_model("llama")(input_ids=torch.tensor([IDS])).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
