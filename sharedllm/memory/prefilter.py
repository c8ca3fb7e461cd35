"""Which chunks of a large memory a question's exact search looks at.

Words rank chunks by BM25, embeddings by nearness; docs/experiments.md has what each finds. SQLite
indexes the words in the transaction that adds or deletes a chunk, so that they are never behind.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.memory import rows
from sharedllm.memory.dense import DenseIndex
from sharedllm.memory.filters import condition
from sharedllm.memory.shelf import Run

WORD = re.compile(r"[^\W_]+")  # what the index of words calls one
MOST_WORDS = 64  # of a query
COMMON = 3  # a word that every third chunk holds tells little, and takes long to look up
MOST_ROWS = 8_000  # that are looked up for a query, the rarest words first
RANK_SHIFT = 60  # of reciprocal rank fusion; the customary value
WORDS_WEIGHT = 2  # against embeddings: the first 60 of a ranking by words always get through


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
        With "words", embeddings fill up what is missing where few chunks hold any of the words.
    candidates : chunks that are let through
    """

    def __init__(self, dense: DenseIndex, kind: str, candidates: int) -> None:
        self._dense, self._kind, self._candidates = dense, kind, candidates

    def by_words(
        self, connection: sqlite3.Connection, query: str, given: Mapping[str, Any] | None
    ) -> list[int]:
        """The ranking by words, where one is wanted."""
        if self._kind == "dense":
            return []
        return by_words(connection, query, self._candidates, given)

    def needs_embedding(self, found: Sequence[int]) -> bool:
        """Whether more is needed than the chunks `found` by words."""
        return self._kind != "words" or len(found) < self._candidates

    def runs(
        self,
        connection: sqlite3.Connection,
        found: Sequence[int],
        embedding: NDArray[np.float32] | None,
        given: Mapping[str, Any] | None,
    ) -> list[Run]:
        """Stretches of neighbouring chunks, the one with the best chunk last.

        Parameters
        ----------
        found : by words
        embedding : of the query, where it is needed
        """
        near: list[int] = []
        if embedding is not None:
            allowed = None if given is None else _allowed(connection, given)
            near = self._dense.search(connection, embedding, self._candidates, allowed)
        scores = self.joined(found, near)
        best = sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[: self._candidates]
        return _runs(connection, {chunk: scores[chunk] for chunk in best}, given)

    def joined(self, found: Sequence[int], near: Sequence[int]) -> dict[int, float]:
        """A score for every chunk `found` by words, or `near` by its embedding."""
        if self._kind == "words":
            return fused([(list(dict.fromkeys([*found, *near])), 1)])
        return fused([(found, WORDS_WEIGHT), (near, 1)])


def fused(rankings: Sequence[tuple[Sequence[int], float]]) -> dict[int, float]:
    """Reciprocal rank fusion: the sum over rankings of their weight / (60 + rank)."""
    scores: dict[int, float] = defaultdict(float)
    for ranking, weight in rankings:
        for rank, chunk in enumerate(ranking, start=1):
            scores[chunk] += weight / (RANK_SHIFT + rank)
    return dict(scores)


def by_words(
    connection: sqlite3.Connection, query: str, k: int, given: Mapping[str, Any] | None = None
) -> list[int]:
    """The `k` chunks with the best BM25 score for the rarer words of `query`, best first."""
    words = _rare(connection, query)
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


def _rare(connection: sqlite3.Connection, query: str) -> list[str]:
    """The words of `query` that are looked up, as the index spells them.

    BM25 gives nothing for a word in half of all chunks and little for one in a third, but each row
    takes its time. Where all words are common, the rarest is looked up.
    """
    connection.execute(
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.held USING fts5vocab(main, words, row)"
    )
    given = dict.fromkeys(m.group().lower() for m in WORD.finditer(query))
    held: dict[str, int] = {}
    for word in list(given)[:MOST_WORDS]:
        for spelling in (word, _plain(word)):
            row = connection.execute("SELECT doc FROM temp.held WHERE term = ?", (spelling,))
            count = row.fetchone()
            if count is not None:
                held[spelling] = int(count[0])
                break
    chunks = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
    out: list[str] = []
    looked_up = 0
    for word in sorted(held, key=held.__getitem__):
        looked_up += held[word]
        if out and (held[word] * COMMON > chunks or looked_up > MOST_ROWS):
            break
        out.append(word)
    return out


def _plain(word: str) -> str:
    """`word` without accents, as the index has it."""
    parts = unicodedata.normalize("NFKD", word)
    return "".join(part for part in parts if not unicodedata.combining(part))


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
