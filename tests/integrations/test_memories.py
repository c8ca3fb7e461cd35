"""Memories are opened once, made for a while, filled, and folders kept equal to one."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from pathlib import Path

import pytest
from langchain_core.documents import Document

from sharedllm import MemoryDocument, PartedMemory, SharedLLM, SharedLLMError, TreeMemory
from sharedllm.errors import TreeMemoryError, TreeMemoryMismatchError
from sharedllm_integrations import langchain, llamaindex
from sharedllm_integrations.errors import RequestError, SetupError
from sharedllm_integrations.memories import holds_memory, make_temporary, open_given, put, save
from tests.conftest import DOCUMENTS, Make
from tests.models import TREE
from tests.texts import FERRY, GARDEN


def test_put_adds_changes_and_leaves_alone(memory: TreeMemory) -> None:
    new = MemoryDocument(id="boat", text="The boathouse is green.")
    assert put(memory, new)
    assert not put(memory, new)
    changed = dataclasses.replace(new, metadata={"year": 1902})
    assert put(memory, changed)
    assert memory.get("boat") == changed


def test_a_folder_is_kept_equal(memory: TreeMemory, llm: SharedLLM, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for change in (
        lambda: None,
        lambda: memory.add(MemoryDocument(id="boat", text="The boathouse is green.")),
        lambda: memory.update(dataclasses.replace(DOCUMENTS[1], title="Another")),
        lambda: memory.delete(["garden", "boat"]),
        lambda: memory.delete(["story", "ferry"]),
    ):
        change()
        save(memory, folder)
        with TreeMemory(folder, llm=llm, create=False) as kept:
            ids = sorted(one.id for one in memory.list())
            assert sorted(one.id for one in kept.list()) == ids
            assert all(kept.get(id) == memory.get(id) for id in ids)
            assert kept.verify().clean


def test_its_own_folder_needs_no_saving(memory: TreeMemory) -> None:
    before = memory.revision
    save(memory, memory.path)
    assert memory.revision == before


def test_a_folder_that_holds_something_else(memory: TreeMemory, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("Dear Sir")
    with pytest.raises(SharedLLMError):
        save(memory, other)
    assert (other / "letter.txt").read_text() == "Dear Sir"


def test_memories_by_path_are_opened_once(llm: SharedLLM, tmp_path: Path) -> None:
    TreeMemory(tmp_path / "library", llm=llm).close()
    one = open_given(tmp_path / "library", llm=llm)
    assert open_given(str(tmp_path / "library")) is one
    assert open_given(one) is one
    with pytest.raises(SetupError, match="give a TreeMemory, the path of one"):
        open_given(3)
    with pytest.raises(Exception, match="does not exist"):
        open_given(tmp_path / "nothing")


def test_a_memory_in_the_place_of_another_is_seen(llm: SharedLLM, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    with TreeMemory(folder, llm=llm) as made:
        made.add(MemoryDocument(id="ferry", text=FERRY))
    assert "ferry" in open_given(folder, llm=llm)
    folder.rename(tmp_path / "old")
    with TreeMemory(folder, llm=llm) as made:
        made.add(MemoryDocument(id="garden", text=GARDEN))
    assert [one.id for one in open_given(folder, llm=llm).list()] == ["garden"]


def test_reading_makes_no_memory(
    llm: SharedLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mistyped"
    for own in (
        langchain.TreeMemoryRetriever(memory=path, llm=llm),
        langchain.TreeMemoryVectorStore(path, llm=llm).as_retriever(),
    ):
        assert own.invoke("When?") == []
    index = langchain.TreeMemoryRetriever(memory=path, llm=llm)
    assert index.get(["a"]) == []
    assert index.delete(["a"])["num_deleted"] == 0
    assert llamaindex.TreeMemoryRetriever(path, llm=llm).retrieve("When?") == []
    assert caplog.text.count(f"there is no memory in {str(path)!r}") == 5
    with pytest.raises(SharedLLMError, match="does not exist"):
        langchain.ChatSharedLLM(llm=llm, memory=path).invoke("When?")
    assert not path.exists()
    index.upsert([Document(FERRY, id="a")])
    assert [found.id for found in index.invoke("When?")] == ["a"]


def test_an_empty_memory_is_no_source_of_answers(
    llm: SharedLLM, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    memory = make("empty")
    assert langchain.TreeMemoryRetriever(memory=memory).invoke("When?") == []
    assert "is empty" in caplog.text
    chat = langchain.ChatSharedLLM(llm=llm, memory=memory, reads="memory", max_tokens=2)
    with pytest.raises(SetupError, match="holds no document"):
        chat.invoke("When?")
    memory.add(DOCUMENTS)
    assert chat.invoke("When?").response_metadata
    with pytest.raises(SetupError, match="that the filter"):
        chat.invoke("When?", filter={"year": 1})


def test_a_temporary_memory_is_a_memory(llm: SharedLLM) -> None:
    memory = make_temporary(llm)
    memory.add(MemoryDocument(id="ferry", text=FERRY))
    assert memory.get("ferry").text == FERRY


def test_reading_makes_no_memory_and_an_empty_one_gives_no_answer(
    llm: SharedLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer would come from the model's weights, and nobody would know."""
    typo, empty = tmp_path / "typo", tmp_path / "empty"
    TreeMemory(empty, llm=llm).close()
    retrievers = {
        path: (
            langchain.TreeMemoryRetriever(memory=path, llm=llm).invoke,
            langchain.create_tree_memory_tool(path).invoke,
            llamaindex.TreeMemoryRetriever(path, llm=llm).retrieve,
        )
        for path in (typo, empty)
    }
    for path, said in ((typo, "there is no memory in"), (empty, "empty' is empty")):
        for ask in retrievers[path]:
            caplog.clear()
            assert ask("Who?") in ([], "Nothing was found.")
            assert said in caplog.text
    for make in (
        lambda: langchain.ChatSharedLLM(llm=llm, memory=typo).invoke("Who?"),
        lambda: llamaindex.LlamaIndexSharedLLM(llm=llm, memory=typo).complete("Who?"),
        lambda: llamaindex.TreeMemoryIndex(typo),
        lambda: llamaindex.TreeMemoryIndex.load(typo),
    ):
        with pytest.raises(TreeMemoryError, match=r"there is no memory in .*typo"):
            make()
    for make in (
        lambda: langchain.ChatSharedLLM(llm=llm, memory=empty).invoke("Who?"),
        lambda: list(langchain.ChatSharedLLM(llm=llm, memory=empty).stream("Who?")),
        lambda: llamaindex.LlamaIndexSharedLLM(llm=llm, memory=empty).complete("Who?"),
    ):
        with pytest.raises((SetupError, RequestError), match="from the model's weights"):
            make()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    retriever = langchain.TreeMemoryRetriever(memory=typo, llm=llm)
    retriever.upsert([Document(page_content=FERRY, id="ferry")])  # writing makes it
    assert [found.id for found in retriever.invoke("Who?")] == ["ferry"]


