"""Real chains: stuff, any retriever, index(), agents, a graph, compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, ValidationError

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain import (
    ChatSharedLLM,
    SharedLLMCompletion,
    TreeMemoryCompressor,
    TreeMemoryRetriever,
    create_tree_memory_tool,
)
from tests.conftest import DOCUMENTS, Make
from tests.integrations.prompts import reference
from tests.integrations.test_long_text import story
from tests.texts import FERRY, STORY

QUESTION = "When does the ferry leave?"
AFTER = ChatPromptTemplate.from_template("Use the context.\n{context}\n\nQuestion: {question}")
SYSTEM = ChatPromptTemplate.from_messages(
    [("system", "Use the following context:\n\n{context}"), ("human", "{question}")]
)


def stuffed(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def chain(retriever: BaseRetriever, prompt: ChatPromptTemplate, model: Any) -> Runnable[Any, Any]:
    given = {"context": retriever | stuffed, "question": RunnablePassthrough()}
    return given | prompt | model


def happened(message: AIMessage) -> list[tuple[str, str, str]]:
    found = message.response_metadata["sharedllm"]["documents"]
    return [(one["found_as"], one["outcome"], one["title"]) for one in found]


@pytest.fixture
def chat(llm: SharedLLM, memory: TreeMemory) -> ChatSharedLLM:
    return ChatSharedLLM(llm=llm, memory=memory, max_tokens=6, search={"budget": 256})


# -- chains ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [AFTER, SYSTEM])
def test_a_stuff_chain_reads_whole_documents(
    chat: ChatSharedLLM, memory: TreeMemory, prompt: ChatPromptTemplate
) -> None:
    answer = chain(TreeMemoryRetriever(memory=memory, k=3), prompt, chat).invoke(QUESTION)
    assert sorted(happened(answer)) == [
        ("known", "reused", "Aunt Odile grew blue poppies behind the chapel. Nobody..."),
        ("known", "reused", "The ferry"),
        ("known", "reused", "The lighthouse"),
    ]
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_token_details"]["cache_creation"] == 0


def test_two_lines_with_a_path(llm: SharedLLM, memory: TreeMemory) -> None:
    path = str(memory.path)
    model = ChatSharedLLM(llm=llm, memory=path, max_tokens=4)
    answer = chain(TreeMemoryRetriever(memory=path, k=2, llm=llm), AFTER, model).invoke(QUESTION)
    assert [one[:2] for one in happened(answer)] == [("known", "reused")] * 2


def test_the_text_parser_and_the_completion_model(llm: SharedLLM, memory: TreeMemory) -> None:
    retriever = TreeMemoryRetriever(memory=memory, k=1)
    model = SharedLLMCompletion(llm=llm, memory=memory, max_tokens=4)
    whole = chain(retriever, AFTER, model).invoke(QUESTION)
    assert isinstance(whole, str)
    streamed = (chain(retriever, AFTER, model) | StrOutputParser()).stream(QUESTION)
    assert "".join(streamed).strip() == whole


async def test_an_asynchronous_chain(chat: ChatSharedLLM, memory: TreeMemory) -> None:
    own = chain(TreeMemoryRetriever(memory=memory, k=2), AFTER, chat)
    answer = await own.ainvoke(QUESTION)
    assert len(happened(answer)) == 2
    assert [len(happened(one)) for one in await own.abatch([QUESTION] * 3)] == [2] * 3


def test_any_other_model_sees_the_text(memory: TreeMemory) -> None:
    seen: list[Any] = []

    class Seeing(GenericFakeChatModel):
        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            seen.extend(messages)
            return super()._generate(messages, *args, **kwargs)

    model = Seeing(messages=iter(["at seven"]))
    chain(TreeMemoryRetriever(memory=memory, k=3), AFTER, model).invoke(QUESTION)
    assert FERRY in seen[0].content
    assert STORY in seen[0].content
    assert "sllm" not in seen[0].content


class Keyword(BaseRetriever):
    """A retriever that knows nothing of trees."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.documents


