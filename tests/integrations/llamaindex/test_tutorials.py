"""LlamaIndex's tutorials as they stand, with only the model or the index ours.

What models of other makers read is recorded, and is text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import (
    Document,
    Settings,
    SimpleDirectoryReader,
    StorageContext,
    VectorStoreIndex,
    get_response_synthesizer,
    load_index_from_storage,
)
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import (
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
    MockLLM,
)
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import LLMRerank, SimilarityPostprocessor
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata
from llama_index.core.vector_stores import (
    ExactMatchFilter,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    SimpleVectorStore,
)
from pydantic import Field

from sharedllm import SharedLLM, SharedLLMError, TreeMemory
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex import (
    TreeMemoryIndex,
    TreeMemoryPostprocessor,
    TreeMemoryRetriever,
    TreeMemoryTransform,
    TreeMemoryVectorStore,
)
from tests.integrations.llamaindex.helpers import QUESTION, SEVEN, documents, model
from tests.texts import FERRY, GARDEN, STORY

TEXTS = {STORY, FERRY, GARDEN}
MODES = ("refine", "compact", "tree_summarize", "simple_summarize", "accumulate", "no_text")


class Foreign(CustomLLM):
    """Another maker's model: says what it is told to, and keeps what it read."""

    answers: list[str] = Field(default_factory=list)
    read: list[str] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=8192, num_output=64)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.read.append(prompt)
        return CompletionResponse(text=self.answers.pop(0) if self.answers else "At seven.")

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        whole = self.complete(prompt)
        yield CompletionResponse(text=whole.text, delta=whole.text)

    def has_read(self, *texts: str) -> bool:
        everything = "\n".join(self.read)
        assert "sllm" not in everything
        return all(text in everything for text in texts)


@pytest.fixture
def settings(llm: SharedLLM) -> Iterator[Any]:
    """LlamaIndex's settings with our model, put back afterwards."""
    Settings.llm = model(llm)
    yield Settings
    Settings._llm = None


@pytest.fixture
def index(llm: SharedLLM) -> TreeMemoryIndex:
    return TreeMemoryIndex.from_documents(documents(), llm=model(llm))


@pytest.fixture
def data(tmp_path: Path) -> str:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, text in (("story", STORY), ("ferry", FERRY)):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
    return str(folder)


# -- starter, loading, indexing --------------------------------------------------------------------


def test_starter(settings: Any, data: str) -> None:
    documents = SimpleDirectoryReader(data).load_data()
    index = TreeMemoryIndex.from_documents(documents, show_progress=False)
    query_engine = index.as_query_engine()
    response = query_engine.query("What did the keeper do?")
    assert str(response)
    assert {node.get_content() for node in response.source_nodes} == {STORY, FERRY}
    assert index.llm.engine.llm is settings.llm.engine.llm  # type: ignore[attr-defined]


def test_the_settings_model_answers(index: TreeMemoryIndex, memory: TreeMemory) -> None:
    other = Foreign()
    Settings.llm = other
    try:
        assert str(TreeMemoryIndex(memory).as_query_engine().query(QUESTION)) == "At seven."
        assert other.has_read("Penmor")
        assert str(index.as_query_engine().query(QUESTION)) != "At seven."  # it was given a model
    finally:
        Settings._llm = None


