"""Trees of texts are kept for the process: within a limit, once each, apart for each memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sharedllm import Document, SharedLLM
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.references import Scope
from sharedllm_integrations.tree_cache import TreeCache
from tests.texts import FERRY, GARDEN, STORY


def build(
    cache: TreeCache, llm: SharedLLM, text: str, tenant: str = "", memory: str = "", title: str = ""
) -> tuple[Document, bool]:
    return cache.build(llm, Scope(tenant, memory), text, title=title, source=f"{title}.txt")


def test_the_cache_keeps_within_its_limit(llm: SharedLLM) -> None:
    cache = TreeCache()
    for text in (STORY, FERRY, GARDEN, STORY):
        build(cache, llm, text)
    assert len(cache) == 3
    cache.resize(cache.nbytes - 1)
    assert len(cache) == 2
    assert not build(cache, llm, STORY)[1]
    assert build(cache, llm, FERRY)[1]  # the one that was used longest ago
    cache.resize(0)
    assert len(cache) == 1
    with pytest.raises(SetupError, match="whole number of bytes"):
        cache.resize(-1)


def test_neither_tenants_nor_memories_nor_titles_meet(llm: SharedLLM) -> None:
    cache = TreeCache()
    for tenant in ("ada", "bea"):
        for memory in ("", "/library"):
            assert build(cache, llm, FERRY, tenant, memory, title=tenant)[1]
            document, built = build(cache, llm, FERRY, tenant, memory)
            assert not built
            assert (document.title, document.source) == ("", ".txt")


def test_threads_build_a_document_once(llm: SharedLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, built = TreeCache(), list[str]()
    remember = SharedLLM.remember

    def counted(self: SharedLLM, text: str, **options: Any) -> Any:
        built.append(text)
        return remember(self, text, **options)

    monkeypatch.setattr(SharedLLM, "remember", counted)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: build(cache, llm, STORY), range(16)))
    assert len(built) == 1
    assert sum(new for _, new in found) == 1
    assert not cache._building
