"""Questions to one file of a memory: its index of words, and the places of its chunks.

Every function reads one connection and gives values that can be pickled: so a file may be asked
where it lies (:class:`Parts`). The prefilter merges what the files answer.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharedllm.errors import TreeMemoryDamagedError
from sharedllm.memory import records
from sharedllm.memory.filters import condition
from sharedllm.memory.stored_documents import Run

K1, B, LEAST_IDF = 1.2, 0.75, 1e-6  # of FTS5's BM25: https://sqlite.org/fts5.html#the_bm25_function
MOST_OF_A_WORD = 60_000  # chunks that are read of one word

Given = Mapping[str, Any] | None  # a filter
T = TypeVar("T")

_PLACED = "FROM placed p JOIN documents d ON d.text = p.text"
_CHUNKS = f"SELECT p.chunk {_PLACED}"


class Parts(Protocol):
    """The files of a memory, which are asked the same at the same time."""

    def __len__(self) -> int: ...

    def ask(self, question: Callable[..., T], *args: Any) -> list[T]:
        """The answers of all parts to one of this module's functions, in their order."""
        ...

    def ask_each(self, question: Callable[..., T], args: Sequence[tuple[Any, ...]]) -> list[T]:
        """As :meth:`ask`, with arguments of each part's own."""
        ...


class Opened:
    """Parts of which this process has a snapshot."""

    def __init__(self, connections: Sequence[sqlite3.Connection]) -> None:
        self._connections = connections

    def __len__(self) -> int:
        return len(self._connections)

    def ask(self, question: Callable[..., T], *args: Any) -> list[T]:
        return [question(connection, *args) for connection in self._connections]

    def ask_each(self, question: Callable[..., T], args: Sequence[tuple[Any, ...]]) -> list[T]:
        own = zip(self._connections, args, strict=True)
        return [question(connection, *given) for connection, given in own]


# -- words -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """The amounts that a part holds.

    Attributes
    ----------
    chunks : int
    rows, words : of the index of words, and the words in all of them
    held : chunks by each word that was asked for; those that none holds are left out
    """

    chunks: int
    rows: int
    words: int
    held: dict[str, int]


def count(connection: sqlite3.Connection, words: Iterable[str]) -> Counts:
    """Count what the part holds, and the chunks that hold each of `words`."""
    connection.execute(
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.held USING fts5vocab(main, words, row)"
    )
    held: dict[str, int] = {}
    for word in words:
        row = connection.execute("SELECT doc FROM temp.held WHERE term = ?", (word,)).fetchone()
        if row is not None:
            held[word] = int(row[0])
    [chunks] = connection.execute("SELECT count(*) FROM chunks").fetchone()
    return Counts(int(chunks), *sizes(connection), held)


def rank_by_words(
    connection: sqlite3.Connection, words: Sequence[str], k: int, given: Given
) -> list[int]:
    """The `k` chunks with the best BM25 score of this part alone, best first."""
    # quoted, so that nothing in a query is an operator of the index
    asked = " OR ".join(f'"{word}"' for word in words)
    within, values = _within(given)
    found = connection.execute(
        f"SELECT rowid FROM words WHERE words MATCH ? {within} ORDER BY bm25(words), rowid LIMIT ?",
        (asked, *values, k),
    )
    return [int(row[0]) for row in found]


def score_words(
    connection: sqlite3.Connection,
    held: Mapping[str, int],
    chunks: int,
    mean: float,
    k: int,
    given: Given,
) -> list[tuple[float, int]]:
    """The `k` chunks that score best by BM25 with the statistics of all parts, with their scores.

    FTS5 scores with those of one file, and does not give the number of times that a chunk holds a
    word, which follows from its score.

    Parameters
    ----------
    held : words, and the chunks of all parts that hold each
    chunks, mean : the rows of the indices of all parts, and the mean of their lengths in words
    """
    scores: dict[int, float] = defaultdict(float)
    lengths: dict[int, int] = {}
    within, values = _within(given)
    own = count(connection, held)
    own_mean = own.words / max(own.rows, 1) or 1.0
    for word, holding in held.items():
        idf, own_idf = _fts5_idf(chunks, holding), _fts5_idf(own.rows, own.held.get(word, 0))
        found = connection.execute(
            f"SELECT rowid, bm25(words) FROM words WHERE words MATCH ? {within}",
            (f'"{word}"', *values),
        ).fetchall()
        lengths |= _lengths(connection, [row for row, _ in found if row not in lengths])
        for row, scored in found:
            times = _times(-scored / own_idf, lengths.get(row, 0) / own_mean)
            scores[row] += idf * _saturated(times, lengths.get(row, 0) / mean)
    best = sorted(scores, key=lambda row: (-scores[row], row))[:k]
    return [(scores[row], row) for row in best]


def _fts5_idf(rows: int, held: int) -> float:
    """The weight of a word in FTS5's BM25."""
    idf = math.log((rows - held + 0.5) / (held + 0.5)) if rows >= held else 0.0
    return idf if idf > 0 else LEAST_IDF


