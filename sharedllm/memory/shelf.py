"""Stored texts -> documents that a question can be asked about, read as they are touched."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharedllm.encoding.document import Document, NodeCache
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import StoreDamagedError
from sharedllm.memory import kv, rows
from sharedllm.memory.database import Database
from sharedllm.memory.identity import MemorySettings
from sharedllm.memory.pieces import unpacked
from sharedllm.memory.shards import COLUMNS, FOLDER, Place, Shards
from sharedllm.memory.vector_form import NAME, VectorForm
from sharedllm.text.pages import page_starts
from sharedllm.text.tokens import Tokens
from sharedllm.text.tree import Chunk, Forest, planted

if TYPE_CHECKING:
    from sharedllm.shared_llm import SharedLLM

T = TypeVar("T")
TRIES = 5  # at finding a file that compactions move
CACHED_TOKENS = 1 << 18  # of documents that are kept in memory between questions


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring chunks of one text: its placed rows [first, last), under a document's names.

    A whole text has its ends as well, even where no token covers them.
    """

    text: int
    first: int
    last: int
    document: str
    whole: bool


class Moved(Exception):  # noqa: N818  (no error: the reader looks again)
    """The file of a chunk's array is not where its row says."""

    def __init__(self, chunk: int, file: str) -> None:
        super().__init__(chunk, file)
        self.chunk, self.file = chunk, file


