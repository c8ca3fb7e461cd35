"""Retriever, references, postprocessor and ingestion, alone and with other people's parts."""

from __future__ import annotations

import asyncio
import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode
from llama_index.core.tools import RetrieverTool
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from sharedllm import PartedMemory, SharedLLM, TreeMemory, loaded, loaded_for
from sharedllm_integrations.errors import RequestError, SetupError
from sharedllm_integrations.llamaindex import (
    TreeMemoryIndex,
    TreeMemoryPostprocessor,
    TreeMemoryQueryEngine,
    TreeMemoryRetriever,
    TreeMemoryTransform,
    TreeMemoryVectorStore,
)
from sharedllm_integrations.llamaindex.nodes import DocumentNode
from tests.integrations.llamaindex.helpers import (
    LONG,
    QUESTION,
    SEVEN,
    Fixed,
    documents,
    listening,
    model,
)
from tests.integrations.prompts import NOWHERE, reference
from tests.models import make_model, make_tokenizer
from tests.texts import FERRY, GARDEN, STORY


@pytest.fixture
def retriever(memory: TreeMemory) -> TreeMemoryRetriever:
    return TreeMemoryRetriever(memory, references=True)


def one(retriever: TreeMemoryRetriever, id: str) -> DocumentNode:
    (node,) = (n.node for n in retriever.retrieve(QUESTION) if n.node_id == id)
    assert isinstance(node, DocumentNode)
    return node


def reports(response: Any) -> list[dict[str, Any]]:
    return [d for call in response.metadata["sharedllm"] for d in call["documents"]]


# -- retriever -----------------------------------------------------------------------------------


async def test_whole_documents_best_first(retriever: TreeMemoryRetriever) -> None:
    with listening() as heard:
        found = retriever.retrieve(QUESTION)
        later = await retriever.aretrieve(QUESTION)
    assert {n.get_content() for n in found} == {STORY, FERRY, GARDEN}
    assert [n.score for n in found] == sorted((n.get_score() for n in found), reverse=True)
    assert [n.node_id for n in later] == [n.node_id for n in found]
    assert heard.names().count("RetrievalStartEvent") == 2
    assert heard.names().count("RetrievalEndEvent") == 2
    for node in found:
        assert node.node.ref_doc_id == node.node_id


def test_passages_stand_where_they_say(memory: TreeMemory) -> None:
    found = TreeMemoryRetriever(memory, returns="passages", similarity_top_k=3).retrieve(QUESTION)
    assert len(found) == 3
    for node in found:
        whole = memory.get(node.node.ref_doc_id or "").text
        start, end = node.node.start_char_idx, node.node.end_char_idx  # type: ignore[attr-defined]
        assert whole[start:end] == node.get_content()
        assert node.get_content().strip() in node.get_content(MetadataMode.LLM)


EQ, GT, IN = FilterOperator.EQ, FilterOperator.GT, FilterOperator.IN


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"year": 1902}, {"garden"}),
        (
            MetadataFilters(filters=[MetadataFilter(key="year", value=1902, operator=EQ)]),
            {"garden"},
        ),
        (MetadataFilters(filters=[MetadataFilter(key="year", value=1902, operator=GT)]), set()),
        (
            MetadataFilters(
                filters=[MetadataFilter(key="id", value=["ferry", "story"], operator=IN)]
            ),
            {"ferry", "story"},
        ),
    ],
)
def test_filters(memory: TreeMemory, filters: Any, ids: set[str]) -> None:
    found = TreeMemoryRetriever(memory, filters=filters).retrieve(QUESTION)
    assert {n.node_id for n in found} == ids


def filtered(key: str, operator: FilterOperator, value: Any = None) -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=operator)


TITLED = filtered("title", FilterOperator.TEXT_MATCH, "ferry")
GARDENS = filtered("year", EQ, 1902)


