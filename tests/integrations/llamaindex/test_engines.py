"""Whole pipelines of LlamaIndex: query, citation and chat engines, and a ReAct agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.tools import QueryEngineTool, RetrieverTool

from sharedllm import SharedLLM
from sharedllm_integrations.engine import Request
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex import (
    LlamaIndexSharedLLM,
    TreeMemoryCitationEngine,
    TreeMemoryIndex,
    react_grammar,
)
from tests.integrations.llamaindex.helpers import QUESTION, Fixed, documents, listening, model
from tests.texts import FERRY, STORY

# LlamaIndex's own agents use what pydantic and its workflows deprecate
AGENT = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CALL = '"Thought: I look.\\nAction: {tool}\\nAction Input: {{\\"input\\": \\"the ferry\\"}}"'


@pytest.fixture(scope="module")
def index(llm: SharedLLM) -> TreeMemoryIndex:
    return TreeMemoryIndex.from_documents(documents(), llm=model(llm))


# -- query engines -------------------------------------------------------------------------------


def test_the_frameworks_own_query_engine(index: TreeMemoryIndex) -> None:
    engine = RetrieverQueryEngine.from_args(index.as_retriever(), llm=index.llm)
    with listening() as heard:
        response = engine.query(QUESTION)
    assert str(response)
    names = heard.names()
    for name in ("Query", "Retrieval", "Synthesize", "LLMChat"):
        assert names.count(f"{name}StartEvent") == names.count(f"{name}EndEvent") == 1
    (read,) = (e for e in heard.events if e.class_name() == "DocumentsReadEvent")
    assert [one["found_as"] for one in read.documents] == ["known"] * 3
    referring = RetrieverQueryEngine.from_args(index.as_retriever(references=True), llm=index.llm)
    with listening() as heard:
        referring.query(QUESTION)
    (read,) = (e for e in heard.events if e.class_name() == "DocumentsReadEvent")
    assert [one["found_as"] for one in read.documents] == ["reference"] * 3


async def test_citations_are_the_sources(index: TreeMemoryIndex) -> None:
    engine = index.as_query_engine(citations=True)
    assert isinstance(engine, TreeMemoryCitationEngine)
    response = engine.query(QUESTION)
    nodes = response.source_nodes
    assert [n.metadata["number"] for n in nodes] == list(range(1, len(nodes) + 1))
    assert [n.score for n in nodes] == sorted((n.get_score() for n in nodes), reverse=True)
    texts = {document.doc_id: document.text for document in documents()}
    for n in nodes:
        place = slice(n.node.start_char_idx, n.node.end_char_idx)  # type: ignore[attr-defined]
        assert texts[n.node.ref_doc_id or ""][place] == n.get_content()
    assert {n.metadata.get("year") for n in nodes if n.node.ref_doc_id == "ferry"} <= {1871}
    later = await engine.aquery(QUESTION)
    assert [n.node_id for n in later.source_nodes] == [n.node_id for n in nodes]


async def test_citations_of_streams_come_at_the_end(index: TreeMemoryIndex) -> None:
    expected = [
        n.node_id for n in index.as_query_engine(citations=True).query(QUESTION).source_nodes
    ]
    engine = index.as_query_engine(citations=True, streaming=True)
    stream: Any = engine.query(QUESTION)
    for _ in stream.response_gen:
        pass
    assert [n.node_id for n in stream.source_nodes] == expected
    later: Any = await engine.aquery(QUESTION)
    async for _ in later.response_gen:
        pass
    assert [n.node_id for n in later.source_nodes] == expected


def test_citations_over_several_calls_and_other_retrievers(
    index: TreeMemoryIndex, llm: SharedLLM
) -> None:
    nodes = (
        index.as_query_engine(citations=True, response_mode="refine").query(QUESTION).source_nodes
    )
    assert {n.node.ref_doc_id for n in nodes} == {"story", "ferry", "garden"}
    assert len({n.node_id for n in nodes}) == len(nodes)
    ours = model(llm, long_text=50)
    found = TreeMemoryCitationEngine.from_args(Fixed(STORY * 8), llm=ours).query(QUESTION)
    assert found.source_nodes
    assert all(n.get_content() in STORY * 8 for n in found.source_nodes)


# -- chat ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["context", "condense_plus_context", "condense_question", "best"])
def test_chat_engines(index: TreeMemoryIndex, mode: str) -> None:
    engine = index.as_chat_engine(mode)
    with listening() as heard:
        for question in (QUESTION, "And on Sundays?"):
            response = engine.chat(question)
            assert {n.get_content() for n in response.source_nodes} >= {STORY, FERRY}
    reads = [e for e in heard.events if e.class_name() == "DocumentsReadEvent" and e.documents]
    assert [len(e.documents) for e in reads] == [3, 3]
    assert [m.role.value for m in engine.chat_history] == ["user", "assistant"] * 2
    engine.reset()
    assert engine.chat_history == []


async def test_chat_engines_asynchronously_and_streaming(index: TreeMemoryIndex) -> None:
    question = "Who keeps the lamp?"
    whole = await index.as_chat_engine().achat(question)
    stream = await index.as_chat_engine().astream_chat(question)
    text = "".join([token async for token in stream.async_response_gen()])
    assert text.strip() == str(whole).strip()


def test_a_history_fits_the_trained_window(index: TreeMemoryIndex) -> None:
    long = [ChatMessage(role=r, content="word " * 300) for r in ("user", "assistant")] * 10
    engine = index.as_chat_engine(chat_history=long)
    assert str(engine.chat(QUESTION))
    own = ChatMemoryBuffer.from_defaults(token_limit=500)
    assert str(index.as_chat_engine(memory=own).chat(QUESTION))
    assert len(own.get_all()) == 2


# -- agents --------------------------------------------------------------------------------------


class Scripted(LlamaIndexSharedLLM):
    """Calls a tool first, then answers, each by a grammar: the model itself is a random one."""

    tool: str = ""

    def _asked(self, given: Any, kwargs: Any) -> Request:
        seen = not isinstance(given, str) and _observed(given)
        grammar = "start: " + (
            r'"Thought: I know.\nAnswer: " /[a-z]{1,9}/' if seen else CALL.format(tool=self.tool)
        )
        return super()._asked(given, {"grammar": grammar, "max_tokens": 120, **kwargs})


def _observed(messages: Sequence[ChatMessage]) -> bool:
    return any((m.content or "").startswith("Observation: ") for m in messages)


@AGENT
@pytest.mark.parametrize("streaming", [True, False])
async def test_a_react_agent_reads_what_its_tool_found(
    index: TreeMemoryIndex, llm: SharedLLM, streaming: bool
) -> None:
    tool = RetrieverTool.from_defaults(index.as_retriever(), name="library", description="finds")
    agent = ReActAgent(
        tools=[tool],
        llm=Scripted(llm=llm, memory=index.memory, tool="library"),
        streaming=streaming,
    )
    with listening() as heard:
        output = await agent.run("When does the ferry leave?")
    assert output.tool_calls[0].tool_name == "library"
    assert str(output.response.content).isalpha()
    reads = [e for e in heard.events if e.class_name() == "DocumentsReadEvent"]
    assert [len(e.documents) for e in reads] == [0, 3]
    assert reads[1].citations  # searched for what the user asked, not for "Observation"


@AGENT
async def test_a_react_agent_with_a_query_engine(index: TreeMemoryIndex, llm: SharedLLM) -> None:
    tool = QueryEngineTool.from_defaults(index.as_query_engine(), name="library", description="x")
    output = await ReActAgent(tools=[tool], llm=Scripted(llm=llm, tool="library")).run(QUESTION)
    assert output.tool_calls[0].tool_output.content
    assert str(output.response.content).isalpha()


def test_a_grammar_of_react(index: TreeMemoryIndex, llm: SharedLLM) -> None:
    tool = QueryEngineTool.from_defaults(index.as_query_engine(), name="library", description="x")
    ours = model(llm, grammar=react_grammar([tool]), max_tokens=160, temperature=1.0)
    for seed in range(3):
        text = ours.complete("Which?", seed=seed).text
        thought, _, step = text.partition("\n")
        assert thought.startswith("Thought: ")
        assert "Answer: ".startswith(step[:8]) or step.startswith("Action: library\nAction Input: ")
    with pytest.raises(SetupError, match="no tools"):
        react_grammar([])


# -- the real model ------------------------------------------------------------------------------


@AGENT
@pytest.mark.slow
async def test_the_default_model(default_llm: SharedLLM) -> None:
    ours = LlamaIndexSharedLLM(llm=default_llm, max_tokens=32)
    index = TreeMemoryIndex.from_documents(documents(), llm=ours)
    response = index.as_query_engine(citations=True).query("When does the ferry leave?")
    assert "seven" in str(response).lower()
    assert any("seven in the morning" in n.get_content() for n in response.source_nodes)
    chat = await index.as_chat_engine().achat("When does the ferry leave?")
    assert str(chat)
    tool = QueryEngineTool.from_defaults(
        index.as_query_engine(), name="library", description="answers questions about Penmor"
    )
    thinking = LlamaIndexSharedLLM(llm=default_llm, grammar=react_grammar([tool]))
    agent = ReActAgent(tools=[tool], llm=thinking)
    # so small a model may never decide to answer; what it writes is well-formed all the same
    output = await agent.run(
        "When does the ferry leave?", max_iterations=2, early_stopping_method="generate"
    )
    assert str(output.response.content)
    assert {call.tool_name for call in output.tool_calls} <= {"library"}
    assert all(isinstance(call.tool_kwargs["input"], str) for call in output.tool_calls)
