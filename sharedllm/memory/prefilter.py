"""The prefilter: which chunks of a large memory a question's exact search looks at.

Two rankings of chunks, both from the index of words that SQLite keeps in the transaction which adds
or deletes a chunk, so that it is never behind, and nothing else is stored. BM25 ranks by the
question's own words. The other ranking takes as well the words that the model's vocabulary has near
them, for texts that say the same in other words; docs/experiments.md (38) has what each finds.

A memory may be several files (:mod:`sharedllm.memory.parted_memory`), each under one connection.
Words are counted over all of them, so that scores compare; a chunk that several hold is one.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
K1, B, LEAST_IDF = 1.2, 0.75, 1e-6  # of FTS5's BM25: https://sqlite.org/fts5.html#the_bm25_function

Connections = Sequence[sqlite3.Connection]
Given = Mapping[str, Any] | None  # a filter
Chunk = tuple[int, int]  # the number of its part, and its row there


def every_text(connections: Connections, given: Given) -> list[Run]:
    """All texts of the documents that the filter lets through, each under its first document."""
    where, values = condition(given)
    found = []
    for part, connection in enumerate(connections):
        rows = connection.execute(
            "SELECT d.text, (SELECT count(*) FROM placed p WHERE p.text = d.text), d.id, "
            "min(d.document), (SELECT t.hash FROM texts t WHERE t.text = d.text) "
            f"FROM documents d WHERE {where} GROUP BY d.text",
            values,
        )
        found += [(row[3], part, row) for row in rows]
    out: dict[object, Run] = {}
    for _, part, (text, last, document, _, hash) in sorted(found, key=lambda one: one[:2]):
        run = Run(text, 0, last, document, whole=True, part=part)
        out.setdefault(hash or run, run)
    return list(out.values())


def is_large(connections: Connections, given: Given, candidates: int) -> bool:
    """True when more than so many chunks are to be searched."""
    where, values = condition(given)
    found = 0
    for connection in connections:
        row = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM documents d JOIN placed p ON p.text = d.text "
            f"WHERE {where} LIMIT ?)",
            (*values, candidates + 1),
        ).fetchone()
        found += int(row[0])
    return found > candidates


def candidates_of(
    connections: Connections, query: str, near: NearWords, k: int, given: Given = None
) -> list[Chunk]:
    """The `k` chunks that an exact search is to look at, best first.

    A quarter are the best by the question's own words, the others those that near words find;
    where all that is found are fewer, the ends of the newest documents fill up. Where they are of a
    few long texts only, an eighth are of other texts, which a question for documents wants, too.
    """
    own = by_words(connections, query, k, given)
    wider = by_near_words(connections, query, near, k, given)
    found = dict.fromkeys([*own[: -(-k // FIRST_BY_WORDS)], *wider, *own])
    if len(found) < k:
        found |= dict.fromkeys(_newest(connections, k, given))
    chunks = _once(connections, found, k)
    others = _of_others(connections, chunks, k // OTHERS, given)
    return [*chunks[: k - len(others)], *others]


def _newest(connections: Connections, k: int, given: Given) -> list[Chunk]:
    """The ends of the newest documents."""
    where, values = condition(given)
    found = []
    for part, connection in enumerate(connections):
        rows = connection.execute(
            f"SELECT p.chunk, max(d.document), max(p.ordinal) {_PLACED} WHERE {where} "
            "GROUP BY p.chunk ORDER BY 2 DESC, 3 DESC LIMIT ?",
            (*values, k),
        )
        found += [(document, part, ordinal, chunk) for chunk, document, ordinal in rows]
    return [(part, chunk) for _, part, _, chunk in sorted(found, reverse=True)]


def _once(connections: Connections, chunks: Iterable[Chunk], k: int) -> list[Chunk]:
    """The first `k` of `chunks`, those that another part holds as well once."""
    some = list(dict.fromkeys(chunks))[: k * len(connections)]
    if len(connections) == 1:
        return some
    keys, out = _keys(connections, some), dict[object, Chunk]()
    for chunk in some:
        out.setdefault(keys.get(chunk, chunk), chunk)
    return list(out.values())[:k]


def _keys(connections: Connections, chunks: Sequence[Chunk]) -> dict[Chunk, bytes]:
    """The keys of chunks, which are those of equal chunks in other parts."""
    keys: dict[Chunk, bytes] = {}
    for part, connection in enumerate(connections):
        for rows in records.batches(row for own, row in chunks if own == part):
            found = connection.execute(
                f"SELECT chunk, key FROM chunks WHERE chunk IN ({records.marks(rows)})", (*rows,)
            )
            keys |= {(part, chunk): key for chunk, key in found}
    return keys


def _in_first_documents(
    connections: Connections, chunks: Sequence[Chunk], given: Given
) -> list[Chunk]:
    """The same chunks, each in that part whose document with it is the first."""
    if len(connections) == 1:
        return list(chunks)
    where, values = condition(given)
    keys, first = _keys(connections, chunks), dict[bytes, tuple[int, int, int]]()
    for part, connection in enumerate(connections):
        for some in records.batches(keys.values()):
            found = connection.execute(
                "SELECT c.key, c.chunk, min(d.document) FROM chunks c JOIN placed p "
                "ON p.chunk = c.chunk JOIN documents d ON d.text = p.text "
                f"WHERE c.key IN ({records.marks(some)}) AND {where} GROUP BY c.key",
                (*some, *values),
            )
            for key, chunk, document in found:
                own = (document, part, chunk)
                first[key] = min(own, first.get(key, own))
    places = {chunk: first[key][1:] for chunk, key in keys.items() if key in first}
    return [places.get(chunk, chunk) for chunk in chunks]


def _of_others(
    connections: Connections, chunks: Sequence[Chunk], most: int, given: Given
) -> list[Chunk]:
    """The first chunks of `most` other texts, the newest, where `chunks` are of few texts."""
    texts: dict[tuple[int, int], None] = {}
    for part, connection in enumerate(connections):
        for some in records.batches(row for own, row in chunks if own == part):
            rows = connection.execute(
                f"SELECT DISTINCT text FROM placed WHERE chunk IN ({records.marks(some)})", (*some,)
            )
            texts |= dict.fromkeys((part, int(row[0])) for row in rows)
    if len(texts) >= FEW_TEXTS:
        return []
    where, values = condition(given)
    found = []
    for part, connection in enumerate(connections):
        own = [text for of, text in texts if of == part]
        rows = connection.execute(
            f"SELECT p.chunk, max(d.document) {_PLACED} WHERE {where} AND p.ordinal = 0 "
            f"AND p.text NOT IN ({records.marks(own)}) GROUP BY p.text ORDER BY 2 DESC LIMIT ?",
            (*values, *own, most),
        )
        found += [(document, part, int(chunk)) for chunk, document in rows]
    newest = [(part, chunk) for _, part, chunk in sorted(found, reverse=True)[:most]]
    held = len(chunks)
    return _once(connections, [*chunks, *newest], held + most)[held:]


def naming(connections: Connections, names: Iterable[str], given: Given) -> list[Chunk]:
    """The chunks that hold all words of one of `names`, of those that few hold."""
    where, values = condition(given)
    within = "" if given is None else f"AND rowid IN ({_CHUNKS} WHERE {where})"
    out: dict[Chunk, None] = {}
    for name in names:
        asked = " AND ".join(f'"{term}"' for term in Asked.of(name).terms)
        if not asked:
            continue
        rows: list[Chunk] = []
        for part, connection in enumerate(connections):
            found = connection.execute(
                f"SELECT rowid FROM words WHERE words MATCH ? {within} LIMIT ?",
                (asked, *(values if within else ()), MOST_NAMING + 1),
            )
            rows += [(part, int(row[0])) for row in found]
        rows = _once(connections, rows, MOST_NAMING + 1)
        if len(rows) <= MOST_NAMING:
            out |= dict.fromkeys(rows)
    return list(out)


def runs_of(connections: Connections, chunks: Sequence[Chunk], given: Given) -> list[Run]:
    """Stretches of neighbouring chunks of those that are given, the one with the first last."""
    ranked: list[tuple[float, Run]] = []
    chunks = _in_first_documents(connections, chunks, given)
    for part, connection in enumerate(connections):
        scores = {row: -rank for rank, (own, row) in enumerate(chunks) if own == part}
        ranked += _runs(connection, part, scores, given)
    ranked.sort(key=lambda one: (one[0], one[1].part, one[1].text, one[1].first))
    return [run for _, run in ranked]


def in_sections(
    connections: Connections,
    query: str,
    near: NearWords,
    k: int,
    given: Given,
    sections: Mapping[tuple[int, int], Sequence[Section]],
    names: Sequence[str] = (),
) -> list[Run]:
    """Stretches of the chunks in `sections` of texts: all, or where they are many the best `k`.

    Parameters
    ----------
    sections : by the part and the row of their text
    """
    allowed: dict[Chunk, None] = {}
    for (part, text), own in sections.items():
        for section in own:
            rows = connections[part].execute(
                "SELECT chunk FROM placed WHERE text = ? AND char_end > ? AND char_start < ? "
                "ORDER BY ordinal",
                (text, section.start, section.end),
            )
            allowed |= dict.fromkeys((part, int(row[0])) for row in rows)
    chunks = _once(connections, allowed, len(allowed))
    if len(chunks) > k:
        found = candidates_of(connections, query, near, WITHIN * k, given)
        best = [chunk for chunk in found if chunk in allowed]
        more = [chunk for chunk in naming(connections, names, given) if chunk in allowed]
        chunks = [*list(dict.fromkeys([*best, *chunks]))[:k], *more]
    runs = runs_of(connections, list(dict.fromkeys(chunks)), given)
    return [run for run in runs if (run.part, run.text) in sections]


def by_words(connections: Connections, query: str, k: int, given: Given = None) -> list[Chunk]:
    """The `k` chunks with the best BM25 score for the rarer words of `query`, best first."""
    words = _rare(connections, Asked.of(query).terms)
    if not words:
        return []
    if len(connections) > 1:
        return _once(connections, _by_shared_words(connections, words, given), k)
    # quoted, so that nothing in a query is an operator of the index
    asked = " OR ".join(f'"{word}"' for word in words)
    where, values = condition(given)
    within = "" if given is None else f"AND rowid IN ({_CHUNKS} WHERE {where})"
    found = connections[0].execute(
        f"SELECT rowid FROM words WHERE words MATCH ? {within} ORDER BY bm25(words), rowid LIMIT ?",
        (asked, *values, k) if within else (asked, k),
    )
    return [(0, int(row[0])) for row in found]


def _by_shared_words(connections: Connections, words: Sequence[str], given: Given) -> list[Chunk]:
    """The chunks that hold any of `words`, best first by BM25 with the statistics of all parts.

    FTS5 scores with those of one file, and does not give the number of times that a chunk holds a
    word, which follows from its score.
    """
    counted = [sizes(connection) for connection in connections]
    mean = sum(tokens for _, tokens in counted) / max(sum(rows for rows, _ in counted), 1) or 1.0
    scores: dict[Chunk, float] = defaultdict(float)
    lengths: list[dict[int, int]] = [{} for _ in connections]
    where, values = condition(given)
    within = "" if given is None else f"AND rowid IN ({_CHUNKS} WHERE {where})"
    for word in words:
        held = [_held([connection], [word]).get(word, 0) for connection in connections]
        idf = _fts5_idf(sum(rows for rows, _ in counted), sum(held))
        for part, connection in enumerate(connections):
            found = connection.execute(
                f"SELECT rowid, bm25(words) FROM words WHERE words MATCH ? {within}",
                (f'"{word}"', *(values if within else ())),
            ).fetchall()
            rows, tokens = counted[part]
            own_idf, own_mean = _fts5_idf(rows, held[part]), tokens / max(rows, 1) or 1.0
            length = lengths[part]
            length |= _lengths(connection, [row for row, _ in found if row not in length])
            for row, scored in found:
                count = _times(-scored / own_idf, length.get(row, 0) / own_mean)
                scores[part, row] += idf * _saturated(count, length.get(row, 0) / mean)
    return sorted(scores, key=lambda one: (-scores[one], one[1], one[0]))


def _fts5_idf(rows: int, held: int) -> float:
    """The weight of a word in FTS5's BM25."""
    idf = math.log((rows - held + 0.5) / (held + 0.5)) if rows >= held else 0.0
    return idf if idf > 0 else LEAST_IDF


