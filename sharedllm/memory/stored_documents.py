"""Stored texts -> documents that a question can be asked about; nodes are read when touched."""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sharedllm.encoding.document import Document, NodeCache, SearchVectors
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.encoding.kv import NodeKV, kept_count
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import TreeMemoryBusyError, TreeMemoryDamagedError
from sharedllm.memory import outlines, records, tables
from sharedllm.memory.codes import (
    VectorCodec,
    kept_nodes,
    kv_from_bytes,
    layout_from_bytes,
    vectors_from_bytes,
)
from sharedllm.memory.database import Database
from sharedllm.memory.manifest import MemorySettings
from sharedllm.memory.notes import note_of, put_notes
from sharedllm.text.pages import page_starts
from sharedllm.text.tokens import Tokens
from sharedllm.text.tree import Chunk, grow_trees

logger = logging.getLogger(__name__)

CACHED_TOKENS = 1 << 18  # of documents that are kept in memory between questions
NODE_CACHE_BYTES = 64 << 20  # of each document's encoded nodes
READERS = {"cpu": 1, "cuda": 4}  # threads that check and decode KV while SQLite reads on


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring chunks of one text: its placed rows [first, last), under a document's names.

    A whole text has its ends as well, even where no token covers them. `part` is the number of
    the file it is in, where a memory has several.
    """

    text: int
    first: int
    last: int
    document: str
    whole: bool
    part: int = 0


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk within a run: its row, and its tokens [start, end) there."""

    row: int
    start: int
    end: int


class StoredNodes(NodeCache):
    """Encoded nodes of a stored document: those in memory, then those on disk."""

    def __init__(
        self,
        database: Database,
        settings: MemorySettings,
        encoder: DocumentEncoder,
        chunks: Sequence[StoredChunk],
    ) -> None:
        super().__init__(NODE_CACHE_BYTES)
        self._database, self._settings, self._encoder = database, settings, encoder
        self.keeps_leaves = settings.keep == "leaves"
        self._chunks = chunks  # in order
        self._starts = [chunk.start for chunk in chunks]

    def __contains__(self, request: NodeRequest) -> bool:
        return super().__contains__(request) or self._find(request) is not None

    def get(self, request: NodeRequest) -> NodeKV | None:
        return self.get_all([request]).get(request)

    def get_all(self, requests: Sequence[NodeRequest]) -> dict[NodeRequest, NodeKV]:
        held = {request: super(StoredNodes, self).get(request) for request in requests}
        out = {request: kv for request, kv in held.items() if kv is not None}
        places = {r: place for r in held if r not in out and (place := self._find(r))}
        if not places:
            return out
        device = self._encoder.lower.device.type
        with self._database.read() as connection, ThreadPoolExecutor(READERS[device]) as pool:
            read = {}
            for request, place in places.items():
                row = tables.node_row(connection, *place)
                if row is not None:  # else deleted meanwhile: it is encoded on demand
                    read[request] = pool.submit(self._decoded, request, row)
            for request, decoding in read.items():
                try:
                    out[request] = decoding.result()
                except (ValueError, TreeMemoryDamagedError) as error:
                    chunk = places[request][0]
                    raise tables.damaged_chunk(connection, chunk, str(error)) from error
                self.put(request, out[request])
        return out

    def note(self, key: bytes, start: int) -> str | None:
        """Return what is kept in memory, then what is kept on disk."""
        row = self._chunk_at(start).row
        held = super().note(_of_row(key, row), start)
        if held is not None:
            return held
        with self._database.read() as connection:
            return note_of(connection, row, key)

    def keep_notes(self, notes: Mapping[tuple[bytes, int], str], *, required: bool = False) -> None:
        """Keep them in memory, and on disk where that may be written to now.

        Raises
        ------
        TreeMemoryError
            Where it may not, if it is `required`.
        """
        by_chunk: dict[int, dict[bytes, str]] = {}
        held: dict[tuple[bytes, int], str] = {}
        for (key, start), said in notes.items():
            row = self._chunk_at(start).row
            by_chunk.setdefault(row, {})[key] = said
            held[_of_row(key, row), start] = said
        super().keep_notes(held)
        if not (required or self._database.is_writable):
            return
        try:
            with self._database.write() as connection:
                for chunk, own in by_chunk.items():
                    put_notes(connection, chunk, own)
        except TreeMemoryBusyError as error:
            if required:
                raise
            logger.info("notes are kept in this process only: %s", error)

    def _chunk_at(self, token: int) -> StoredChunk:
        return self._chunks[int(np.searchsorted(self._starts, token, side="right")) - 1]

    def _decoded(self, request: NodeRequest, row: tuple[Any, ...]) -> NodeKV:
        encoder = self._encoder
        count = kept_count(request.end - request.start, request.ratio)
        shape = (encoder.lower.layers, encoder.shape.kv_heads, count, encoder.shape.head_dim)
        own = (encoder.model.dtype, encoder.lower.device)
        data = tables.node_data(row)
        try:
            return kv_from_bytes(data, shape, self._settings.kv, *own)
        except ValueError as error:
            raise ValueError(f"its KV: {error}") from error

    def _find(self, request: NodeRequest) -> tuple[int, int] | None:
        """Chunk and rank of a node that is on disk."""
        if self._settings.keep == "text":
            return None
        chunk = self._chunk_at(request.start)
        own = replace(request, start=request.start - chunk.start, end=request.end - chunk.start)
        kept = kept_nodes(chunk.end - chunk.start, self._encoder.tree, self._settings.keep)
        return (chunk.row, kept.index(own)) if own in kept else None


