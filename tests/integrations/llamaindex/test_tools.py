"""Tools, agents and objects of a class in LlamaIndex, whatever a model writes."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.selectors.utils import get_selector_from_llm
from llama_index.core.tools import FunctionTool, ToolMetadata
from pydantic import BaseModel

from sharedllm import SharedLLM
from sharedllm_integrations.errors import AnswerFormatError, RequestError, SetupError
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM
from sharedllm_integrations.llamaindex.messages import request_messages
from sharedllm_integrations.requests import CalledTool, ToolOutput
from tests.integrations.scripted import Scripted

pytestmark = [  # what LlamaIndex 0.14's own agents and StructuredLLM use
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

OLGA = '{"name": "Olga", "age": 41}'
ASK = "What is 1 + 2?"


class Person(BaseModel):
    name: str
    age: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOLS = [FunctionTool.from_defaults(add)]


def call(name: str, /, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


ADD = call("add", a=1, b=2)


def saying(core: SharedLLM, *texts: str, reason: str = "stop") -> tuple[Scripted, Any]:
    script = Scripted(core, *texts, finish_reason=reason)
    return script, LlamaIndexSharedLLM(llm=script, max_tokens=7)


# -- agents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("text", "results"),
    [(ADD, ["3"]), (f"Let me see. {ADD}\n{ADD}", ["3", "3"]), ("Three.", [])],
)
async def test_a_function_agent(
    llm: SharedLLM, text: str, results: list[str], streaming: bool
) -> None:
    script, model = saying(llm, text, "It is 3.")
    agent = FunctionAgent(tools=[add], llm=model, streaming=streaming)  # type: ignore[list-item]
    found = await agent.run(user_msg=ASK)
    assert str(found) == ("It is 3." if results else "Three.")
    assert [str(one.tool_output) for one in found.tool_calls] == results
    assert script.prompt.count("Result of add:\n3") == len(results)


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [(call("multiply"), "stop", "no tool 'multiply'"), (ADD[:20], "length", "cut after 7 tokens")],
)
async def test_a_call_that_cannot_be_made_is_an_error(
    llm: SharedLLM, text: str, reason: str, message: str
) -> None:
    _, model = saying(llm, text, reason=reason)
    with pytest.raises(RequestError, match=message):
        await FunctionAgent(tools=[add], llm=model).run(user_msg=ASK)  # type: ignore[list-item]


async def test_an_agents_first_tool_and_its_object(llm: SharedLLM) -> None:
    script, model = saying(llm, ADD, "It is 3.", OLGA)
    agent = FunctionAgent(
        tools=[add],  # type: ignore[list-item]
        llm=model,
        initial_tool_choice="add",
        output_cls=Person,
    )
    found = await agent.run(user_msg=ASK)
    assert found.structured_response == {"name": "Olga", "age": 41}
    assert "start: head calls" in script.options[0]["grammar"]
    assert "TEXT" in script.options[1]["grammar"]


async def test_a_react_agent_still_works(llm: SharedLLM) -> None:
    action = 'Thought: add\nAction: add\nAction Input: {"a": 1, "b": 2}'
    _, model = saying(llm, action, "Thought: I can answer.\nAnswer: 3")
    found = await ReActAgent(tools=[add], llm=model).run(user_msg=ASK)  # type: ignore[list-item]
    assert str(found) == "3"


def test_predict_and_call(llm: SharedLLM) -> None:
    for text in (ADD, ADD + ADD):
        _, model = saying(llm, text)
        assert str(model.predict_and_call(TOOLS, user_msg=ASK)) == "3"
    _, model = saying(llm, ADD + ADD, "Hello.", "Hello.")
    both = model.predict_and_call(TOOLS, user_msg=ASK, allow_parallel_tool_calls=True)
    assert str(both) == "3\n\n3"
    with pytest.raises(RequestError, match=r"called no tool; it says .Hello\."):
        model.predict_and_call(TOOLS, user_msg=ASK)
    assert str(model.predict_and_call(TOOLS, user_msg=ASK, error_on_no_tool_call=False)) == "Hello."
    with pytest.raises(RequestError, match="tool_choice is 'boat'") as caught:
        model.chat_with_tools(TOOLS, user_msg=ASK, tool_choice="boat")
    assert isinstance(caught.value.cause, SetupError)


def test_a_random_model_calls_what_it_must(llm: SharedLLM) -> None:
    model = LlamaIndexSharedLLM(llm=llm, max_tokens=200, temperature=1.5, seed=1)
    response = model.chat_with_tools(TOOLS, user_msg=ASK, tool_required=True)
    (made,) = model.get_tool_calls_from_response(response)
    assert (made.tool_name, set(made.tool_kwargs)) == ("add", {"a", "b"})


def test_programs_and_selectors_use_tools(llm: SharedLLM) -> None:
    _, model = saying(llm, *[call("Person", name="Olga", age=41)] * 2)
    program: Any = FunctionCallingProgram.from_defaults(
        Person, prompt_template_str="Who is {name}?", llm=model
    )
    assert program(name="Olga") == Person(name="Olga", age=41)
    streamed = list(program.stream_call(name="Olga"))[-1]
    assert streamed.model_dump() == {"name": "Olga", "age": 41}
    _, model = saying(llm, call("SingleSelection", index=2, reason="It fits."))
    choices = [ToolMetadata(description=text) for text in ("ferries", "gardens")]
    assert get_selector_from_llm(model).select(choices, "Flowers?").ind == 1


def test_calls_and_results_in_a_history() -> None:
    called = ToolCallBlock(tool_call_id="x", tool_name="add", tool_kwargs='{"a": 1}')
    found = request_messages(
        [
            ChatMessage(content="Hi"),
            ChatMessage(role="assistant", blocks=[TextBlock(text=""), called]),
            ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "x"}),
        ]
    )
    assert found[1].parts == (CalledTool(name="add", arguments={"a": 1}, id="x"),)
    assert found[2].parts == (ToolOutput(name="add", id="x"), "3")


# -- objects ---------------------------------------------------------------------------------------

PROMPT = PromptTemplate("Extract from: {text}")


def test_objects_of_a_class(llm: SharedLLM) -> None:
    script, model = saying(llm, *[OLGA] * 4)
    expected = Person(name="Olga", age=41)
    assert model.structured_predict(Person, PROMPT, text="{Olga} is 41.") == expected
    assert "{Olga} is 41." in script.prompt
    assert '"json_schema"' in script.grammar
    assert list(model.stream_structured_predict(Person, PROMPT, text="")) == [expected]
    structured = model.as_structured_llm(Person)
    assert structured.complete("Who {is} it?").raw == expected
    assert [one.raw for one in structured.stream_chat([ChatMessage(content="Who?")])] == [expected]


async def test_objects_of_a_class_asynchronously(llm: SharedLLM) -> None:
    _, model = saying(llm, *[OLGA] * 2)
    expected = Person(name="Olga", age=41)
    assert await model.astructured_predict(Person, PROMPT, text="") == expected
    stream = await model.astream_structured_predict(Person, PROMPT, text="")
    assert [one async for one in stream] == [expected]


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        (OLGA[:20], "length", "cut after 7 tokens.*raise max_tokens"),
        ('{"name": "Olga"}', "stop", "no Person"),
        ("Olga", "stop", "no JSON value"),
    ],
)
def test_what_is_not_whole_is_no_object(
    llm: SharedLLM, text: str, reason: str, message: str
) -> None:
    _, model = saying(llm, text, text, reason=reason)
    with pytest.raises(RequestError, match=message) as caught:
        model.structured_predict(Person, PROMPT, text="")
    assert isinstance(caught.value.cause, AnswerFormatError)
    with pytest.raises(RequestError, match=message):
        model.as_structured_llm(Person).complete("Who?")


def test_a_random_model_gives_an_object(llm: SharedLLM) -> None:
    class Ferry(BaseModel):
        port: str
        hours: list[int]

    model = LlamaIndexSharedLLM(llm=llm, max_tokens=700, temperature=0.7, seed=1)
    found = model.structured_predict(Ferry, PROMPT, text="The ferry leaves at 7 and 9.")
    assert isinstance(found, Ferry)


def test_copies_and_pickles_after_use() -> None:
    model = LlamaIndexSharedLLM(max_tokens=4)
    assert pickle.loads(pickle.dumps(model)).max_tokens == 4
    assert copy.deepcopy(model).max_tokens == 4


def test_a_copy_shares_the_loaded_model(llm: SharedLLM) -> None:
    model = LlamaIndexSharedLLM(llm=llm, max_tokens=4)
    answer = model.complete("Hello").text
    made = copy.deepcopy(model)
    assert made.llm is llm
    assert made.complete("Hello").text == answer
    with pytest.raises(SetupError, match="to pickle it, give model="):
        pickle.dumps(model)