class ArrayReader:
    """Reads arrays of chunks, wherever a compaction has put them meanwhile."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.shards = Shards(database.folder)

    def settled(self, work: Callable[[], T]) -> T:
        """What `work` gives within one snapshot; begun again when a compaction moved a file.

        Raises
        ------
        StoreDamagedError
            If a file is gone for good.
        """
        for _ in range(TRIES):
            try:
                with self._database.read():
                    return work()
            except Moved as moved:
                last = moved
        raise self.damaged(last.chunk, last.file, "the file is gone")

    def read(
        self, chunks: Sequence[int], group: str
    ) -> dict[int, dict[str, tuple[NDArray[np.generic], str]]]:
        """Arrays and dtypes by chunk and name, of names that are `group` or begin with it.

        "*" is every name.

        Raises
        ------
        StoreDamagedError
            Naming the document, the file and what to do.
        Moved
            If a file is not there: :meth:`settled` looks again.
        """
        out: dict[int, dict[str, tuple[NDArray[np.generic], str]]] = {c: {} for c in chunks}
        for place in self.places(chunks, group):
            try:
                out[place.chunk][place.name] = (self.shards.array(place), place.dtype)
            except FileNotFoundError as error:
                raise Moved(place.chunk, place.file) from error
            except StoreDamagedError as error:
                raise self.damaged(place.chunk, place.file, str(error)) from error
        return out

    def places(self, chunks: Sequence[int], group: str) -> list[Place]:
        with self._database.read() as connection:
            found: list[Place] = []
            for some in rows.batches(chunks):
                found += map(
                    Place.of_row,
                    connection.execute(
                        f"SELECT {COLUMNS} FROM arrays JOIN shards USING (shard) "
                        f"WHERE chunk IN ({rows.marks(some)}) AND (name = ? OR name GLOB ?)",
                        (*some, group, "*" if group == "*" else f"{group}/*"),
                    ),
                )
            return found

    def damaged(self, chunk: int, file: str, what: str) -> StoreDamagedError:
        """The error for one broken chunk."""
        with self._database.read() as connection:
            ids = rows.documents_of(connection, chunk)
        return StoreDamagedError(
            f"a chunk of document {', '.join(map(repr, ids)) or '(none)'} is broken in "
            f"{FOLDER}/{file}: {what}. Run sharedllm verify --repair, which encodes it again from "
            "the text; nothing else is lost"
        )


class StoredNodes(NodeCache):
    """Encoded nodes of a stored document: what is in memory, then what is on disk."""

    def __init__(
        self,
        limit: int,
        reader: ArrayReader,
        settings: MemorySettings,
        llm: SharedLLM,
        chunks: Sequence[tuple[int, int, int]],
    ) -> None:
        super().__init__(limit)
        self._reader, self._settings, self._llm = reader, settings, llm
        self._chunks = chunks  # (chunk, first token, end token), in order
        self._starts = [start for _, start, _ in chunks]

    def __contains__(self, request: NodeRequest) -> bool:
        return super().__contains__(request) or self._find(request) is not None

    def get(self, request: NodeRequest) -> NodeKV | None:
        found = super().get(request)
        if found is not None:
            return found
        place = self._find(request)
        if place is None:
            return None
        chunk, name, first, last = place
        arrays = self._reader.settled(lambda: self._reader.read([chunk], name)[chunk])
        if not arrays:  # the document was deleted meanwhile: its nodes are encoded on demand
            return None
        values = kv.read(
            name,
            {part: arrays[part][0] for part in kv.parts(name, self._settings.kv)},
            {part: dtype for part, (_, dtype) in arrays.items()},
            self._settings.kv,
            (first, last),
            self._llm.shape.head_dim,
        ).to(self._llm.lower.device, self._llm.model.dtype)
        read = NodeKV(keys=values[0].contiguous(), values=values[1].contiguous())
        self.put(request, read)
        return read

    def _find(self, request: NodeRequest) -> tuple[int, str, int, int] | None:
        """Chunk, group and entries of a node that is on disk."""
        at = int(np.searchsorted(self._starts, request.start, side="right")) - 1
        chunk, start, end = self._chunks[at]
        levels = kv.Levels.of(end - start, self._llm.tree, self._settings.keep)
        own = replace(request, start=request.start - start, end=request.end - start)
        found = levels.find(own)
        return None if found is None else (chunk, *found)


class Shelf:
    """Gives stored texts, whole or in runs of chunks, as documents for one model.

    Parameters
    ----------
    form : of search vectors
    node_cache_bytes : most bytes of encoded nodes in memory for each document
    """

    def __init__(
        self,
        database: Database,
        reader: ArrayReader,
        settings: MemorySettings,
        form: VectorForm,
        llm: SharedLLM,
        node_cache_bytes: int,
    ) -> None:
        self._form = form
        self._database, self._reader, self._settings = database, reader, settings
        self._llm, self._limit = llm, node_cache_bytes
        self._made: OrderedDict[tuple[object, ...], Document] = OrderedDict()
        self._identity = llm.identity  # another one has another shelf
        self._tokens_held = 0
        self._unpacked = (-1, "")  # row and body of the last text; rows are never used again

    def document(self, run: Run) -> Document:
        """The document of `run`, under the names of its stored document.

        Called within :meth:`ArrayReader.settled`.

        Raises
        ------
        StoreDamagedError
            If something it needs is broken.
        """
        with self._database.read() as connection:
            row = rows.document_row(connection, run.document)
            rows.checked_document(row)
            key = (run, row[5], self._identity)
            made = self._made.get(key)
            if made is not None:
                self._made.move_to_end(key)
                return made
            placed = connection.execute(
                "SELECT p.chunk, p.char_start, p.char_end, c.layout FROM placed p "
                "LEFT JOIN chunks c ON c.chunk = p.chunk "
                "WHERE p.text = ? AND p.ordinal >= ? AND p.ordinal < ? ORDER BY p.ordinal",
                (run.text, run.first, run.last),
            ).fetchall()
            try:
                text = self._body(connection, run.text)
            except StoreDamagedError as error:
                raise StoreDamagedError(f"document {run.document!r}: {error}") from error
        made = self._make(run, row, placed, text)
        self._made[key] = made
        self._tokens_held += len(made)
        while self._tokens_held > CACHED_TOKENS and len(self._made) > 1:
            self._tokens_held -= len(self._made.popitem(last=False)[1])
        return made

    def _body(self, connection: sqlite3.Connection, text: int) -> str:
        """A text, unpacked once for all of its runs that a question is about."""
        if text != self._unpacked[0]:
            self._unpacked = (text, rows.text_body(connection, text))
        return self._unpacked[1]

    def _make(
        self,
        run: Run,
        row: Sequence[str],
        placed: Sequence[tuple[int, int, int, bytes]],
        text: str,
    ) -> Document:
        begin, end = (0, len(text)) if run.whole else (placed[0][1], placed[-1][2])
        tokens, forest, chunks = self._tokens(run, placed, begin)
        arrays = self._reader.read([chunk for chunk, _, _ in chunks], NAME)
        for chunk, _, _ in chunks:
            if not arrays[chunk]:
                raise self._reader.damaged(chunk, "", "its search vectors are missing")
        vectors = self._form.joined(
            [arrays[chunk][NAME][0] for chunk, _, _ in chunks], self._llm.lower.device
        )
        return Document(
            id=row[0],
            title=row[1] or row[2] or "document",
            source=row[2],
            text=text[begin:end],
            tokens=tokens,
            forest=forest,
            vectors=vectors,
            nodes=StoredNodes(self._limit, self._reader, self._settings, self._llm, chunks),
            made_by=self._identity,
            offset=begin,
            whole=0 if run.whole else len(text),
            pages=page_starts(text),
        )

    def _tokens(
        self, run: Run, placed: Sequence[tuple[int, int, int, bytes]], begin: int
    ) -> tuple[Tokens, Forest, list[tuple[int, int, int]]]:
        """Tokens, trees and (chunk, first token, end token) of the run's chunks."""
        ids, spans, cut, chunks, at = [], [], [], [], 0
        for index, (chunk, start, _, layout) in enumerate(placed):
            try:
                own_ids, own_spans = unpacked(layout or b"")
            except StoreDamagedError as error:
                raise StoreDamagedError(
                    f"document {run.document!r}: {error}. Run sharedllm verify --repair"
                ) from error
            ids.append(own_ids)
            spans.append(own_spans + np.int32(start - begin))
            cut.append(Chunk(index=index, start=at, end=at + len(own_ids)))
            chunks.append((chunk, at, at + len(own_ids)))
            at += len(own_ids)
        tokens = Tokens(ids=np.concatenate(ids), spans=np.concatenate(spans))
        return tokens, planted(cut, self._llm.tree), chunks