def _of_row(key: bytes, row: int) -> bytes:
    """Name a note with its chunk: one of the same words in another chunk is to be written too."""
    return key + row.to_bytes(8)


class StoredDocuments:
    """Gives stored texts, whole or in runs of chunks, as documents for one model.

    Parameters
    ----------
    codec : of search vectors, on the model's device; None where they are stored whole
    """

    def __init__(
        self,
        database: Database,
        settings: MemorySettings,
        encoder: DocumentEncoder,
        codec: VectorCodec | None,
    ) -> None:
        self._database, self._settings = database, settings
        self._encoder, self._codec = encoder, codec
        self._made: OrderedDict[tuple[object, ...], Document] = OrderedDict()
        self._identity = encoder.identity
        self._tokens_held = 0
        self._unpacked = (-1, ("", 0))  # row and body of the last text; rows are never used again

    def document(self, connection: sqlite3.Connection, run: Run) -> Document:
        """The document of `run`, under the names of its stored document.

        Raises
        ------
        TreeMemoryDamagedError
            If something it needs is broken.
        """
        row = tables.document_row(connection, run.document)
        key = (run, row, outlines.outline_check(connection, run.document))
        made = self._made.get(key)
        if made is None:
            try:
                made = self._make(connection, run, row)
            except TreeMemoryDamagedError as error:
                if repr(run.document) in str(error):
                    raise
                raise TreeMemoryDamagedError(
                    f"document {run.document!r}: {error}; {records.REPAIR}"
                ) from error
            self._made[key] = made
            self._tokens_held += len(made)
            while self._tokens_held > CACHED_TOKENS and len(self._made) > 1:
                self._tokens_held -= len(self._made.popitem(last=False)[1])
        self._made.move_to_end(key)
        return made

    def _make(self, connection: sqlite3.Connection, run: Run, row: Sequence[str]) -> Document:
        text, whole_tokens = self._body(connection, run.text)
        placed = tables.placed_chunks(connection, run.text, run.first, run.last)
        begin, end = (0, len(text)) if run.whole else (placed[0][1], placed[-1][2])
        tokens, chunks = self._tokens(connection, placed, begin)
        if run.whole and len(tokens) != whole_tokens:
            raise TreeMemoryDamagedError("some of its chunks are missing")
        cut = [Chunk(index=i, start=c.start, end=c.end) for i, c in enumerate(chunks)]
        return Document(
            id=row[0],
            title=row[1] or row[2] or "document",
            source=row[2],
            text=text[begin:end],
            tokens=tokens,
            forest=grow_trees(cut, self._encoder.tree),
            vectors=self._vectors(connection, chunks),
            nodes=StoredNodes(self._database, self._settings, self._encoder, chunks),
            made_by=self._identity,
            offset=begin,
            whole_characters=0 if run.whole else len(text),
            pages=page_starts(text),
            outline=outlines.outline_of(connection, run.document, len(text)) or (),
        )

    def _body(self, connection: sqlite3.Connection, text: int) -> tuple[str, int]:
        """A text and its tokens, unpacked once for all of its runs that a question is about."""
        if text != self._unpacked[0]:
            self._unpacked = (text, tables.text_body(connection, text))
        return self._unpacked[1]

    def _tokens(
        self, connection: sqlite3.Connection, placed: Sequence[tuple[int, int, int]], begin: int
    ) -> tuple[Tokens, list[StoredChunk]]:
        """The run's tokens and its chunks."""
        ids, spans, chunks, at = [], [], [], 0
        known = self._encoder.model.get_input_embeddings().num_embeddings
        for chunk, first, last in placed:
            _, _, count, layout, _ = tables.chunk_row(connection, chunk)
            try:
                own_ids, own_spans = layout_from_bytes(layout, count, last - first, known)
            except ValueError as error:
                raise tables.damaged_chunk(connection, chunk, f"its tokens: {error}") from error
            ids.append(own_ids)
            spans.append(own_spans + np.int32(first - begin))
            chunks.append(StoredChunk(row=chunk, start=at, end=at + count))
            at += count
        return Tokens(ids=np.concatenate(ids), spans=np.concatenate(spans)), chunks

    def _vectors(
        self, connection: sqlite3.Connection, chunks: Sequence[StoredChunk]
    ) -> SearchVectors:
        stored = tables.vectors_of(connection, [chunk.row for chunk in chunks])
        encoder = self._encoder
        size = self._codec.size if self._codec else 2 * encoder.shape.hidden
        for chunk in chunks:
            if len(stored[chunk.row]) != size * (chunk.end - chunk.start):
                raise tables.damaged_chunk(
                    connection, chunk.row, "its search vectors are cut short"
                )
        return vectors_from_bytes(
            [stored[chunk.row] for chunk in chunks],
            encoder.shape.hidden,
            self._codec,
            encoder.lower.device,
        )