def test_a_model_that_a_memory_names_is_loaded_when_the_user_names_it(
    tiny_folder: Path, tmp_path: Path
) -> None:
    llm = SharedLLM.from_pretrained(tiny_folder, tree=TREE)
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        memory.add(MemoryDocument(id="ferry", text=FERRY))
    name, place = str(tiny_folder), tmp_path / "m"
    for ask in (
        lambda **named: langchain.ChatSharedLLM(memory=place, **named).invoke("Who?"),
        lambda **named: llamaindex.LlamaIndexSharedLLM(memory=place, **named).complete("Who?"),
    ):
        with pytest.raises(TreeMemoryMismatchError, match="name it yourself"):
            ask()
        assert ask(model=name, max_tokens=1, search={"budget": 64})


def test_a_memory_of_parts_is_a_memory(
    llm: SharedLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = PartedMemory(tmp_path / "library", 2, llm=llm)
    for document in DOCUMENTS:
        memory.add(document)
    assert holds_memory(memory.path)
    assert not holds_memory(tmp_path)
    retriever = langchain.TreeMemoryRetriever(memory=memory, llm=llm)
    found = retriever.invoke("Who kept the light?")
    assert {one.metadata["year"] for one in found if "year" in one.metadata}
    for other in (str(memory.path), pickle.loads(pickle.dumps(retriever))):
        again = langchain.TreeMemoryRetriever(memory=other) if isinstance(other, str) else other
        assert open_given(memory.path, llm=llm).parts == memory.parts
        assert again.invoke("Who kept the light?") == found
    index = llamaindex.TreeMemoryIndex(memory=memory, llm=llamaindex.LlamaIndexSharedLLM(llm=llm))
    assert index.as_retriever().retrieve("Who kept the light?")
    put(memory, dataclasses.replace(DOCUMENTS[1], title="Another"))
    save(memory, tmp_path / "kept")
    with TreeMemory(tmp_path / "kept", llm=llm, create=False) as kept:
        assert {one.id for one in kept.list()} == {one.id for one in memory.list()}
    memory.parts[1].rename(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert retriever.invoke("Who kept the light?")
    assert "not searched: part 'part-001' is away" in caplog.text
    memory.close()
