"""LangChain's tutorials as they stand, with only the model, retriever or vector store ours.

Texts are inlined where the tutorials load them. What models of other makers read is recorded, and
is text.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import dynamic_prompt
from langchain.tools import tool
from langchain_classic.chains import (
    ConversationalRetrievalChain,
    RetrievalQA,
    create_history_aware_retriever,
    create_retrieval_chain,
)
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.memory import ConversationBufferMemory
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MultiQueryRetriever,
    ParentDocumentRetriever,
)
from langchain_classic.retrievers.document_compressors import LLMChainExtractor
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough, chain
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.stores import InMemoryStore
from langchain_core.tools import create_retriever_tool
from langchain_text_splitters import RecursiveCharacterTextSplitter
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import Field

from sharedllm import SharedLLM
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain import (
    ChatSharedLLM,
    TreeMemoryCompressor,
    TreeMemoryRetriever,
    TreeMemoryVectorStore,
    create_tree_memory_tool,
)
from tests.texts import FERRY, GARDEN, STORY

# of LangChain, which wants these parts replaced; programs have them all the same
pytestmark = pytest.mark.filterwarnings(
    "ignore::langchain_core._api.deprecation.LangChainDeprecationWarning"
)
QUESTION = "When does the ferry leave?"
DOCS = [
    Document(STORY, id="story", metadata={"source": "story.txt", "page": 0}),
    Document(FERRY, id="ferry", metadata={"source": "ferry.txt", "page": 0}),
    Document(GARDEN, id="garden", metadata={"source": "garden.txt", "page": 3}),
]
READ = {FERRY, STORY, GARDEN}


@pytest.fixture
def store(llm: SharedLLM, tmp_path: Path) -> TreeMemoryVectorStore:
    made = TreeMemoryVectorStore(tmp_path / "memory", llm=llm)
    made.add_documents(DOCS)
    return made


@pytest.fixture
def retriever(store: TreeMemoryVectorStore) -> TreeMemoryRetriever:
    return TreeMemoryRetriever(memory=store.memory, k=3)


@pytest.fixture
def model(llm: SharedLLM, store: TreeMemoryVectorStore) -> ChatSharedLLM:
    return ChatSharedLLM(llm=llm, memory=store.memory, max_tokens=4, search={"budget": 256})


class Foreign(GenericFakeChatModel):
    """Another maker's model: says what it is told to, and keeps what it read."""

    read: list[str] = Field(default_factory=list)

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        self.read.append("\n".join(message.text for message in messages))
        return super()._generate(messages, *args, **kwargs)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def foreign(*answers: str | AIMessage) -> Foreign:
    given = [AIMessage(one) if isinstance(one, str) else one for one in answers]
    return Foreign(messages=iter(given))


def found_as(message: Any) -> list[str]:
    return [one["found_as"] for one in message.response_metadata["sharedllm"]["documents"]]


def format_docs(docs: list[Document]) -> str:
    return "\n\n".join(doc.page_content for doc in docs)


# -- semantic search -------------------------------------------------------------------------------


async def test_semantic_search(llm: SharedLLM) -> None:
    text_splitter = RecursiveCharacterTextSplitter(
        chunk_size=200, chunk_overlap=20, add_start_index=True
    )
    all_splits = text_splitter.split_documents(DOCS)
    vector_store = TreeMemoryVectorStore(llm=llm)
    ids = vector_store.add_documents(documents=all_splits)
    assert len(set(ids)) == len(all_splits)
    results = vector_store.similarity_search(QUESTION)
    assert any("seven" in doc.page_content for doc in results)
    assert results[0].metadata["source"]
    later = await vector_store.asimilarity_search(QUESTION)
    assert later == results
    doc, score = vector_store.similarity_search_with_score(QUESTION)[0]
    assert (doc, score) == (results[0], pytest.approx(score))

    @chain
    def retrieve(query: str) -> list[Document]:
        return vector_store.similarity_search(query, k=1)

    one, two = retrieve.batch([QUESTION, "Who grew poppies?"])
    retriever = vector_store.as_retriever(search_type="similarity", search_kwargs={"k": 1})
    assert retriever.batch([QUESTION, "Who grew poppies?"]) == [one, two]
    for options in (
        {"search_type": "mmr"},
        {
            "search_type": "similarity_score_threshold",
            "search_kwargs": {"score_threshold": 0.5},
        },
    ):
        with pytest.raises(SetupError, match="use similarity_search"):
            vector_store.as_retriever(**options).invoke(QUESTION)
    with pytest.raises(SetupError, match="use similarity_search"):
        vector_store.similarity_search_by_vector([0.5])