def _saturated(times: float, length: float) -> float:
    """The value of a word that a chunk of a `length`, in mean lengths, holds so many times."""
    return times * (K1 + 1) / (times + K1 * (1 - B + B * length))


def _times(value: float, length: float) -> int:
    """The number of times that gave a `value`: :func:`_saturated`, solved for it."""
    left = K1 + 1 - value
    return max(1, round(value * K1 * (1 - B + B * length) / left)) if left > 0 else 1


def sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """The rows of the index of words, and the words in all of them."""
    row = connection.execute("SELECT block FROM words_data WHERE id = 1").fetchone()
    numbers = [*_varints(row[0] if row else b""), 0, 0]
    return numbers[0], numbers[1]


def _lengths(connection: sqlite3.Connection, rows: Iterable[int]) -> dict[int, int]:
    """The words of each of `rows` of the index of words."""
    out: dict[int, int] = {}
    for some in records.batches(rows):
        found = connection.execute(
            f"SELECT id, sz FROM words_docsize WHERE id IN ({records.marks(some)})", (*some,)
        )
        out |= {row: next(_varints(size), 0) for row, size in found}
    return out


def _varints(data: object) -> Iterator[int]:
    """Yield SQLite's numbers of 1 to 9 bytes: https://sqlite.org/fileformat2.html#varint.

    Raises
    ------
    TreeMemoryDamagedError
        If something else stands there.
    """
    if not isinstance(data, bytes):
        raise TreeMemoryDamagedError(
            f"the index of words is not what was written; {records.REPAIR}"
        )
    value = length = 0
    for byte in data:
        length += 1
        if length == 9:
            value, byte = value << 8 | byte, 0
        else:
            value = value << 7 | byte & 0x7F
        if byte < 0x80:
            yield value
            value = length = 0


