"""The prefilter: which chunks of a large memory a question's exact search looks at.

Two rankings of chunks, both from the index of words that SQLite keeps in the transaction which adds
or deletes a chunk, so that it is never behind, and nothing else is stored. BM25 ranks by the
question's own words. The other ranking takes as well the words that the model's vocabulary has near
them, for texts that say the same in other words; docs/experiments.md (38) has what each finds.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.encoding.near_words import NearWords
from sharedllm.memory import records
from sharedllm.memory.filters import condition
from sharedllm.memory.stored_documents import Run
from sharedllm.search.bm25 import Asked
from sharedllm.text.outline import Section

MOST_WORDS = 64  # of a query
COMMON = 3  # a word that every third chunk holds tells little, and takes long to look up
MOST_ROWS = 8_000  # that are looked up for a query's own words, the rarest first
MOST_NEAR_ROWS = 60_000  # that are looked up for them and the words near them
NEAR = 0.7  # of what a word counts, the nearest other word counts at most
MOST_NAMING = 4  # chunks that hold what a later round of search searches for
FEW_TEXTS, OTHERS = 8, 8  # candidates of fewer texts have this part of others
WITHIN = 32  # times as many chunks are looked up where only those of some sections count
FIRST_BY_WORDS = 4  # of all candidates this part are the best by BM25


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
    """True when more than so many chunks are to be searched."""
    where, values = condition(given)
    found = connection.execute(
        f"SELECT 1 FROM documents d JOIN placed p ON p.text = d.text WHERE {where} LIMIT 1 "
        "OFFSET ?",
        (*values, candidates),
    )
    return found.fetchone() is not None


def candidates_of(
    connection: sqlite3.Connection,
    query: str,
    near: NearWords,
    k: int,
    given: Mapping[str, Any] | None = None,
) -> list[int]:
    """The `k` chunks that an exact search is to look at, best first.

    A quarter are the best by the question's own words, the others those that near words find;
    where all that is found are fewer, the ends of the newest documents fill up. Where they are of a
    few long texts only, an eighth are of other texts, which a question for documents wants, too.
    """
    own = by_words(connection, query, k, given)
    wider = by_near_words(connection, query, near, k, given)
    found = dict.fromkeys([*own[: -(-k // FIRST_BY_WORDS)], *wider, *own])
    if len(found) < k:
        where, values = condition(given)
        newest = connection.execute(
            f"{_CHUNKS} WHERE {where} GROUP BY p.chunk ORDER BY max(d.document) DESC, "
            "max(p.ordinal) DESC LIMIT ?",
            (*values, k),
        )
        found |= dict.fromkeys(int(row[0]) for row in newest)
    chunks = list(found)[:k]
    others = _of_others(connection, chunks, k // OTHERS, given)
    return [*chunks[: k - len(others)], *others]


def _of_others(
    connection: sqlite3.Connection,
    chunks: Sequence[int],
    most: int,
    given: Mapping[str, Any] | None,
) -> list[int]:
    """The first chunks of `most` other texts, the newest, where `chunks` are of few texts."""
    texts = dict[int, None]()
    for some in records.batches(chunks):
        rows = connection.execute(
            f"SELECT DISTINCT text FROM placed WHERE chunk IN ({records.marks(some)})", (*some,)
        )
        texts |= dict.fromkeys(int(row[0]) for row in rows)
    if len(texts) >= FEW_TEXTS:
        return []
    where, values = condition(given)
    held = records.marks(list(texts))
    found = connection.execute(
        f"{_CHUNKS} WHERE {where} AND p.ordinal = 0 AND p.text NOT IN ({held}) "
        "GROUP BY p.text ORDER BY max(d.document) DESC LIMIT ?",
        (*values, *texts, most),
    )
    return [int(row[0]) for row in found if row[0] not in set(chunks)]


def naming(
    connection: sqlite3.Connection, names: Iterable[str], given: Mapping[str, Any] | None
) -> list[int]:
    """The chunks that hold all words of one of `names`, of those that few hold."""
    where, values = condition(given)
    within = "" if given is None else f"AND rowid IN ({_CHUNKS} WHERE {where})"
    out: dict[int, None] = {}
    for name in names:
        asked = " AND ".join(f'"{term}"' for term in Asked.of(name).terms)
        if not asked:
            continue
        rows = connection.execute(
            f"SELECT rowid FROM words WHERE words MATCH ? {within} LIMIT ?",
            (asked, *(values if within else ()), MOST_NAMING + 1),
        ).fetchall()
        if len(rows) <= MOST_NAMING:
            out |= dict.fromkeys(int(row[0]) for row in rows)
    return list(out)


def runs_of(
    connection: sqlite3.Connection, chunks: Sequence[int], given: Mapping[str, Any] | None
) -> list[Run]:
    """Stretches of neighbouring chunks of those that are given, the one with the first last."""
    return _runs(connection, {chunk: -rank for rank, chunk in enumerate(chunks)}, given)


def in_sections(
    connection: sqlite3.Connection,
    query: str,
    near: NearWords,
    k: int,
    given: Mapping[str, Any] | None,
    sections: Mapping[int, Sequence[Section]],
    names: Sequence[str] = (),
) -> list[Run]:
    """Stretches of the chunks in `sections` of texts: all, or where they are many the best `k`.

    Parameters
    ----------
    sections : by the row of their text
    """
    allowed: dict[int, None] = {}
    for text, own in sections.items():
        for section in own:
            rows = connection.execute(
                "SELECT chunk FROM placed WHERE text = ? AND char_end > ? AND char_start < ? "
                "ORDER BY ordinal",
                (text, section.start, section.end),
            )
            allowed |= dict.fromkeys(int(row[0]) for row in rows)
    chunks = list(allowed)
    if len(chunks) > k:
        found = candidates_of(connection, query, near, WITHIN * k, given)
        best = [chunk for chunk in found if chunk in allowed]
        more = [chunk for chunk in naming(connection, names, given) if chunk in allowed]
        chunks = [*list(dict.fromkeys([*best, *chunks]))[:k], *more]
    runs = runs_of(connection, list(dict.fromkeys(chunks)), given)
    return [run for run in runs if run.text in sections]


def by_words(
    connection: sqlite3.Connection, query: str, k: int, given: Mapping[str, Any] | None = None
) -> list[int]:
    """The `k` chunks with the best BM25 score for the rarer words of `query`, best first."""
    words = _rare(connection, Asked.of(query).terms)
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


def by_near_words(
    connection: sqlite3.Connection,
    query: str,
    near: NearWords,
    k: int,
    given: Mapping[str, Any] | None = None,
) -> list[int]:
    """The `k` chunks that hold the words of `query`, or words near them, best first.

    score(chunk) = sum over the query's words of idf^2 * nearness of the nearest word in the chunk:
    1 for the word itself, 0.7 * cosine for another. A word that no chunk holds has the idf of the
    rarest.
    """
    asked = Asked.of(query)
    terms = [term for term in asked.terms if term in asked.content][:MOST_WORDS]
    around = {term: near.of(term) if term not in asked.exact else {} for term in terms}
    sought = {
        term: {term: 1.0} | {word: NEAR * cosine for word, cosine in around[term].items()}
        for term in terms
    }
    held = _held(connection, {word for words in sought.values() for word in words})
    chunks = _count(connection)
    wanted = _affordable(sought, held, chunks)
    rows = {word: _holding(connection, word) for word in {word for _, word in wanted}}
    found = np.unique(np.concatenate([np.empty(0, np.int64), *rows.values()]))
    if given is not None:
        found = np.intersect1d(found, _allowed(connection, given))
    scores = np.zeros(len(found))
    for term, words in sought.items():
        idf = math.log1p(chunks / (1 + held.get(term, 0)))
        best = np.zeros(len(found))
        for word, nearness in sorted(words.items(), key=lambda one: one[1]):  # the nearest stays
            if (term, word) in wanted:
                best[_places(found, rows[word])] = nearness
        scores += idf**2 * best
    order = np.lexsort((found, -scores))[:k]
    return [int(found[at]) for at in order]


def _affordable(
    sought: Mapping[str, Mapping[str, float]], held: Mapping[str, int], chunks: int
) -> set[tuple[str, str]]:
    """Pairs (term, word) that are looked up: the nearest first, and no common words."""
    pairs = [
        (-nearness, held[word], term, word)
        for term, words in sought.items()
        for word, nearness in words.items()
        if held.get(word, 0) and held[word] * COMMON <= max(chunks, COMMON)
    ]
    out: set[tuple[str, str]] = set()
    looked_up: set[str] = set()
    left = MOST_NEAR_ROWS
    for _, count, term, word in sorted(pairs):
        if word not in looked_up:
            if count > left:
                continue
            left -= count
            looked_up.add(word)
        out.add((term, word))
    return out


def _holding(connection: sqlite3.Connection, word: str) -> NDArray[np.int64]:
    """The chunks that hold a word, in order."""
    found = connection.execute(
        "SELECT rowid FROM words WHERE words MATCH ? LIMIT ?", (f'"{word}"', MOST_NEAR_ROWS)
    )
    return np.fromiter((row[0] for row in found), np.int64)


def _places(found: NDArray[np.int64], chunks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of `chunks` among those that were `found`; those that are not are left out."""
    at = np.searchsorted(found, chunks)
    inside = at < len(found)
    at, chunks = at[inside], chunks[inside]
    places: NDArray[np.int64] = at[found[at] == chunks]
    return places


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM chunks").fetchone()[0])