def test_any_retriever_reaches_the_model_as_trees(llm: SharedLLM, make: Make) -> None:
    memory = make()
    known, unknown = story(1, 16), story(2, 16)
    memory.add(MemoryDocument(id="known", text=known, title="Known"))
    retriever = Keyword(documents=[Document(known), Document(unknown)])
    model = ChatSharedLLM(llm=llm, memory=memory, max_tokens=4, search={"budget": 256})
    first, again = (chain(retriever, AFTER, model).invoke(QUESTION) for _ in range(2))
    assert happened(first)[0] == ("known", "reused", "Known")
    assert {one[:2] for one in happened(first)[1:]} == {("pasted", "built")}
    assert {one[1] for one in happened(again)} == {"reused"}
    read = sum(d["characters"] for d in first.response_metadata["sharedllm"]["documents"])
    assert read > len(known + unknown) - 2 * 600


def test_retrieved_again_after_an_update(chat: ChatSharedLLM, memory: TreeMemory) -> None:
    own = chain(TreeMemoryRetriever(memory=memory, k=3), AFTER, chat)
    own.invoke(QUESTION)
    memory.update(MemoryDocument(id="ferry", text="The ferry leaves at nine.", title="New times"))
    memory.delete("garden")
    assert sorted(one[2] for one in happened(own.invoke(QUESTION))) == [
        "New times",
        "The lighthouse",
    ]


# -- the retriever ---------------------------------------------------------------------------------


def test_index_skips_what_has_not_changed(llm: SharedLLM, tmp_path: Path) -> None:
    retriever = TreeMemoryRetriever(memory=tmp_path / "library", llm=llm)
    records = InMemoryRecordManager("library")
    records.create_schema()

    class Loader(BaseLoader):
        def lazy_load(self) -> Any:
            for document in DOCUMENTS:
                yield Document(document.text, metadata={"source": document.id})

    def run(loader: Any, cleanup: Any = "incremental") -> dict[str, int]:
        done = index(
            loader, records, retriever, cleanup=cleanup, source_id_key="source",
            key_encoder="sha256",
        )  # fmt: skip
        return {k: v for k, v in done.items() if v}  # type: ignore[misc]

    assert run(Loader()) == {"num_added": 3}
    assert run(Loader()) == {"num_skipped": 3}
    changed = [Document("The ferry was sold.", metadata={"source": "ferry"})]
    assert run(changed) == {"num_added": 1, "num_deleted": 1}
    assert len(retriever.invoke("ferry", k=10)) == 3
    assert run([], cleanup="full") == {"num_deleted": 3}
    assert retriever.invoke("ferry") == []


def test_passages_and_filters(memory: TreeMemory) -> None:
    passages = TreeMemoryRetriever(memory=memory, k=3, returns="passages").invoke(QUESTION)
    for one in passages:
        text = memory.get(one.metadata["document_id"]).text
        assert text[one.metadata["char_start"] : one.metadata["char_end"]] == one.page_content
    own = TreeMemoryRetriever(memory=memory, filter={"year": {"lt": 1900}}, references=False)
    (document,) = own.invoke(QUESTION)
    assert document.page_content == STORY
    assert document.metadata["title"] == "The lighthouse"
    assert len(own.invoke(QUESTION, filter={"year": {"gte": 1900}})) == 1
    assert own.invoke(QUESTION, filter={"place": "nowhere"}) == []


@pytest.mark.parametrize("k", [0, -1, True, "3"])
def test_a_bad_k_is_named(memory: TreeMemory, k: Any) -> None:
    with pytest.raises(SetupError, match="k is"):
        TreeMemoryRetriever(memory=memory).invoke(QUESTION, k=k)
    if k is not True and k != "3":  # pydantic takes these for numbers
        with pytest.raises(ValidationError):
            TreeMemoryRetriever(memory=memory, k=k)


