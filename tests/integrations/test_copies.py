"""Everything that holds a model or a memory is copied and pickled, before and after its use."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from llama_index.core import Document as IndexDocument
from llama_index.core.ingestion import IngestionPipeline

from sharedllm import SharedLLM, SharedLLMError, TreeMemory, loaded
from sharedllm_integrations import langchain, llamaindex
from sharedllm_integrations.errors import SetupError
from tests.conftest import DOCUMENTS, WIDE
from tests.models import make_model, make_tokenizer
from tests.texts import FERRY

QUESTION = "When does the ferry leave?"
Use = Callable[[Any], Any]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model that another process can load, too."""
    folder = tmp_path_factory.mktemp("named")
    make_model("llama", **WIDE).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return {"model": str(folder), "adapter": None, "device": "cpu"}


@pytest.fixture(scope="module")
def memory(named: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TreeMemory:
    llm = loaded(named["model"], adapter=None, device="cpu")
    made = TreeMemory(tmp_path_factory.mktemp("memory") / "memory", llm=llm)
    made.add(DOCUMENTS)
    return made


def held(named: dict[str, Any], memory: TreeMemory) -> dict[str, tuple[Any, Use]]:
    own = {**named, "memory": memory}
    chat = langchain.ChatSharedLLM(**own, max_tokens=3)
    index = llamaindex.TreeMemoryIndex(
        memory, llm=llamaindex.LlamaIndexSharedLLM(**own, max_tokens=3)
    )
    given = index.as_retriever().retrieve(QUESTION)
    return {
        "chat model": (chat, lambda o: o.invoke("Hi").content),
        "chain": (chat | StrOutputParser(), lambda o: o.invoke("Hi")),
        "bound": (chat.bind(stop=["x"]), lambda o: o.invoke("Hi").content),
        "completion": (
            langchain.SharedLLMCompletion(**own, max_tokens=3),
            lambda o: o.invoke("Hi"),
        ),
        "retriever": (
            langchain.TreeMemoryRetriever(memory=memory, k=2),
            lambda o: [one.id for one in o.invoke(QUESTION)],
        ),
        "vector store": (
            langchain.TreeMemoryVectorStore(memory),
            lambda o: [one.id for one in o.similarity_search(QUESTION)],
        ),
        "compressor": (
            langchain.TreeMemoryCompressor(**own),
            lambda o: [d.page_content for d in o.compress_documents([Document(FERRY)], QUESTION)],
        ),
        "tool": (
            langchain.create_tree_memory_tool(memory),
            lambda o: o.invoke({"query": QUESTION}),
        ),
        "model": (
            llamaindex.LlamaIndexSharedLLM(**own, max_tokens=3),
            lambda o: o.complete("Hi").text,
        ),
        "index retriever": (
            index.as_retriever(similarity_top_k=2),
            lambda o: [one.node_id for one in o.retrieve(QUESTION)],
        ),
        "index": (index, lambda o: str(o.as_query_engine().query(QUESTION))),
        "query engine": (index.as_query_engine(), lambda o: str(o.query(QUESTION))),
        "citation engine": (
            index.as_query_engine(citations=True),
            lambda o: [one.get_content() for one in o.query(QUESTION).source_nodes],
        ),
        "chat engine": (index.as_chat_engine(), lambda o: o.reset() or str(o.chat(QUESTION))),
        "condensing engine": (
            index.as_chat_engine("condense_plus_context"),
            lambda o: o.reset() or str(o.chat(QUESTION)),
        ),
        "postprocessor": (
            llamaindex.TreeMemoryPostprocessor(**own),
            lambda o: [n.node_id for n in o.postprocess_nodes(given, query_str=QUESTION)],
        ),
        "index vector store": (
            llamaindex.TreeMemoryVectorStore(**own),
            lambda o: [one.get_content() for one in o.get_nodes(["ferry"])],
        ),
    }


def pickled(one: Any) -> Any:
    return pickle.loads(pickle.dumps(one))


def test_copies_do_as_the_original(named: dict[str, Any], memory: TreeMemory) -> None:
    for name, (one, use) in held(named, memory).items():
        fresh = [make(one) for make in (copy.deepcopy, pickled)]
        expected = use(one)
        used = [make(one) for make in (copy.copy, copy.deepcopy, pickled)]
        for each in (*fresh, *used, pickled(used[-1])):
            assert use(each) == expected, name


def test_a_pickle_names_the_folder_of_its_memory(named: dict[str, Any], memory: TreeMemory) -> None:
    for name, (one, use) in held(named, memory).items():
        use(one)
        written = pickle.dumps(one)
        assert os.fsencode(os.path.realpath(memory.path)) in written, name


def test_a_memory_for_the_process_is_not_made_anew(named: dict[str, Any]) -> None:
    llm = loaded(named["model"], adapter=None, device="cpu")
    retriever = langchain.TreeMemoryRetriever(llm=llm)
    retriever.upsert([Document("The keeper is Olga.", id="a")])
    index = llamaindex.TreeMemoryIndex.from_documents(
        [IndexDocument(text="The keeper is Olga.", id_="a")],
        llm=llamaindex.LlamaIndexSharedLLM(**named, max_tokens=3),
    )
    for one in (copy.deepcopy(retriever), pickled(retriever)):
        assert [d.id for d in one.invoke("Who?")] == ["a"]
    for other in (copy.deepcopy(index), pickled(index)):
        assert list(other.ref_doc_info) == ["a"]
    written, folder = pickle.dumps(retriever), Path(retriever._memory.path)
    retriever._memory.close()
    folder.rename(f"{folder}-gone")
    with pytest.raises(SharedLLMError, match="does not exist"):
        pickle.loads(written).invoke("Who?")
    assert not folder.exists()


def test_a_loaded_model_stays_in_its_process(llm: SharedLLM, tmp_path: Path) -> None:
    for one in (
        langchain.ChatSharedLLM(llm=llm),
        langchain.TreeMemoryCompressor(llm=llm),
        llamaindex.LlamaIndexSharedLLM(llm=llm),
    ):
        with pytest.raises(SetupError, match="give model="):
            pickle.dumps(one)
        assert copy.deepcopy(one).llm is llm
    step = llamaindex.TreeMemoryTransform(memory=tmp_path / "one", llm=llm)
    pipeline = IngestionPipeline(transformations=[step])
    assert copy.deepcopy(pipeline).transformations[0].llm is llm


def test_a_copy_with_another_memory_opens_it(llm: SharedLLM, memory: TreeMemory) -> None:
    chat = langchain.ChatSharedLLM(llm=llm, max_tokens=2)
    assert chat._own_engine.memory is None
    assert chat.model_copy(update={"memory": memory})._own_engine.memory is memory
    retriever = langchain.TreeMemoryRetriever(memory=memory)
    assert retriever._memory is memory
    assert retriever.model_copy(update={"memory": None, "llm": llm})._memory is not memory
