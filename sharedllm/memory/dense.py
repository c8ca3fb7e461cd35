"""The dense half of the prefilter: a FAISS index over one embedding a chunk.

The embeddings in the SQLite file are what counts. The index is a cache: it remembers the generation
it was made for, takes in what was added and removed since, and is made anew when its file is not
what was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import sqlite3
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from sharedllm.errors import StoreDamagedError
from sharedllm.memory import rows

logger = logging.getLogger(__name__)

FILE = "index/chunks.faiss"
FLAT_UP_TO = 20_000  # chunks that are compared one by one
GROWTH = 4  # a clustered index is clustered anew when it holds so many times more
SAVED_FROM = 2_000  # chunks: a smaller index is made faster than it is read
READ_AT_ONCE = 8_192


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
        now = rows.generation(connection)
        if self._index is None:
            self._load()
        if self._generation == now:
            return
        if self._index is None or self._generation > now or self._is_outgrown(connection):
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
        """Whether what was removed is no longer known, or the clusters are those of a fraction."""
        trimmed = connection.execute("SELECT value FROM manifest WHERE name = 'trimmed'").fetchone()
        if trimmed is not None and int(trimmed[0]) > self._generation:
            return True
        count = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
        limit = max(FLAT_UP_TO, GROWTH * self._trained_on)
        return bool(count > limit)

    def _make(self, connection: sqlite3.Connection) -> None:
        """Build the index from all embeddings."""
        count = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
        first = connection.execute("SELECT embedding FROM chunks LIMIT 1").fetchone()
        dims = len(np.frombuffer(first[0], "<f2")) if first else 1
        self._trained_on = 0
        if count <= FLAT_UP_TO:
            self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dims))
        else:
            clusters = 4 * math.isqrt(count)
            inner = faiss.METRIC_INNER_PRODUCT
            self._index = faiss.index_factory(dims, f"IVF{clusters},SQfp16", inner)
            step = max(1, count // (64 * clusters))
            sample = connection.execute(
                "SELECT chunk, embedding FROM chunks WHERE chunk * 2654435761 % 1000003 % ? = 0",
                (step,),
            ).fetchall()
            self._index.train(_vectors(sample, dims))
            self._trained_on = count
        self._last, self._unsaved = -1, 0
        self._add(connection)

    def _add(self, connection: sqlite3.Connection) -> None:
        """Take in the chunks that came after the last one."""
        found = connection.execute(
            "SELECT chunk, embedding FROM chunks WHERE chunk > ? ORDER BY chunk", (self._last,)
        )
        while some := found.fetchmany(READ_AT_ONCE):
            if not self._index.ntotal and self._index.d != len(some[0][1]) // 2:
                self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(len(some[0][1]) // 2))
            ids = np.asarray([row[0] for row in some], np.int64)
            self._index.add_with_ids(_vectors(some, self._index.d), ids)
            self._last = int(ids[-1])
            self._unsaved += len(ids)

    def _remove(self, connection: sqlite3.Connection) -> None:
        gone = connection.execute(
            "SELECT chunk FROM dropped WHERE generation > ?", (self._generation,)
        ).fetchall()
        if gone:
            self._index.remove_ids(np.asarray([row[0] for row in gone], np.int64))
            self._unsaved += len(gone)

    def _save(self) -> None:
        """Write the index beside its header; a memory that cannot be written works without."""
        payload = faiss.serialize_index(self._index).tobytes()
        header = {
            "made_by": self._made_by,
            "generation": self._generation,
            "last": self._last,
            "trained_on": self._trained_on,
            "digest": hashlib.blake2b(payload).hexdigest(),
        }
        temporary = self._path.with_name(f"{uuid.uuid4().hex}.tmp")
        try:
            self._path.parent.mkdir(exist_ok=True)
            with temporary.open("wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                file.write(payload)
            os.replace(temporary, self._path)  # noqa: PTH105
            self._unsaved = 0
        except OSError as error:
            logger.warning("the index of the memory is not saved: %s", error)
            with suppress(OSError):
                temporary.unlink()

    def _load(self) -> None:
        """Read the saved index, if it is whole and of this memory."""
        try:
            with self._path.open("rb") as file:
                header = json.loads(file.readline())
                payload = file.read()
            if header["made_by"] != self._made_by:
                return
            if hashlib.blake2b(payload).hexdigest() != header["digest"]:
                raise ValueError("its bytes are not those that were written")
            self._index = faiss.deserialize_index(np.frombuffer(payload, np.uint8))
            self._generation, self._last = int(header["generation"]), int(header["last"])
            self._trained_on = int(header["trained_on"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            logger.warning("the index of the memory is made anew: %s", error)
            self._index = None


def _vectors(found: list[tuple[int, bytes]], dims: int) -> NDArray[np.float32]:
    """Embeddings of rows (chunk, embedding); float32 (rows, dims)."""
    out = np.frombuffer(b"".join(embedding for _, embedding in found), "<f2")
    if out.size != len(found) * dims:
        raise StoreDamagedError(
            "an embedding in the memory is not what was written; sharedllm verify names it"
        )
    return out.reshape(-1, dims).astype(np.float32)