def test_a_store_from_texts(llm: SharedLLM) -> None:
    store = TreeMemoryVectorStore.from_texts(
        [FERRY, GARDEN], metadatas=[{"n": 1}, {"n": 2}], ids=["a", "b"], llm=llm
    )
    assert [d.page_content for d in store.get_by_ids(["b"])] == [GARDEN]
    assert [d.id for d in store.similarity_search(QUESTION, filter={"n": 1})] == ["a"]
    given = [Document(FERRY, id="x"), Document(GARDEN)]
    other = TreeMemoryVectorStore.from_documents(given, llm=llm)
    assert {d.page_content for d in other.similarity_search(QUESTION)} == {FERRY, GARDEN}
    assert other.get_by_ids(["x"]) == given[:1]
    assert store.delete(["a"])
    assert [d.id for d in store.similarity_search(QUESTION)] == ["b"]
    for texts, given, said in (
        ([" "], {}, "no text"),
        (["a"], {"ids": []}, "0 ids for 1"),
        (["a"], {"metadatas": [{}, {}]}, "2 metadatas for 1"),
    ):
        with pytest.raises(SetupError, match=said):
            store.add_texts(texts, **given)  # type: ignore[arg-type]


# -- RAG, parts 1 and 2 ----------------------------------------------------------------------------


def test_rag_as_an_agent(
    llm: SharedLLM, store: TreeMemoryVectorStore, model: ChatSharedLLM
) -> None:
    vector_store = store

    @tool(response_format="content_and_artifact")
    def retrieve_context(query: str) -> Any:
        """Retrieve information to help answer a query."""
        retrieved_docs = vector_store.similarity_search(query, k=2)
        serialized = "\n\n".join(
            f"Source: {doc.metadata}\nContent: {doc.page_content}" for doc in retrieved_docs
        )
        return serialized, retrieved_docs

    call = {"name": "retrieve_context", "args": {"query": QUESTION}, "id": "1"}
    other = foreign(AIMessage("", tool_calls=[call]), "At seven.")
    agent = create_agent(other, [retrieve_context], system_prompt="Use the tool.")
    last: Any = None
    for event in agent.stream(
        {"messages": [{"role": "user", "content": QUESTION}]}, stream_mode="values"
    ):
        last = event["messages"][-1]
    assert last.text == "At seven."
    assert FERRY in other.read[1]
    assert "sllm" not in other.read[1]
    result = retrieve_context.invoke({**call, "type": "tool_call"})
    history = [HumanMessage(QUESTION), AIMessage("", tool_calls=[call]), result]
    assert found_as(model.invoke(history)) == ["known"] * 2


def test_rag_as_a_chain(store: TreeMemoryVectorStore, model: ChatSharedLLM) -> None:
    vector_store = store

    @dynamic_prompt
    def prompt_with_context(request: Any) -> str:
        """Inject context into state messages."""
        last_query = request.state["messages"][-1].text
        retrieved_docs = vector_store.similarity_search(last_query)
        docs_content = "\n\n".join(doc.page_content for doc in retrieved_docs)
        return (
            "You are a helpful assistant. Use the following context in your response:"
            f"\n\n{docs_content}"
        )

    agent = create_agent(model, tools=[], middleware=[prompt_with_context])
    answer = agent.invoke({"messages": [{"role": "user", "content": QUESTION}]})["messages"][-1]
    assert found_as(answer) == ["known"] * 3


def test_rag_as_a_graph(store: TreeMemoryVectorStore, model: ChatSharedLLM) -> None:
    prompt = ChatPromptTemplate.from_template(  # the best-known one, from LangChain's hub
        "You are an assistant for question-answering tasks. Use the following pieces of retrieved "
        "context to answer the question. If you don't know the answer, just say that you don't "
        "know. Use three sentences maximum and keep the answer concise.\nQuestion: {question} \n"
        "Context: {context} \nAnswer:"
    )

    class State(TypedDict):
        question: str
        context: list[Document]
        answer: Any

    def retrieve(state: State) -> dict[str, Any]:
        return {"context": store.similarity_search(state["question"])}

    def generate(state: State) -> dict[str, Any]:
        docs_content = "\n\n".join(doc.page_content for doc in state["context"])
        messages = prompt.invoke({"question": state["question"], "context": docs_content})
        return {"answer": model.invoke(messages)}

    graph_builder = StateGraph(State).add_sequence([retrieve, generate])
    graph_builder.add_edge(START, "retrieve")
    graph = graph_builder.compile()
    result = graph.invoke({"question": QUESTION})  # type: ignore[call-overload]
    assert found_as(result["answer"]) == ["known"] * 3
    assert result["answer"].response_metadata["sharedllm"]["question_repeated"]


