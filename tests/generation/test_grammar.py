"""Answers that follow a grammar, whatever the model would say."""

from __future__ import annotations

import json
import sys

import pytest

from sharedllm import SharedLLM
from sharedllm.errors import ConfigError, MissingExtraError

SCHEMA = {
    "type": "object",
    "properties": {"port": {"enum": ["Penmor", "Zell"]}, "dogs": {"type": "boolean"}},
    "required": ["port", "dogs"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # a random model would write spaces for ever
}
GRAMMAR = json.dumps({"grammars": [{"json_schema": SCHEMA}]})


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_the_answer_follows_the_schema(tiny_llm: SharedLLM, temperature: float) -> None:
    answer = tiny_llm.answer(
        "Which port?", grammar=GRAMMAR, max_new_tokens=80, temperature=temperature, seed=1
    )
    found = json.loads(answer.text)
    assert set(found) == {"port", "dogs"}
    assert found["port"] in ("Penmor", "Zell")
    assert answer.finish_reason == "stop"


def test_a_batch_follows_it_row_by_row(tiny_llm: SharedLLM) -> None:
    answers = tiny_llm.answer_batch(["?", "A longer one?"], grammar=GRAMMAR, max_new_tokens=80)
    assert [set(json.loads(a.text)) for a in answers] == [{"port", "dogs"}] * 2


def test_what_is_no_grammar_is_refused(tiny_llm: SharedLLM) -> None:
    with pytest.raises(ConfigError, match="llguidance refuses"):
        tiny_llm.answer("?", grammar="start: nothing")
    with pytest.raises(ConfigError, match="as a str"):
        tiny_llm.answer("?", grammar=SCHEMA)


def test_without_the_package(tiny_llm: SharedLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"sharedllm\[grammar\]"):
        tiny_llm.answer("?", grammar=GRAMMAR)
