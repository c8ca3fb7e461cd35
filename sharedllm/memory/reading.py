"""What a memory does with a model: writing, finding documents for a question, searching."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.config import SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.errors import InputError
from sharedllm.memory import rows
from sharedllm.memory.database import Database
from sharedllm.memory.dense import DenseIndex
from sharedllm.memory.embedders import Embedder
from sharedllm.memory.encoding import PieceEncoder
from sharedllm.memory.identity import Manifest, manifest_of
from sharedllm.memory.prefilter import Prefilter, every_text, is_large
from sharedllm.memory.records import Hit, Hits
from sharedllm.memory.shelf import ArrayReader, Run, Shelf
from sharedllm.memory.vector_form import VectorForm
from sharedllm.memory.writer import Writer
from sharedllm.search.query import looked_for
from sharedllm.search.scorers import score
from sharedllm.search.selection import searched_leaves
from sharedllm.text.pages import page_of

if TYPE_CHECKING:
    from sharedllm.encoding.document_encoder import DocumentEncoder


# chunks by words, and the query's embedding where it is needed; None in a small memory
_Ranked = tuple[list[int], NDArray[np.float32] | None] | None


class MemoryReader:
    """One memory in the hands of its model.

    Parameters
    ----------
    embedder : for the prefilter
    prefilter : {"words", "hybrid", "dense"}
    candidates : chunks that the exact search looks at
    """

    def __init__(
        self,
        database: Database,
        manifest: Manifest,
        llm: DocumentEncoder,
        embedder: Embedder | None,
        prefilter: str,
        candidates: int,
        node_cache_bytes: int,
    ) -> None:
        self.database, self.manifest, self.llm = database, manifest, llm
        self._form = VectorForm.of(database, manifest, llm)
        self.encoder = PieceEncoder(llm, manifest.settings, self._form, embedder)
        self.writer = Writer(database, llm, self.encoder, manifest.digest)
        self.arrays = ArrayReader(database)
        self._candidates, self._node_cache_bytes = candidates, node_cache_bytes
        self._prefilter = Prefilter(
            DenseIndex(database.folder, manifest.digest), prefilter, candidates
        )
        self._shelves: dict[tuple[object, ...], Shelf] = {}
        self._lock = threading.RLock()

    def documents_for(
        self, query: str, llm: DocumentEncoder, given: Mapping[str, Any] | None
    ) -> Sequence[Document]:
        """What `llm` should search for `query`, the best part last.

        Raises
        ------
        StoreMismatchError
            If `llm` is not what the memory was made by.
        InputError
            If there is no document, or none that the filter lets through.
        """
        return [document for document, _ in self._found(query, llm, given)]

    def search(self, query: str, k: int, given: Mapping[str, Any] | None) -> Hits:
        """The `k` leaves with the best scores."""
        parts = self._found(query, self.llm, given)
        documents = [document for document, _ in parts]
        scores = score(query, documents, self.llm, SearchConfig().scorer)
        found = [
            (float(score), index, int(leaf))
            for index, ((document, _), nodes) in enumerate(zip(parts, scores, strict=True))
            for leaf, score in zip(
                document.forest.leaves, nodes[document.forest.leaves], strict=True
            )
        ]
        best = sorted(found, key=lambda one: (-one[0], one[1:]))[:k]
        return Hits(
            (_hit(*parts[index], leaf, score) for score, index, leaf in best),
            searched_leaves(documents, scores, [(index, leaf) for _, index, leaf in best]),
        )

    def _found(
        self, query: str, llm: DocumentEncoder, given: Mapping[str, Any] | None
    ) -> list[tuple[Document, dict[str, Any]]]:
        """Documents to search, each with the names and metadata of its stored document."""
        shelf = self._shelf(llm)
        ranked = self._ranked(query, llm, given)

        def work() -> list[tuple[Document, dict[str, Any]]]:
            with self.database.read() as connection:
                runs = self._runs(connection, ranked, given)
                # text by text: a long one is unpacked once for all of its runs
                made = {run: shelf.document(run) for run in sorted(runs, key=lambda r: r.text)}
                return [
                    (made[run], rows.names(rows.document_row(connection, run.document)))
                    for run in runs
                ]

        with self._lock:
            found = self.arrays.settled(work)
        if not found:
            through = " that the filter lets through" if given else ""
            raise InputError(f"the memory holds no document{through}; add() some")
        return found

    def _shelf(self, llm: DocumentEncoder) -> Shelf:
        """The shelf of documents for `llm`, which may be another object with the same weights."""
        key = (id(llm), llm.identity)
        with self._lock:
            if key not in self._shelves:
                wanted = manifest_of(llm, self.manifest.settings)
                self.manifest.require(wanted, str(self.database.folder))
                self._shelves[key] = Shelf(
                    self.database,
                    self.arrays,
                    self.manifest.settings,
                    self._form if llm is self.llm else VectorForm.of(self.database, wanted, llm),
                    llm,
                    self._node_cache_bytes,
                )
            return self._shelves[key]

    def _ranked(self, query: str, llm: DocumentEncoder, given: Mapping[str, Any] | None) -> _Ranked:
        """What the prefilter ranks by; the model is not waited for while the file is held."""
        with self.database.read() as connection:
            if not is_large(connection, given, self._candidates):
                return None
            found = self._prefilter.by_words(connection, query, given)
        needed = self._prefilter.needs_embedding(found)
        return found, self._embedding(query, llm) if needed else None

    def _runs(
        self, connection: sqlite3.Connection, ranked: _Ranked, given: Mapping[str, Any] | None
    ) -> list[Run]:
        """All texts of a small memory; of a large one what the prefilter finds."""
        if ranked is None:
            return every_text(connection, given)
        return self._prefilter.runs(connection, *ranked, given)

    def _embedding(self, query: str, llm: DocumentEncoder) -> NDArray[np.float32]:
        with llm.lock.question(), llm.lock.forward:
            sought = looked_for(query, llm.tokenizer, llm.lower)
        return self.encoder.query(query, sought.vectors)


def _hit(document: Document, names: dict[str, Any], leaf: int, score: float) -> Hit:
    start, end = int(document.forest.start[leaf]), int(document.forest.end[leaf])
    first, last = document.tokens.characters(start, end)
    return Hit(
        **names,
        text=document.text[first:last],
        char_start=document.offset + first,
        char_end=document.offset + last,
        score=score,
        page=page_of(document.pages, document.offset + first, document.text[first:last]),
    )