def test_an_index_without_a_memory_lasts_for_the_process(llm: SharedLLM) -> None:
    own, other = TreeMemoryRetriever(llm=llm), TreeMemoryRetriever(llm=llm)
    response = own.upsert([Document(FERRY), Document("  ", id="empty")])
    assert len(response["succeeded"]) == 1
    assert response["failed"] == ["empty"]
    assert own.get(response["succeeded"])[0].page_content == FERRY
    assert other.get(response["succeeded"]) == []
    with pytest.raises(SetupError, match="does not know batch"):
        own.upsert([], batch=3)
    with pytest.raises(ValidationError, match="memoory"):
        TreeMemoryRetriever(memoory="x")


# -- compression -----------------------------------------------------------------------------------


async def test_the_compressor_gives_spans_with_their_places(
    llm: SharedLLM, memory: TreeMemory
) -> None:
    retriever = TreeMemoryRetriever(memory=memory, k=3)
    own = TreeMemoryCompressor(llm=llm, memory=memory, budget=200)
    given = retriever.invoke(QUESTION)
    spans = own.compress_documents(given, QUESTION)
    assert spans == await own.acompress_documents(given, QUESTION)
    texts = {document.title: document.text for document in memory_documents(memory)}
    assert spans
    for one in spans:
        place = slice(one.metadata["char_start"], one.metadata["char_end"])
        assert texts[one.metadata.get("title", "")][place] == one.page_content
    assert sum(len(one.page_content.encode()) for one in spans) <= 200
    assert [s.metadata["score"] for s in spans] == sorted(
        (s.metadata["score"] for s in spans), reverse=True
    )


def memory_documents(memory: TreeMemory) -> list[MemoryDocument]:
    return [memory.get(stored.id) for stored in memory.list()]


def test_the_compressor_takes_any_documents(llm: SharedLLM) -> None:
    own = TreeMemoryCompressor(llm=llm, budget=128)
    given = [Document(FERRY, metadata={"page": 3}), Document(" "), Document(FERRY)]
    spans = own.compress_documents(given, QUESTION)
    assert {one.page_content in FERRY for one in spans} == {True}
    auto = TreeMemoryCompressor(llm=llm, budget="auto").compress_documents(given, QUESTION)
    assert len(auto) >= len(spans)
    with pytest.raises(ValidationError):
        TreeMemoryCompressor(llm=llm, budget="automatic")
    assert own.compress_documents([], QUESTION) == []


# -- agents ----------------------------------------------------------------------------------------


class Scripted(ChatSharedLLM):
    """Calls the tool first; what it says then is the tiny model's."""

    def _asked(self, messages: Any, stop: Any, given: Any) -> Any:
        answered = any(isinstance(message, ToolMessage) for message in messages)
        given = {**given, "tool_choice": "none" if answered else "any"}
        return super()._asked(messages, stop, given)