def test_rag_with_history_as_a_graph(store: TreeMemoryVectorStore) -> None:
    @tool(response_format="content_and_artifact")
    def retrieve(query: str) -> Any:
        """Retrieve information related to a query."""
        docs = store.similarity_search(query, k=2)
        return "\n\n".join(f"Source: {d.metadata}\nContent: {d.page_content}" for d in docs), docs

    call = {"name": "retrieve", "args": {"query": QUESTION}, "id": "1"}
    llm = foreign(AIMessage("", tool_calls=[call]), "At seven.", "At four.")

    def query_or_respond(state: MessagesState) -> dict[str, Any]:
        return {"messages": [llm.bind_tools([retrieve]).invoke(state["messages"])]}

    def generate(state: MessagesState) -> dict[str, Any]:
        tool_messages = [m for m in state["messages"] if m.type == "tool"]
        system = SystemMessage("\n\n".join(m.text for m in tool_messages))
        talk = [m for m in state["messages"] if m.type in ("human",)]
        return {"messages": [llm.invoke([system, *talk])]}

    graph_builder = StateGraph(MessagesState)
    for name, node in {
        "query_or_respond": query_or_respond,
        "tools": ToolNode([retrieve]),
        "generate": generate,
    }.items():
        graph_builder.add_node(name, node)  # type: ignore[call-overload]
    graph_builder.set_entry_point("query_or_respond")
    graph_builder.add_conditional_edges("query_or_respond", tools_condition)
    graph_builder.add_edge("tools", "generate")
    graph = graph_builder.compile(checkpointer=MemorySaver())
    config: Any = {"configurable": {"thread_id": "abc123"}}
    step = graph.invoke({"messages": [{"role": "user", "content": QUESTION}]}, config)
    assert step["messages"][-1].text == "At seven."
    assert "sllm" not in "".join(llm.read)
    assert FERRY in llm.read[1]


# -- chains of langchain_classic -------------------------------------------------------------------


async def test_create_retrieval_chain(retriever: TreeMemoryRetriever, model: ChatSharedLLM) -> None:
    prompt = ChatPromptTemplate.from_messages(
        [
            ("system", "Use the given context to answer the question. Context: {context}"),
            ("human", "{input}"),
        ]
    )
    question_answer_chain = create_stuff_documents_chain(model, prompt)
    rag_chain = create_retrieval_chain(retriever, question_answer_chain)
    results = rag_chain.invoke({"input": QUESTION})
    assert {d.page_content for d in results["context"]} == READ
    assert isinstance(results["answer"], str)
    assert (await rag_chain.ainvoke({"input": QUESTION}))["answer"] == results["answer"]
    other = foreign("At seven.")
    asked = create_retrieval_chain(retriever, create_stuff_documents_chain(other, prompt))
    assert asked.invoke({"input": QUESTION})["answer"] == "At seven."
    assert all(text in other.read[0] for text in READ)
    assert "sllm" not in other.read[0]


def test_chat_history(retriever: TreeMemoryRetriever, model: ChatSharedLLM) -> None:
    contextualize_q_prompt = ChatPromptTemplate.from_messages(
        [
            ("system", "Formulate a standalone question."),
            MessagesPlaceholder("chat_history"),
            ("human", "{input}"),
        ]
    )
    history_aware_retriever = create_history_aware_retriever(
        model, retriever, contextualize_q_prompt
    )
    qa_prompt = ChatPromptTemplate.from_messages(
        [("system", "{context}"), MessagesPlaceholder("chat_history"), ("human", "{input}")]
    )
    rag_chain = create_retrieval_chain(
        history_aware_retriever, create_stuff_documents_chain(model, qa_prompt)
    )
    sessions: dict[str, InMemoryChatMessageHistory] = {}
    conversational_rag_chain = RunnableWithMessageHistory(
        rag_chain,
        lambda session_id: sessions.setdefault(session_id, InMemoryChatMessageHistory()),
        input_messages_key="input",
        history_messages_key="chat_history",
        output_messages_key="answer",
    )
    config: Any = {"configurable": {"session_id": "abc123"}}
    for turn in range(1, 3):
        answer = conversational_rag_chain.invoke({"input": QUESTION}, config)["answer"]
        assert isinstance(answer, str)
        assert len(sessions["abc123"].messages) == 2 * turn


