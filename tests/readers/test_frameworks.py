"""Both frameworks' models with a reader elsewhere: fields, streams, structure, tools, thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from pydantic import BaseModel

from sharedllm import SharedLLM, TreeMemory
from sharedllm.errors import ReaderError
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain import ChatSharedLLM, SharedLLMCompletion
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM
from tests.readers.conftest import Elsewhere
from tests.readers.endpoint_server import Reply, delta, fails, says

ASKED = "Who keeps the lighthouse?"


class Keeper(BaseModel):
    name: str


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


CALL = {"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
THOUGHT = Reply(chunks=[delta(reasoning="Who? "), delta(content="Ansel"), delta("stop")])


@pytest.mark.parametrize("kind", [ChatSharedLLM, SharedLLMCompletion, LlamaIndexSharedLLM])
def test_fields_name_a_reader(
    elsewhere: Elsewhere, scout: SharedLLM, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    _, script = elsewhere(says("Ansel"))
    monkeypatch.setattr("sharedllm.registry.loaded_encoder", lambda *a, **k: scout.encoder)
    llm = kind(reader=script.url, reader_model="tiny", reader_window=2048)
    if kind is LlamaIndexSharedLLM:
        assert llm.complete(ASKED).text == "Ansel"
        assert llm.metadata.model_name == "tiny"
    else:
        answer = llm.invoke(ASKED)
        assert getattr(answer, "content", answer) == "Ansel"
    assert script.asked[0]["model"] == "tiny"


def test_a_loaded_model_has_its_reader(scout: SharedLLM) -> None:
    both = {"llm": scout, "reader": "http://localhost/v1"}
    with pytest.raises(SetupError, match="llm and reader"):
        LlamaIndexSharedLLM(**both)
    with pytest.raises(SetupError, match="llm and reader"):
        ChatSharedLLM(**both).invoke(ASKED)


def test_a_memory_and_a_reader(
    elsewhere: Elsewhere, scout: SharedLLM, tmp_path: Path, lighthouse: Any
) -> None:
    from sharedllm import MemoryDocument

    _, script = elsewhere(says("Ansel"))
    with TreeMemory(tmp_path / "memory", llm=scout) as memory:
        memory.add(MemoryDocument(text=lighthouse.text, title="The lighthouse"))
        llm = ChatSharedLLM(memory=memory, reads="memory", reader=script.url, reader_model="tiny")
        answer = llm.invoke(ASKED)
    assert answer.content == "Ansel"
    assert answer.response_metadata["model_name"] == "tiny"
    assert answer.response_metadata["sharedllm"]["citations"]
    assert answer.usage_metadata["output_tokens"] == 7


def test_langchain_streams_and_keeps_thoughts_apart(elsewhere: Elsewhere) -> None:
    core, _ = elsewhere(THOUGHT)
    llm = ChatSharedLLM(llm=core)
    message = llm.invoke(ASKED)
    assert message.content == "Ansel"
    assert {"type": "reasoning", "reasoning": "Who? "} in message.content_blocks
    whole: Any = None
    for chunk in llm.stream(ASKED):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == "Ansel"
    assert whole.additional_kwargs["reasoning_content"] == "Who? "
    core, script = elsewhere(says("Yes"))
    ChatSharedLLM(llm=core).invoke([HumanMessage(ASKED), message, HumanMessage("Sure?")])
    sent = script.asked[0]["messages"]
    assert [one["content"] for one in sent] == [ASKED, "Ansel", "Sure?"]


def test_llamaindex_streams_and_keeps_thoughts_apart(elsewhere: Elsewhere) -> None:
    core, _ = elsewhere(THOUGHT)
    llm = LlamaIndexSharedLLM(llm=core)
    response = llm.chat([ChatMessage(content=ASKED)])
    assert response.message.content == "Ansel"
    first = response.message.blocks[0]
    assert isinstance(first, ThinkingBlock)
    assert first.content == "Who? "
    pieces = list(llm.stream_chat([ChatMessage(content=ASKED)]))
    assert "".join(piece.delta or "" for piece in pieces) == "Ansel"
    assert isinstance(pieces[-1].message.blocks[0], ThinkingBlock)


def test_langchain_structured_output(elsewhere: Elsewhere) -> None:
    core, script = elsewhere(says('{"name": "Ansel"}'))
    llm = ChatSharedLLM(llm=core).with_structured_output(Keeper)
    assert llm.invoke(ASKED) == Keeper(name="Ansel")
    form = script.asked[0]["response_format"]
    assert form["json_schema"]["schema"]["properties"]["name"]["type"] == "string"
    core, script = elsewhere(fails(400, "response_format is not supported"), says('{"name": "A"}'))
    llm = ChatSharedLLM(llm=core).with_structured_output(Keeper)
    assert llm.invoke(ASKED) == Keeper(name="A")  # the prompt asks for the form as well
    assert "response_format" not in script.asked[1]
    assert "JSON schema" in script.asked[1]["messages"][0]["content"]


def test_langchain_tools(elsewhere: Elsewhere) -> None:
    core, script = elsewhere(Reply(chunks=[delta(tool_calls=[CALL]), delta("tool_calls")]))
    llm = ChatSharedLLM(llm=core).bind_tools([add], tool_choice="any")
    message = llm.invoke("Add 1 and 2.")
    assert isinstance(message, AIMessage)
    assert [(c["name"], c["args"]) for c in message.tool_calls] == [("add", {"a": 1, "b": 2})]
    assert script.asked[0]["tool_choice"] == "required"
    core, script = elsewhere(says("3"))
    called = message.tool_calls[0]["id"]
    result = ToolMessage("3", tool_call_id=called)
    answer = (
        ChatSharedLLM(llm=core)
        .bind_tools([add])
        .invoke([HumanMessage("Add 1 and 2."), message, result])
    )
    assert answer.content == "3"
    roles = [one["role"] for one in script.asked[0]["messages"]]
    assert roles == ["user", "assistant", "tool"]
    assert script.asked[0]["messages"][1]["tool_calls"][0]["id"] == called
    assert "tool_choice" not in script.asked[0]


def test_llamaindex_tools_and_structure(elsewhere: Elsewhere) -> None:
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool

    core, _ = elsewhere(Reply(chunks=[delta(tool_calls=[CALL]), delta("tool_calls")]))
    llm = LlamaIndexSharedLLM(llm=core)
    response = llm.chat_with_tools([FunctionTool.from_defaults(add)], "Add 1 and 2.")
    (call,) = llm.get_tool_calls_from_response(response)
    assert (call.tool_name, call.tool_kwargs) == ("add", {"a": 1, "b": 2})
    core, _ = elsewhere(says('{"name": "Ansel"}'))
    found = LlamaIndexSharedLLM(llm=core).structured_predict(Keeper, PromptTemplate(ASKED))
    assert found == Keeper(name="Ansel")


def test_a_reader_that_fails_is_said_by_both(elsewhere: Elsewhere) -> None:
    core, _ = elsewhere(fails(401, "bad key"))
    for ask in (ChatSharedLLM(llm=core).invoke, LlamaIndexSharedLLM(llm=core).complete):
        with pytest.raises(ReaderError, match="refuses the key"):
            ask(ASKED)


async def test_several_at_once(elsewhere: Elsewhere) -> None:
    core, script = elsewhere(says("Ansel"))
    answers = await ChatSharedLLM(llm=core).abatch([ASKED] * 3)
    assert [answer.content for answer in answers] == ["Ansel"] * 3
    assert len(script.asked) == 3