def test_nodes_and_splitters(llm: SharedLLM) -> None:
    text_splitter = SentenceSplitter(chunk_size=64, chunk_overlap=8)
    nodes = text_splitter.get_nodes_from_documents(documents())
    assert len(nodes) > 3
    split = TreeMemoryIndex.from_documents(
        documents(), transformations=[text_splitter], llm=model(llm)
    )
    for index in (
        TreeMemoryIndex(nodes, llm=model(llm)),
        TreeMemoryIndex(nodes=nodes, llm=model(llm)),
        split,
    ):
        assert len(index.memory) == len(nodes)
        assert set(index.ref_doc_info) == {"story", "ferry", "garden"}
        assert index.ref_doc_info["ferry"].metadata == documents()[1].metadata
        found = index.as_retriever(similarity_top_k=50).retrieve(QUESTION)
        assert {node.node.ref_doc_id for node in found} == {"story", "ferry", "garden"}
        assert all("ref_doc_id" not in node.metadata for node in found)
        index.delete_ref_doc("story", delete_from_docstore=True)
        assert set(index.ref_doc_info) == {"ferry", "garden"}
    split.insert(documents()[0])
    split.update_ref_doc(Document(id_="story", text=SEVEN))
    assert len(split.ref_doc_info["story"].node_ids) == 1
    with pytest.raises(SetupError, match="leave transformations out"):
        split.refresh_ref_docs(documents())


def test_managing_documents(index: TreeMemoryIndex) -> None:
    index.insert(Document(id_="boat", text=SEVEN))
    index.insert_nodes([TextNode(id_="tug", text="The tug is blue."), TextNode(text=" ")])
    index.update_ref_doc(
        Document(id_="boat", text="It is green."),
        update_kwargs={"delete_kwargs": {"delete_from_docstore": True}},
    )
    changed = index.refresh_ref_docs([*documents(), Document(id_="boat", text=SEVEN)])
    assert changed == [False, False, False, True]
    index.delete_nodes(["tug"])
    index.delete_ref_doc("boat", delete_from_docstore=True)
    with pytest.raises(SharedLLMError, match="boat"):
        index.delete_ref_doc("boat")
    assert set(index.ref_doc_info) == {"story", "ferry", "garden"}


# -- storing ---------------------------------------------------------------------------------------


def test_storing(index: TreeMemoryIndex, llm: SharedLLM, tmp_path: Path) -> None:
    folder = str(tmp_path / "storage")
    index.set_index_id("vector_index")
    index.storage_context.persist(persist_dir=folder)
    storage_context = StorageContext.from_defaults(persist_dir=folder)
    for given in ({}, {"index_id": "vector_index"}):
        again = load_index_from_storage(storage_context, llm=model(llm), **given)
        assert isinstance(again, TreeMemoryIndex)
        assert again.index_id == "vector_index"
        assert again.ref_doc_info == index.ref_doc_info
    assert again.memory.path != index.memory.path
    again.insert(Document(id_="boat", text=SEVEN))
    again.storage_context.persist(persist_dir=folder)
    assert "boat" in TreeMemoryIndex.load(folder, llm=model(llm)).ref_doc_info
    index.storage_context.persist(persist_dir=folder)
    assert "boat" not in TreeMemoryIndex.load(folder, llm=model(llm)).ref_doc_info


def test_a_storage_that_was_moved_is_no_other_one(
    index: TreeMemoryIndex, llm: SharedLLM, tmp_path: Path
) -> None:
    index.storage_context.persist(persist_dir=tmp_path / "storage")
    (tmp_path / "storage").rename(tmp_path / "moved")
    context = StorageContext.from_defaults(persist_dir=str(tmp_path / "moved"))
    with pytest.raises(SetupError, match=r"TreeMemoryIndex\.load"):
        load_index_from_storage(context)
    moved = TreeMemoryIndex.load(tmp_path / "moved", llm=model(llm))
    assert moved.ref_doc_info == index.ref_doc_info


def test_a_storage_context_of_the_users_own(llm: SharedLLM, tmp_path: Path) -> None:
    storage_context = StorageContext.from_defaults()
    index = TreeMemoryIndex.from_documents(
        documents(), storage_context=storage_context, llm=model(llm)
    )
    storage_context.persist(tmp_path / "storage")
    loaded = load_index_from_storage(
        StorageContext.from_defaults(persist_dir=str(tmp_path / "storage")), llm=model(llm)
    )
    assert loaded.ref_doc_info == index.ref_doc_info
    with pytest.raises(SetupError, match="give each its own StorageContext"):
        TreeMemoryIndex.from_documents([], storage_context=storage_context, llm=model(llm))


