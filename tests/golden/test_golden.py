"""Refactoring changes no answer: every one is as `answers.py` kept it."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from sharedllm.hf.loading import DEFAULT_PACKAGE
from tests.golden.answers import FILE, QUESTIONS, Golden

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(DEFAULT_PACKAGE) is None, reason="the default is not installed"
)
KEPT: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return Golden(tmp_path_factory.mktemp("golden") / "memory")


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_is_as_it_was(golden: Golden, name: str) -> None:
    found, kept = golden.answer(name), KEPT[name]
    assert found["text"] == kept["text"]
    assert found["tokens"] == kept["tokens"]
    assert [c[:4] for c in found["citations"]] == [c[:4] for c in kept["citations"]]
    scores = [c[4] for c in kept["citations"]]
    assert [c[4] for c in found["citations"]] == pytest.approx(scores, abs=0.03)


def test_a_langchain_chain_is_as_it_was(golden: Golden) -> None:
    assert golden.langchain() == KEPT["langchain"]


def test_a_llamaindex_query_engine_is_as_it_was(golden: Golden) -> None:
    assert golden.llamaindex() == KEPT["llamaindex"]