def _held(connection: sqlite3.Connection, words: Iterable[str]) -> dict[str, int]:
    """The number of chunks that hold each of `words`; those that none holds are left out."""
    connection.execute(
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.held USING fts5vocab(main, words, row)"
    )
    held: dict[str, int] = {}
    for word in words:
        row = connection.execute("SELECT doc FROM temp.held WHERE term = ?", (word,)).fetchone()
        if row is not None:
            held[word] = int(row[0])
    return held


def _rare(connection: sqlite3.Connection, terms: Sequence[str]) -> list[str]:
    """Those of a query's words that are looked up, as the index spells them.

    BM25 gives nothing for a word in half of all chunks and little for one in a third, but each row
    takes its time. Where all words are common, the rarest is looked up.
    """
    held, chunks = _held(connection, terms[:MOST_WORDS]), _count(connection)
    out: list[str] = []
    looked_up = 0
    for word in sorted(held, key=held.__getitem__):
        looked_up += held[word]
        if out and (held[word] * COMMON > chunks or looked_up > MOST_ROWS):
            break
        out.append(word)
    return out


_CHUNKS = "SELECT p.chunk FROM placed p JOIN documents d ON d.text = p.text"


def _allowed(connection: sqlite3.Connection, given: Mapping[str, Any]) -> NDArray[np.int64]:
    where, values = condition(given)
    found = connection.execute(f"{_CHUNKS} WHERE {where}", values).fetchall()
    return np.unique(np.asarray([row[0] for row in found], np.int64))