def test_vector_stores(llm: SharedLLM, memory: TreeMemory) -> None:
    vector_store = TreeMemoryVectorStore(memory=memory)
    storage_context = StorageContext.from_defaults(vector_store=vector_store)
    boat = [Document(id_="boat", text=SEVEN)]
    index = TreeMemoryIndex.from_documents(boat, storage_context, llm=model(llm))
    assert index.memory is memory
    for one in (
        TreeMemoryIndex.from_vector_store(vector_store, llm=model(llm)),
        TreeMemoryIndex.from_vector_store(vector_store=index.vector_store, llm=model(llm)),
    ):
        assert set(one.ref_doc_info) == {"story", "ferry", "garden", "boat"}
    theirs = VectorStoreIndex.from_vector_store(vector_store, embed_model=MockEmbedding(1))
    found = theirs.as_retriever(similarity_top_k=9).retrieve(QUESTION)
    assert {node.get_content() for node in found} == {*TEXTS, SEVEN}
    year = MetadataFilters(filters=[ExactMatchFilter(key="year", value=1902)])
    (garden,) = theirs.as_retriever(filters=year).retrieve(QUESTION)
    assert garden.node_id == "garden"
    with pytest.raises(SetupError, match="'mmr'"):
        theirs.as_retriever(vector_store_query_mode="mmr").retrieve(QUESTION)
    full = SimpleVectorStore()
    full.add([TextNode(text="a", embedding=[1.0])])
    with pytest.raises(SetupError, match="TreeMemoryVectorStore"):
        TreeMemoryIndex.from_vector_store(full)


# -- ingestion -------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["run", "arun"])
def test_a_pipeline_deletes(llm: SharedLLM, tmp_path: Path, run: str) -> None:
    path = tmp_path / "memory"
    pipeline = IngestionPipeline(
        transformations=[TreeMemoryTransform(memory=path, llm=llm)],
        vector_store=TreeMemoryVectorStore(memory=path, llm=llm),
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )

    def ingest(*given: Document) -> dict[str, str]:
        if run == "run":
            pipeline.run(documents=list(given))
        else:
            asyncio.run(pipeline.arun(documents=list(given)))
        with TreeMemory(path, llm=llm) as memory:
            return {one.id: memory.get(one.id).text for one in memory.list()}

    keeper, tug = Document(text="The keeper is Olga.", doc_id="a"), Document(text=SEVEN, doc_id="b")
    assert ingest(keeper, tug) == {"a": "The keeper is Olga.", "b": SEVEN}
    assert ingest(keeper) == {"a": "The keeper is Olga."}
    assert ingest(Document(text="The keeper is Bo.", doc_id="a")) == {"a": "The keeper is Bo."}
    assert ingest() == {}


# -- querying --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_response_modes(index: TreeMemoryIndex, mode: Any) -> None:
    response = index.as_query_engine(response_mode=mode, similarity_top_k=2).query(QUESTION)
    assert len(response.source_nodes) == 2
    for node in response.source_nodes:
        assert node.get_content() in node.get_content(MetadataMode.LLM)  # whoever reads it next
    streamed = index.as_query_engine(response_mode=mode, streaming="accum" not in mode)
    assert streamed.query(QUESTION)


def test_stages(index: TreeMemoryIndex) -> None:
    retriever = index.as_retriever(similarity_top_k=10)
    response_synthesizer = get_response_synthesizer(llm=index.llm)
    scores = [node.get_score() for node in retriever.retrieve(QUESTION)]
    query_engine = RetrieverQueryEngine(
        retriever=retriever,
        response_synthesizer=response_synthesizer,
        node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=scores[1])],
    )
    response = query_engine.query(QUESTION)
    assert str(response)
    assert len(response.source_nodes) == 2