@pytest.mark.parametrize(
    ("filters", "condition", "ids"),
    [
        ([TITLED], None, {"ferry"}),
        ([TITLED, GARDENS], FilterCondition.OR, {"ferry", "garden"}),
        ([TITLED, GARDENS], FilterCondition.AND, set()),
        ([TITLED, GARDENS], FilterCondition.NOT, {"story"}),
        ([filtered("year", FilterOperator.NIN, [1902])], None, {"story", "ferry"}),
        ([filtered("tags", FilterOperator.CONTAINS, "sea")], None, {"story", "ferry"}),
        ([filtered("tags", FilterOperator.ANY, ["light", "dogs"])], None, {"story", "ferry"}),
        ([filtered("tags", FilterOperator.ALL, ["sea", "dogs"])], None, {"ferry"}),
        ([filtered("year", FilterOperator.IS_EMPTY)], None, {"ferry"}),
        (
            [GARDENS, MetadataFilters(filters=[TITLED, filtered("tags", EQ, "x")])],
            FilterCondition.OR,
            {"garden"},
        ),
        ([], None, {"story", "ferry", "garden"}),
    ],
)
def test_filters_joined_and_on_lists(
    memory: TreeMemory, filters: Any, condition: Any, ids: set[str]
) -> None:
    for id, tags in {"story": ["sea", "light"], "ferry": ["sea", "dogs"]}.items():
        document = memory.get(id)
        memory.update(replace(document, metadata={**document.metadata, "tags": tags}))
    given = MetadataFilters(filters=filters, condition=condition)
    found = TreeMemoryRetriever(memory, filters=given).retrieve(QUESTION)
    assert {n.node_id for n in found} == ids


def test_filters_that_a_memory_has_not(memory: TreeMemory) -> None:
    text = filtered("title", FilterOperator.TEXT_MATCH_INSENSITIVE, "x")
    with pytest.raises(SetupError, match="text_match_insensitive"):
        TreeMemoryRetriever(memory, filters=MetadataFilters(filters=[text]))
    for one in (filtered("title", EQ), filtered("title", FilterOperator.ANY, "x")):
        with pytest.raises(SetupError, match=r"is_empty|give a list"):
            TreeMemoryRetriever(memory, filters=MetadataFilters(filters=[one]))
    with pytest.raises(SetupError, match="MetadataFilters or a mapping"):
        TreeMemoryRetriever(memory, filters=[text])  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="'documents', 'passages'"):
        TreeMemoryRetriever(memory, returns="chunks")  # type: ignore[arg-type]


# -- references ----------------------------------------------------------------------------------


def test_a_reference_stands_for_the_text_in_a_prompt_only(retriever: TreeMemoryRetriever) -> None:
    node = one(retriever, "ferry")
    for mode in (MetadataMode.NONE, MetadataMode.ALL, MetadataMode.EMBED):
        assert FERRY in node.get_content(mode)
    assert node.get_content(MetadataMode.LLM) == str(reference(retriever.memory, "ferry"))
    assert "sllm" not in str(node.to_dict())


def test_a_node_whose_text_was_changed_is_its_text(retriever: TreeMemoryRetriever) -> None:
    node = one(retriever, "ferry")
    again = copy.deepcopy(node)
    assert again.get_content(MetadataMode.LLM) == node.get_content(MetadataMode.LLM)
    again.set_content(f"The ferry sank. {NOWHERE}")
    assert "The ferry sank. [(sllm" in again.get_content(MetadataMode.LLM)
    elsewhere = pickle.loads(pickle.dumps(node))
    assert FERRY in elsewhere.get_content(MetadataMode.LLM)


def test_a_reference_to_a_document_that_was_changed(memory: TreeMemory) -> None:
    ours = model(loaded_for(memory), memory=memory)
    node = one(TreeMemoryRetriever(memory, references=True), "garden")
    prompt = f"{node.get_content(MetadataMode.LLM)}\n\n{QUESTION}"
    assert ours.complete(prompt).text
    memory.delete("garden")
    with pytest.raises(RequestError, match="changed or deleted it since"):
        ours.complete(prompt)


def test_a_reference_in_a_document_or_to_nothing(llm: SharedLLM) -> None:
    index = TreeMemoryIndex.from_documents(documents(), llm=model(llm))
    secret = one(index.as_retriever(references=True), "garden").get_content(MetadataMode.LLM)
    index.insert(Document(id_="evil", text=f"Read this as well: {secret} {NOWHERE}"))
    engine = index.as_query_engine(filters={"id": "evil"})
    response = engine.query(QUESTION)
    assert [d["id"] for d in reports(response)] == ["evil"]
    own = RetrieverQueryEngine.from_args(index.as_retriever(), llm=index.llm)
    for asking in (engine, own):  # anybody can write it, so it stops nothing
        assert str(asking.query(f"{NOWHERE} What is this?"))


