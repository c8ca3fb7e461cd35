"""Search vectors as arrays on disk: codes of 64 bytes a token, or whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.encoding.document import SearchVectors
from sharedllm.errors import StoreDamagedError
from sharedllm.memory import rows
from sharedllm.memory.database import Database
from sharedllm.memory.shards import Stored
from sharedllm.memory.vectors import CodedVectors, VectorCodec

if TYPE_CHECKING:
    from sharedllm.memory.identity import Manifest
    from sharedllm.shared_llm import SharedLLM

NAME = "vectors"


class VectorForm:
    """How one memory keeps search vectors.

    Parameters
    ----------
    codec : None keeps them whole
    """

    def __init__(self, codec: VectorCodec | None) -> None:
        self._codec = codec

    @classmethod
    def of(cls, database: Database, manifest: Manifest, llm: SharedLLM) -> VectorForm:
        """The form of a memory; its codec is fitted to the model where it has none yet.

        Raises
        ------
        StoreDamagedError
            If the codec is not what was written.
        """
        if manifest.settings.vectors == "exact":
            return cls(None)
        with database.read() as connection:
            codec = _codec(connection, manifest.digest)
        if codec is None:
            with llm.turns.model:
                fitted = VectorCodec.fit(llm.lower.vocabulary())
            with database.write() as connection:
                _keep(connection, manifest.digest, fitted)
                codec = _codec(connection, manifest.digest)  # of whoever was first
        return cls(codec.to(llm.lower.device) if codec else None)

    def stored(self, vectors: Tensor) -> dict[str, Stored]:
        """The search vectors (T, hidden) of one chunk."""
        kept = vectors.half() if self._codec is None else self._codec.encode(vectors)
        return {NAME: Stored.of(kept.cpu().numpy())}

    def joined(self, chunks: Sequence[NDArray[np.generic]], device: torch.device) -> SearchVectors:
        """The search vectors of a document that consists of these chunks, in order."""
        whole = torch.from_numpy(np.concatenate(chunks)).to(device)
        return whole if self._codec is None else CodedVectors(self._codec, whole)


def _keep(connection: sqlite3.Connection, made_by: bytes, codec: VectorCodec) -> None:
    for name, array in codec.arrays().items():
        shape, data = json.dumps(array.shape), array.astype("<f4").tobytes()
        connection.execute(
            "INSERT OR IGNORE INTO codecs VALUES (?, ?, ?, ?, ?)",
            (made_by, name, shape, data, rows.checksum(name, shape, data)),
        )


def _codec(connection: sqlite3.Connection, made_by: bytes) -> VectorCodec | None:
    found = connection.execute(
        "SELECT name, shape, data, checksum FROM codecs WHERE made_by = ?", (made_by,)
    ).fetchall()
    return VectorCodec.from_arrays(dict(map(_array, found))) if found else None


def _array(row: Sequence[Any]) -> tuple[str, NDArray[np.float32]]:
    name, shape, data, checksum = row
    if rows.checksum(name, shape, data) != checksum:
        raise StoreDamagedError(
            "the codec of the memory's search vectors is not what was written; restore the memory "
            "from a copy, or open it with rebuild=True and another setting of vectors"
        )
    return name, np.frombuffer(data, "<f4").reshape(json.loads(shape))
