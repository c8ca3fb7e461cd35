"""Pages become whole documents again, and messages lead to the core's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from llama_index.core.schema import Document as LlamaDocument

from sharedllm import SharedLLM
from sharedllm_integrations import answers
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain import ChatSharedLLM, TreeMemoryRetriever
from sharedllm_integrations.langchain import answer_of as answer_of_message
from sharedllm_integrations.langchain import whole_documents as whole_of_loader
from sharedllm_integrations.llamaindex import (
    LlamaIndexSharedLLM,
    TreeMemoryIndex,
)
from sharedllm_integrations.llamaindex import answer_of as answer_of_response
from sharedllm_integrations.llamaindex import whole_documents as whole_of_reader

PAGES = (
    "The ferry of Penmor had two keep-",
    "ers. Ansel Byrd lit the lamp at dusk.",
    "A brass telescope stood beside the lamp. Mirelle had sent it from Zurich.",
)


def test_pages_of_a_loader() -> None:
    numbers = (0, 1, 3)  # page 3 had no text, and the loader left it out
    pages = [
        Document(page_content=text, metadata={"source": "a.pdf", "page": n, "page_label": "x"})
        for text, n in zip(PAGES, numbers, strict=True)
    ]
    note = Document(page_content="A note.", metadata={"source": "note.txt"}, id="n")
    other = Document(page_content="Alone.", metadata={"source": "b.pdf", "page": 0, "title": "B"})
    whole, kept, alone = whole_of_loader([pages[0], note, *pages[1:], other])
    assert kept is note
    assert (alone.id, alone.metadata) == ("b.pdf", {"source": "b.pdf", "title": "B"})
    assert (whole.id, whole.metadata) == ("a.pdf", {"source": "a.pdf"})
    assert whole.page_content.split("\f") == [
        "The ferry of Penmor had two\n",
        "keepers. Ansel Byrd lit the lamp at dusk.\n",
        "",
        PAGES[2],
    ]


def test_pages_of_a_reader() -> None:
    pages = [
        LlamaDocument(
            text=text,
            metadata={"file_path": "a.pdf", "page_label": str(n)},
            excluded_llm_metadata_keys=["file_path"],
        )
        for n, text in enumerate(PAGES)
    ]
    note = LlamaDocument(text="A note.", metadata={"file_path": "note.txt"})
    whole, kept = whole_of_reader([*pages, note])
    assert kept is note
    assert (whole.id_, whole.metadata) == ("a.pdf", {"file_path": "a.pdf"})
    assert whole.excluded_llm_metadata_keys == ["file_path"]
    assert whole.text.count("\f") == 2


def test_a_chain_leads_to_the_page_of_a_pdf(default_llm: SharedLLM, tmp_path: Path) -> None:
    file = tmp_path / "ferry.pdf"
    file.touch()
    metadata = {"source": str(file), "title": "The ferry"}
    pages = [
        Document(page_content=text, metadata={**metadata, "page": n})
        for n, text in enumerate(PAGES)
    ]
    retriever = TreeMemoryRetriever(memory=tmp_path / "memory", llm=default_llm)
    retriever.upsert(whole_of_loader(pages))
    llm = ChatSharedLLM(llm=default_llm, memory=tmp_path / "memory", max_tokens=8)
    (found,) = retriever.invoke("Who sent the telescope?")
    message = llm.invoke(f"{found.page_content}\n\nWho sent the telescope?")
    cited = message.response_metadata["sharedllm"]["citations"]
    assert {one["page"] for one in cited} <= {1, 2, 3}
    answer = answer_of_message(message)
    assert answer.text == message.content
    assert "ferry.pdf#page=" in answer.to_html(tmp_path / "page.html")
    chunks = list(llm.stream(f"{found.page_content}\n\nWho sent the telescope?"))
    assert answer_of_message(sum(chunks[1:], chunks[0])).citations == answer.citations
    passages = TreeMemoryRetriever(memory=tmp_path / "memory", returns="passages")
    assert passages.invoke("telescope")[0].metadata["page_label"] in ("1", "2", "3")
    with pytest.raises(SetupError, match="not written by a SharedLLM"):
        answer_of_message(AIMessage("Hello"))
    answers._kept.clear()
    with pytest.raises(SetupError, match="the last 64"):
        answer_of_message(message)


def test_an_engine_leads_to_the_page_of_a_pdf(default_llm: SharedLLM, tmp_path: Path) -> None:
    (tmp_path / "ferry.pdf").touch()
    metadata = {"file_path": str(tmp_path / "ferry.pdf")}
    pages = [
        LlamaDocument(text=text, metadata={**metadata, "page_label": str(n)})
        for n, text in enumerate(PAGES)
    ]
    llm = LlamaIndexSharedLLM(llm=default_llm, max_tokens=8)
    index = TreeMemoryIndex.from_documents(whole_of_reader(pages), llm=llm)
    response = index.as_query_engine(citations=True).query("Who sent the telescope?")
    assert {one.metadata["page_label"] for one in response.source_nodes} <= {"1", "2", "3"}
    assert "ferry.pdf#page=" in answer_of_response(response).to_html(tmp_path / "page.html")
    streamed = index.as_query_engine(citations=True, streaming=True).query("Who sent it?")
    text = "".join(streamed.response_gen)
    assert answer_of_response(streamed).text == text.strip()
    assert answer_of_response(llm.complete("Hello")).citations == ()
    with pytest.raises(SetupError, match="not written by a SharedLLM"):
        answer_of_response(object())