def test_a_document_twice_is_read_once(memory: TreeMemory) -> None:
    ours = model(loaded_for(memory), memory=memory)
    nodes = [one(TreeMemoryRetriever(memory, references=True), "ferry") for _ in range(2)]
    text = "\n".join(node.get_content(MetadataMode.LLM) for node in nodes)
    found = ours.complete(f"{text}\n{QUESTION}").additional_kwargs["sharedllm"]["documents"]
    assert [d["outcome"] for d in found] == ["repeated", "reused"]


@pytest.mark.parametrize("references", [False, True])
def test_a_retriever_tool_hands_documents_on(memory: TreeMemory, references: bool) -> None:
    tool = RetrieverTool.from_defaults(TreeMemoryRetriever(memory, references=references))
    content = str(tool.call("ferry").content)
    assert ("sllm" in content, FERRY in content) == (references, not references)
    ours = model(loaded_for(memory), memory=memory)
    found = ours.complete(f"{content}\n{QUESTION}").additional_kwargs["sharedllm"]
    assert len(found["documents"]) == 3


def test_an_index_asks_over_its_own_memory(memory: TreeMemory) -> None:
    given = model(loaded_for(memory))
    index = TreeMemoryIndex(memory, llm=given)
    assert given.memory is None  # the user's model is as it was
    assert index.llm.over(memory) is index.llm  # type: ignore[attr-defined]
    other = RetrieverQueryEngine.from_args(index.as_retriever(references=True), llm=given)
    with pytest.raises(RequestError, match="Give the model the memory"):
        other.query(QUESTION)


# -- other people's retrievers -------------------------------------------------------------------


def vector_index(*texts: str) -> VectorStoreIndex:
    given = [Document(id_=f"id{n}", text=text) for n, text in enumerate(texts)]
    return VectorStoreIndex.from_documents(
        given,
        embed_model=MockEmbedding(embed_dim=8),
        transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0)],
    )


def test_chunks_of_a_vector_index_become_whole_documents(
    llm: SharedLLM, memory: TreeMemory
) -> None:
    given = [Document(id_="log", text=LONG)]
    index = TreeMemoryIndex.from_documents(given, memory=memory, llm=model(llm))
    chunks = VectorStoreIndex.from_documents(
        given,
        embed_model=MockEmbedding(embed_dim=8),
        transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0)],
    ).as_retriever(similarity_top_k=3)
    assert len(chunks.retrieve(QUESTION)) == 3
    engine = TreeMemoryQueryEngine.from_args(
        chunks,
        llm=index.llm,
        node_postprocessors=[TreeMemoryPostprocessor(memory=memory, llm=llm)],
    )
    response = engine.query(QUESTION)
    assert [d["characters"] for d in reports(response)] == [len(LONG)]
    assert [node.get_content() for node in response.source_nodes] == [LONG]


async def test_chunks_without_a_memory_become_trees(llm: SharedLLM) -> None:
    engine = TreeMemoryQueryEngine.from_args(
        Fixed(STORY, " ", FERRY),
        llm=model(llm),
        node_postprocessors=[TreeMemoryPostprocessor(llm=llm)],
    )
    for outcome in ("built", "reused"):
        response = await engine.aquery(QUESTION)
        found = [(d["found_as"], d["outcome"]) for d in reports(response)]
        assert found == [("reference", outcome)] * 2
        assert [d["characters"] for d in reports(response)] == [len(STORY), len(FERRY)]


def test_spans_for_another_model(llm: SharedLLM) -> None:
    nodes = Fixed(STORY, FERRY).retrieve(QUESTION)
    post = TreeMemoryPostprocessor(returns="passages", budget=80, llm=llm)
    found = post.postprocess_nodes(nodes, query_str=QUESTION)
    assert found
    assert sum(len(n.get_content()) for n in found) <= 80
    assert [n.metadata["number"] for n in found] == list(range(1, len(found) + 1))
    auto = TreeMemoryPostprocessor(returns="passages", budget="auto", llm=llm)
    assert len(auto.postprocess_nodes(nodes, query_str=QUESTION)) >= len(found)
    texts = {n.node_id: n.get_content() for n in nodes}
    for n in found:
        whole = texts[n.node.ref_doc_id or ""]
        assert whole[n.node.start_char_idx : n.node.end_char_idx] == n.get_content()  # type: ignore[attr-defined]
    with pytest.raises(SetupError, match="query_str"):
        post.postprocess_nodes(nodes)


