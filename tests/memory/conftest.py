"""A tiny model whose window is wide enough for several documents, and memories made with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from tests.models import shared
from tests.texts import FERRY, GARDEN, STORY

WIDE = {"max_position_embeddings": 8192}
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


@pytest.fixture(scope="package")
def llm() -> SharedLLM:
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
