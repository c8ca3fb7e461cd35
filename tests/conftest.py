"""Fixtures: tiny models only, offline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

from sharedllm import Document, MemoryDocument, SharedLLM, TreeMemory
from sharedllm.hf import loading
from tests.models import make_model, make_tokenizer, shared
from tests.texts import FERRY, GARDEN, STORY

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other
settings.register_profile("quick", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("quick")

WIDE = {"max_position_embeddings": 8192}  # a window for several documents
DOCUMENTS = (
    MemoryDocument(
        id="story",
        text=STORY,
        title="The lighthouse",
        source="lighthouse.txt",
        metadata={"year": 1871, "place": "Penmor"},
    ),
    MemoryDocument(id="ferry", text=FERRY, title="The ferry", metadata={"place": "Penmor"}),
    MemoryDocument(id="garden", text=GARDEN, metadata={"year": 1902}),
)
Make = Callable[..., TreeMemory]


@pytest.fixture(autouse=True, scope="session")
def float32_on_every_processor() -> Iterator[None]:
    """What is compared exactly must not depend on the machine's instructions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "multiplies_bf16", lambda: False)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama and its tokenizer, as a user would have one."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llm() -> SharedLLM:
    """A tiny Llama with trees of chunk 64, height 2."""
    return shared("llama")


@pytest.fixture(scope="session")
def story(tiny_llm: SharedLLM) -> Document:
    """A document of several chunks, the last one cut short."""
    return tiny_llm.remember(STORY, title="The lighthouse", source="lighthouse.txt")


@pytest.fixture(scope="session")
def llm() -> SharedLLM:
    """A tiny Llama with a window for several documents."""
    return shared("llama", sizes=WIDE)


@pytest.fixture
def make(llm: SharedLLM, tmp_path: Path) -> Iterator[Make]:
    """Opens memories in the test's folder, by name, and closes them."""
    opened: list[TreeMemory] = []

    def open_one(name: str = "memory", **options: Any) -> TreeMemory:
        opened.append(TreeMemory(tmp_path / name, **{"llm": llm, **options}))
        return opened[-1]

    yield open_one
    for memory in opened:
        memory.close()


@pytest.fixture
def memory(make: Make) -> TreeMemory:
    """Three documents."""
    made = make()
    made.add(DOCUMENTS)
    return made
