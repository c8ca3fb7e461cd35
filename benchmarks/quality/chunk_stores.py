"""Chunks of a library in LangChain: windows of 256 tokens, found by BM25 or by MiniLM's embeddings.

Used by chains.py.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore

from benchmarks.quality.library import Volume
from sharedllm.hf.minilm import MiniLM
from sharedllm.text.tokens import tokenize

WINDOW = 256
K1, B = 1.5, 0.75


def chunks(volumes: Sequence[Volume], tokenizer: Any) -> list[Document]:
    """Windows of 256 tokens."""
    out = []
    for volume in volumes:
        tokens = tokenize(volume.text, tokenizer)
        for at in range(0, len(tokens), WINDOW):
            start, end = tokens.characters(at, min(at + WINDOW, len(tokens)))
            text = volume.text[start:end]
            out.append(
                Document(id=f"{volume.id}:{start}", page_content=text, metadata=volume.named)
            )
    return out


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class BM25Chunks(BaseRetriever):
    """The k best chunks by Okapi BM25, best first."""

    chunks: list[Document]
    k: int

    @cached_property
    def _counts(self) -> list[Counter[str]]:
        return [Counter(words(chunk.page_content)) for chunk in self.chunks]

    @cached_property
    def _idf(self) -> dict[str, float]:
        seen = Counter(word for counts in self._counts for word in counts)
        n = len(self.chunks)
        return {word: math.log(1 + (n - df + 0.5) / (df + 0.5)) for word, df in seen.items()}

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        mean = sum(counts.total() for counts in self._counts) / len(self._counts)
        asked = [word for word in dict.fromkeys(words(query)) if word in self._idf]

        def score(counts: Counter[str]) -> float:
            length = K1 * (1 - B + B * counts.total() / mean)
            return sum(self._idf[w] * counts[w] * (K1 + 1) / (counts[w] + length) for w in asked)

        scores = [score(counts) for counts in self._counts]
        best = sorted(range(len(scores)), key=lambda i: -scores[i])
        return [self.chunks[i] for i in best[: self.k]]


class MiniLMEmbeddings(Embeddings):
    """all-MiniLM-L6-v2 for LangChain."""

    @cached_property
    def _model(self) -> MiniLM:
        return MiniLM()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._model(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._model([text])[0].tolist()


def minilm_store(chunks: list[Document], kept: Path | None) -> InMemoryVectorStore:
    """The chunks' embeddings; taken from the file `kept` where it is, else written to it."""
    embeddings = MiniLMEmbeddings()
    if kept is not None and kept.exists():
        return InMemoryVectorStore.load(str(kept), embeddings)
    store = InMemoryVectorStore.from_documents(chunks, embeddings)
    if kept is not None:
        store.dump(str(kept))
    return store


class BestLast(BaseRetriever):
    """Another retriever's documents with the best one last, nearest to a question behind them."""

    found_by: BaseRetriever

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.found_by.invoke(query)[::-1]
