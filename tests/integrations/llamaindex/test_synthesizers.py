"""All response synthesizers of LlamaIndex, at small and large windows: documents arrive whole."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core import get_response_synthesizer
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import MetadataMode

from sharedllm import SharedLLM
from sharedllm_integrations.llamaindex import TreeMemoryIndex, TreeMemoryQueryEngine
from tests.integrations.llamaindex.helpers import LONG, QUESTION, Fixed, documents, model
from tests.texts import FERRY, GARDEN, STORY

MODES = [
    ResponseMode.REFINE,
    ResponseMode.COMPACT,
    ResponseMode.SIMPLE_SUMMARIZE,
    ResponseMode.TREE_SUMMARIZE,
    ResponseMode.ACCUMULATE,
    ResponseMode.COMPACT_ACCUMULATE,
]
ALONE = (ResponseMode.REFINE, ResponseMode.ACCUMULATE)  # one call of the model a document
WINDOWS = [4096, 131_072]
TEXTS = {LONG, STORY, FERRY, GARDEN}


@pytest.fixture(scope="module")
def index(llm: SharedLLM) -> TreeMemoryIndex:
    given = documents()
    given.append(given[0].model_copy(update={"id_": "log", "text_resource": None}))
    given[-1].set_content(LONG)
    return TreeMemoryIndex.from_documents(given, llm=model(llm, max_tokens=2))


def lengths(metadata: dict[str, Any]) -> list[int]:
    """Characters of the documents that the model was given, one list for all calls."""
    return sorted(one["characters"] for call in metadata["sharedllm"] for one in call["documents"])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", MODES)
def test_every_document_arrives_whole(
    index: TreeMemoryIndex, llm: SharedLLM, mode: ResponseMode, window: int
) -> None:
    small = model(llm, max_tokens=2, context_window=window)
    engine = index.as_query_engine(llm=small, response_mode=mode, similarity_top_k=4)
    response = engine.query(QUESTION)
    assert lengths(response.metadata or {}) == sorted(map(len, TEXTS))
    assert len((response.metadata or {})["sharedllm"]) == (4 if mode in ALONE else 1)
    assert {node.get_content() for node in response.source_nodes} == TEXTS
    outcomes = {
        one["outcome"]
        for call in (response.metadata or {})["sharedllm"]
        for one in call["documents"]
    }
    assert outcomes == {"reused"}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", MODES)
async def test_asynchronously(
    index: TreeMemoryIndex, llm: SharedLLM, mode: ResponseMode, window: int
) -> None:
    small = model(llm, max_tokens=2, context_window=window)
    engine = index.as_query_engine(llm=small, response_mode=mode, use_async=True)
    response = await engine.aquery(QUESTION)
    assert lengths(response.metadata or {}) == sorted(map(len, TEXTS))
    whole = index.as_query_engine(llm=small, response_mode=mode)
    assert str(await asyncio.to_thread(whole.query, QUESTION)) == str(response)


@pytest.mark.parametrize("mode", [mode for mode in MODES if "accumulate" not in mode.value])
async def test_streaming(index: TreeMemoryIndex, mode: ResponseMode) -> None:
    whole = index.as_query_engine(response_mode=mode).query("Who keeps the lamp?")
    engine = index.as_query_engine(response_mode=mode, streaming=True)
    stream = engine.query("Who keeps the lamp?")
    assert isinstance(stream, StreamingResponse)
    assert "".join(stream.response_gen).strip() == str(whole).strip()
    assert lengths(stream.metadata or {}) == sorted(map(len, TEXTS))
    later = await engine.aquery("Who keeps the lamp?")
    assert isinstance(later, AsyncStreamingResponse)
    text = ""
    async for token in later.response_gen:
        text += token
    assert text.strip() == str(whole).strip()
    assert lengths(later.metadata or {}) == sorted(map(len, TEXTS))


@pytest.mark.parametrize("mode", MODES)
def test_plain_texts_of_any_retriever_arrive_whole(llm: SharedLLM, mode: ResponseMode) -> None:
    """LlamaIndex would cut them to its window; that of the model is the trees'."""
    ours = model(llm, max_tokens=2)
    engine = TreeMemoryQueryEngine.from_args(Fixed(LONG), llm=ours, response_mode=mode)
    metadata = engine.query(QUESTION).metadata or {}
    assert {one["found_as"] for one in metadata["sharedllm"][0]["documents"]} == {"pasted"}
    assert sum(lengths(metadata)) > len(LONG) - 1400  # what stands at the edges is running text


def test_a_small_window_cuts_plain_texts_but_no_references(
    index: TreeMemoryIndex, llm: SharedLLM
) -> None:
    """Why references are there: this is what LlamaIndex does to texts that are longer."""
    small = model(llm, max_tokens=2, context_window=4096, long_text=1000)
    mode = ResponseMode.SIMPLE_SUMMARIZE
    plain = TreeMemoryQueryEngine.from_args(Fixed(LONG), llm=small, response_mode=mode)
    assert sum(lengths(plain.query(QUESTION).metadata or {})) < len(LONG) - 1400
    whole = index.as_query_engine(llm=small, response_mode=mode, filters={"id": "log"})
    assert lengths(whole.query(QUESTION).metadata or {}) == [len(LONG)]


def test_a_synthesizer_of_the_users_own(index: TreeMemoryIndex) -> None:
    own = get_response_synthesizer(llm=index.llm, response_mode=ResponseMode.TREE_SUMMARIZE)
    response = index.as_query_engine(response_synthesizer=own).query(QUESTION)
    assert lengths(response.metadata or {}) == sorted(map(len, TEXTS))
    nodes = index.as_retriever(references=True).retrieve(QUESTION)
    assert str(own.synthesize(QUESTION, nodes=nodes)) == str(response)


async def test_blocks_of_synthesizers_that_hand_blocks_on(index: TreeMemoryIndex) -> None:
    node = index.as_retriever(filters={"id": "ferry"}, references=True).retrieve(QUESTION)[0].node
    (block,) = node.get_content_blocks(MetadataMode.LLM)
    assert block.text == node.get_content(MetadataMode.LLM)  # type: ignore[attr-defined]
    assert node.get_content_blocks()[-1].text == FERRY  # type: ignore[attr-defined]
    engine = index.as_query_engine(multimodal=True, filters={"id": "ferry"})
    response = await engine.aquery(QUESTION)
    assert lengths(response.metadata or {}) == [len(FERRY)]


@pytest.mark.parametrize("mode", [ResponseMode.NO_TEXT, ResponseMode.CONTEXT_ONLY])
def test_modes_without_an_answer(index: TreeMemoryIndex, mode: ResponseMode) -> None:
    response = index.as_query_engine(response_mode=mode).query(QUESTION)
    assert (response.metadata or {})["sharedllm"] == []
    assert {node.get_content() for node in response.source_nodes} == TEXTS
    assert "sllm" not in str(response)
    given = {text for text in TEXTS if text in str(response)}
    assert given == (TEXTS if mode == ResponseMode.CONTEXT_ONLY else set())