def score_near_words(
    connection: sqlite3.Connection,
    sought: Mapping[str, Mapping[str, float]],
    idf: Mapping[str, float],
    wanted: set[tuple[str, str]],
    k: int,
    given: Given,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `k` best chunks that hold a word which is wanted, and their scores.

    Parameters
    ----------
    sought : by each word of the query the words near it, with their nearness
    wanted : pairs of both that are looked up
    """
    rows = {word: holding(connection, word) for word in {word for _, word in wanted}}
    found = np.unique(np.concatenate([np.empty(0, np.int64), *rows.values()]))
    if given is not None:
        found = np.intersect1d(found, _allowed(connection, given))
    scores = np.zeros(len(found))
    for term, words in sought.items():
        best = np.zeros(len(found))
        for word, nearness in sorted(words.items(), key=lambda one: one[1]):  # the nearest stays
            if (term, word) in wanted:
                best[_places(found, rows[word])] = nearness
        scores += idf[term] ** 2 * best
    first = np.lexsort((found, -scores))[:k]
    return found[first], scores[first]


def holding(connection: sqlite3.Connection, word: str) -> NDArray[np.int64]:
    """The chunks that hold a word, in order."""
    found = connection.execute(
        "SELECT rowid FROM words WHERE words MATCH ? LIMIT ?", (f'"{word}"', MOST_OF_A_WORD)
    )
    return np.fromiter((row[0] for row in found), np.int64)


def _places(found: NDArray[np.int64], chunks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of `chunks` among those that were `found`; those that are not are left out."""
    at = np.searchsorted(found, chunks)
    inside = at < len(found)
    at, chunks = at[inside], chunks[inside]
    places: NDArray[np.int64] = at[found[at] == chunks]
    return places


def holding_all(
    connection: sqlite3.Connection, words: Sequence[str], k: int, given: Given
) -> list[int]:
    """The first `k` chunks that hold all of `words`."""
    asked = " AND ".join(f'"{word}"' for word in words)
    within, values = _within(given)
    found = connection.execute(
        f"SELECT rowid FROM words WHERE words MATCH ? {within} LIMIT ?", (asked, *values, k)
    )
    return [int(row[0]) for row in found]


def _within(given: Given) -> tuple[str, Sequence[Any]]:
    """The condition of SQL that keeps to the filter's chunks, and its values."""
    if given is None:
        return "", ()
    where, values = condition(given)
    return f"AND rowid IN ({_CHUNKS} WHERE {where})", values


def _allowed(connection: sqlite3.Connection, given: Mapping[str, Any]) -> NDArray[np.int64]:
    where, values = condition(given)
    found = connection.execute(f"{_CHUNKS} WHERE {where}", values).fetchall()
    return np.unique(np.asarray([row[0] for row in found], np.int64))


# -- chunks and texts ------------------------------------------------------------------------------


def count_up_to(connection: sqlite3.Connection, most: int, given: Given) -> int:
    """The number of chunks that the filter lets through, counted up to `most`."""
    where, values = condition(given)
    rows = f"SELECT 1 {_PLACED} WHERE {where} LIMIT ?"
    [found] = connection.execute(f"SELECT count(*) FROM ({rows})", (*values, most)).fetchone()
    return int(found)


def texts_in(
    connection: sqlite3.Connection, given: Given
) -> list[tuple[int, int, int, str, bytes | None]]:
    """(First document, text, chunks, id, hash) of each text that the filter lets through."""
    where, values = condition(given)
    rows = connection.execute(
        "SELECT min(d.document), d.text, (SELECT count(*) FROM placed p WHERE p.text = d.text), "
        "d.id, (SELECT t.hash FROM texts t WHERE t.text = d.text) "
        f"FROM documents d WHERE {where} GROUP BY d.text",
        values,
    )
    return rows.fetchall()


def newest(connection: sqlite3.Connection, k: int, given: Given) -> list[tuple[int, int, int]]:
    """(Chunk, document, ordinal) of the ends of the newest documents."""
    where, values = condition(given)
    rows = connection.execute(
        f"SELECT p.chunk, max(d.document), max(p.ordinal) {_PLACED} WHERE {where} "
        "GROUP BY p.chunk ORDER BY 2 DESC, 3 DESC LIMIT ?",
        (*values, k),
    )
    return rows.fetchall()


def keys_of(connection: sqlite3.Connection, chunks: Sequence[int]) -> dict[int, bytes]:
    """The keys of chunks, which are those of equal chunks in other parts."""
    keys: dict[int, bytes] = {}
    for rows in records.batches(chunks):
        found = connection.execute(
            f"SELECT chunk, key FROM chunks WHERE chunk IN ({records.marks(rows)})", (*rows,)
        )
        keys |= dict(found)
    return keys


def first_documents(
    connection: sqlite3.Connection, keys: Sequence[bytes], given: Given
) -> list[tuple[bytes, int, int]]:
    """(Key, chunk, first document) of the chunks with these keys that the filter lets through."""
    where, values = condition(given)
    out: list[tuple[bytes, int, int]] = []
    for some in records.batches(keys):
        out += connection.execute(
            "SELECT c.key, c.chunk, min(d.document) FROM chunks c JOIN placed p "
            "ON p.chunk = c.chunk JOIN documents d ON d.text = p.text "
            f"WHERE c.key IN ({records.marks(some)}) AND {where} GROUP BY c.key",
            (*some, *values),
        )
    return out


def texts_of(connection: sqlite3.Connection, chunks: Sequence[int]) -> list[int]:
    """The texts that hold any of `chunks`."""
    out: dict[int, None] = {}
    for some in records.batches(chunks):
        rows = connection.execute(
            f"SELECT DISTINCT text FROM placed WHERE chunk IN ({records.marks(some)})", (*some,)
        )
        out |= dict.fromkeys(int(row[0]) for row in rows)
    return list(out)


def first_chunks(
    connection: sqlite3.Connection, besides: Sequence[int], k: int, given: Given
) -> list[tuple[int, int]]:
    """(First chunk, newest document) of the newest texts besides these."""
    where, values = condition(given)
    rows = connection.execute(
        f"SELECT p.chunk, max(d.document) {_PLACED} WHERE {where} AND p.ordinal = 0 "
        f"AND p.text NOT IN ({records.marks(besides)}) GROUP BY p.text ORDER BY 2 DESC LIMIT ?",
        (*values, *besides, k),
    )
    return rows.fetchall()


def chunks_between(
    connection: sqlite3.Connection, spans: Sequence[tuple[int, int, int]]
) -> list[int]:
    """The chunks that lie in any of `spans`: (text, start, end) in characters."""
    out: dict[int, None] = {}
    for text, start, end in spans:
        rows = connection.execute(
            "SELECT chunk FROM placed WHERE text = ? AND char_end > ? AND char_start < ? "
            "ORDER BY ordinal",
            (text, start, end),
        )
        out |= dict.fromkeys(int(row[0]) for row in rows)
    return list(out)


def runs_in(
    connection: sqlite3.Connection, part: int, scores: Mapping[int, float], given: Given
) -> list[tuple[float, Run]]:
    """Join neighbouring chunks to runs; a chunk of several texts stands in the first.

    Raises
    ------
    TreeMemoryDamagedError
    """
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
            own_run = Run(text, first, last, owners[text][1], whole=whole, part=part)
            ranked.append((best, own_run))
    return ranked


def _stretches(ordinals: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers joined: [first, last) each."""
    out: list[tuple[int, int]] = []
    for ordinal in ordinals:
        if out and out[-1][1] == ordinal:
            out[-1] = (out[-1][0], ordinal + 1)
        else:
            out.append((ordinal, ordinal + 1))
    return out
