"""LangChain's own suites for retrievers and document indexes, unmodified."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.indexing.base import DocumentIndex
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from langchain_tests.integration_tests.indexer import (
    AsyncDocumentIndexTestSuite,
    DocumentIndexerTestSuite,
)

from sharedllm import SharedLLM, TreeMemory
from sharedllm_integrations.langchain import TreeMemoryRetriever
from tests.conftest import DOCUMENTS


class TestRetriever(RetrieversIntegrationTests):
    """On the default model."""

    @pytest.fixture(autouse=True)
    def _library(self, default_llm: SharedLLM, tmp_path: Path) -> None:
        self.books = TreeMemory(tmp_path / "library", llm=default_llm)
        self.books.add(DOCUMENTS)

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return TreeMemoryRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.books}

    @property
    def retriever_query_example(self) -> str:
        return "When does the ferry to Penmor leave?"


class TestIndex(DocumentIndexerTestSuite):
    @pytest.fixture
    def index(self, default_llm: SharedLLM, tmp_path: Path) -> Generator[DocumentIndex, None, None]:
        with TreeMemory(tmp_path / "library", llm=default_llm) as library:
            yield TreeMemoryRetriever(memory=library)


class TestAsyncIndex(AsyncDocumentIndexTestSuite):
    @pytest.fixture
    async def index(
        self, default_llm: SharedLLM, tmp_path: Path
    ) -> AsyncGenerator[DocumentIndex, None]:
        with TreeMemory(tmp_path / "library", llm=default_llm) as library:
            yield TreeMemoryRetriever(memory=library)
