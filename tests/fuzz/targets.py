"""Every public callable with good arguments: the fuzzers replace one of them at a time.

A name that is public and is not here, nor in :data:`LEFT_OUT` with a reason, fails a test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sharedllm
from sharedllm import (
    Answer,
    Document,
    GenerationConfig,
    InjectionConfig,
    MemoryDocument,
    SearchConfig,
    SharedLLM,
    TreeConfig,
    TreeMemory,
)
from sharedllm.config import AdapterConfig
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.evaluation.options import Settings
from sharedllm.text.loaders import read_rows
from sharedllm.training.train_config import TrainConfig, read_config, require_data
from tests.models import TREE
from tests.texts import FERRY, STORY

Call = Callable[..., Any]


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
        "read_rows": Target(read_rows, {"path": rows, "skip": 0}),
    }


def memories(at: Place) -> dict[str, Target]:
    memory, llm = at.memory, at.llm
    opening = {"llm": llm, "keep": "text", "kv": "bf16", "vectors": "compact", "embedder": None}
    opening |= {"prefilter": None, "candidates": 128, "rebuild": False, "create": True}
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


GROUPS = (configs, models, asking, answers, files, memories, runs)
