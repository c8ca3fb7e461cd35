"""Tools of any chat template in requests: what the prompt shows, what the grammar allows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sharedllm import SharedLLM
from sharedllm_integrations.engine import Engine, Run
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.requests import CalledTool, Message, Request, ToolOutput
from sharedllm_integrations.settings import AnswerFields
from tests.conftest import WIDE
from tests.integrations.scripted import Scripted
from tests.integrations.test_tool_calling import CLOCK, FERRY
from tests.models import shared
from tests.templates import LLAMA, MISTRAL, QWEN, show_tools

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
NOTE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "maxLength": 30}},
        },
    },
}
WRITTEN = {
    "ours": '<tool_call>{"name": "ferry", "arguments": {"port": "Zell"}}</tool_call>',
    "qwen": '<tool_call>\n{"name": "ferry", "arguments": {"port": "Zell"}}\n</tool_call>',
    "llama": '{"name": "ferry", "parameters": {"port": "Zell"}}',
    "mistral": '[{"name": "ferry", "arguments": {"port": "Zell"}, "id": "000000000"}]',
}


@pytest.fixture(scope="module")
def models(llm: SharedLLM) -> dict[str, SharedLLM]:
    """The tiny model, without and with chat templates that show tools."""
    found = {"ours": llm}
    for name, template in (("qwen", QWEN), ("llama", LLAMA), ("mistral", MISTRAL)):
        found[name] = shared("llama", sizes=WIDE)
        show_tools(found[name].tokenizer, template)
    return found


def ask(core: Any, *messages: Message, **given: Any) -> Run:
    asked = messages or (Message(role="user", parts=("When does it leave?",)),)
    options = {"max_new_tokens": 400, "temperature": 1.5, **given.pop("options", {})}
    return Engine(AnswerFields(llm=core)).complete(
        Request(messages=asked, options=options, **given)
    )


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("choice", ["any", "note"])
def test_a_random_model_makes_valid_calls(
    models: dict[str, SharedLLM], kind: str, choice: str
) -> None:
    run = ask(models[kind], tools=[FERRY, CLOCK, NOTE], tool_choice=choice, options={"seed": 5})
    text, calls = run.read
    assert text == ""
    assert calls
    assert all(call.arguments is not None for call in calls), run.text
    assert {call.name for call in calls} <= (
        {"note"} if choice == "note" else {"ferry", "clock", "note"}
    )


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("before", ["", "Let me see. "])
def test_a_call_is_read_wherever_it_stands(
    models: dict[str, SharedLLM], kind: str, before: str
) -> None:
    said = before + WRITTEN[kind]
    run = ask(Scripted(models[kind], said), tools=[FERRY, CLOCK])
    text, (call,) = run.read
    assert (text, call.name, call.arguments) == (before.strip(), "ferry", {"port": "Zell"})
    held = run.form.held_calls()
    shown = "".join(held.feed(said[at : at + 4]) for at in range(0, len(said), 4))
    assert shown == before
    assert run.form.read(held.text, "stop")[1] == [call]


@pytest.mark.parametrize("kind", WRITTEN)
def test_without_tools_or_with_none_there_is_no_call(
    models: dict[str, SharedLLM], kind: str
) -> None:
    for given in ({}, {"tools": [FERRY], "tool_choice": "none"}):
        script = Scripted(models[kind], WRITTEN[kind])
        run = ask(script, **given)
        assert run.read == (WRITTEN[kind], [])
        assert not script.grammar
        assert "ferry" not in script.prompt
        assert not script.asked[0].tools


def test_the_template_shows_tools_calls_and_results(models: dict[str, SharedLLM]) -> None:
    history = (
        Message(role="user", parts=("When?",)),
        Message(
            role="assistant", parts=(CalledTool(name="ferry", arguments={"port": "Zell"}, id="x"),)
        ),
        Message(role="tool", parts=(ToolOutput(name="ferry", id="x"), "At seven.")),
        Message(role="user", parts=("And back?",)),
    )
    native = Scripted(models["qwen"], "At nine.")
    ask(native, *history, tools=[FERRY])
    from sharedllm.generation.prompt import converse

    shown = "".join(map(str, converse(native.asked[0], (), models["qwen"].tokenizer).parts))
    assert shown.startswith('<|turn|>system\n<tools>\n{"type": "function"')
    assert WRITTEN["qwen"] in shown
    assert "Result of" not in shown
    ours = Scripted(models["ours"], "At nine.")
    ask(ours, *history, tools=[FERRY])
    assert WRITTEN["ours"] in ours.prompt
    assert "Result of ferry:\nAt seven." in ours.prompt
    assert "You may call one of these tools" in ours.prompt


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("seed", range(1))
def test_tools_and_a_schema_together(models: dict[str, SharedLLM], kind: str, seed: int) -> None:
    run = ask(models[kind], tools=[CLOCK], schema=PERSON, options={"seed": seed})
    text, calls = run.read
    assert [call.arguments for call in calls] == [{}] * len(calls)
    assert bool(text) != bool(calls)
    if text:
        assert set(json.loads(text)) == {"name", "age"}


def test_an_object_that_looks_like_a_call_is_text(models: dict[str, SharedLLM]) -> None:
    said = '{"name": "Olga", "age": 41}'
    run = ask(Scripted(models["llama"], said), tools=[CLOCK], schema=PERSON)
    assert run.read == (said, [])


@pytest.mark.parametrize("tool", [{"type": "web_search"}, {"function": {}}, "ferry", None])
def test_what_is_no_tool_is_refused(llm: SharedLLM, tool: Any) -> None:
    with pytest.raises(SetupError, match="a tool is"):
        ask(llm, tools=[tool])


def test_a_tool_without_a_valid_schema_is_refused(llm: SharedLLM) -> None:
    broken = {"function": {"name": "f", "parameters": {"type": "nonsense"}}}
    with pytest.raises(SetupError, match="no JSON schema"):
        ask(llm, tools=[broken])


def test_texts_are_shorter_in_languages_of_many_tokens(llm: SharedLLM) -> None:
    rooms = []
    for asked in ("Who is it?", "\u8ab0\u3067\u3059\u304b\uff1f"):
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        script = Scripted(llm, "{}")
        ask(script, Message(role="user", parts=(asked,)), schema=schema)
        held = json.loads(script.grammar)["grammars"][0]["json_schema"]
        rooms.append(held["properties"]["name"]["maxLength"])
    assert rooms[1] < rooms[0] / 2


def test_halves_of_surrogate_pairs_are_replaced(llm: SharedLLM) -> None:
    script = Scripted(llm, "Yes.")
    ask(script, Message(role="user", parts=("The angle \ud835 is \ud835\udd38. Why?",)))
    assert script.asked[0].turns[-1][1] == ("The angle \ufffd is \U0001d538. Why?",)