@pytest.mark.parametrize("kind", ["stuff", "refine", "map_reduce"])
def test_retrieval_qa(retriever: TreeMemoryRetriever, model: ChatSharedLLM, kind: str) -> None:
    qa_chain = RetrievalQA.from_chain_type(
        model, chain_type=kind, retriever=retriever, return_source_documents=True
    )
    result = qa_chain.invoke({"query": QUESTION})
    assert isinstance(result["result"], str)
    assert {d.page_content for d in result["source_documents"]} == READ


def test_conversational_retrieval(retriever: TreeMemoryRetriever, model: ChatSharedLLM) -> None:
    memory = ConversationBufferMemory(memory_key="chat_history", return_messages=True)
    qa = ConversationalRetrievalChain.from_llm(model, retriever=retriever, memory=memory)
    for _ in range(2):
        assert isinstance(qa.invoke({"question": QUESTION})["answer"], str)
    other = foreign("At seven.")
    qa = ConversationalRetrievalChain.from_llm(other, retriever=retriever)
    assert qa.invoke({"question": QUESTION, "chat_history": []})["answer"] == "At seven."
    assert "sllm" not in other.read[0]


def test_lcel(retriever: TreeMemoryRetriever, model: ChatSharedLLM) -> None:
    prompt = PromptTemplate.from_template("<context>\n{context}\n</context>\n\n{question}")
    rag_chain = (
        {"context": retriever | format_docs, "question": RunnablePassthrough()}
        | prompt
        | model
        | StrOutputParser()
    )
    whole = rag_chain.invoke(QUESTION)
    assert "".join(rag_chain.stream(QUESTION)).strip() == whole
    asked = {"context": retriever | format_docs, "question": RunnablePassthrough()} | prompt | model
    assert found_as(asked.invoke(QUESTION)) == ["known"] * 3


# -- retrievers around ours ------------------------------------------------------------------------


