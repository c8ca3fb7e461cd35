"""Pieces -> what the model makes of them: search vectors, an embedding, KV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import NodeRequest, unit
from sharedllm.memory import kv
from sharedllm.memory.embedders import Embedder
from sharedllm.memory.identity import MemorySettings
from sharedllm.memory.landing import Landing
from sharedllm.memory.pieces import Piece
from sharedllm.memory.shards import Stored
from sharedllm.memory.vector_form import VectorForm
from sharedllm.text.tree import Chunk, planted

if TYPE_CHECKING:
    from sharedllm.shared_llm import SharedLLM

BATCH_TOKENS = 16384  # encoded and committed at once, or what the devices take in one pass


@dataclass(frozen=True, slots=True)
class EncodedPiece:
    """A piece with what is stored of it.

    Attributes
    ----------
    arrays : by name
    embedding : float16 (dims,)
        Of unit length.
    """

    piece: Piece
    arrays: dict[str, Stored]
    embedding: NDArray[np.float16]


class PieceEncoder:
    """Encodes pieces with one model.

    Parameters
    ----------
    form : of search vectors
    embedder : for the prefilter; None takes the mean of a piece's search vectors
    """

    def __init__(
        self,
        llm: SharedLLM,
        settings: MemorySettings,
        form: VectorForm,
        embedder: Embedder | None,
    ) -> None:
        self._llm, self._settings, self._embedder = llm, settings, embedder
        self._form = form
        self.batch_tokens = max(BATCH_TOKENS, llm.lower.at_once)

    def encode(
        self, pieces: Sequence[Piece], done: Callable[[int], None] | None = None
    ) -> list[EncodedPiece]:
        """Encode `pieces`; `done` is called with the number of tokens just read."""
        ids = np.concatenate([piece.ids for piece in pieces])
        ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        starts = [0, *ends[:-1]]
        spans = list(zip(starts, ends, strict=True))
        with self._llm.turns.model:
            vectors = self._llm.lower.vectors(ids, spans, done=done)
        nodes = self._nodes(ids, spans)
        embeddings = self._embeddings(pieces, vectors, spans)
        out = []
        for piece, (start, end), embedding in zip(pieces, spans, embeddings, strict=True):
            arrays = self._form.stored(vectors[start:end])
            for name, requests in self._levels(end - start).groups().items():
                moved = [_moved(request, start) for request in requests]
                arrays |= kv.stored(name, [nodes[r] for r in moved], self._settings.kv)
            out.append(EncodedPiece(piece, arrays, embedding))
        return out

    def query(self, text: str, vectors: Tensor) -> NDArray[np.float32]:
        """The embedding of a query, whose search vectors are `vectors`; float32 (dims,)."""
        if self._embedder is None:
            found = unit(vectors.float().mean(0)).cpu().numpy()
        else:
            found = self._embedder.query(text)
        return np.asarray(found, np.float32)

    def _levels(self, length: int) -> kv.Levels:
        return kv.Levels.of(length, self._llm.tree, self._settings.keep)

    def _nodes(
        self, ids: NDArray[np.int32], spans: Sequence[tuple[int, int]]
    ) -> dict[NodeRequest, NodeKV]:
        """The KV of every node that is kept, on the CPU, by its place in `ids`."""
        wanted = [
            _moved(request, start)
            for start, end in spans
            for requests in self._levels(end - start).groups().values()
            for request in requests
        ]
        out: dict[NodeRequest, NodeKV] = {}
        encoded = self._llm.lower.encode(ids, wanted)
        landing = Landing(self._llm.lower.device)
        while True:
            with self._llm.turns.model, torch.inference_mode():
                pair = next(encoded, None)
            if pair is None:
                landing.wait()
                return out
            out[pair[0]] = NodeKV(
                keys=landing.take(pair[1].keys), values=landing.take(pair[1].values)
            )

    def _embeddings(
        self, pieces: Sequence[Piece], vectors: Tensor, spans: Sequence[tuple[int, int]]
    ) -> NDArray[np.float16]:
        """One row a piece; (pieces, dims)."""
        if self._embedder is None:
            means = torch.stack([vectors[start:end].float().mean(0) for start, end in spans])
            return np.asarray(unit(means).half().cpu().numpy())
        texts, counts = [], []
        for piece in pieces:
            own = self._leaf_texts(piece)
            texts += own
            counts.append(len(own))
        rows = self._embedder.texts(texts)
        sums = np.add.reduceat(rows, np.cumsum([0, *counts[:-1]]), axis=0)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(sums / np.maximum(lengths, 1e-12), np.float16)

    def _leaf_texts(self, piece: Piece) -> list[str]:
        """The texts of the piece's leaves: embedders read a few hundred words at most."""
        whole = Chunk(index=0, start=0, end=len(piece))
        forest = planted([whole], self._llm.tree)
        out = []
        for node in forest.leaves:
            own = piece.spans[forest.start[node] : forest.end[node]]
            out.append(piece.text[int(own[:, 0].min()) : int(own[:, 1].max())])
        return out


def _moved(request: NodeRequest, by: int) -> NodeRequest:
    return replace(request, start=request.start + by, end=request.end + by)
