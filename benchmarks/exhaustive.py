"""MaxSim over everything that a memory holds, and what the budget search would take of it.

For a memory of thousands of chunks: all codes at once on one device, where the package reads
candidates only. Scores, weights and neighbours are the package's own (scorer.py, search.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm import TreeMemory, loaded_for
from sharedllm.memory.codes import layout_from_bytes
from sharedllm.memory.retrieval import codec_of
from sharedllm.memory.tables import vectors_of
from sharedllm.text.tree import Chunk, grow_trees

BLOCK, UNPACKED = 16_384, 1 << 20  # tokens at once
MISSES = 8  # leaves that do not fit before the search stops


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """All leaves of a memory, in order.

    Attributes
    ----------
    chunk : rank of its chunk, int64 (leaves,)
    text : row of its text
    start, end : characters in its text
    tokens : its length
    """

    chunk: NDArray[np.int64]
    text: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    tokens: NDArray[np.int64]


class Everything:
    """All of a memory's search vectors.

    Parameters
    ----------
    memory : with compact vectors
    device : where they are compared
    """

    def __init__(self, memory: TreeMemory, device: str) -> None:
        self.llm, self.device = loaded_for(memory), device
        codec = codec_of(memory._database, memory._manifest, memory.encoder)
        if codec is None:
            raise ValueError("the memory's search vectors must be compact")
        self.codec = codec.to(device)
        with memory._database.read() as connection:
            rows = connection.execute(
                "SELECT p.text, p.chunk, p.char_start, c.layout, c.embedding, min(d.id), c.tokens "
                "FROM placed p JOIN chunks c ON c.chunk = p.chunk "
                "JOIN documents d ON d.text = p.text "
                "GROUP BY p.text, p.ordinal ORDER BY p.text, p.ordinal"
            ).fetchall()
            stored = vectors_of(connection, list({row[1] for row in rows}))
        self.chunks = np.asarray([row[1] for row in rows], np.int64)
        self.rank = {int(chunk): rank for rank, chunk in enumerate(self.chunks)}
        self.documents = [str(row[5]) for row in rows]
        self.embeddings = np.stack([np.frombuffer(row[4], "<f2") for row in rows]).astype("f4")
        self.leaves, ids = self._cut(rows)
        codes = bytearray().join(stored[int(chunk)] for chunk in self.chunks)
        whole = torch.frombuffer(codes, dtype=torch.uint8).view(-1, self.codec.size)
        self.codes = whole.to(device)
        leaf_of_token = np.repeat(np.arange(len(self.leaves.tokens)), self.leaves.tokens)
        pairs = np.unique(ids.astype(np.int64) << 32 | leaf_of_token)
        self.ids = ids
        self._held_ids, self._held_leaves = pairs >> 32, pairs & 0xFFFFFFFF

    def _cut(self, rows: Sequence[tuple[Any, ...]]) -> tuple[Leaves, NDArray[np.int32]]:
        out: list[tuple[int, int, int, int, int]] = []
        ids = []
        for rank, (text, _, begin, layout, _, _, count) in enumerate(rows):
            own, spans = layout_from_bytes(layout, count)
            ids.append(own)
            forest = grow_trees([Chunk(index=0, start=0, end=len(own))], self.llm.tree)
            for leaf in forest.leaves:
                a, b = int(forest.start[leaf]), int(forest.end[leaf])
                first, last = int(spans[a:b, 0].min()), int(spans[a:b, 1].max())
                out.append((rank, text, begin + first, begin + last, b - a))
        names = ("chunk", "text", "start", "end", "tokens")
        columns = dict(zip(names, np.asarray(out, np.int64).T, strict=True))
        return Leaves(**columns), np.concatenate(ids)

    def best(self, query: Tensor) -> NDArray[np.float32]:
        """The best similarity of each query token with a token of each leaf; (Q, leaves)."""
        if self.device != "cpu":
            return self._best_unpacked(query)
        out = []
        for first, last, begin, end in self._blocks:
            own = self.codec.similarities(query, self.codes[begin:end]).numpy()
            starts = np.cumsum(self.leaves.tokens[first:last]) - self.leaves.tokens[first:last]
            out.append(np.maximum.reduceat(own, starts, axis=1))
        return np.concatenate(out, axis=1)

    @cached_property
    def _blocks(self) -> list[tuple[int, int, int, int]]:
        """Leaves [first, last) and their tokens [begin, end), about a block of tokens each."""
        ends = np.cumsum(self.leaves.tokens)
        cuts = np.searchsorted(ends, np.arange(BLOCK, ends[-1] + BLOCK, BLOCK)).clip(max=len(ends))
        bounds = [0, *dict.fromkeys(cuts.tolist())]
        at = [0, *(int(ends[last - 1]) for last in bounds[1:])]
        return list(zip(bounds, bounds[1:], at, at[1:], strict=False))

    @cached_property
    def _signs(self) -> Tensor:
        """All codes as numbers, where there is the memory for it; float16 (T, bits)."""
        bits = torch.arange(8, device=self.device)
        parts = [
            ((part[..., None] >> bits) & 1).flatten(1).half() * 2 - 1
            for part in self.codes.split(BLOCK)
        ]
        return torch.cat(parts)

    def _best_unpacked(self, query: Tensor) -> NDArray[np.float32]:
        """The same as a product with +1 and -1."""
        weights = (query.to(self.device) @ self.codec.projection) * self.codec.levels
        lengths = torch.from_numpy(self.leaves.tokens).to(self.device)
        products = torch.cat([p.float() @ weights.T for p in self._signs.split(UNPACKED)])
        best = torch.segment_reduce(products, "max", lengths=lengths, axis=0)
        return np.ascontiguousarray(best.T.cpu().numpy())

    def weights(self, ids: NDArray[np.int32], among: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Squared idf of the query's tokens over the leaves `among`; (Q,)."""
        held = []
        for token in ids:
            first, last = np.searchsorted(self._held_ids, (int(token), int(token) + 1))
            held.append(int(among[self._held_leaves[first:last]].sum()))
        return (np.log1p(among.sum() / (1 + np.asarray(held))) ** 2).astype(np.float32)

    def scores(
        self, best: NDArray[np.float32], ids: NDArray[np.int32], chunks: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Leaves of `chunks` (ranks; None is all) in order, and their scores among each other."""
        among = np.ones(len(self.leaves.chunk), bool)
        if chunks is not None:
            chosen = np.zeros(len(self.chunks), bool)
            chosen[chunks] = True
            among = chosen[self.leaves.chunk]
        where = np.flatnonzero(among)
        return where, self.weights(ids, among) @ best[:, where]

    def selected(
        self, where: NDArray[np.int64], scores: NDArray[np.float32], budget: int, overhead: int
    ) -> NDArray[np.int64]:
        """The leaves that the budget search takes, best first."""
        near = self._with_neighbours(where, scores)
        out, spent, misses = [], 0, 0
        for at in np.argsort(-near, kind="stable"):
            cost = int(self.leaves.tokens[where[at]]) + overhead
            if spent + cost <= budget:
                out.append(int(where[at]))
                spent += cost
            else:
                misses += 1
                if misses > MISSES:
                    break
        return np.asarray(out, np.int64)

    def _with_neighbours(
        self, where: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Scores lifted by those beside them in the same stretch of a text."""
        neutral, out = float(scores.mean()), scores.copy()
        text = self.leaves.text[where]
        for distance, share in enumerate(self.llm.search.neighbours, start=1):
            same = (text[distance:] == text[:-distance]) & (
                where[distance:] - where[:-distance] == distance
            )
            right = np.full(len(scores), neutral, np.float32)
            left = right.copy()
            right[:-distance][same] = scores[distance:][same]
            left[distance:][same] = scores[:-distance][same]
            out += share * (right + left)
        return out
