"""TreeMemoryIndex: made, kept, changed and asked, with LlamaIndex's settings untouched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core import Document
from llama_index.core.llms import MockLLM

from sharedllm import MemoryDocument, SharedLLM, SharedLLMError, TreeMemory, loaded_for
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM, TreeMemoryIndex
from tests.conftest import WIDE
from tests.integrations.llamaindex.helpers import QUESTION, SEVEN, documents, model
from tests.models import make_model, make_tokenizer
from tests.texts import FERRY, GARDEN, STORY

ROOT = Path(__file__).parents[2]
EIGHT = SEVEN.replace("seven", "eight")


@pytest.fixture
def index(llm: SharedLLM) -> TreeMemoryIndex:
    return TreeMemoryIndex.from_documents(documents(), llm=model(llm))


def seen(index: TreeMemoryIndex, question: str = QUESTION) -> set[str]:
    """The texts that the model is given evidence from, by what an answer says of itself."""
    response = index.as_query_engine().query(question)
    assert response.metadata is not None
    (call,) = response.metadata["sharedllm"]
    texts = {node.get_content() for node in response.source_nodes}
    for one in call["citations"]:
        assert any(one["text"] in text for text in texts)
    assert len(call["documents"]) == len(texts)
    return texts


def test_the_two_line_change(tmp_path: Path) -> None:
    """As a user has it: no settings, no key, no embedding model."""
    make_model("llama", **WIDE).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    code = f"""
        import os
        assert "OPENAI_API_KEY" not in os.environ
        from llama_index.core import Document, Settings
        documents = [Document(text="The ferry leaves at seven.", metadata={{"file_name": "a"}})]
        from sharedllm_integrations.llamaindex import LlamaIndexSharedLLM, TreeMemoryIndex
        llm = LlamaIndexSharedLLM(model={str(tmp_path)!r}, max_tokens=4)
        index = TreeMemoryIndex.from_documents(documents, llm=llm)
        response = index.as_query_engine().query("When?")
        assert str(response), response
        assert response.source_nodes[0].get_content() == "The ferry leaves at seven."
        assert Settings._llm is Settings._embed_model is Settings._prompt_helper is None
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI")}
    lines = "\n".join(line.strip() for line in code.strip().split("\n"))
    done = subprocess.run(
        [sys.executable, "-c", lines],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**environment, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr


def test_documents_are_as_they_were_given(index: TreeMemoryIndex) -> None:
    assert list(index.ref_doc_info) == ["story", "ferry", "garden"]
    assert index.ref_doc_info["ferry"].metadata == {"title": "The ferry", "year": 1871}
    stored = index.memory.get("story")
    assert (stored.text, stored.title, stored.source) == (STORY, "The lighthouse", "story.txt")
    assert seen(index) == {STORY, FERRY, GARDEN}


async def test_changes_reach_engines_that_were_made_before(index: TreeMemoryIndex) -> None:
    engine, chat = index.as_query_engine(), index.as_chat_engine()

    async def texts() -> set[str]:
        """What the engines give the model now, which both agree on."""
        asked, talked = await engine.aquery(QUESTION), await chat.achat(QUESTION)
        given = {node.get_content() for node in asked.source_nodes}
        (call,) = (asked.metadata or {})["sharedllm"]
        assert sorted(d["characters"] for d in call["documents"]) == sorted(map(len, given))
        assert {node.get_content() for node in talked.source_nodes} == given
        return given

    before = await texts()
    index.insert(Document(id_="boat", text=SEVEN))
    assert await texts() == before | {SEVEN}
    index.update_ref_doc(Document(id_="boat", text=EIGHT))
    assert await texts() == before | {EIGHT}
    index.delete_ref_doc("boat")
    assert await texts() == before


def test_refresh_reads_what_is_new_or_changed(index: TreeMemoryIndex) -> None:
    given = documents()
    assert index.refresh(given) == [False, False, False]
    given[1].set_content("The ferry is laid up.")
    given[2].metadata["year"] = 1903
    given.append(Document(id_="boat", text=SEVEN))
    assert index.refresh_ref_docs(given) == [False, True, True, True]
    assert index.memory.get("ferry").text == "The ferry is laid up."
    assert index.ref_doc_info["garden"].metadata["year"] == 1903


async def test_changes_asynchronously(index: TreeMemoryIndex) -> None:
    await index.ainsert(Document(id_="boat", text=SEVEN))
    assert "boat" in index.ref_doc_info
    await index.adelete_ref_doc("boat")
    assert await index.arefresh([Document(id_="boat", text=SEVEN)]) == [True]


def test_what_cannot_be_done_is_said(index: TreeMemoryIndex) -> None:
    with pytest.raises(SharedLLMError, match="boat"):
        index.delete_ref_doc("boat")
    with pytest.raises(SharedLLMError, match="ferry"):
        index.insert(Document(id_="ferry", text="another text"))
    with pytest.raises(SharedLLMError, match="boat"):
        index.update_ref_doc(Document(id_="boat", text=SEVEN))
    with pytest.raises(SharedLLMError, match="no text"):
        index.insert(Document(id_="boat", text=" \n"))
    with pytest.raises(SetupError, match="allowed: 'context'"):
        index.as_chat_engine("tree")
    with pytest.raises(SetupError, match="write ReActAgent"):
        index.as_chat_engine("react")
    with pytest.raises(SetupError, match="at least 1"):
        index.as_retriever(similarity_top_k=0)


def test_pages_without_text_are_left_out_and_logged(
    llm: SharedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    given = [Document(id_="blank", text=" "), Document(id_="boat", text=SEVEN)]
    index = TreeMemoryIndex.from_documents(given, llm=model(llm))
    assert list(index.ref_doc_info) == ["boat"]
    assert "'blank' has no text" in caplog.text
    assert index.refresh(given) == [False, False]


def test_an_empty_index_answers_as_llama_index_does(llm: SharedLLM) -> None:
    index = TreeMemoryIndex.from_documents([], llm=model(llm))
    response = index.as_query_engine().query(QUESTION)
    assert str(response) == "Empty Response"
    assert response.source_nodes == []


# -- memories ------------------------------------------------------------------------------------


def test_a_path_is_as_good_as_a_memory(memory: TreeMemory, llm: SharedLLM) -> None:
    expected = seen(TreeMemoryIndex(memory))
    path = str(memory.path)
    by_path = TreeMemoryIndex(path, llm=model(llm))
    assert seen(by_path) == seen(TreeMemoryIndex.load(path, llm=model(llm))) == expected
    assert seen(TreeMemoryIndex(llm=model(llm, memory=path))) == expected
    assert TreeMemoryIndex(path, llm=model(llm)).memory is by_path.memory


def test_without_a_model_that_of_the_memory_answers(memory: TreeMemory) -> None:
    index = TreeMemoryIndex(memory)
    assert isinstance(index.llm, LlamaIndexSharedLLM)
    assert index.llm.engine.llm is loaded_for(memory)
    assert index.as_query_engine().query(QUESTION)


def test_what_others_write_is_seen(memory: TreeMemory, llm: SharedLLM) -> None:
    index = TreeMemoryIndex(memory, llm=model(llm))
    seen(index)
    with TreeMemory(memory.path, llm=llm) as other:
        other.add(MemoryDocument(id="boat", text=SEVEN))
        other.delete("ferry")
    assert seen(index) == {STORY, GARDEN, SEVEN}


def test_persisted_and_loaded(index: TreeMemoryIndex, llm: SharedLLM, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    index.persist(persist_dir=folder)
    again = TreeMemoryIndex.load(persist_dir=folder, llm=model(llm))
    assert again.ref_doc_info == index.ref_doc_info
    assert seen(again) == seen(index)
    assert again.memory.verify().clean
    again.persist(folder)  # where it is
    index.delete_ref_doc("garden")
    index.update_ref_doc(Document(id_="ferry", text=SEVEN))
    index.persist(folder)
    assert seen(again) == {STORY, SEVEN}
    answer = str(index.as_query_engine().query(QUESTION))
    assert str(again.as_query_engine().query(QUESTION)) == answer


def test_loading_what_is_no_memory(tmp_path: Path, llm: SharedLLM) -> None:
    with pytest.raises(SharedLLMError):
        TreeMemoryIndex.load(tmp_path / "nothing", llm=model(llm))
    assert not (tmp_path / "nothing").exists()


def test_tenants_are_apart(llm: SharedLLM) -> None:
    theirs = TreeMemoryIndex.from_documents(documents(), llm=model(llm, tenant="theirs"))
    assert seen(theirs) == {STORY, FERRY, GARDEN}
    with pytest.raises(SetupError, match="tenant"):
        TreeMemoryIndex(theirs.memory, llm=model(llm, tenant="theirs"), tenant="ours")
    referring = theirs.as_query_engine(llm=model(llm, tenant="ours"), references=True)
    with pytest.raises(SharedLLMError, match="without its text"):
        referring.query(QUESTION)
    response = theirs.as_query_engine(llm=model(llm, tenant="ours")).query(QUESTION)
    (call,) = (response.metadata or {})["sharedllm"]  # references of a tenant of its own, so text
    assert {one["found_as"] for one in call["documents"]} == {"known"}


# -- other models --------------------------------------------------------------------------------


def test_another_model_is_given_passages(memory: TreeMemory) -> None:
    index = TreeMemoryIndex(memory, llm=MockLLM())
    engine = index.as_query_engine(similarity_top_k=2)
    response = engine.query(QUESTION)
    assert "[[sllm" not in str(response)  # it repeats its prompt
    assert len(response.source_nodes) == 2
    for node in response.source_nodes:
        whole = memory.get(node.node.ref_doc_id or "").text
        assert node.get_content() in str(response)
        assert whole[node.node.start_char_idx : node.node.end_char_idx] == node.get_content()  # type: ignore[attr-defined]
