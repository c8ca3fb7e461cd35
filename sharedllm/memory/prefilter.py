"""The prefilter: which chunks of a large memory a question's exact search looks at.

Words rank chunks by BM25, embeddings by nearness; docs/experiments.md (11) has what each finds.
SQLite indexes the words in the transaction that adds or deletes a chunk, so that they are never
behind. The index of embeddings is a cache of FAISS: the embeddings in the SQLite file are what
counts. It remembers the generation it was made for, takes in what was added and removed since, and
is made anew when its file is not what was written. FAISS trusts the bytes that it reads, so a file
is read only if this user has written it: its digest takes a key of the user's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import os
import secrets
import sqlite3
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from sharedllm.arguments import shown
from sharedllm.errors import ConfigError, TreeMemoryDamagedError
from sharedllm.hf.loading import cache_folder
from sharedllm.memory import tables
from sharedllm.memory.filters import condition
from sharedllm.memory.folder import read_plain
from sharedllm.memory.stored_documents import Run
from sharedllm.search.bm25 import Asked

logger = logging.getLogger(__name__)

MOST_WORDS = 64  # of a query
COMMON = 3  # a word that every third chunk holds tells little, and takes long to look up
MOST_ROWS = 8_000  # that are looked up for a query, the rarest words first
RANK_SHIFT = 60  # of reciprocal rank fusion; the customary value
WORDS_WEIGHT = 2  # against embeddings: the first 60 of a ranking by words always get through
FILE = "index/chunks.faiss"
FLAT_UP_TO = 20_000  # chunks that are compared one by one
GROWTH = 4  # a clustered index is clustered anew when it holds so many times more
SAVED_FROM = 2_000  # chunks: a smaller index is made faster than it is read
READ_AT_ONCE = 8_192
EMBEDDING = 4  # its column in the table of chunks
LARGEST_REST = 64 << 20  # bytes of a saved index beside its vectors
KEY_BYTES = 32
ABANDONED_S = 3600  # an index is saved in seconds; one half saved is of a process that was killed
STATES, MINILM = "states", "minilm"


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
        """True when more is needed than the chunks `found` by words."""
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
    held: dict[str, int] = {}
    for word in Asked.of(query).terms[:MOST_WORDS]:
        row = connection.execute("SELECT doc FROM temp.held WHERE term = ?", (word,))
        count = row.fetchone()
        if count is not None:
            held[word] = int(count[0])
    chunks = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
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
    for some in tables.batches(scores):
        rows = connection.execute(
            "SELECT d.document, d.id, p.* FROM placed p JOIN documents d ON d.text = p.text "
            f"WHERE p.chunk IN ({tables.marks(some)}) AND {where}",
            (*some, *values),
        )
        for document, name, *row in rows:
            text, ordinal, chunk, _, _ = tables.checked(row, "placed", "the place of a chunk")
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
            tables.checked(row, "placed", "the place of a chunk")
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


# -- embeddings ------------------------------------------------------------------------------------


class DenseIndex:
    """Nearest chunks by the cosine of their embeddings.

    Up to :data:`FLAT_UP_TO` chunks the search is exact; beyond, vectors are clustered (IVF) and a
    sixteenth of the clusters is searched. (HNSW is not used: FAISS cannot delete from it.)

    Parameters
    ----------
    folder : of the memory
    made_by : the manifest's digest; an index of another one is thrown away
    """

    def __init__(self, folder: Path, made_by: bytes) -> None:
        self._path, self._made_by = folder / FILE, made_by.hex()
        self._index: Any = None
        self._generation = self._last = -1  # of the changes, and of the chunks, that are in it
        self._trained_on = self._unsaved = 0
        self._lock = threading.Lock()

    def search(
        self,
        connection: sqlite3.Connection,
        query: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | None = None,
    ) -> list[int]:
        """The `k` nearest chunks, best first.

        Parameters
        ----------
        query : float32 (dims,)
        allowed : the chunks that may be found; None is all
        """
        with self._lock:
            self._catch_up(connection)
            if self._index is None or not self._index.ntotal:
                return []
            if self._index.d != len(query):
                raise TreeMemoryDamagedError(
                    f"the embeddings of chunks have {self._index.d} numbers, and the embedder "
                    f"gives {len(query)}: {tables.REPAIR}"
                )
            _, found = self._index.search(query[None], k, params=self._options(allowed))
            return [int(chunk) for chunk in found[0] if chunk >= 0]

    def _options(self, allowed: NDArray[np.int64] | None) -> Any:
        made: Any = faiss  # its annotations do not know the names of parameters
        selector = None if allowed is None else made.IDSelectorBatch(allowed)
        if hasattr(self._index, "nlist"):
            probes = max(16, self._index.nlist // 16)
            return made.SearchParametersIVF(sel=selector, nprobe=probes)
        return made.SearchParameters(sel=selector)

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Bring the index to the snapshot of `connection`."""
        now = tables.generation(connection)
        if self._index is None:
            self._load(connection)
        if self._generation == now:
            return
        if (
            self._index is None
            or self._index.d != _dims(connection)
            or self._generation > now
            or self._is_outgrown(connection)
        ):
            self._make(connection)
        else:
            self._remove(connection)
            self._add(connection)
        self._generation = now
        if self._unsaved > max(SAVED_FROM, self._index.ntotal // 10) or (
            self._unsaved and self._index.ntotal >= SAVED_FROM and not self._path.exists()
        ):
            self._save()

    def _is_outgrown(self, connection: sqlite3.Connection) -> bool:
        """True when removals were forgotten, or the clusters are those of a fraction."""
        if tables.number_of(connection, "trimmed") > self._generation:
            return True
        count = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
        limit = max(FLAT_UP_TO, GROWTH * self._trained_on)
        return bool(count > limit)

    def _make(self, connection: sqlite3.Connection) -> None:
        """Build the index from all embeddings."""
        count = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
        dims = _dims(connection)
        self._trained_on = 0
        if count <= FLAT_UP_TO:
            self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dims))
        else:
            clusters = 4 * math.isqrt(count)
            inner = faiss.METRIC_INNER_PRODUCT
            self._index = faiss.index_factory(dims, f"IVF{clusters},SQfp16", inner)
            step = max(1, count // (64 * clusters))
            sample = connection.execute(
                "SELECT * FROM chunks WHERE chunk * 2654435761 % 1000003 % ? = 0 "
                "AND length(embedding) = ?",
                (step, 2 * dims),
            ).fetchall()
            self._index.train(_vectors(sample, dims))
            self._trained_on = count
        self._last, self._unsaved = -1, 0
        self._add(connection)

    def _add(self, connection: sqlite3.Connection) -> None:
        """Take in the chunks that came after the last one."""
        found = connection.execute(
            # while a memory is rebuilt for another embedder, chunks of both are there
            "SELECT * FROM chunks WHERE chunk > ? AND length(embedding) = ? ORDER BY chunk",
            (self._last, 2 * self._index.d),
        )
        while some := found.fetchmany(READ_AT_ONCE):
            ids = np.asarray([row[0] for row in some], np.int64)
            self._index.add_with_ids(_vectors(some, self._index.d), ids)
            self._last = int(ids[-1])
            self._unsaved += len(ids)

    def _remove(self, connection: sqlite3.Connection) -> None:
        found = connection.execute(
            "SELECT * FROM dropped WHERE generation > ?", (self._generation,)
        )
        gone = [tables.checked(row, "dropped", "a chunk that was dropped")[0] for row in found]
        if gone:
            self._index.remove_ids(np.asarray(gone, np.int64))
            self._unsaved += len(gone)

    def _save(self) -> None:
        """Write the index beside its header; a memory that cannot be written works without."""
        payload = faiss.serialize_index(self._index).tobytes()
        header = {
            "made_by": self._made_by,
            "generation": self._generation,
            "last": self._last,
            "trained_on": self._trained_on,
        }
        temporary = self._path.with_name(f"{uuid.uuid4().hex}.tmp")
        try:
            header["digest"] = _digest(header, payload)
            self._path.parent.mkdir(exist_ok=True)
            for left in self._path.parent.glob("*.tmp"):
                if left.stat().st_mtime < time.time() - ABANDONED_S:
                    left.unlink(missing_ok=True)
            with temporary.open("xb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                file.write(payload)
            os.replace(temporary, self._path)  # noqa: PTH105
            self._unsaved = 0
        except OSError as error:
            logger.warning("the index of the memory is not saved: %s", error)
            with suppress(OSError):
                temporary.unlink()

    def _load(self, connection: sqlite3.Connection) -> None:
        """Read the saved index, if it is whole, of this memory, and saved by this user."""
        chunks = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
        most = LARGEST_REST + GROWTH * chunks * (4 * _dims(connection) + 64)
        try:
            first, _, payload = read_plain(self._path, most).partition(b"\n")
            header = json.loads(first)
            if header["made_by"] != self._made_by:
                return
            if not hmac.compare_digest(str(header.pop("digest")), _digest(header, payload)):
                raise ValueError("its bytes are not those that this user has written")
            self._index = faiss.deserialize_index(np.frombuffer(payload, np.uint8))
            self._generation, self._last = int(header["generation"]), int(header["last"])
            self._trained_on = int(header["trained_on"])
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
            logger.warning("the index of the memory is made anew: %s", error)
            self._index = None


def _digest(header: Mapping[str, Any], payload: bytes) -> str:
    """A keyed hash of a saved index.

    Raises
    ------
    OSError
        If there is no key, and none can be made.
    """
    digest = hashlib.blake2b(key=_key())
    digest.update(json.dumps(header, sort_keys=True).encode() + b"\n")
    digest.update(payload)
    return digest.hexdigest()


def _key() -> bytes:
    """The key of this user's indexes, made when it is first needed."""
    path = cache_folder() / "index.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another process was faster
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "wb") as opened:
                opened.write(secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise OSError(f"{str(path)!r} is not a key of {KEY_BYTES} bytes; delete it")
    return key


def _dims(connection: sqlite3.Connection) -> int:
    """Numbers in an embedding of a chunk that a text holds."""
    row = connection.execute(
        "SELECT length(embedding) FROM chunks WHERE chunk IN (SELECT chunk FROM placed LIMIT 1)"
    ).fetchone()
    return max(1, row[0] // 2) if row else 1


def _vectors(found: Sequence[Sequence[Any]], dims: int) -> NDArray[np.float32]:
    """Embeddings of rows of the table of chunks; float32 (rows, dims).

    Raises
    ------
    TreeMemoryDamagedError
        If one is not what was written.
    """
    data = [tables.checked(row, "chunks", f"chunk {row[0]}")[EMBEDDING] for row in found]
    return np.frombuffer(b"".join(data), "<f2").reshape(-1, dims).astype(np.float32)


class Embedder:
    """One interface to any embedder.

    Parameters
    ----------
    given : a function of a list of texts, an object with ``embed_documents`` and ``embed_query``
        (LangChain's Embeddings), or with ``get_text_embedding_batch`` and ``get_query_embedding``
        (LlamaIndex's BaseEmbedding)

    Raises
    ------
    ConfigError
        If it is something else.
    """

    def __init__(self, given: Any) -> None:
        if hasattr(given, "embed_documents") and hasattr(given, "embed_query"):
            self._texts, self._query = given.embed_documents, given.embed_query
        elif hasattr(given, "get_text_embedding_batch") and hasattr(given, "get_query_embedding"):
            self._texts, self._query = given.get_text_embedding_batch, given.get_query_embedding
        elif callable(given):
            self._texts, self._query = given, lambda text: given([text])[0]
        else:
            raise ConfigError(
                f"embedder is {shown(given)}; allowed: a function of a list of texts, LangChain's "
                "Embeddings, LlamaIndex's BaseEmbedding, 'minilm' or None"
            )
        self.name = name_of(given)

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Rows of unit length; (texts, dims)."""
        return _units(self._texts(list(texts)), len(texts), self.name)

    def query(self, text: str) -> NDArray[np.float32]:
        """One row of unit length; (dims,)."""
        row: NDArray[np.float32] = _units([self._query(text)], 1, self.name)[0]
        return row


def embedder_of(given: Any) -> Embedder | None:
    """The embedder that the user named or gave; None for the model's own states.

    Raises
    ------
    ConfigError, MissingExtraError
    """
    if given is None or given == STATES:
        return None
    if given == MINILM:
        from sharedllm.hf.minilm import MiniLM

        return Embedder(MiniLM())
    return Embedder(given)


def name_of(given: Any) -> str:
    """Name an embedder for the manifest: its kind and, where it has one, its model's name."""
    if isinstance(given, str):
        return given
    kind = type(given)
    own = getattr(given, "__qualname__", None) or f"{kind.__module__}.{kind.__qualname__}"
    model = getattr(given, "model_name", None) or getattr(given, "model", None)
    return f"{own}:{model}" if isinstance(model, str) else str(own)


def _units(rows: Any, count: int, name: str) -> NDArray[np.float32]:
    array = np.asarray(rows, np.float32)
    if array.ndim != 2 or len(array) != count or not np.isfinite(array).all():
        raise ConfigError(
            f"the embedder {name} returned an array of shape {array.shape}; it must return "
            f"{count} rows of finite numbers, one a text"
        )
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return np.asarray(array / np.maximum(lengths, 1e-12), np.float32)