def test_metadata_filters(index: TreeMemoryIndex) -> None:
    filters = MetadataFilters(
        filters=[
            MetadataFilter(key="year", operator=FilterOperator.GT, value=1900),
            MetadataFilter(key="title", operator=FilterOperator.CONTAINS, value="ferry"),
        ],
        condition=FilterCondition.OR,
    )
    found = index.as_retriever(filters=filters).retrieve(QUESTION)
    assert {node.node_id for node in found} == {"ferry", "garden"}
    response = index.as_query_engine(filters=filters).query(QUESTION)
    assert {node.get_content() for node in response.source_nodes} == {FERRY, GARDEN}


def test_what_tutorials_write_and_an_index_of_ours_has_not(index: TreeMemoryIndex) -> None:
    for given, said in (
        ({"embed_model": MockEmbedding(1)}, "leave embed_model out"),
        ({"service_context": 1}, "give llm="),
        ({"chunk_size": 512}, "leave it out"),
    ):
        with pytest.raises(SetupError, match=said):
            TreeMemoryIndex.from_documents(documents(), **given)
    with pytest.raises(SetupError, match=r"index\.memory\.get"):
        index.docstore.get_document("ferry")
    for make in (index.as_query_engine, index.as_retriever):
        with pytest.raises(SetupError, match="does not know vector_store_query_mode; allowed: "):
            make(vector_store_query_mode="hybrid")


# -- engines and agents around ours ----------------------------------------------------------------


def test_another_model_reads_text(memory: TreeMemory, llm: SharedLLM) -> None:
    index = TreeMemoryIndex(memory, llm=model(llm))
    for mode in ("compact", "refine", "tree_summarize", "simple_summarize", "accumulate"):
        other = Foreign()
        index.as_query_engine(llm=other, response_mode=mode, returns="documents").query(QUESTION)
        assert other.has_read(FERRY, GARDEN)
    synthesizer_of_another = Foreign()
    index.as_query_engine(
        response_synthesizer=get_response_synthesizer(llm=synthesizer_of_another)
    ).query(QUESTION)
    assert synthesizer_of_another.has_read(FERRY)
    own = Foreign()
    RetrieverQueryEngine.from_args(index.as_retriever(), llm=own).query(QUESTION)
    RetrieverQueryEngine.from_args(
        index.as_retriever(), llm=own, node_postprocessors=[TreeMemoryPostprocessor(memory=memory)]
    ).query(QUESTION)
    CitationQueryEngine.from_args(index, llm=own).query(QUESTION)
    assert own.has_read(FERRY)
    with pytest.raises(SetupError, match="given text"):
        index.as_query_engine(llm=MockLLM(), references=True)


@pytest.mark.parametrize("mode", ["context", "condense_plus_context", "condense_question"])
def test_a_reranker_of_another_model_reads_text(index: TreeMemoryIndex, mode: str) -> None:
    other = Foreign(answers=["Doc: 1, Relevance: 9\nDoc: 2, Relevance: 7"])
    rerank = LLMRerank(llm=other, top_n=2)
    response = index.as_query_engine(node_postprocessors=[rerank]).query(QUESTION)
    assert other.has_read(FERRY, GARDEN)
    (call,) = (response.metadata or {})["sharedllm"]
    assert [one["found_as"] for one in call["documents"]] == ["reference"] * 2
    if mode != "condense_question":
        other.answers = ["Doc: 1, Relevance: 9\nDoc: 2, Relevance: 7"]
        index.as_chat_engine(mode, node_postprocessors=[rerank]).chat(QUESTION)
        assert other.has_read(FERRY, GARDEN)


