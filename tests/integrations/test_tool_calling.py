"""Tools in prompts and calls in answers; schemas with bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import SharedLLM
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.schema_grammar import bounded, schema_grammar
from sharedllm_integrations.tool_calling import (
    OURS,
    HeldCalls,
    call_grammar,
    chosen_tools,
    parsed_calls,
)

FERRY: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "ferry",
        "description": "Times of the ferry.",
        "parameters": {
            "type": "object",
            "properties": {"port": {"enum": ["Penmor", "Zell"]}, "day": {"type": "integer"}},
            "required": ["port"],
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock", "description": "Time."}}
PLAIN = st.dictionaries(
    st.text(max_size=9), st.none() | st.booleans() | st.integers() | st.text(max_size=9), max_size=4
)


@given(PLAIN)
def test_a_call_reads_as_it_was_written(arguments: dict[str, Any]) -> None:
    text, calls = parsed_calls(f"Let me see. {OURS.written('ferry', arguments)}")
    assert text == "Let me see."
    assert [(c.name, c.arguments) for c in calls] == [("ferry", arguments)]


@pytest.mark.parametrize(
    "raw", ["", "no json", "[1]", '{"name": "x"}', '{"name": "x", "arguments": 3}', '{"name": 1}']
)
def test_what_is_no_call_is_kept_as_it_is(raw: str) -> None:
    assert [c.arguments for c in parsed_calls(f"<tool_call>{raw}</tool_call>")[1]] == [None]
    assert parsed_calls(f"<tool_call>{raw}</tool_call>")[1][0].raw == raw


def test_several_calls() -> None:
    text = OURS.written("a", {}) + "\n" + OURS.written("b", {"x": "</tool_call>"})
    assert [c.name for c in parsed_calls(text)[1]] == ["a", "b"]
    assert parsed_calls(text)[1][1].arguments == {"x": "</tool_call>"}


def test_an_unknown_tool_is_no_call() -> None:
    written = OURS.written("boat", {})
    _, (call,) = parsed_calls(written, OURS, ["ferry", "clock"])
    assert (call.name, call.arguments) == ("boat", None)
    assert call.error == "there is no tool 'boat'; the tools are: ferry, clock"


@pytest.mark.parametrize("text", ["<tool_ca", '<tool_call>{"name": "fer', "Let me see. <too"])
def test_a_call_that_was_cut_is_one_with_an_error(text: str) -> None:
    beside, (call,) = parsed_calls(text, OURS, ["ferry"], cut="It was cut.")
    assert (beside, call.arguments, call.error) == (
        text.partition("<")[0].strip(),
        None,
        "It was cut.",
    )
    assert parsed_calls("1 <", OURS, cut="It was cut.") == ("1 <", [])


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("text", ["", "Let me see. ", "1 < 2 <tool", "a <tool_call b "])
def test_a_stream_holds_calls_back_wherever_they_begin(text: str, step: int) -> None:
    held, shown = HeldCalls(OURS), ""
    whole = text + OURS.written("ferry", {"port": "Zell"})
    for at in range(0, len(whole), step):
        shown += held.feed(whole[at : at + step])
    assert shown == text
    assert [c.arguments for c in parsed_calls(held.text)[1]] == [{"port": "Zell"}]


@pytest.mark.parametrize(
    ("choice", "names", "required"),
    [
        (None, ["ferry", "clock"], False),
        ("auto", ["ferry", "clock"], False),
        (False, ["ferry", "clock"], False),
        ("any", ["ferry", "clock"], True),
        (True, ["ferry", "clock"], True),
        ("required", ["ferry", "clock"], True),
        ("none", [], False),
        ("clock", ["clock"], True),
        ({"type": "function", "function": {"name": "ferry"}}, ["ferry"], True),
    ],
)
def test_choices(choice: Any, names: list[str], required: bool) -> None:
    tools, must = chosen_tools([FERRY, CLOCK], choice)
    assert [tool["function"]["name"] for tool in tools] == names
    assert must == required


def test_an_unknown_choice_is_named() -> None:
    with pytest.raises(SetupError, match=r"'boat'; allowed: auto, .* \(ferry, clock\)"):
        chosen_tools([FERRY, CLOCK], "boat")


@pytest.mark.parametrize("seed", range(4))
def test_even_a_random_model_calls_a_tool_within_its_schema(llm: SharedLLM, seed: int) -> None:
    grammar = call_grammar([FERRY, CLOCK], 200, required=True)
    answer = llm.answer("?", grammar=grammar, max_new_tokens=200, temperature=1.5, seed=seed)
    text, calls = parsed_calls(answer.text)
    assert text == ""
    assert len(calls) == 1
    assert calls[0].name in ("ferry", "clock")
    arguments = calls[0].arguments or {}
    if calls[0].name == "ferry":
        assert arguments["port"] in ("Penmor", "Zell")
        assert set(arguments) <= {"port", "day"}
    else:
        assert arguments == {}


@pytest.mark.parametrize("seed", range(3))
def test_a_random_model_fills_any_schema_in_time(llm: SharedLLM, seed: int) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
            "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "inner": {"$ref": "#/$defs/Inner"},
        },
        "required": ["name", "tags", "size", "inner"],
        "$defs": {
            "Inner": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
        },
    }
    grammar = schema_grammar(schema, 400)
    answer = llm.answer("?", grammar=grammar, max_new_tokens=1000, temperature=1.5, seed=seed)
    found = json.loads(answer.text)
    assert set(found) == {"name", "tags", "size", "inner"}
    assert set(found["inner"]) == {"x"}
    assert len(answer.text) < 1000


def test_bounds_leave_what_is_there() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 7},
            "b": {"type": "integer", "exclusiveMinimum": 3},
            "c": {"type": "string", "enum": ["x"]},
        },
        "additionalProperties": True,
    }
    before = json.dumps(schema)
    out = bounded(schema, 100)
    assert json.dumps(schema) == before
    assert out["properties"]["a"]["maxLength"] == 7
    assert "minimum" not in out["properties"]["b"]
    assert out["properties"]["c"] == {"enum": ["x"]}
    assert out["additionalProperties"] is False  # further properties could go on for ever
