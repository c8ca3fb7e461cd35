"""Response caches of LangChain forget what the memory forgot, and tell settings apart."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.runnables import Runnable

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm_integrations.langchain import ChatSharedLLM, SharedLLMCompletion
from tests.integrations.prompts import enclosed
from tests.texts import FERRY

PROMPT = f"Read:\n{enclosed(FERRY)}\n\nWhen does the ferry leave?"
Chat = Runnable[Any, Any]


@pytest.mark.parametrize("kind", [ChatSharedLLM, SharedLLMCompletion])
@pytest.mark.parametrize("change", ["update", "delete", "add"])
def test_response_caches_forget_what_the_memory_forgot(
    llm: SharedLLM, memory: TreeMemory, kind: Any, change: str
) -> None:
    cache = InMemoryCache()
    model = kind(llm=llm, memory=memory, reads="memory", cache=cache, max_tokens=4)
    model.invoke("When does the ferry leave?")
    model.invoke("When does the ferry leave?")
    assert len(cache._cache) == 1
    if change == "update":
        memory.update(MemoryDocument(id="ferry", text="The ferry was sold."))
    elif change == "delete":
        memory.delete("ferry")
    else:
        memory.add(MemoryDocument(id="new", text="The ferry leaves at nine on Sundays."))
    model.invoke("When does the ferry leave?")
    assert len(cache._cache) == 2


def test_response_caches_tell_settings_apart(llm: SharedLLM, memory: TreeMemory) -> None:
    cache = InMemoryCache()
    own: dict[str, Any] = {"llm": llm, "cache": cache, "max_tokens": 4}
    models: list[Chat] = [
        ChatSharedLLM(**own),
        ChatSharedLLM(**{**own, "max_tokens": 5}),
        ChatSharedLLM(**own, search={"budget": 64}),
        ChatSharedLLM(**own, tenant="other"),
        ChatSharedLLM(**own, memory=memory),
        ChatSharedLLM(**own, memory=memory, filter={"year": 1902}),
        ChatSharedLLM(**own, memory=memory).bind(filter={"year": 1871}),
        ChatSharedLLM(**own, temperature=0.5, seed=1),
        ChatSharedLLM(**own, stop=["x"]),
        ChatSharedLLM(**own).bind(budget=32),
        ChatSharedLLM(**own).bind_tools([{"title": "t", "type": "object", "properties": {}}]),
    ]
    for number, model in enumerate(models, start=1):
        model.invoke("Hello")
        model.invoke("Hello")
        assert len(cache._cache) == number


def test_a_cached_answer_is_the_same(llm: SharedLLM) -> None:
    chat = ChatSharedLLM(llm=llm, cache=InMemoryCache(), max_tokens=4)
    first, second = chat.invoke(PROMPT), chat.invoke(PROMPT)
    assert first.text == second.text
    assert first.response_metadata["sharedllm"] == second.response_metadata["sharedllm"]