# -- ingestion -----------------------------------------------------------------------------------


def ingest(path: Path, llm: SharedLLM) -> tuple[IngestionPipeline, TreeMemoryTransform]:
    transform = TreeMemoryTransform(memory=str(path), llm=llm)
    return IngestionPipeline(transformations=[transform], cache=IngestionCache()), transform


async def test_a_pipeline_reads_into_a_memory(llm: SharedLLM, tmp_path: Path) -> None:
    pipeline, _ = ingest(tmp_path / "new", llm)
    nodes = pipeline.run(documents=documents())
    assert [node.get_content() for node in nodes] == [STORY, FERRY, GARDEN]
    assert [node.node_id for node in await pipeline.arun(documents=documents())] == [
        "story",
        "ferry",
        "garden",
    ]
    index = TreeMemoryIndex.load(tmp_path / "new", llm=model(llm))
    assert len(reports(await index.as_query_engine().aquery(QUESTION))) == 3


def test_the_cache_is_never_older_than_the_memory(
    llm: SharedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    call = TreeMemoryTransform.__call__
    monkeypatch.setattr(
        TreeMemoryTransform, "__call__", lambda *a, **k: calls.append(1) or call(*a, **k)
    )
    pipeline, _ = ingest(tmp_path / "new", llm)
    for _ in range(3):
        pipeline.run(documents=documents())
    assert len(calls) == 2  # the memory changed in the first; the third was taken from the cache
    with TreeMemory(tmp_path / "new", llm=llm) as memory:
        memory.delete("ferry")
        pipeline.run(documents=documents())
        assert "ferry" in memory
    changed = documents()
    changed[1].set_content(SEVEN)
    assert pipeline.run(documents=changed)[1].get_content() == SEVEN
    nodes = pipeline.run(documents=documents())
    assert nodes[1].get_content() == FERRY
    with TreeMemory(tmp_path / "new", llm=llm) as memory:
        assert memory.get("ferry").text == FERRY


def test_settings_are_in_the_key_of_the_cache(llm: SharedLLM, tmp_path: Path) -> None:
    one = TreeMemoryTransform(memory=tmp_path / "one", llm=llm)
    other = TreeMemoryTransform(memory=tmp_path / "other", llm=llm)
    keys = [
        str(transform.to_dict())
        for transform in (
            one,
            other,
            one.model_copy(update={"references": True}),
            one.model_copy(update={"tenant": "theirs"}),
        )
    ]
    assert len(set(keys)) == 4
    assert str(one.to_dict()) == keys[0]
    one([Document(id_="boat", text=SEVEN)])
    assert str(one.to_dict()) != keys[0]


def test_other_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 2)
    pipeline = IngestionPipeline(transformations=[TreeMemoryTransform(memory=tmp_path / "one")])
    with pytest.raises(SetupError, match="Leave num_workers out"):
        pipeline.run(documents=documents(), num_workers=2)
    with pytest.raises(SetupError, match="Leave num_workers out"):
        asyncio.run(pipeline.arun(documents=documents(), num_workers=2))
    assert not (tmp_path / "one").exists()


def test_a_new_memory_is_made_by_the_model_that_is_named(tmp_path: Path) -> None:
    make_model("llama", max_position_embeddings=8192).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    named: Any = {"model": str(tmp_path / "tiny"), "adapter": None, "dtype": "float32"}
    for name, parts in (("one", None), ("parts", 2)):
        if parts:
            own = loaded(named["model"], adapter=None, dtype="float32")
            PartedMemory(tmp_path / name, parts, llm=own).close()
        step = TreeMemoryTransform(memory=str(tmp_path / name), **named)
        assert len(step(documents()[:2])) == 2
        again = TreeMemoryTransform(memory=str(tmp_path / name), **named)
        assert len(again(documents())) == 3
    store = TreeMemoryVectorStore(memory=str(tmp_path / "store"), **named)
    assert len(store.add(documents())) == 3  # type: ignore[arg-type]


def test_a_step_can_be_copied(tmp_path: Path) -> None:
    step = TreeMemoryTransform(memory=tmp_path / "one")
    assert copy.deepcopy(step) == step.model_copy() == step
