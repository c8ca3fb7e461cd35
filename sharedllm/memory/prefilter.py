"""The prefilter: which chunks of a large memory a question's exact search looks at.

Two rankings of chunks, both from the index of words that SQLite keeps in the transaction which adds
or deletes a chunk, so that it is never behind, and nothing else is stored. BM25 ranks by the
question's own words. The other ranking takes as well the words that the model's vocabulary has near
them, for texts that say the same in other words; docs/experiments.md (38) has what each finds.

A memory may be several files (:mod:`sharedllm.memory.parted_memory`), each of which is asked
(:mod:`sharedllm.memory.word_index`). Words are counted over all of them, so that scores compare; a
chunk that several hold is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sharedllm.encoding.near_words import NearWords
from sharedllm.memory import word_index
from sharedllm.memory.stored_documents import Run
from sharedllm.memory.word_index import Counts, Given, Parts
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

Chunk = tuple[int, int]  # the number of its part, and its row there


def every_text(parts: Parts, given: Given) -> list[Run]:
    """All texts of the documents that the filter lets through, each under its first document."""
    found = [
        (first, part, text, last, document, hash)
        for part, rows in enumerate(parts.ask(word_index.texts_in, given))
        for first, text, last, document, hash in rows
    ]
    out: dict[object, Run] = {}
    for _, part, text, last, document, hash in sorted(found, key=lambda one: one[:2]):
        run = Run(text, 0, last, document, whole=True, part=part)
        out.setdefault(hash or run, run)
    return list(out.values())


def is_large(parts: Parts, given: Given, candidates: int) -> bool:
    """True when more than so many chunks are to be searched."""
    return sum(parts.ask(word_index.count_up_to, candidates + 1, given)) > candidates


def candidates_of(
    parts: Parts, query: str, near: NearWords, k: int, given: Given = None
) -> list[Chunk]:
    """The `k` chunks that an exact search is to look at, best first.

    A quarter are the best by the question's own words, the others those that near words find;
    where all that is found are fewer, the ends of the newest documents fill up. Where they are of a
    few long texts only, an eighth are of other texts, which a question for documents wants, too.
    """
    own = by_words(parts, query, k, given)
    wider = by_near_words(parts, query, near, k, given)
    found = dict.fromkeys([*own[: -(-k // FIRST_BY_WORDS)], *wider, *own])
    if len(found) < k:
        found |= dict.fromkeys(_newest(parts, k, given))
    chunks = _once(parts, found, k)
    others = _of_others(parts, chunks, k // OTHERS, given)
    return [*chunks[: k - len(others)], *others]


def _newest(parts: Parts, k: int, given: Given) -> list[Chunk]:
    """The ends of the newest documents."""
    found = [
        (document, part, ordinal, chunk)
        for part, rows in enumerate(parts.ask(word_index.newest, k, given))
        for chunk, document, ordinal in rows
    ]
    return [(part, chunk) for _, part, _, chunk in sorted(found, reverse=True)]


def _once(parts: Parts, chunks: Iterable[Chunk], k: int) -> list[Chunk]:
    """The first `k` of `chunks`, those that another part holds as well once."""
    some = list(dict.fromkeys(chunks))[: k * len(parts)]
    if len(parts) == 1:
        return some
    keys, out = _keys(parts, some), dict[object, Chunk]()
    for chunk in some:
        out.setdefault(keys.get(chunk, chunk), chunk)
    return list(out.values())[:k]


def _of_each(parts: Parts, chunks: Iterable[Chunk]) -> list[list[int]]:
    """Rows of chunks, by their parts."""
    rows: list[list[int]] = [[] for _ in range(len(parts))]
    for part, row in chunks:
        rows[part].append(row)
    return rows


def _keys(parts: Parts, chunks: Iterable[Chunk]) -> dict[Chunk, bytes]:
    """The keys of chunks, which are those of equal chunks in other parts."""
    found = parts.ask_each(word_index.keys_of, [(rows,) for rows in _of_each(parts, chunks)])
    return {(part, row): key for part, keys in enumerate(found) for row, key in keys.items()}


def _in_first_documents(parts: Parts, chunks: Sequence[Chunk], given: Given) -> list[Chunk]:
    """The same chunks, each in that part whose document with it is the first."""
    if len(parts) == 1:
        return list(chunks)
    keys, first = _keys(parts, chunks), dict[bytes, tuple[int, int, int]]()
    wanted = list(dict.fromkeys(keys.values()))
    for part, rows in enumerate(parts.ask(word_index.first_documents, wanted, given)):
        for key, chunk, document in rows:
            own = (document, part, chunk)
            first[key] = min(own, first.get(key, own))
    places = {chunk: first[key][1:] for chunk, key in keys.items() if key in first}
    return [places.get(chunk, chunk) for chunk in chunks]


def _of_others(parts: Parts, chunks: Sequence[Chunk], most: int, given: Given) -> list[Chunk]:
    """The first chunks of `most` other texts, the newest, where `chunks` are of few texts."""
    texts = parts.ask_each(word_index.texts_of, [(rows,) for rows in _of_each(parts, chunks)])
    if sum(map(len, texts)) >= FEW_TEXTS:
        return []
    others = parts.ask_each(word_index.first_chunks, [(own, most, given) for own in texts])
    found = [
        (document, part, int(chunk)) for part, rows in enumerate(others) for chunk, document in rows
    ]
    newest = [(part, chunk) for _, part, chunk in sorted(found, reverse=True)[:most]]
    held = len(chunks)
    return _once(parts, [*chunks, *newest], held + most)[held:]


def naming(parts: Parts, names: Iterable[str], given: Given) -> list[Chunk]:
    """The chunks that hold all words of one of `names`, of those that few hold."""
    out: dict[Chunk, None] = {}
    for name in names:
        terms = Asked.of(name).terms
        if not terms:
            continue
        found = parts.ask(word_index.holding_all, terms, MOST_NAMING + 1, given)
        rows = [(part, row) for part, own in enumerate(found) for row in own]
        rows = _once(parts, rows, MOST_NAMING + 1)
        if len(rows) <= MOST_NAMING:
            out |= dict.fromkeys(rows)
    return list(out)


def runs_of(parts: Parts, chunks: Sequence[Chunk], given: Given) -> list[Run]:
    """Stretches of neighbouring chunks of those that are given, the one with the first last."""
    scores: list[dict[int, float]] = [{} for _ in range(len(parts))]
    for rank, (part, row) in enumerate(_in_first_documents(parts, chunks, given)):
        scores[part][row] = -rank
    asked = [(part, own, given) for part, own in enumerate(scores)]
    ranked = [one for runs in parts.ask_each(word_index.runs_in, asked) for one in runs]
    ranked.sort(key=lambda one: (one[0], one[1].part, one[1].text, one[1].first))
    return [run for _, run in ranked]


def in_sections(
    parts: Parts,
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
    spans: list[list[tuple[int, int, int]]] = [[] for _ in range(len(parts))]
    for (part, text), own in sections.items():
        spans[part] += [(text, section.start, section.end) for section in own]
    found = parts.ask_each(word_index.chunks_between, [(own,) for own in spans])
    allowed = dict.fromkeys((part, row) for part, rows in enumerate(found) for row in rows)
    chunks = _once(parts, allowed, len(allowed))
    if len(chunks) > k:
        ranked = candidates_of(parts, query, near, WITHIN * k, given)
        best = [chunk for chunk in ranked if chunk in allowed]
        more = [chunk for chunk in naming(parts, names, given) if chunk in allowed]
        chunks = [*list(dict.fromkeys([*best, *chunks]))[:k], *more]
    runs = runs_of(parts, list(dict.fromkeys(chunks)), given)
    return [run for run in runs if (run.part, run.text) in sections]


def by_words(parts: Parts, query: str, k: int, given: Given = None) -> list[Chunk]:
    """The `k` chunks with the best BM25 score for the rarer words of `query`, best first."""
    counted = parts.ask(word_index.count, Asked.of(query).terms[:MOST_WORDS])
    words = _rare(counted)
    if not words:
        return []
    if len(parts) == 1:
        [found] = parts.ask(word_index.rank_by_words, words, k, given)
        return [(0, row) for row in found]
    held = _held(counted)
    rows = sum(one.rows for one in counted)
    mean = sum(one.words for one in counted) / max(rows, 1) or 1.0
    of_words = {word: held[word] for word in words}
    scored = [
        (-score, row, part)
        for part, best in enumerate(
            parts.ask(word_index.score_words, of_words, rows, mean, k * len(parts), given)
        )
        for score, row in best
    ]
    return _once(parts, [(part, row) for _, row, part in sorted(scored)], k)


def _held(counted: Sequence[Counts]) -> dict[str, int]:
    """The chunks of all parts that hold each word."""
    held: dict[str, int] = {}
    for one in counted:
        for word, count in one.held.items():
            held[word] = held.get(word, 0) + count
    return held


def _rare(counted: Sequence[Counts]) -> list[str]:
    """Those of a query's words that are looked up, as the index spells them.

    BM25 gives nothing for a word in half of all chunks and little for one in a third, but each row
    takes its time. Where all words are common, the rarest is looked up.
    """
    held, chunks = _held(counted), sum(one.chunks for one in counted)
    out: list[str] = []
    looked_up = 0
    for word in sorted(held, key=held.__getitem__):
        looked_up += held[word]
        if out and (held[word] * COMMON > chunks or looked_up > MOST_ROWS):
            break
        out.append(word)
    return out


def by_near_words(
    parts: Parts, query: str, near: NearWords, k: int, given: Given = None
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
    counted = parts.ask(word_index.count, sorted({w for words in sought.values() for w in words}))
    held, chunks = _held(counted), sum(one.chunks for one in counted)
    wanted = _affordable(sought, held, chunks)
    idf = {term: math.log1p(chunks / (1 + held.get(term, 0))) for term in sought}
    most = k * len(parts)
    found = parts.ask(word_index.score_near_words, sought, idf, wanted, most, given)
    rows = np.concatenate([rows for rows, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    part_of = np.concatenate([np.full(len(rows), part) for part, (rows, _) in enumerate(found)])
    best = np.lexsort((part_of, rows, -scores))[:most]
    return _once(parts, [(int(part_of[at]), int(rows[at])) for at in best], k)


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