@pytest.mark.parametrize("content", ["documents", "references", "passages"])
async def test_an_agent_searches_and_reads(
    llm: SharedLLM, memory: TreeMemory, content: Any
) -> None:
    tool = create_tree_memory_tool(memory, k=2, content=content)
    model = Scripted(llm=llm, memory=memory, max_tokens=500, search={"budget": 200})
    agent = create_agent(model, [tool], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    asked: Any = {"messages": [HumanMessage(QUESTION)]}
    for messages in (
        agent.invoke(asked, config)["messages"],
        (await agent.ainvoke(asked, {"configurable": {"thread_id": "2"}}))["messages"],
    ):
        called, result, answer = messages[1:]
        assert [call["name"] for call in called.tool_calls] == ["search_documents"]
        assert isinstance(result, ToolMessage)
        outcomes = [one[:2] for one in happened(answer)]
        path = {"documents": "known", "references": "reference", "passages": None}[content]
        assert outcomes == ([] if path is None else [(path, "reused")] * 2)
        if content == "references":
            assert len(result.content) < len(FERRY + STORY)
            assert str(reference(memory, result.artifact[0]["id"])) in result.content


def test_a_tool_of_another_kind_of_content(memory: TreeMemory) -> None:
    with pytest.raises(SetupError, match="one of 'documents', 'references', 'passages'"):
        create_tree_memory_tool(memory, content="chunks")  # type: ignore[arg-type]
    assert create_tree_memory_tool(memory, filter={"place": "x"}).invoke({"query": "ferry"}) == (
        "Nothing was found."
    )


async def test_tool_calls_stream(llm: SharedLLM, memory: TreeMemory) -> None:
    tool = create_tree_memory_tool(memory)
    model = ChatSharedLLM(llm=llm, max_tokens=500).bind_tools([tool], tool_choice="any")
    whole = model.invoke(QUESTION)
    full: Any = None
    async for chunk in model.astream(QUESTION):
        assert "<tool_call>" not in str(chunk.content)
        full = chunk if full is None else full + chunk
    assert [(c["name"], c["args"]) for c in full.tool_calls] == [
        (c["name"], c["args"]) for c in whole.tool_calls
    ]
    assert full.content == whole.content == ""


def test_a_call_that_was_cut_short_is_an_invalid_one(llm: SharedLLM, memory: TreeMemory) -> None:
    tool = create_tree_memory_tool(memory)
    model = ChatSharedLLM(llm=llm, max_tokens=30).bind_tools([tool], tool_choice="any")
    answer = model.invoke(QUESTION)
    assert answer.tool_calls == []
    assert len(answer.invalid_tool_calls) == 1
    assert answer.response_metadata["finish_reason"] == "length"
    full: Any = None
    for chunk in model.stream(QUESTION):
        full = chunk if full is None else full + chunk
    assert full.tool_calls == []
    assert len(full.invalid_tool_calls) == 1


def test_structured_output_of_a_random_model(llm: SharedLLM) -> None:
    class Ferry(BaseModel):
        """A ferry."""

        port: str
        hours: list[int]
        dogs: bool | None = None

    model = ChatSharedLLM(llm=llm, max_tokens=400)
    assert isinstance(model.with_structured_output(Ferry).invoke(QUESTION), Ferry)
    raw: Any = model.with_structured_output(Ferry, include_raw=True).invoke(QUESTION)
    assert isinstance(raw["parsed"], Ferry)
    assert raw["parsing_error"] is None
    short: Any = model.bind(max_tokens=3)
    assert short is not None
    cut: Any = ChatSharedLLM(llm=llm, max_tokens=3)
    failed = cut.with_structured_output(Ferry, include_raw=True).invoke(QUESTION)
    assert failed["parsed"] is None
    assert failed["parsing_error"] is not None
    with pytest.raises(SetupError, match="method is 'magic'"):
        model.with_structured_output(Ferry, method="magic")  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="response_format is 3"):
        model.invoke("Hello", response_format=3)


def test_an_agent_with_a_structured_answer(llm: SharedLLM) -> None:
    class Times(BaseModel):
        """Times of a ferry."""

        hour: int

    agent = create_agent(ChatSharedLLM(llm=llm, max_tokens=300), [], response_format=Times)
    done = agent.invoke({"messages": [HumanMessage(QUESTION)]})
    assert isinstance(done["structured_response"], Times)


# -- graphs ----------------------------------------------------------------------------------------


def test_a_node_of_a_graph(chat: ChatSharedLLM, memory: TreeMemory) -> None:
    class State(MessagesState):
        documents: list[Document]

    retriever = TreeMemoryRetriever(memory=memory, k=2)

    def retrieve(state: State) -> dict[str, Any]:
        return {"documents": retriever.invoke(state["messages"][-1].text)}

    def answer(state: State) -> dict[str, Any]:
        prompt = AFTER.invoke(
            {"context": stuffed(state["documents"]), "question": state["messages"][-1].text}
        )
        return {"messages": [chat.invoke(prompt)]}

    graph = StateGraph(State)
    graph.add_node("retrieve", retrieve)
    graph.add_node("answer", answer)
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", "answer")
    graph.add_edge("answer", END)
    run = graph.compile()
    start: Any = {"messages": [HumanMessage(QUESTION)]}
    message = run.invoke(start)["messages"][-1]
    assert [one[:2] for one in happened(message)] == [("known", "reused")] * 2
    tokens = [piece for piece, _ in run.stream(start, stream_mode="messages")]
    assert "".join(t.text for t in tokens if isinstance(t, AIMessage)).strip() == message.text
