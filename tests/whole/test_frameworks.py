"""Chains and engines of both frameworks that ask about the whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core import Document as LlamaIndexDocument
from llama_index.core import SummaryIndex

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.generation.prompt import ABSENT
from sharedllm_integrations.langchain import ChatSharedLLM
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM
from tests.whole.test_whole import MEMBERS, QUESTION, club, first_sentence, name_members

Make = Callable[..., SharedLLM]


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