def _runs(
    connection: sqlite3.Connection, scores: Mapping[int, float], given: Mapping[str, Any] | None
) -> list[Run]:
    """Join neighbouring chunks to runs; a chunk of several texts stands in the first."""
    where, values = condition(given)
    places: dict[int, dict[int, float]] = defaultdict(dict)  # text -> ordinal -> score
    owners: dict[int, tuple[int, str]] = {}
    seen: set[int] = set()
    found: list[tuple[int, int, int, int, str]] = []
    for some in records.batches(scores):
        rows = connection.execute(
            "SELECT d.document, d.id, p.* FROM placed p JOIN documents d ON d.text = p.text "
            f"WHERE p.chunk IN ({records.marks(some)}) AND {where}",
            (*some, *values),
        )
        for document, name, *row in rows:
            text, ordinal, chunk, _, _ = records.checked(row, "placed", "the place of a chunk")
            found.append((document, text, ordinal, chunk, name))
    for document, text, ordinal, chunk, name in sorted(found):
        owners.setdefault(text, (document, name))
        if owners[text][0] == document and chunk not in seen:
            seen.add(chunk)
            places[text][ordinal] = scores[chunk]
    ranked: list[tuple[float, Run]] = []
    for text, ordinals in places.items():
        own = connection.execute("SELECT * FROM placed WHERE text = ?", (text,)).fetchall()
        for row in own:  # a broken place hides its chunk, which no other place would miss
            records.checked(row, "placed", "the place of a chunk")
        chunks = len(own)
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
