"""Documents without a title have a useful name wherever they are cited."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core import Document as IndexDocument

from sharedllm import SharedLLM
from sharedllm_integrations.handles import fenced
from sharedllm_integrations.langchain import (
    ChatSharedLLM,
    TreeMemoryRetriever,
    create_tree_memory_tool,
)
from sharedllm_integrations.llamaindex import TreeMemoryIndex
from sharedllm_integrations.names import TITLE, beginning, file_name, name_of
from tests.integrations.llamaindex_helpers import model
from tests.texts import FERRY, GARDEN

QUESTION = "Who grew blue poppies?"
BEGINNING = "Aunt Odile grew blue poppies behind the chapel. Nobody..."
NAMED: list[tuple[dict[str, Any], str]] = [
    ({}, BEGINNING),
    ({"title": "The garden", "source": "texts/garden.txt"}, "The garden"),
    ({"source": "/home/odile/texts/garden.txt", "page": 3}, "garden.txt"),
    ({"file_path": "/texts/a.txt", "file_name": "garden.txt"}, "garden.txt"),
    ({"file_path": "texts/garden.txt"}, "garden.txt"),
    ({"url": "https://example.org/texts/blue%20poppies.html?page=2#top"}, "blue poppies.html"),
    ({"title": " ", "source": 7}, BEGINNING),
]


@pytest.mark.parametrize(("metadata", "name"), NAMED)
def test_a_name(metadata: dict[str, Any], name: str) -> None:
    assert name_of(metadata, GARDEN) == name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("", ""),
        ("a/b/c.txt", "c.txt"),
        ("C:\\texts\\c.txt", "c.txt"),
        ("/a/folder/", "folder"),
        ("/", "/"),
        ("https://example.org/", "example.org"),
        ("https://example.org/a/b/?q=1", "b"),
        ("an interview with A/B Ltd", "an interview with A/B Ltd"),
        ("Letters, 1871/72", "Letters, 1871/72"),
    ],
)
def test_the_name_of_a_file(source: str, name: str) -> None:
    assert file_name(source) == name


def test_a_beginning_is_one_short_line() -> None:
    assert beginning("  A\n title \n") == "A title"
    assert len(beginning("word " * 50)) <= TITLE
    assert beginning("x" * 500).endswith("...")


@pytest.mark.parametrize(("metadata", "name"), NAMED)
def test_langchain_cites_by_name(llm: SharedLLM, metadata: dict[str, Any], name: str) -> None:
    retriever = TreeMemoryRetriever(llm=llm, k=1)
    document = Document(id="garden", page_content=GARDEN, metadata=metadata)
    retriever.upsert([document])
    (found,) = retriever.invoke(QUESTION)
    chat = ChatSharedLLM(llm=llm, max_tokens=4)
    answer = chat.invoke(f"{found.page_content}\n\n{QUESTION}")
    happened = answer.response_metadata["sharedllm"]
    assert [one["title"] for one in happened["documents"]] == [name]
    assert {one["title"] for one in happened["citations"]} == {name}
    assert retriever.get(["garden"]) == [document]  # what was put in is as it was


@pytest.mark.parametrize(("metadata", "name"), NAMED)
def test_llamaindex_cites_by_name(llm: SharedLLM, metadata: dict[str, Any], name: str) -> None:
    document = IndexDocument(id_="garden", text=GARDEN, metadata=metadata)
    index = TreeMemoryIndex.from_documents([document], llm=model(llm))
    response = index.as_query_engine(citations=True).query(QUESTION)
    assert {node.metadata["title"] for node in response.source_nodes} == {name}
    assert index.ref_doc_info["garden"].metadata == metadata


def test_text_that_no_memory_holds_is_named_too(llm: SharedLLM) -> None:
    answer = ChatSharedLLM(llm=llm, max_tokens=4).invoke(f"{fenced(GARDEN)}\n\n{QUESTION}")
    (document,) = answer.response_metadata["sharedllm"]["documents"]
    assert document["title"] == BEGINNING


def test_a_preview_begins_with_the_name(llm: SharedLLM) -> None:
    retriever = TreeMemoryRetriever(llm=llm, k=1)
    retriever.upsert([Document(page_content=FERRY, metadata={"source": "texts/ferry.txt"})])
    tool = create_tree_memory_tool(retriever._memory, content="handles")
    assert tool.invoke({"query": QUESTION}).startswith("ferry.txt: The ferry to Penmor")
