"""Chains and engines of both frameworks that ask about the whole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core import Document as LlamaIndexDocument
from llama_index.core import SummaryIndex
from llama_index.core.llms import MockLLM

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.generation.prompt import ABSENT
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain import ChatSharedLLM, TreeMemoryRetriever
from sharedllm_integrations.langchain import TreeMemoryVectorStore as LangChainStore
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM, TreeMemoryIndex
from tests.whole.test_whole import MEMBERS, QUESTION, club, first_sentence, name_members

Make = Callable[..., SharedLLM]


@pytest.fixture(autouse=True)
def no_loop() -> None:
    """LlamaIndex's synchronous calls would make an event loop and leave it open."""
    asyncio.set_event_loop(None)


@pytest.fixture
def memory(saying: Make, tmp_path: Path) -> Iterator[TreeMemory]:
    with TreeMemory(tmp_path / "memory", llm=saying(name_members)) as made:
        made.add(MemoryDocument(id="a", title="a", text=club(), metadata={"year": 1}))
        made.add(MemoryDocument(id="b", title="b", text=club(("Zed Other",)), metadata={"year": 2}))
        yield made


def test_langchain_lists_all_that_a_memory_holds_under_its_filter(
    saying: Make, memory: TreeMemory
) -> None:
    chat = ChatSharedLLM(llm=saying(name_members), memory=memory, reads="memory", max_tokens=64)
    message = chat.invoke(QUESTION)
    assert message.content.splitlines()[-1] == "- Zed Other"
    one = chat.invoke(QUESTION, filter={"year": 1})
    assert one.content == "\n".join(f"- {name}" for name in MEMBERS)
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == message.content
    narrow = ChatSharedLLM(
        llm=saying(lambda question, text: ABSENT), memory=memory, reads="memory", scope="passages"
    )
    assert narrow.invoke(QUESTION).content == ABSENT
    wide = narrow.invoke("Who is in the Heron Society?", scope="whole", max_tokens=8)
    assert wide.content == ABSENT


def test_a_summarising_chain_gets_a_summary_of_the_whole(saying: Make) -> None:
    chat = ChatSharedLLM(llm=saying(first_sentence), max_tokens=64)
    prompt = ChatPromptTemplate.from_template(
        'Write a concise summary of the following:\n\n\n"{text}"\n\n\nCONCISE SUMMARY:'
    )
    text = (prompt | chat).invoke({"text": club() * 3}).content
    assert "Boris Lund is a member of the Heron Society." in text


def test_a_summary_index_gets_it_too(saying: Make) -> None:
    llm = LlamaIndexSharedLLM(llm=saying(name_members), max_tokens=64)
    index = SummaryIndex.from_documents([LlamaIndexDocument(text=club() * 3)])
    engine = index.as_query_engine(llm=llm, response_mode="tree_summarize")
    found = re.findall(r"^- (.+)$", str(engine.query(QUESTION)), re.MULTILINE)
    assert sorted(found) == sorted(MEMBERS)


def test_a_retriever_and_a_vector_store_take_notes_of_what_they_are_given(
    saying: Make, tmp_path: Path
) -> None:
    llm = saying(first_sentence)
    document = LangChainDocument(club(MEMBERS[:2]), id="one")
    kept = TreeMemoryRetriever(memory=tmp_path / "kept", llm=llm, notes=True)
    kept.upsert([document])
    store = LangChainStore.from_documents([document], memory=tmp_path / "s", llm=llm, notes=True)
    plain = TreeMemoryRetriever(memory=tmp_path / "plain", llm=llm)
    plain.upsert([document])
    for memory, reads in ((kept._memory, False), (store.memory, False), (plain._memory, True)):
        found = llm.answer("Summarise the documents.", memory, max_new_tokens=60)
        assert bool(found.usage.parts_read) is reads
        assert "Ada Wren" in found.text


def test_an_index_takes_notes_of_all_that_it_reads(saying: Make, tmp_path: Path) -> None:
    llm = saying(first_sentence)
    ours = LlamaIndexSharedLLM(llm=llm, max_tokens=60)
    one, two, three = (
        LlamaIndexDocument(text=club((name,)), id_=name.split()[0]) for name in MEMBERS[:3]
    )
    index = TreeMemoryIndex.from_documents([one], llm=ours, memory=tmp_path / "m", notes=True)
    index.insert(two)
    index.refresh([one, two, three])
    index.update_ref_doc(LlamaIndexDocument(text=club(("Dov Hale",)), id_="Ada"))
    answer = llm.answer("Summarise the documents.", index.memory, max_new_tokens=60)
    assert answer.usage.parts_read == 0
    assert "Dov Hale" in answer.text
    other = TreeMemoryIndex(tmp_path / "other", nodes=[], llm=MockLLM(), notes=True)
    with pytest.raises(SetupError, match="MockLLM answers, which reads no notes"):
        other.insert(one)
