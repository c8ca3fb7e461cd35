"""Tools and structured output in LangChain: what any model may write, in answers and streams."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Annotated, Any, NotRequired

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, trim_messages
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from sharedllm import SharedLLM, SharedLLMError
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain import (
    ChatSharedLLM,
    SharedLLMCompletion,
    TreeMemoryRetriever,
)
from sharedllm_integrations.langchain.structure import json_schema, openai_tool
from tests.conftest import WIDE
from tests.integrations.langchain.test_models import joined
from tests.integrations.scripted import Scripted
from tests.models import make_model, make_tokenizer


class Person(BaseModel):
    name: str
    age: int


class Tree(BaseModel):
    name: str
    kids: list[Tree] = []


class Leaf(TypedDict):
    name: str
    size: NotRequired[int]
    kids: list[Leaf]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def plant(tree: Tree) -> str:
    """Plant a tree."""
    return tree.name


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


ADD, OLGA = call("add", a=1, b=2), '{"name": "Olga", "age": 41}'
Found = tuple[str, list[dict[str, Any]], int]


def both_ways(core: SharedLLM, text: str, finish_reason: str = "stop", **bound: Any) -> list[Found]:
    """What a whole answer and a stream make of `text`: content, arguments, invalid calls."""
    chat = ChatSharedLLM(llm=Scripted(core, text, text, finish_reason=finish_reason))
    model = chat.bind_tools([add], **bound)
    return [
        (str(m.content).strip(), [c["args"] for c in m.tool_calls], len(m.invalid_tool_calls))
        for m in (model.invoke("Hi"), joined(list(model.stream("Hi"))))
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello.", ("Hello.", [], 0)),
        ("", ("", [], 0)),
        ("1 < 2 <b> <tool", ("1 < 2 <b> <tool", [], 0)),
        (ADD, ("", [{"a": 1, "b": 2}], 0)),
        (f"Let me see. {ADD}", ("Let me see.", [{"a": 1, "b": 2}], 0)),
        (f"{ADD}\n{ADD}", ("", [{"a": 1, "b": 2}] * 2, 0)),
        (call("add", a="</tool_call>"), ("", [{"a": "</tool_call>"}], 0)),
        (call("multiply", a=1), ("", [], 1)),
        ('<tool_call>{"name": "add"}</tool_call>', ("", [], 1)),
        ('<tool_call>{"name": "add", "argum', ("", [], 1)),
        ("<tool_call>add(1, 2)</tool_call>", ("", [], 1)),
    ],
)
def test_calls_in_answers_and_streams(llm: SharedLLM, text: str, expected: Found) -> None:
    assert both_ways(llm, text) == [expected] * 2


def test_a_call_that_was_cut_says_so(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=Scripted(llm, ADD[:30], finish_reason="length"), max_tokens=9)
    (bad,) = chat.bind_tools([add]).invoke("Hi").invalid_tool_calls
    assert "cut after 9 tokens" in str(bad["error"])
    assert "raise max_tokens" in str(bad["error"])


def test_with_none_or_another_tool_chosen_it_is_no_call(llm: SharedLLM) -> None:
    assert both_ways(llm, ADD, tool_choice="none") == [(ADD, [], 0)] * 2
    chat = ChatSharedLLM(llm=Scripted(llm, ADD))
    model = chat.bind_tools([add, plant], tool_choice="plant")
    assert model.invoke("Hi").tool_calls == []


@pytest.mark.parametrize("parallel", [False, True])
def test_a_random_model_ends_its_calls(llm: SharedLLM, parallel: bool) -> None:
    @tool
    def note(text: Annotated[str, Field(max_length=20)]) -> str:
        """Keep a text."""
        return text

    chat = ChatSharedLLM(llm=llm, max_tokens=600, temperature=1.5, seed=2)
    bound = chat.bind_tools([add, note], tool_choice="any", parallel_tool_calls=parallel)
    message = bound.invoke("Hi")
    assert message.content == ""
    assert message.tool_calls
    assert not message.invalid_tool_calls
    assert parallel or len(message.tool_calls) == 1


def test_tools_of_every_kind(llm: SharedLLM) -> None:
    raw = openai_tool(add)
    anthropic = {"name": "add", "input_schema": {"type": "object", "properties": {}}}
    for one in (add, raw, anthropic, Person, Leaf, lambda a: a):
        with_doc = copy.copy(one)
        if callable(one) and not isinstance(one, type) and one is not add:

            def with_doc(a: int) -> int:
                """Give a number."""
                return a

        assert openai_tool(with_doc)["function"]["name"]
    assert ChatSharedLLM(llm=Scripted(llm, "Hi")).invoke("Hi", tools=[add]).content == "Hi"
    for wrong in ({"type": "web_search_preview"}, 3):
        with pytest.raises(SetupError):
            ChatSharedLLM(llm=llm).bind_tools([wrong])  # type: ignore[list-item]
    assert openai_tool(plant)["function"]["parameters"]["$defs"]["Tree"]["properties"]["kids"][
        "items"
    ] == {"$ref": "#/$defs/Tree"}


# -- agents ----------------------------------------------------------------------------------------


def agent(core: SharedLLM, *texts: str, **given: Any) -> tuple[Scripted, Any]:
    script = Scripted(core, *texts)
    return script, create_agent(ChatSharedLLM(llm=script), tools=[add], **given)


ASK: Any = {"messages": [("user", "What is 1 + 2?")]}


def test_an_agent_calls_tools_and_answers(llm: SharedLLM) -> None:
    script, made = agent(llm, f"Let me see. {ADD}\n{ADD}", "It is 3.")
    messages = made.invoke(ASK)["messages"]
    assert [m.content for m in messages[1:]] == ["Let me see.", "3", "3", "It is 3."]
    assert script.prompt.count(ADD) == 2
    assert script.prompt.count("Result of add:\n3") == 2


def test_an_agent_calls_tools_and_answers_with_an_object(llm: SharedLLM) -> None:
    script, made = agent(llm, ADD, OLGA, response_format=Person)
    assert made.invoke(ASK)["structured_response"] == Person(name="Olga", age=41)
    assert script.grammar.startswith("head: ")
    assert "value: %json" in script.grammar


def test_an_agent_in_a_stream(llm: SharedLLM) -> None:
    _, made = agent(llm, f"Let me see. {ADD}", "It is 3.")
    pieces = [m.content for m, _ in made.stream(ASK, stream_mode="messages")]
    assert "".join(pieces) == "Let me see. 3It is 3."


# -- objects ---------------------------------------------------------------------------------------


def structured(core: SharedLLM, text: str, schema: Any, reason: str = "stop", **given: Any) -> Any:
    script = Scripted(core, text, text, finish_reason=reason)
    return ChatSharedLLM(llm=script, max_tokens=7).with_structured_output(schema, **given)


@pytest.mark.parametrize("schema", [Person, json_schema(Person)])
@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ('{"name": "Olga", "age": 4', "length", "cut after 7 tokens.*raise max_tokens"),
        ('{"name": "Olga"', "length", "cut after 7 tokens"),
        ('{"name": "Olga", "a', "stop", "no JSON value"),
        ('{"name": "Olga"}', "stop", "age"),
        ("Olga is 41.", "stop", "no JSON value"),
    ],
)
def test_what_is_not_whole_is_no_object(
    llm: SharedLLM, schema: Any, text: str, reason: str, message: str
) -> None:
    with pytest.raises(OutputParserException, match=message):
        structured(llm, text, schema, reason).invoke("Who?")
    with pytest.raises(OutputParserException, match=message):
        list(structured(llm, text, schema, reason).stream("Who?"))
    found = structured(llm, text, schema, reason, include_raw=True).invoke("Who?")
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)
    assert isinstance(found["raw"], AIMessage)


def test_streams_of_objects(llm: SharedLLM) -> None:
    assert list(structured(llm, OLGA, Person).stream("Who?")) == [Person(name="Olga", age=41)]
    grown = list(structured(llm, OLGA, json_schema(Person)).stream("Who?"))
    assert grown[-1] == {"name": "Olga", "age": 41}
    assert {"name": "Olga"} in grown


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ({"properties": {"n": {"not": {"const": 3}}}}, '{"n": 3}'),
        ({"properties": {"n": {"type": "array", "contains": {"const": 1}}}}, '{"n": [2]}'),
        ({"if": {"required": ["n"]}, "then": {"required": ["m"]}}, '{"n": 1}'),
        ({"properties": {"n": {"type": "array", "uniqueItems": True}}}, '{"n": [1, 1]}'),
        ({"properties": {"n": {"type": "string", "pattern": "^(?!a)"}}}, '{"n": "ab"}'),
        ({"properties": {"n": {"type": "string", "format": "regex"}}}, '{"n": "("}'),
        ({"dependentRequired": {"n": ["m"]}}, '{"n": 1}'),
    ],
)
def test_what_no_grammar_holds_is_checked(
    llm: SharedLLM, keyword: dict[str, Any], text: str
) -> None:
    schema = {"title": "Answer", "type": "object", **keyword}
    with pytest.raises(OutputParserException, match="does not follow its schema"):
        structured(llm, text, schema).invoke("Which?")


@pytest.mark.parametrize("schema", [Tree, Leaf])
def test_a_schema_that_refers_to_itself_is_held_at_every_level(llm: SharedLLM, schema: Any) -> None:
    script = Scripted(llm, '{"name": "a", "kids": []}')
    ChatSharedLLM(llm=script).with_structured_output(schema).invoke("Which?")
    held = json.loads(script.grammar)["grammars"][0]["json_schema"]
    levels = [one for one in held["$defs"].values() if one["type"] == "object"]
    assert len(levels) >= 2
    assert all(set(one["properties"]) >= {"name"} for one in levels)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#/$defs/Nowhere"},
        {"$ref": "http://example.com/schema.json"},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        3,
    ],
)
def test_a_schema_that_nothing_follows_is_refused(llm: SharedLLM, schema: Any) -> None:
    with pytest.raises(SetupError):
        ChatSharedLLM(llm=llm).with_structured_output(schema)


# -- odd inputs ------------------------------------------------------------------------------------


def test_a_history_beyond_the_window_says_how_to_trim_it(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=llm, max_tokens=16)
    history = [
        message
        for number in range(60)
        for message in (HumanMessage(f"About {number}. " * 9), AIMessage("Fine. " * 20))
    ]
    asked = [*history, HumanMessage("What is the capital of France?")]
    with pytest.raises(SharedLLMError, match=r"121 messages take \d+ tokens.*trim_messages\(") as e:
        chat.invoke(asked)
    left = int(str(e.value).partition("max_tokens=")[2].partition(",")[0])
    trimmed = trim_messages(
        asked, max_tokens=left, token_counter=chat, start_on="human", include_system=True
    )
    assert 2 < len(trimmed) < len(asked)
    assert isinstance(chat.invoke(trimmed), AIMessage)


def test_one_long_question_is_no_history(llm: SharedLLM) -> None:
    with pytest.raises(SharedLLMError, match="shorten the question"):
        ChatSharedLLM(llm=llm, long_text=None).invoke([("system", "Hi"), ("user", "word " * 3000)])


def test_stop_may_be_one_text(llm: SharedLLM) -> None:
    text = SharedLLMCompletion(llm=llm, max_tokens=12).invoke("Hello")
    stop = text[3:5]
    expected = text[: text.index(stop)].strip()
    assert SharedLLMCompletion(llm=llm, max_tokens=12, stop=stop).invoke("Hello") == expected
    assert ChatSharedLLM(llm=llm, max_tokens=12, stop=stop).invoke("Hello").text == expected
    assert ChatSharedLLM(llm=llm, max_tokens=12).bind(stop=stop).invoke("Hello").text == expected


def test_copies_and_pickles_after_use(tmp_path: Path) -> None:
    make_model("llama", **WIDE).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    given: dict[str, Any] = {"model": str(tmp_path), "max_tokens": 3, "device": "cpu"}
    for model in (ChatSharedLLM(**given), SharedLLMCompletion(**given)):
        answer = model.invoke("Hello")
        for made in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
            again = made.invoke("Hello")
            assert getattr(again, "content", again) == getattr(answer, "content", answer)


def test_a_copied_retriever_finds_the_same(llm: SharedLLM) -> None:
    retriever = TreeMemoryRetriever(llm=llm)
    retriever.upsert([Document("The ferry leaves at seven.", id="ferry")])
    assert copy.deepcopy(retriever).invoke("ferry") == retriever.invoke("ferry")


def test_results_of_tools_in_a_history(llm: SharedLLM) -> None:
    script = Scripted(llm, "Done.")
    calls: Any = [{"name": "add", "args": {"a": 1}, "id": "x"}]
    ChatSharedLLM(llm=script).invoke(
        [
            HumanMessage("Hi"),
            AIMessage("", tool_calls=calls),
            ToolMessage("No \ud835.", tool_call_id="x", name="add", status="error"),
        ]
    )
    assert "Result of add failed:\nNo \ufffd." in script.prompt
