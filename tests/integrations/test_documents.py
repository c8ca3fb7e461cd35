"""Documents have a useful name wherever they are cited, and pages become whole documents again."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from llama_index.core import Document as IndexDocument

from sharedllm import SharedLLM, TreeMemory
from sharedllm.memory.hits import Hit
from sharedllm_integrations import report
from sharedllm_integrations.documents import TITLE, beginning, file_name, name_of
from sharedllm_integrations.errors import DocumentValueError, SetupError
from sharedllm_integrations.langchain import (
    ChatSharedLLM,
    TreeMemoryRetriever,
    answer_of,
    create_tree_memory_tool,
)
from sharedllm_integrations.langchain import whole_documents as whole_of_loader
from sharedllm_integrations.langchain.documents import passage as passage_of_langchain
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM, TreeMemoryIndex
from sharedllm_integrations.llamaindex import whole_documents as whole_of_reader
from sharedllm_integrations.llamaindex.nodes import passage as passage_of_llamaindex
from tests.integrations.llamaindex.helpers import model
from tests.integrations.prompts import enclosed
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
    chat = ChatSharedLLM(llm=llm, memory=retriever._memory, max_tokens=4)
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
    answer = ChatSharedLLM(llm=llm, max_tokens=4).invoke(f"{enclosed(GARDEN)}\n\n{QUESTION}")
    (document,) = answer.response_metadata["sharedllm"]["documents"]
    assert document["title"] == BEGINNING


def test_a_preview_begins_with_the_name(llm: SharedLLM) -> None:
    retriever = TreeMemoryRetriever(llm=llm, k=1)
    retriever.upsert([Document(page_content=FERRY, metadata={"source": "texts/ferry.txt"})])
    tool = create_tree_memory_tool(retriever._memory, content="references")
    assert tool.invoke({"query": QUESTION}).startswith("ferry.txt: The ferry to Penmor")


# -- pages ---------------------------------------------------------------------------------------

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
        IndexDocument(
            text=text,
            metadata={"file_path": "a.pdf", "page_label": str(n)},
            excluded_llm_metadata_keys=["file_path"],
        )
        for n, text in enumerate(PAGES)
    ]
    note = IndexDocument(text="A note.", metadata={"file_path": "note.txt"})
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
    answer = answer_of(message)
    assert answer.text == message.content
    assert "ferry.pdf#page=" in answer.to_html(tmp_path / "page.html")
    chunks = list(llm.stream(f"{found.page_content}\n\nWho sent the telescope?"))
    assert answer_of(sum(chunks[1:], chunks[0])).citations == answer.citations
    passages = TreeMemoryRetriever(memory=tmp_path / "memory", returns="passages")
    assert passages.invoke("telescope")[0].metadata["page_label"] in ("1", "2", "3")
    with pytest.raises(SetupError, match="not written by a SharedLLM"):
        answer_of(AIMessage("Hello"))
    report._kept.clear()
    with pytest.raises(SetupError, match="the last 64"):
        answer_of(message)


@pytest.mark.parametrize(
    ("end_page", "labels"),
    [(None, {"page_label": "3"}), (4, {"page_label": "3", "end_page_label": "4"})],
)
def test_a_passage_says_on_which_pages_it_stands(end_page: int | None, labels: Any) -> None:
    place = {"char_start": 0, "char_end": 3, "score": 1.0, "page": 3, "end_page": end_page}
    hit = Hit(id="a", title="T", source="a.pdf", metadata={}, text="One", **place)
    for metadata in (passage_of_langchain(hit).metadata, passage_of_llamaindex(hit).metadata):
        assert {k: v for k, v in metadata.items() if k.endswith("page_label")} == labels


def test_an_engine_leads_to_the_page_of_a_pdf(default_llm: SharedLLM, tmp_path: Path) -> None:
    (tmp_path / "ferry.pdf").touch()
    metadata = {"file_path": str(tmp_path / "ferry.pdf")}
    pages = [
        IndexDocument(text=text, metadata={**metadata, "page_label": str(n)})
        for n, text in enumerate(PAGES)
    ]
    llm = LlamaIndexSharedLLM(llm=default_llm, max_tokens=8)
    index = TreeMemoryIndex.from_documents(whole_of_reader(pages), llm=llm)
    response = index.as_query_engine(citations=True).query("Who sent the telescope?")
    assert {one.metadata["page_label"] for one in response.source_nodes} <= {"1", "2", "3"}
    assert "ferry.pdf#page=" in answer_of(response).to_html(tmp_path / "page.html")
    streamed = index.as_query_engine(citations=True, streaming=True).query("Who sent it?")
    text = "".join(streamed.response_gen)
    assert answer_of(streamed).text == text.strip()
    assert answer_of(llm.complete("Hello")).citations == ()
    with pytest.raises(SetupError, match="not written by a SharedLLM"):
        answer_of(object())


# -- values that a memory cannot hold as they are --------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (datetime.date(2024, 5, 1), "2024-05-01"),
        (datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC), "2024-05-01T12:30:00+00:00"),
        (datetime.time(12, 30), "12:30:00"),
        (float("nan"), None),
        (decimal.Decimal("1.5"), 1.5),
        (Path("a/b.txt"), str(Path("a/b.txt"))),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({"b", "a"}, ["a", "b"]),
        ((1, (2,)), [1, [2]]),
        (Colour.RED, "red"),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.bool_(True), True),
        ({"a": {"b": [datetime.date(2024, 5, 1)]}}, {"a": {"b": ["2024-05-01"]}}),
        ("half \ud835 of it", "half \ufffd of it"),
        ("\ud835\udc00", "\U0001d400"),
        ({"\udc80": 1}, {"\ufffd": 1}),
        (1 << 70, 1 << 70),
        (None, None),
    ],
)
def test_metadata_as_readers_make_them(
    given: Any, kept: Any, memory: TreeMemory, llm: SharedLLM
) -> None:
    retriever = TreeMemoryRetriever(memory=memory)
    retriever.upsert([Document("The keeper is Olga.", id="new", metadata={"field": given})])
    assert memory.get("new").metadata == {"field": kept}
    assert retriever.get(["new"])[0].metadata == {"field": kept}
    index = TreeMemoryIndex(memory, llm=LlamaIndexSharedLLM(llm=llm))
    index.insert(IndexDocument(text="The keeper is Bo.", id_="other", metadata={"field": given}))
    assert index.ref_doc_info["other"].metadata == {"field": kept}


def holding_itself() -> list[Any]:
    out: list[Any] = []
    out.append(out)
    return out


@pytest.mark.parametrize(
    "given",
    [b"bytes", object(), float("inf"), 1j, {1: 2}, [{"a": {3: 4}}], holding_itself(), print],
)
def test_what_no_memory_holds_is_refused_by_document_and_field(
    given: Any, memory: TreeMemory, llm: SharedLLM
) -> None:
    before = [one.id for one in memory.list()]
    good = Document("Fine.", id="good")
    bad = Document.model_construct(page_content="Olga.", id="bad", metadata={"when": given})
    with pytest.raises(DocumentValueError, match=r"'bad'.*'when'"):
        TreeMemoryRetriever(memory=memory).upsert([good, bad])
    node = IndexDocument(text="Olga.", id_="bad")
    node.metadata = {"when": given}
    index = TreeMemoryIndex(memory, llm=LlamaIndexSharedLLM(llm=llm))
    with pytest.raises(DocumentValueError, match=r"'bad'.*'when'"):
        index.insert_nodes([IndexDocument(text="Fine.", id_="good"), node])
    assert [one.id for one in memory.list()] == before


def test_half_of_a_surrogate_pair(memory: TreeMemory, caplog: pytest.LogCaptureFixture) -> None:
    retriever = TreeMemoryRetriever(memory=memory)
    broken = Document("The angle \ud835 is 30 degrees.", id="2", metadata={"title": "\ud835x"})
    given = [Document("First.", id="1"), broken, Document("Third.", id="3")]
    assert retriever.upsert(given)["succeeded"] == ["1", "2", "3"]
    assert memory.get("2").text == "The angle \ufffd is 30 degrees."
    assert memory.get("2").title == "\ufffdx"
    assert "'2': text has half of a surrogate pair at character 10" in caplog.text
    with pytest.raises(DocumentValueError, match="surrogate"):  # two ids must not become one
        retriever.upsert([Document("First.", id="\udc80")])


@pytest.mark.parametrize(
    ("all_metadata", "pages"),
    [
        ([{"page": 1}, {"page": 2}, {"page": 3}], "123"),
        ([{"page": 0}, {"page": 1}, {"page": 2}], "123"),
        ([{"page_number": 1}, {"page_number": 2}, {"page_number": 3}], "123"),
        ([{"page_number": 2}, {"page_number": 4}, {"page_number": 4}], "-1-2+3"),
        ([{"page": "2"}, {"page": "3"}, {"page": "5"}], "-12-3"),
        ([{"page": 1, "page_label": "2"}, {"page": 2, "page_label": "3"}, {"page": 3}], "-123"),
        ([{"page": 1, "page_label": "1"}, {"page": 2, "page_label": "2"}, {"page": 3}], "123"),
        ([{"page": n, "total_pages": 5} for n in (1, 2, 4)], "-12-3"),
        ([{"page": n, "total_pages": 3} for n in (1, 2, 3)], "123"),
        ([{"page_label": label} for label in ("i", "ii", "1")], "123"),
        ([{"page_label": label} for label in ("2", "3", "5")], "-12-3"),
        ([{"page": 10**9 + n} for n in range(3)], "123"),
        ([{"page": 3}, {"page": 1}, {"page": 2}], "231"),
        ([{"page": True}, {"page": None}, {"page": 1.5}], "123"),
    ],
)
def test_pages_are_counted_as_their_reader_counts(all_metadata: Any, pages: str) -> None:
    given = [
        Document(f"Text {n}.", metadata={"source": "a.pdf", "n": n, "author": "Olga", **metadata})
        for n, metadata in enumerate(all_metadata, 1)
    ]
    (whole,) = whole_of_loader(given)
    found = ["+".join(page.split("\n\n")) for page in whole.page_content.split("\f")]
    spelled = "".join(page.replace("Text ", "").replace(".", "").strip() or "-" for page in found)
    assert spelled == pages
    assert {k: v for k, v in whole.metadata.items() if k != "total_pages"} == {
        "source": "a.pdf",
        "author": "Olga",
    }