class Plain(BaseRetriever):
    """Somebody else's retriever over the same documents."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return DOCS


@pytest.mark.parametrize("returns", ["documents", "passages"])
def test_multi_query_sees_a_document_once(retriever: TreeMemoryRetriever, returns: Any) -> None:
    own = retriever.model_copy(update={"returns": returns})
    other = foreign("When does the ferry go?\nWhat are the hours of the ferry?\nWhen is it?")
    found = MultiQueryRetriever.from_llm(own, llm=other, include_original=True).invoke(QUESTION)
    assert len(found) == len({d.page_content for d in found})
    if returns == "documents":
        assert {d.id for d in found} == {"story", "ferry", "garden"}


def test_an_ensemble_sees_a_document_once(retriever: TreeMemoryRetriever) -> None:
    ensemble_retriever = EnsembleRetriever(retrievers=[Plain(), retriever], weights=[0.5, 0.5])
    assert {d.page_content for d in ensemble_retriever.invoke(QUESTION)} == READ
    assert len(ensemble_retriever.invoke(QUESTION)) == 3


def test_contextual_compression(
    llm: SharedLLM, retriever: TreeMemoryRetriever, store: TreeMemoryVectorStore
) -> None:
    other = foreign("At seven.", "NO_OUTPUT", "NO_OUTPUT")
    compression_retriever = ContextualCompressionRetriever(
        base_compressor=LLMChainExtractor.from_llm(other), base_retriever=retriever
    )
    assert [d.page_content for d in compression_retriever.invoke(QUESTION)] == ["At seven."]
    assert "sllm" not in "".join(other.read)
    ours = TreeMemoryCompressor(llm=llm, memory=store.memory, budget=100)
    found = ContextualCompressionRetriever(base_compressor=ours, base_retriever=retriever).invoke(
        QUESTION
    )
    assert all(any(d.page_content in text for text in READ) for d in found)


def test_parent_documents(llm: SharedLLM) -> None:
    child_splitter = RecursiveCharacterTextSplitter(chunk_size=100, chunk_overlap=0)
    parents = ParentDocumentRetriever(
        vectorstore=TreeMemoryVectorStore(llm=llm),
        docstore=InMemoryStore(),
        child_splitter=child_splitter,
    )
    parents.add_documents(DOCS, ids=None)
    assert {d.page_content for d in parents.invoke(QUESTION)} <= READ


# -- agents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["documents", "passages"])
async def test_an_agent_of_another_model_with_a_tool_of_ours(
    store: TreeMemoryVectorStore, content: Any
) -> None:
    ours = create_tree_memory_tool(store.memory, content=content)
    theirs = create_retriever_tool(
        TreeMemoryRetriever(memory=store.memory), "search_documents", "Searches documents."
    )
    for one in (ours, theirs, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        call = {"name": "search_documents", "args": {"query": QUESTION}, "id": "1"}
        other = foreign(AIMessage("", tool_calls=[call]), "At seven.")
        agent = create_agent(other, [one])
        result = await agent.ainvoke({"messages": [HumanMessage(QUESTION)]})  # type: ignore[call-overload]
        assert result["messages"][-1].text == "At seven."
        assert len(other.read[1]) > len(QUESTION)
        assert content == "passages" or FERRY in other.read[1]
        assert "sllm" not in "".join(other.read)


# -- the indexing API, summaries, trimming ---------------------------------------------------------


def test_indexing_with_a_record_manager(store: TreeMemoryVectorStore) -> None:
    record_manager = InMemoryRecordManager("test")
    record_manager.create_schema()
    docs = [Document(f"Room {n} is blue.", metadata={"source": f"{n}.txt"}) for n in range(3)]
    options: dict[str, Any] = {
        "cleanup": "full",
        "source_id_key": "source",
        "key_encoder": "sha256",
    }
    for target in (store, TreeMemoryRetriever(memory=store.memory)):
        record_manager = InMemoryRecordManager("test")
        added = index(docs, record_manager, target, **options)
        assert (added["num_added"], added["num_deleted"]) == (3, 0)
        assert index(docs, record_manager, target, **options)["num_skipped"] == 3
        assert index(docs[:1], record_manager, target, **options)["num_deleted"] == 2
        assert len(store.similarity_search("Which room?", k=9)) == 4
        index([], record_manager, target, **options)


async def test_summaries(model: ChatSharedLLM) -> None:
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Write a concise summary of the following:\n\n{context}")]
    )
    other = foreign("A lighthouse, a ferry, a garden.")
    assert create_stuff_documents_chain(other, prompt).invoke({"context": DOCS}).startswith("A")
    asked = ChatPromptTemplate.from_messages(
        [("human", "Write a concise summary of the following:\n\n{context}")]
    )
    assert isinstance(create_stuff_documents_chain(model, asked).invoke({"context": DOCS}), str)

    class Summaries(TypedDict):
        contents: list[str]
        summaries: Annotated[list[Any], add_messages]

    async def summarize(state: Summaries) -> dict[str, Any]:
        prompts = [[HumanMessage(f"Summarize:\n\n{text}")] for text in state["contents"]]
        return {"summaries": list(await asyncio.gather(*map(model.ainvoke, prompts)))}

    graph = StateGraph(Summaries).add_node("summarize", summarize)
    graph.add_edge(START, "summarize")
    given: Any = {"contents": [FERRY, GARDEN]}
    assert len((await graph.compile().ainvoke(given))["summaries"]) == 2


def test_trimming_by_the_models_own_count(model: ChatSharedLLM) -> None:
    messages = [SystemMessage("You are good."), *[HumanMessage("Hello. " * 9)] * 9]
    trimmer = trim_messages(
        max_tokens=200,
        strategy="last",
        token_counter=model,
        include_system=True,
        start_on="human",
    )
    assert 1 < len(trimmer.invoke(messages)) < len(messages)


def test_the_last_question_of_map_reduce_ends(default_llm: SharedLLM) -> None:
    """It holds no document, only the answers about each, and the base model likes to go on."""
    prompt = ChatPromptTemplate.from_messages(
        [
            (
                "system",
                "Given the following extracted parts of a long document and a question, create a "
                "final answer.\nIf you don't know the answer, just say that you don't know. Don't "
                "try to make up an answer.\n______________________\nMr Olufsen\n\nnot in the "
                "documents",
            ),
            ("human", "Who is the chairman of the harbour board?"),
        ]
    )
    llm = ChatSharedLLM(llm=default_llm, repetition_penalty=1.1, max_tokens=64)
    message = (prompt | llm).invoke({})
    assert "Olufsen" in message.text
    assert message.response_metadata["finish_reason"] == "stop"
