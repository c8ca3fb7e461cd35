"""Which chunks of a large memory a question's exact search looks at.

Two rankings of chunks, by embedding and by words (BM25), are joined by their ranks: what either
finds near its top is looked at. The words are indexed by SQLite in the transaction that adds or
deletes a chunk, so that they are never behind.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.memory import rows
from sharedllm.memory.dense import DenseIndex
from sharedllm.memory.filters import condition
from sharedllm.memory.shelf import Run

WORD = re.compile(r"\w+")
MOST_WORDS = 64  # of a query
RANK_SHIFT = 60  # of reciprocal rank fusion; the customary value


def every_text(connection: sqlite3.Connection, given: Mapping[str, Any] | None) -> list[Run]:
    """All texts of the documents that the filter lets through, each under its first document."""
    where, values = condition(given)
    found = connection.execute(
        "SELECT d.text, (SELECT count(*) FROM placed p WHERE p.text = d.text), d.id, "
        f"min(d.document) FROM documents d WHERE {where} GROUP BY d.text ORDER BY 4",
        values,
    )
    return [Run(text, 0, last, document, whole=True) for text, last, document, _ in found]


def is_large(
    connection: sqlite3.Connection, given: Mapping[str, Any] | None, candidates: int
) -> bool:
    """Whether more than so many chunks are to be searched."""
    where, values = condition(given)
    found = connection.execute(
        f"SELECT 1 FROM documents d JOIN placed p ON p.text = d.text WHERE {where} LIMIT 1 "
        "OFFSET ?",
        (*values, candidates),
    )
    return found.fetchone() is not None


class Prefilter:
    """Ranks chunks.

    Parameters
    ----------
    kind : {"hybrid", "dense", "words"}
    candidates : chunks that are let through
    """

    def __init__(self, dense: DenseIndex, kind: str, candidates: int) -> None:
        self._dense, self._kind, self._candidates = dense, kind, candidates

    @property
    def needs_embedding(self) -> bool:
        return self._kind != "words"

    def runs(
        self,
        connection: sqlite3.Connection,
        query: str,
        embedding: NDArray[np.float32] | None,
        given: Mapping[str, Any] | None,
    ) -> list[Run]:
        """Stretches of neighbouring chunks, the one with the best chunk last."""
        rankings = []
        if embedding is not None:
            allowed = None if given is None else _allowed(connection, given)
            rankings.append(self._dense.search(connection, embedding, self._candidates, allowed))
        if self._kind != "dense":
            rankings.append(by_words(connection, query, self._candidates, given))
        scores = fused(rankings)
        best = sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[: self._candidates]
        return _runs(connection, {chunk: scores[chunk] for chunk in best}, given)


def fused(rankings: Sequence[Sequence[int]]) -> dict[int, float]:
    """Reciprocal rank fusion: the sum over rankings of 1 / (60 + rank)."""
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, chunk in enumerate(ranking, start=1):
            scores[chunk] += 1 / (RANK_SHIFT + rank)
    return dict(scores)


def by_words(
    connection: sqlite3.Connection, query: str, k: int, given: Mapping[str, Any] | None = None
) -> list[int]:
    """The `k` chunks with the best BM25 score for the words of `query`, best first."""
    words = list(dict.fromkeys(m.group().lower() for m in WORD.finditer(query)))[:MOST_WORDS]
    if not words:
        return []
    # quoted, so that nothing in a query is an operator of the index
    asked = " OR ".join(f'"{word}"' for word in words)
    where, values = condition(given)
    within = "" if given is None else f"AND rowid IN ({_CHUNKS} WHERE {where})"
    found = connection.execute(
        f"SELECT rowid FROM words WHERE words MATCH ? {within} ORDER BY bm25(words), rowid LIMIT ?",
        (asked, *values, k) if within else (asked, k),
    )
    return [int(row[0]) for row in found]


_CHUNKS = "SELECT p.chunk FROM placed p JOIN documents d ON d.text = p.text"


def _allowed(connection: sqlite3.Connection, given: Mapping[str, Any]) -> NDArray[np.int64]:
    where, values = condition(given)
    found = connection.execute(f"{_CHUNKS} WHERE {where}", values).fetchall()
    return np.unique(np.asarray([row[0] for row in found], np.int64))


def _runs(
    connection: sqlite3.Connection, scores: Mapping[int, float], given: Mapping[str, Any] | None
) -> list[Run]:
    """Where the chunks stand, neighbours joined; a chunk of several texts stands in the first."""
    where, values = condition(given)
    places: dict[int, dict[int, float]] = defaultdict(dict)  # text -> ordinal -> score
    owners: dict[int, tuple[int, str]] = {}
    seen: set[int] = set()
    found: list[tuple[int, int, int, int, str]] = []
    for some in rows.batches(scores):
        found += connection.execute(
            "SELECT d.document, p.text, p.ordinal, p.chunk, d.id FROM placed p "
            f"JOIN documents d ON d.text = p.text WHERE p.chunk IN ({rows.marks(some)}) "
            f"AND {where}",
            (*some, *values),
        ).fetchall()
    for document, text, ordinal, chunk, name in sorted(found):
        owners.setdefault(text, (document, name))
        if owners[text][0] == document and chunk not in seen:
            seen.add(chunk)
            places[text][ordinal] = scores[chunk]
    ranked: list[tuple[float, Run]] = []
    for text, ordinals in places.items():
        count = connection.execute("SELECT count(*) FROM placed WHERE text = ?", (text,))
        chunks = int(count.fetchone()[0])
        for first, last in _stretches(sorted(ordinals)):
            best = max(ordinals[ordinal] for ordinal in range(first, last))
            whole = (first, last) == (0, chunks)
            ranked.append((best, Run(text, first, last, owners[text][1], whole=whole)))
    return [run for _, run in sorted(ranked, key=lambda one: (one[0], one[1].text, one[1].first))]


def _stretches(ordinals: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers joined: [first, last) each."""
    out: list[tuple[int, int]] = []
    for ordinal in ordinals:
        if out and out[-1][1] == ordinal:
            out[-1] = (out[-1][0], ordinal + 1)
        else:
            out.append((ordinal, ordinal + 1))
    return out