@pytest.mark.parametrize(
    "mode", ["best", "context", "condense_plus_context", "condense_question", "simple"]
)
async def test_chat_engines(index: TreeMemoryIndex, mode: Any) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=1500)
    other = Foreign()
    theirs = {"llm": other, "memory": memory, "returns": "documents"}
    for given in ({}, {"memory": memory}, theirs):
        chat_engine = index.as_chat_engine(chat_mode=mode, verbose=False, **given)
        response = chat_engine.chat("Tell me about the ferry.")
        assert str(response) or mode == "simple"
        streaming_response = chat_engine.stream_chat("What else?")
        assert "".join(streaming_response.response_gen) is not None
        later = await chat_engine.achat("And then?")
        assert later.response is not None
        assert len(chat_engine.chat_history) == 6
        chat_engine.reset()
    assert other.has_read() if mode == "simple" else other.has_read(FERRY)


def test_router_and_sub_questions(index: TreeMemoryIndex) -> None:
    tools = [
        QueryEngineTool.from_defaults(
            query_engine=index.as_query_engine(filters={"id": "ferry"}),
            name="ferry",
            description="about the ferry",
        ),
        QueryEngineTool(
            query_engine=index.as_query_engine(filters={"id": "garden"}),
            metadata=ToolMetadata(name="garden", description="about the garden"),
        ),
    ]
    choice = json.dumps([{"choice": 1, "reason": "it is about the ferry"}])
    router = RouterQueryEngine(
        selector=LLMSingleSelector.from_defaults(llm=Foreign(answers=[choice])),
        query_engine_tools=tools,
        llm=index.llm,
    )
    assert [n.get_content() for n in router.query(QUESTION).source_nodes] == [FERRY]
    asked = json.dumps(
        [{"sub_question": QUESTION, "tool_name": name} for name in ("ferry", "garden")]
    )
    other = Foreign(answers=[f"```json\n{asked}\n```"])
    engine = SubQuestionQueryEngine.from_defaults(
        query_engine_tools=tools,
        question_gen=LLMQuestionGenerator.from_defaults(llm=other),
        llm=other,
        use_async=False,
        verbose=False,
    )
    assert str(engine.query("When does the ferry leave, and who grew poppies?")) == "At seven."
    assert other.has_read("Sub question")


def test_fusion_sees_a_document_once(index: TreeMemoryIndex, memory: TreeMemory) -> None:
    other = Foreign(answers=["When does the ferry go?\nWhat are its hours?"])
    retriever = QueryFusionRetriever(
        [index.as_retriever(), index.as_retriever(similarity_top_k=2)],
        llm=other,
        num_queries=3,
        similarity_top_k=9,
        use_async=False,
    )
    found = retriever.retrieve(QUESTION)
    assert sorted(node.get_content() for node in found) == sorted(TEXTS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # workflows and pydantic
async def test_an_agent_of_another_model(index: TreeMemoryIndex) -> None:
    answers = [
        'Thought: I need the tool.\nAction: search\nAction Input: {"input": "ferry"}',
        "Thought: I can answer without using any more tools.\nAnswer: At seven.",
    ]
    for search in (
        RetrieverTool.from_defaults(index.as_retriever(), name="search", description="Searches."),
        RetrieverTool.from_defaults(
            TreeMemoryRetriever(index.memory), name="search", description="Searches."
        ),
    ):
        other = Foreign(answers=list(answers))
        agent = ReActAgent(tools=[search], llm=other, streaming=False)
        assert "At seven." in str(await agent.run(QUESTION))
        assert other.has_read(FERRY)
    other = Foreign(answers=list(answers))
    asks = QueryEngineTool.from_defaults(
        index.as_query_engine(), name="search", description="Asks."
    )
    agent = ReActAgent(tools=[asks], llm=other, streaming=False)
    assert "At seven." in str(await agent.run(QUESTION))
    assert other.has_read()


def test_evaluation(index: TreeMemoryIndex) -> None:
    response = index.as_query_engine().query(QUESTION)
    for kind in (FaithfulnessEvaluator, RelevancyEvaluator):
        other = Foreign(answers=["YES"] * 9)
        result = kind(llm=other).evaluate_response(query=QUESTION, response=response)  # type: ignore[operator]
        assert result.passing
        assert other.has_read(FERRY)