def _saturated(count: float, length: float) -> float:
    """The value of a word that a chunk of a `length`, in mean lengths, holds so many times."""
    return count * (K1 + 1) / (count + K1 * (1 - B + B * length))


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


def _varints(data: bytes) -> Iterator[int]:
    """Yield SQLite's numbers of 1 to 9 bytes: https://sqlite.org/fileformat2.html#varint."""
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


def by_near_words(
    connections: Connections, query: str, near: NearWords, k: int, given: Given = None
) -> list[Chunk]:
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
    held = _held(connections, {word for words in sought.values() for word in words})
    chunks = _count(connections)
    wanted = _affordable(sought, held, chunks)
    idf = {term: math.log1p(chunks / (1 + held.get(term, 0))) for term in sought}
    found, scores, parts = [], [], []
    for part, connection in enumerate(connections):
        own, scored = _near_scores(connection, sought, idf, wanted, given)
        found.append(own)
        scores.append(scored)
        parts.append(np.full(len(own), part))
    rows, part_of = np.concatenate(found), np.concatenate(parts)
    best = np.lexsort((part_of, rows, -np.concatenate(scores)))[: k * len(connections)]
    return _once(connections, [(int(part_of[at]), int(rows[at])) for at in best], k)


def _near_scores(
    connection: sqlite3.Connection,
    sought: Mapping[str, Mapping[str, float]],
    idf: Mapping[str, float],
    wanted: set[tuple[str, str]],
    given: Given,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The chunks of one part that hold a word that is `wanted`, in order, and their scores."""
    rows = {word: _holding(connection, word) for word in {word for _, word in wanted}}
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
    return found, scores


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


def _count(connections: Connections) -> int:
    found = (connection.execute("SELECT count(*) FROM chunks") for connection in connections)
    return sum(int(one.fetchone()[0]) for one in found)


def _held(connections: Connections, words: Iterable[str]) -> dict[str, int]:
    """The number of chunks that hold each of `words`; those that none holds are left out."""
    words, held = list(words), dict[str, int]()
    for connection in connections:
        connection.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.held USING fts5vocab(main, words, row)"
        )
        for word in words:
            row = connection.execute("SELECT doc FROM temp.held WHERE term = ?", (word,)).fetchone()
            if row is not None:
                held[word] = held.get(word, 0) + int(row[0])
    return held


def _rare(connections: Connections, terms: Sequence[str]) -> list[str]:
    """Those of a query's words that are looked up, as the index spells them.

    BM25 gives nothing for a word in half of all chunks and little for one in a third, but each row
    takes its time. Where all words are common, the rarest is looked up.
    """
    held, chunks = _held(connections, terms[:MOST_WORDS]), _count(connections)
    out: list[str] = []
    looked_up = 0
    for word in sorted(held, key=held.__getitem__):
        looked_up += held[word]
        if out and (held[word] * COMMON > chunks or looked_up > MOST_ROWS):
            break
        out.append(word)
    return out


_PLACED = "FROM placed p JOIN documents d ON d.text = p.text"
_CHUNKS = f"SELECT p.chunk {_PLACED}"


def _allowed(connection: sqlite3.Connection, given: Mapping[str, Any]) -> NDArray[np.int64]:
    where, values = condition(given)
    found = connection.execute(f"{_CHUNKS} WHERE {where}", values).fetchall()
    return np.unique(np.asarray([row[0] for row in found], np.int64))


def _runs(
    connection: sqlite3.Connection, part: int, scores: Mapping[int, float], given: Given
) -> list[tuple[float, Run]]:
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
