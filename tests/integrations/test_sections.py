"""Sections: `section` in the settings, calls and retrievers of both frameworks, and in metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import ValidationError

from sharedllm import MemoryDocument, SectionError, SharedLLM, TreeMemory
from sharedllm_integrations import langchain, llamaindex
from sharedllm_integrations.errors import SetupError
from tests.integrations.asking import ask
from tests.integrations.prompts import enclosed, retrieved
from tests.texts import BOOK, FERRY, STORY

QUESTION = "When does the ferry leave?"
CHAPTER = "CHAPTER II. The Boat"


@pytest.fixture(params=[128, 3])
def books(request: pytest.FixtureRequest, llm: SharedLLM, tmp_path: Path) -> TreeMemory:
    """A memory of a book and a text without sections; the second time they count as many."""
    memory = TreeMemory(tmp_path / "books", llm=llm, candidates=request.param)
    memory.add(
        [
            MemoryDocument(id="book", text=BOOK, title="A book"),
            MemoryDocument(id="ferry", text=FERRY, title="The ferry"),
        ]
    )
    return memory


def sections(run: Any) -> set[str]:
    return {citation["section"] for citation in run.details["citations"]}


def test_a_document_of_the_prompt_is_searched_in_its_section(
    llm: SharedLLM, books: TreeMemory
) -> None:
    prompt = f"{retrieved(books, 'ferry')}\n{retrieved(books, 'book')}\n\n{QUESTION}"
    assert sections(ask(llm, prompt, memory=books, section="chapter 2")) == {CHAPTER}
    given = f"{enclosed(BOOK)}\n\n{QUESTION}"
    assert sections(ask(llm, given, section="chapter 2")) == {CHAPTER}
    assert sections(ask(llm, "Hello", section="chapter 2")) == set()  # nothing to search
    with pytest.raises(SectionError, match=r"'CHAPTER I. The Rock'"):
        ask(llm, prompt, memory=books, section="chapter 9")


def test_a_whole_memory_is_searched_in_a_section(llm: SharedLLM, books: TreeMemory) -> None:
    for filter in (None, {"id": "book"}):
        own = {"memory": books, "reads": "memory", "filter": filter, "section": "the boat"}
        assert sections(ask(llm, QUESTION, **own)) == {CHAPTER}


def test_langchain(llm: SharedLLM, books: TreeMemory) -> None:
    chat = langchain.ChatSharedLLM(llm=llm, memory=books, reads="memory", max_tokens=4)
    prompt = [HumanMessage(QUESTION)]
    told = chat.invoke(prompt, section="chapter 2").response_metadata["sharedllm"]["citations"]
    assert {one["section"] for one in told} == {CHAPTER}
    assert chat.invoke(prompt).response_metadata["sharedllm"]["citations"]
    passages = langchain.TreeMemoryRetriever(memory=books, returns="passages", section="chapter 2")
    for passage in passages.invoke("the lamp"):
        assert passage.metadata["section"] == CHAPTER
    found = passages.invoke("the lamp", section="chapter 3")
    assert {one.metadata["section"] for one in found} == {"CHAPTER III. The Chapel"}
    plain = langchain.TreeMemoryRetriever(memory=books, section="chapter 2").invoke(QUESTION)
    assert [one.id for one in plain] == ["book"]
    tool = langchain.create_tree_memory_tool(books, content="passages", section="chapter 2")
    assert "ferry" in tool.invoke({"query": QUESTION})
    compressor = langchain.TreeMemoryCompressor(llm=llm, budget=200, section="chapter 2")
    given = [Document(BOOK, metadata={"title": "b"}), Document(STORY)]
    for document in compressor.compress_documents(given, QUESTION):
        assert document.metadata["section"] == CHAPTER
        assert document.metadata["title"] == "b"


def test_llamaindex(llm: SharedLLM, books: TreeMemory) -> None:
    model = llamaindex.LlamaIndexSharedLLM(llm=llm, memory=books, reads="memory", max_tokens=4)
    told = model.complete(QUESTION, section="chapter 2").additional_kwargs["sharedllm"]
    assert {one["section"] for one in told["citations"]} == {CHAPTER}
    index = llamaindex.TreeMemoryIndex(books)
    nodes = index.as_retriever(returns="passages", section="chapter 2").retrieve("the lamp")
    assert {one.metadata["section"] for one in nodes} == {CHAPTER}
    assert "section" in nodes[0].node.get_content("llm")  # type: ignore[arg-type]
    post = llamaindex.TreeMemoryPostprocessor(
        llm=llm, returns="passages", budget=200, section="chapter 2"
    )
    given = [NodeWithScore(node=TextNode(text=text)) for text in (BOOK, STORY)]
    cut = post.postprocess_nodes(given, query_str=QUESTION)
    assert {one.metadata["section"] for one in cut} == {CHAPTER}


@pytest.mark.parametrize("section", ["", 3, ["a"]])
def test_what_names_no_section_is_refused(llm: SharedLLM, books: TreeMemory, section: Any) -> None:
    for make in (langchain.ChatSharedLLM, langchain.TreeMemoryRetriever):
        with pytest.raises(ValidationError, match="section"):
            make(memory=books, section=section)
    with pytest.raises(SetupError, match="section is"):
        langchain.ChatSharedLLM(llm=llm, memory=books).invoke("x", section=section)
    if section != "":
        with pytest.raises(SetupError, match="section is"):
            llamaindex.TreeMemoryRetriever(books, section=section)


def test_sections_that_are_not_there(llm: SharedLLM, books: TreeMemory) -> None:
    for make in (langchain.TreeMemoryRetriever(memory=books, section="chapter 9").invoke,
                 llamaindex.TreeMemoryRetriever(books, section="chapter 9").retrieve):  # fmt: skip
        with pytest.raises(SectionError, match="nearest"):
            make(QUESTION)
