"""Every public callable with good arguments: the fuzzers replace one of them at a time.

A name that is public and is not here, nor in :data:`LEFT_OUT` with a reason, fails a test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document as LangChainDocument
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import Document as LlamaIndexDocument
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

import sharedllm
import sharedllm_integrations.langchain as lc
import sharedllm_integrations.llamaindex as li
from sharedllm import (
    Answer,
    Document,
    GenerationConfig,
    InjectionConfig,
    MemoryDocument,
    PartSearcher,
    SearchConfig,
    SharedLLM,
    TreeConfig,
    TreeMemory,
)
from sharedllm.config import AdapterConfig
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.evaluation.options import Settings
from sharedllm.memory.elsewhere import Lookup
from sharedllm.text.loaders import read_rows
from sharedllm.training.train_config import TrainConfig, read_config, require_data
from tests.models import TREE
from tests.texts import FERRY, STORY

Call = Callable[..., Any]
MODEL = {"model": None, "adapter": None, "device": "cpu", "dtype": "float32", "tenant": ""}
ANSWER = {
    "filter": None,
    "keep": False,
    "reads": "prompt",
    "long_text": 1000,
    "search": {},
    "repeat_question": True,
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "seed": None,
    "repetition_penalty": 1.0,
    "stop": None,
    "timeout": None,
}
TOOL = FunctionTool.from_defaults(lambda place: place, name="look", description="Looks.")


@dataclass
class Place:
    """What the calls work on.

    Attributes
    ----------
    folder : an empty one
    model : the folder of a tiny model
    """

    folder: Path
    model: Path
    llm: SharedLLM
    document: Document
    memory: TreeMemory
    answer: Answer

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@dataclass(frozen=True)
class Target:
    """A callable, and for each argument what makes a good value of it.

    Attributes
    ----------
    writes : True if a call that works changes the memory
    """

    call: Call
    arguments: dict[str, Any]
    writes: bool = False


def options() -> dict[str, Any]:
    """Fields of both settings of a question."""
    return dataclasses.asdict(SearchConfig()) | {
        **dataclasses.asdict(GenerationConfig()),
        "max_new_tokens": 1,
    }


def configs(at: Place) -> dict[str, Target]:
    out = {}
    for kind in (TreeConfig, InjectionConfig, SearchConfig, GenerationConfig, AdapterConfig):
        fields = dataclasses.asdict(kind())
        out[kind.__name__] = Target(kind, fields)
        out[f"{kind.__name__}.from_dict"] = Target(kind.from_dict, {"values": fields})
        out[f"{kind.__name__}.replace"] = Target(kind().replace, fields)
    return out


def models(at: Place) -> dict[str, Target]:
    encoder = at.llm.encoder
    loading = {
        "device": "cpu",
        "dtype": "float32",
        "adapter": None,
        "tree": TREE,
        "injection": InjectionConfig(),
    }
    more = {"attention": "auto", "node_cache_bytes": 1 << 20}
    settings = {"search": SearchConfig(), "generation": GenerationConfig(), "embedder": None}
    load = {"name_or_path": at.model, **loading, **more}
    return {
        "SharedLLM": Target(SharedLLM, {"encoder": encoder, **settings}),
        "SharedLLM.from_pretrained": Target(SharedLLM.from_pretrained, {**load, **settings}),
        "DocumentEncoder.load": Target(DocumentEncoder.load, load),
        "loaded": Target(sharedllm.loaded, {"model": str(at.model), **loading}),
        "loaded_for": Target(sharedllm.loaded_for, {"memory": at.memory, **loading}),
    }


def asking(at: Place) -> dict[str, Target]:
    llm, document, query = at.llm, at.document, "Who kept the light?"
    asked = {"question": query, "context": [document], "progress": None, **options()}
    title = {"title": "T", "source": "s.txt", "progress": None}
    scores = llm.score(query, [document])
    prepared = [llm.prepare(query, document, max_new_tokens=1)]
    several = {"questions": [query], "context": document, "progress": None, "budget": 100}
    return {
        "SharedLLM.remember": Target(llm.remember, {"text": FERRY, **title}),
        "DocumentEncoder.read": Target(llm.encoder.read, {"text": FERRY, **title}),
        "SharedLLM.answer": Target(llm.answer, asked),
        "SharedLLM.stream": Target(llm.stream, asked),
        "SharedLLM.prepare": Target(llm.prepare, {**asked, "scores": scores}),
        "SharedLLM.generate": Target(llm.generate, {"prepared": prepared, "max_new_tokens": 1}),
        "SharedLLM.answer_batch": Target(llm.answer_batch, {**several, "max_new_tokens": 1}),
        "SharedLLM.score": Target(
            llm.score, {"query": query, "context": document, "scorer": "bm25"}
        ),
        "SharedLLM.select": Target(
            llm.select, {"query": query, "context": document, "scores": scores, "budget": 100}
        ),
        "SharedLLM.passages": Target(
            llm.passages, {"query": query, "context": document, "k": 2, "scorer": "bm25"}
        ),
        "SharedLLM.encode": Target(
            llm.encode, {"document": document, "progress": None, "background": False}
        ),
        "SharedLLM.save_pretrained": Target(
            llm.save_pretrained, {"folder": at.folder / "saved", "merged": False, "dtype": None}
        ),
        "query_of": Target(sharedllm.query_of, {"text": query}),
        "join_pages": Target(sharedllm.join_pages, {"pages": ["a", "b"]}),
        "Asked": Target(
            sharedllm.Asked,
            {"turns": (("user", (query,)),), "query": query, "plain": True},
        ),
    }


def answers(at: Place) -> dict[str, Target]:
    found = at.answer
    return {
        "Answer.to_html": Target(found.to_html, {"path": at.folder / "page.html"}),
        "Answer.summary": Target(found.summary, {"option": "x"}),
        "Answer.to_dict": Target(found.to_dict, {}),
        "Answer.plot": Target(found.plot, {}),
    }


def files(at: Place) -> dict[str, Target]:
    text = at.file("a.txt", STORY)
    rows = at.file("a.jsonl", '{"text": "x"}\n')
    return {
        "read_file": Target(sharedllm.read_file, {"path": text, "limit": None}),
        "find_outline": Target(
            sharedllm.find_outline, {"text": "# One\n\nA word.\n", "form": None}
        ),
        "read_rows": Target(read_rows, {"path": rows, "skip": 0}),
    }


def memories(at: Place) -> dict[str, Target]:
    memory, llm = at.memory, at.llm
    opening = {"llm": llm, "keep": "text", "kv": "bf16", "vectors": "compact"}
    opening |= {"candidates": 128, "rebuild": False, "create": True}
    made = MemoryDocument(id="added", text=FERRY)
    changed = MemoryDocument(id="story", text=STORY, title="changed")
    query = {"query": "Who kept the light?", "filter": {"year": 1871}}
    other = {"ids": ["story"], "progress": None}

    def opened(path: Any, **given: Any) -> None:
        TreeMemory(path, **given).close()

    return {
        "MemoryDocument": Target(
            MemoryDocument,
            {"text": "x", "id": "i", "title": "t", "source": "s", "metadata": {"year": 1}},
        ),
        "TreeMemory": Target(opened, {"path": at.folder / "new", **opening, "busy_s": 1.0}),
        "PartedMemory": Target(
            lambda **given: sharedllm.PartedMemory(**given).close(),
            {"path": at.folder / "library", "parts": [memory.path], "llm": llm, "busy_s": 1.0},
        ),
        "PartSearcher.answer": Target(
            PartSearcher().answer,
            {"lookups": [Lookup(str(memory.path), 1, "count", (("lamp",),))]},
        ),
        "open_memory": Target(
            sharedllm.open_memory, {"path": memory.path, "llm": llm, "create": False}
        ),
        "TreeMemory.add": Target(memory.add, {"documents": [made], "progress": None}, True),
        "TreeMemory.update": Target(
            memory.update, {"documents": [changed], "progress": None}, True
        ),
        "TreeMemory.delete": Target(memory.delete, {"ids": ["ferry"]}, True),
        "TreeMemory.get": Target(memory.get, {"id": "story"}),
        "TreeMemory.list": Target(memory.list, {"filter": {"year": 1871}}),
        "TreeMemory.__contains__": Target(memory.__contains__, {"id": "story"}),
        "TreeMemory.plot": Target(memory.plot, {}),
        "TreeMemory.search": Target(memory.search, {**query, "k": 2}),
        "TreeMemory.search by a field": Target(
            lambda value: memory.search("light", 2, {"year": value}), {"value": 1871}
        ),
        "TreeMemory.search by an operator": Target(
            lambda **value: memory.search("light", 2, {"year": value}),
            dict.fromkeys(("gt", "gte", "lt", "lte", "ne"), 1871) | {"in": [1871]},
        ),
        "TreeMemory.documents_for": Target(memory.documents_for, {**query, "llm": llm}),
        "TreeMemory.verify": Target(memory.verify, {"repair": False}),
        "TreeMemory.compact": Target(memory.compact, {}),
        "TreeMemory.export": Target(
            memory.export, {"path": at.folder / "exported", "ids": ["story"]}
        ),
        "TreeMemory.import_from": Target(
            memory.import_from, {"path": at.folder / "other", **other}, True
        ),
        "TreeMemory.load_encoder": Target(
            memory.load_encoder, {"adapter": None, "device": "cpu", "dtype": "float32"}
        ),
    }


def runs(at: Place) -> dict[str, Target]:
    """Training and evaluation."""
    rows = at.file("b.jsonl", '{"text": "x"}\n')
    toml = at.file("run.toml", "out = 'x'\n[data]\ndocuments = ['b.jsonl']\n")
    given = {"data": {"documents": [str(rows)], "sources": [{"task": "lm", "weight": 1}]}}
    fields = TrainConfig.model_validate({**given, "out": "x"}).model_dump()
    config = TrainConfig.model_validate({**given, "out": "x"})
    settings = {
        field.name: getattr(Settings(), field.name) for field in dataclasses.fields(Settings)
    }
    return {
        "TrainConfig": Target(TrainConfig, fields),
        "read_config": Target(read_config, {"path": toml, "data": at.folder}),
        "require_data": Target(require_data, {"config": config}),
        "Settings": Target(Settings, settings),
    }


def langchain(at: Place) -> dict[str, Target]:
    llm, memory = at.llm, at.memory
    own = {"llm": llm, "memory": memory, "max_tokens": 1}
    fields = {**MODEL, **ANSWER, **own, "max_retries": 0, "streaming": False}
    completion = {name: value for name, value in fields.items() if name != "streaming"}
    chat = lc.ChatSharedLLM(**own)
    retriever = lc.TreeMemoryRetriever(memory=memory)
    store = lc.TreeMemoryVectorStore(memory)
    compressor = lc.TreeMemoryCompressor(llm=llm, memory=memory)
    one = LangChainDocument(FERRY, id="added")
    finding = {"memory": memory, "k": 2, "filter": None, "tenant": ""}
    question = "Who kept the light?"
    call = dict.fromkeys(("stop", "model", "filter", "timeout"))
    call |= {"temperature": 0.0, "max_tokens": 1, "top_p": 1.0, "top_k": 0, "seed": 1}
    call |= {"repetition_penalty": 1.0, "budget": 100}
    return {
        "ChatSharedLLM": Target(lambda **f: lc.ChatSharedLLM(**f).invoke(question), fields),
        "ChatSharedLLM.invoke": Target(chat.invoke, {"input": question, **call}),
        "ChatSharedLLM.stream": Target(chat.stream, {"input": question, **call}),
        "ChatSharedLLM.bind_tools": Target(chat.bind_tools, {"tools": [], "tool_choice": None}),
        "ChatSharedLLM.with_structured_output": Target(
            chat.with_structured_output,
            {"schema": {"type": "object", "title": "A", "properties": {}}, "method": "json_schema"},
        ),
        "ChatSharedLLM.get_token_ids": Target(chat.get_token_ids, {"text": question}),
        "SharedLLMCompletion": Target(
            lambda **f: lc.SharedLLMCompletion(**f).invoke(question), completion
        ),
        "langchain TreeMemoryRetriever": Target(
            lambda **f: lc.TreeMemoryRetriever(**f).invoke(question),
            {**finding, "returns": "documents", "references": True, "llm": llm},
        ),
        "langchain TreeMemoryRetriever.invoke": Target(
            retriever.invoke, {"input": question, "k": 1, "filter": None}
        ),
        "TreeMemoryRetriever.upsert": Target(
            lambda items: retriever.upsert(items), {"items": [one]}, True
        ),
        "TreeMemoryRetriever.delete": Target(retriever.delete, {"ids": ["ferry"]}, True),
        "TreeMemoryRetriever.get": Target(lambda ids: retriever.get(ids), {"ids": ["ferry"]}),
        "langchain TreeMemoryVectorStore": Target(
            lambda **f: lc.TreeMemoryVectorStore(**f).similarity_search(question),
            {"memory": memory, "filter": None, "llm": llm},
        ),
        "TreeMemoryVectorStore.add_texts": Target(
            store.add_texts, {"texts": [FERRY], "metadatas": [{"year": 1}], "ids": ["a"]}, True
        ),
        "TreeMemoryVectorStore.delete": Target(store.delete, {"ids": ["ferry"]}, True),
        "TreeMemoryVectorStore.similarity_search": Target(
            store.similarity_search, {"query": question, "k": 1, "filter": None}
        ),
        "TreeMemoryCompressor": Target(
            lambda **f: lc.TreeMemoryCompressor(**f).compress_documents([one], question),
            {**MODEL, "llm": llm, "memory": memory, "budget": 100, "search": {}},
        ),
        "TreeMemoryCompressor.compress_documents": Target(
            compressor.compress_documents, {"documents": [one], "query": question}
        ),
        "create_tree_memory_tool": Target(
            lambda **f: lc.create_tree_memory_tool(**f).invoke({"query": question}),
            {**finding, "name": "search", "description": "Searches.", "content": "documents"},
        ),
        "langchain whole_documents": Target(lc.whole_documents, {"documents": [one]}),
        "answer_of": Target(lc.answer_of, {"response": chat.invoke(question)}),
    }


def llamaindex(at: Place) -> dict[str, Target]:
    llm, memory = at.llm, at.memory
    own = {"llm": llm, "memory": memory, "max_tokens": 1}
    fields = {**MODEL, **ANSWER, **own, "grammar": "", "context_window": 1000}
    model = li.LlamaIndexSharedLLM(**own)
    index = li.TreeMemoryIndex(memory, llm=model)
    retriever = li.TreeMemoryRetriever(memory, similarity_top_k=1)
    one = LlamaIndexDocument(text=FERRY, id_="added")
    store = li.TreeMemoryVectorStore(memory=memory, llm=llm)
    node = NodeWithScore(node=TextNode(text=FERRY, id_="n"), score=1.0)
    question = "Who kept the light?"
    post = li.TreeMemoryPostprocessor(llm=llm, memory=memory)
    finding = {"memory": memory, "similarity_top_k": 2, "filters": None, "returns": "documents"}
    found = {"nodes": [node], "query_str": question}
    selecting = {**MODEL, "llm": llm, "memory": memory, "budget": 100, "search": {}}
    return {
        "LlamaIndexSharedLLM": Target(
            lambda **f: li.LlamaIndexSharedLLM(**f).complete(question), fields
        ),
        "LlamaIndexSharedLLM.complete": Target(
            model.complete, {"prompt": question, "temperature": 0.0, "stop": None, "max_tokens": 1}
        ),
        "LlamaIndexSharedLLM.chat": Target(
            model.chat, {"messages": [ChatMessage(content=question)], "timeout": None}
        ),
        "TreeMemoryIndex": Target(
            li.TreeMemoryIndex, {"memory": memory, "llm": model, "tenant": None}
        ),
        "TreeMemoryIndex.from_documents": Target(
            li.TreeMemoryIndex.from_documents,
            {"documents": [one], "llm": model, "memory": memory, "show_progress": False},
            True,
        ),
        "TreeMemoryIndex.load": Target(
            li.TreeMemoryIndex.load, {"persist_dir": memory.path, "llm": model, "tenant": None}
        ),
        "TreeMemoryIndex.persist": Target(index.persist, {"persist_dir": at.folder / "kept"}),
        "TreeMemoryIndex.insert": Target(index.insert, {"document": one}, True),
        "TreeMemoryIndex.update_ref_doc": Target(
            index.update_ref_doc, {"document": LlamaIndexDocument(text=STORY, id_="story")}, True
        ),
        "TreeMemoryIndex.delete_ref_doc": Target(
            index.delete_ref_doc, {"ref_doc_id": "ferry"}, True
        ),
        "TreeMemoryIndex.refresh": Target(index.refresh, {"documents": [one]}, True),
        "TreeMemoryIndex.as_retriever": Target(
            index.as_retriever,
            {name: value for name, value in finding.items() if name != "memory"},
        ),
        "TreeMemoryIndex.as_query_engine": Target(
            index.as_query_engine, {"llm": None, "citations": False, "similarity_top_k": 1}
        ),
        "TreeMemoryIndex.as_chat_engine": Target(
            index.as_chat_engine, {"chat_mode": "context", "llm": None}
        ),
        "llamaindex TreeMemoryRetriever": Target(
            lambda **f: li.TreeMemoryRetriever(**f).retrieve(question),
            {**finding, "references": True, "tenant": "", "llm": model, "verbose": False},
        ),
        "llamaindex TreeMemoryRetriever.retrieve": Target(
            retriever.retrieve, {"str_or_query_bundle": question}
        ),
        "llamaindex TreeMemoryVectorStore": Target(
            lambda **f: li.TreeMemoryVectorStore(**f).get_nodes(["ferry"]),
            {**MODEL, "llm": llm, "memory": memory},
        ),
        "llamaindex TreeMemoryVectorStore.add": Target(store.add, {"nodes": [one]}, True),
        "llamaindex TreeMemoryVectorStore.delete": Target(
            store.delete, {"ref_doc_id": "ferry"}, True
        ),
        "TreeMemoryPostprocessor": Target(
            lambda **f: li.TreeMemoryPostprocessor(**f).postprocess_nodes(**found),
            {**selecting, "returns": "passages"},
        ),
        "TreeMemoryPostprocessor.postprocess_nodes": Target(post.postprocess_nodes, found),
        "TreeMemoryTransform": Target(
            lambda **f: li.TreeMemoryTransform(**f)([one]),
            {**MODEL, "llm": llm, "memory": memory, "references": True},
        ),
        "TreeMemoryTransform.__call__": Target(
            li.TreeMemoryTransform(memory=memory, llm=llm), {"nodes": [one]}, True
        ),
        **{
            kind.__name__: Target(kind.from_args, {"retriever": retriever, "llm": model})
            for kind in (li.TreeMemoryQueryEngine, li.TreeMemoryCitationEngine)
        },
        "react_grammar": Target(li.react_grammar, {"tools": [TOOL], "arguments": 48}),
        "llamaindex whole_documents": Target(li.whole_documents, {"documents": [one]}),
    }


GROUPS = (configs, models, asking, answers, files, memories, runs, langchain, llamaindex)
