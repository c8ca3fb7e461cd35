"""Text -> chunks -> their rows: the one path of adding, updating, repair and rebuild.

Everything is encoded before the write lock is taken. A document appears, changes or goes in one
transaction. The chunks of a long one are committed as they are encoded, without a document that
has them: that bounds memory, and an addition that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.encoding.kv import kept_count
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import DocumentError, TreeMemoryDamagedError
from sharedllm.memory import outlines, records, tables
from sharedllm.memory.codes import (
    VectorCodec,
    arrays_to_bytes,
    kept_nodes,
    kv_to_arrays,
    layout_to_bytes,
    vectors_to_bytes,
)
from sharedllm.memory.database import Database
from sharedllm.memory.documents import MemoryDocument, metadata_json
from sharedllm.memory.manifest import Manifest
from sharedllm.memory.tables import ChunkRows, Place
from sharedllm.progress import Progress, Reporter, reporter
from sharedllm.text.outline import outline_to_json
from sharedllm.text.words import searchable

KEY_BYTES = 20
BATCH_TOKENS = 16384  # encoded and committed at once, or as many as the model takes in one pass
KV_AT_ONCE = 1 << 30  # bytes of KV, in the model's own type, that are encoded at once
DOCUMENTS_AT_ONCE = 256  # committed in one transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One chunk of a text, named by its content.

    Its key is a hash of its tokens, of the characters they cover, and of what decides its trees and
    states. Appending to a text changes its last piece at most, and equal passages at the same chunk
    boundaries are one piece.

    Attributes
    ----------
    ids : int32 (T,)
    spans : int32 (T, 2)
        Characters of each token, counted from the piece's first one.
    place : Place
    text : str
        Exactly the characters of the place.
    """

    ids: NDArray[np.int32]
    spans: NDArray[np.int32]
    place: Place
    text: str

    @property
    def key(self) -> bytes:
        return self.place.key

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A document that waits to be committed; without pieces if its text is there already."""

    document: MemoryDocument
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    """The places of a text's new chunks, without their tokens, which would fill the memory."""

    places: tuple[Place, ...]
    characters: int
    tokens: int


class Ingest:
    """Writes texts into one memory with one model.

    Parameters
    ----------
    codec : of search vectors; None keeps them whole
    """

    def __init__(
        self,
        database: Database,
        manifest: Manifest,
        encoder: DocumentEncoder,
        codec: VectorCodec | None,
    ) -> None:
        self._database, self._encoder, self._manifest = database, encoder, manifest
        self._codec = codec
        self._batch_tokens = self._tokens_at_once()

    def _tokens_at_once(self) -> int:
        """The tokens of a batch: fewer where the KV of all leaves would fill the memory."""
        encoder, chunk = self._encoder, self._encoder.tree.chunk
        kept = sum(kept_count(r.end - r.start, r.ratio) for r in self._kept(chunk))
        shape, size = encoder.shape, encoder.model.dtype.itemsize
        each = 2 * encoder.lower.layers * shape.kv_heads * shape.head_dim * size * kept / chunk
        most = max(BATCH_TOKENS, encoder.lower.batch_tokens)
        return max(chunk, min(most, int(KV_AT_ONCE / each))) if kept else most

    # -- adding and updating -------------------------------------------------------------------

    def put(
        self,
        documents: Sequence[MemoryDocument],
        *,
        replace: bool,
        progress: Progress = None,
        first: int = 1,
        count: int | None = None,
    ) -> None:
        """Commit `documents` in order; where one is refused, those before it.

        Parameters
        ----------
        replace : they are there and are changed; else they are new
        first, count : the number of the first document among all that were given; None is these

        Raises
        ------
        DocumentError
            If one is there with another content, or (to be replaced) is not there.
        """
        total = sum(len(document.text) for document in documents)
        with reporter(progress, total, "adding to the memory", "characters") as report:
            waiting: list[_Pending] = []
            new_tokens = 0
            for number, document in enumerate(documents, start=first):
                try:
                    pending = self._pending(document, replace=replace)
                except (DocumentError, TreeMemoryDamagedError) as error:
                    self._commit(waiting, replace=replace, report=report)
                    raise _named(error, document, number, count or len(documents)) from error
                if pending is None:
                    report(len(document.text))
                    continue
                waiting.append(pending)
                new_tokens += sum(map(len, pending.pieces))
                if new_tokens >= self._batch_tokens or len(waiting) >= DOCUMENTS_AT_ONCE:
                    self._commit(waiting, replace=replace, report=report)
                    waiting, new_tokens = [], 0
            self._commit(waiting, replace=replace, report=report)

    def _pending(self, document: MemoryDocument, *, replace: bool) -> _Pending | None:
        """The document with the pieces of its text, unless the memory has the text.

        None if it changes nothing.
        """
        with self._database.read() as connection:
            if not is_wanted(connection, document, replace=replace):
                return None
            if tables.text_of_hash(connection, document.text) is not None:
                return _Pending(document, ())
        return _Pending(document, self._pieces(document.text))

    def _commit(self, waiting: list[_Pending], *, replace: bool, report: Reporter) -> None:
        """Encode missing chunks, then commit; again where another writer took one away."""
        try:
            self._commit_all(waiting, replace=replace, report=report)
        except DocumentError:  # of two under one id, or one that another writer has added meanwhile
            if len(waiting) < 2:
                raise
            for number, pending in enumerate(waiting, start=1):
                try:
                    self._commit_all([pending], replace=replace, report=lambda characters: None)
                except DocumentError as error:
                    raise _named(error, pending.document, number, len(waiting)) from error

    def _commit_all(self, waiting: list[_Pending], *, replace: bool, report: Reporter) -> None:
        """Commit all of `waiting` in one transaction."""
        if not waiting:
            return
        left = sum(len(pending.document.text) for pending in waiting)

        def reported(characters: int) -> None:
            nonlocal left
            report(min(characters, left))
            left -= min(characters, left)

        while True:
            encoded = self._encode_missing([p for w in waiting for p in w.pieces], reported)
            with self._database.write() as connection:
                waiting = [self._as_it_stands(connection, pending) for pending in waiting]
                chunks = _chunks(connection, [p for w in waiting for p in w.pieces], encoded)
                if chunks is not None:
                    _put(connection, waiting, chunks, replace=replace)
                    break
        report(left)  # texts that were there already

    def _as_it_stands(self, connection: sqlite3.Connection, pending: _Pending) -> _Pending:
        """`pending` with its pieces where another writer has removed its text meanwhile."""
        text = pending.document.text
        if pending.pieces or tables.text_of_hash(connection, text) is not None:
            return pending
        return _Pending(pending.document, self._pieces(text))

    # -- repair and rebuild --------------------------------------------------------------------

    def place_again(self, texts: Iterable[int]) -> None:
        """Encode the chunks that `texts` lack, and place each text over its chunks anew.

        A text whose body is broken is left as it is.
        """
        for text in texts:
            try:
                with self._database.read() as connection:
                    body = tables.text_that_hashes(connection, text)
            except TreeMemoryDamagedError:
                continue  # verify has named it: only its owner can give it again
            pieces, done = self._pieces(body), False
            places = [piece.place for piece in pieces]
            while not done:
                encoded = self._encode_missing(pieces)
                with self._database.write() as connection:
                    chunks = _chunks(connection, pieces, encoded)
                    if chunks is not None:
                        size = (len(body), _tokens(pieces))
                        tables.place_text(connection, text, *size, places, chunks)
                        records.bump(connection)
                        done = True

    def rebuild(self) -> None:
        """Let the memory be what the manifest of this object says.

        The new chunks are committed beside the old ones, under other keys; one transaction then
        places every text over its new chunks. Until that one the memory is the old one.

        Raises
        ------
        TreeMemoryDamagedError
            If a text is broken; nothing is changed then.
        TreeMemoryBusyError, TreeMemoryError
        """
        done: dict[int, _Placed] = {}
        while True:
            with self._database.read() as connection:
                found = connection.execute("SELECT text FROM texts ORDER BY text").fetchall()
            for (text,) in found:
                if text not in done:
                    done[text] = self._encoded_anew(text)
            with self._database.write() as connection:
                lacking = _lacking(connection, done)
                if not lacking:
                    self._swap(connection, done)
                    return
            for text in lacking:  # added meanwhile, or its chunks were taken by a compaction
                done.pop(text, None)

    def _encoded_anew(self, text: int) -> _Placed:
        """Encode the new chunks of one text and commit them."""
        with self._database.read() as connection:
            body = tables.text_body(connection, text)[0]
        pieces = self._pieces(body)
        encoded = self._encode_missing(pieces)
        with self._database.write() as connection:
            tables.insert_chunks(connection, encoded)
        return _Placed(tuple(piece.place for piece in pieces), len(body), _tokens(pieces))

    def _swap(self, connection: sqlite3.Connection, done: dict[int, _Placed]) -> None:
        old = [row[0] for row in connection.execute("SELECT DISTINCT chunk FROM placed")]
        for text, new in done.items():
            chunks = tables.chunks_of_keys(connection, (place.key for place in new.places))
            size = (new.characters, new.tokens)
            tables.place_text(connection, text, *size, new.places, chunks)
        records.bump(connection)
        tables.drop_idle_chunks(connection, old)
        connection.execute("DELETE FROM codecs WHERE made_by != ?", (self._manifest.digest,))
        records.set_value(connection, "manifest", self._manifest.to_json())

    # -- encoding ------------------------------------------------------------------------------

    def _pieces(self, text: str) -> tuple[Piece, ...]:
        """Cut `text` into pieces.

        Raises
        ------
        DocumentError
            If there is no text.
        """
        tokens, chunks = self._encoder.cut(text)
        if len(text) > tables.longest_text(len(tokens)):
            raise DocumentError(
                f"the text has {len(text):,} characters and only {len(tokens):,} tokens: almost "
                "all of it is white space; leave that out"
            )
        made_by, out = self._manifest.digest, []
        for part in chunks:
            first, last = tokens.characters(part.start, part.end)
            ids = tokens.ids[part.start : part.end]
            spans = tokens.spans[part.start : part.end] - np.int32(first)
            covered = text[first:last]
            digest = hashlib.blake2b(made_by, digest_size=KEY_BYTES)
            for data in (ids.tobytes(), spans.tobytes(), covered.encode()):
                digest.update(len(data).to_bytes(8, "little") + data)
            place = Place(digest.digest(), first, last)
            out.append(Piece(ids=ids, spans=spans, place=place, text=covered))
        return tuple(out)

    def _encode_missing(
        self, wanted: Sequence[Piece], report: Reporter = lambda characters: None
    ) -> list[ChunkRows]:
        """Encode the pieces that are not there; all but the last batch are committed at once.

        `report` is called with the number of characters just encoded.
        """
        with self._database.read() as connection:
            there = tables.chunks_of_keys(connection, (piece.key for piece in wanted))
        missing = [p for p in {p.key: p for p in wanted}.values() if p.key not in there]
        batch: list[Piece] = []
        tokens = 0
        for piece in missing:
            if batch and tokens + len(piece) > self._batch_tokens:
                encoded = self._encode(batch)
                report(sum(len(one.text) for one in batch))
                with self._database.write() as connection:
                    tables.insert_chunks(connection, encoded)
                batch, tokens = [], 0
            batch.append(piece)
            tokens += len(piece)
        return self._encode(batch) if batch else []

    def _encode(self, pieces: Sequence[Piece]) -> list[ChunkRows]:
        ids = np.concatenate([piece.ids for piece in pieces])
        ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        vectors = self._encoder.vectors(ids, spans)
        requests = [
            [_moved(request, start) for request in self._kept(end - start)] for start, end in spans
        ]
        nodes = self._nodes(ids, [request for own in requests for request in own])
        return [
            ChunkRows(
                key=piece.key,
                tokens=len(piece),
                layout=layout_to_bytes(piece.ids, piece.spans),
                words=searchable(piece.text),
                vectors=vectors_to_bytes(vectors[start:end], self._codec),
                nodes=tuple(arrays_to_bytes(nodes[one]) for one in own),
            )
            for piece, (start, end), own in zip(pieces, spans, requests, strict=True)
        ]

    def _kept(self, length: int) -> tuple[NodeRequest, ...]:
        return kept_nodes(length, self._encoder.tree, self._manifest.settings.keep)

    def _nodes(
        self, ids: NDArray[np.int32], requests: Sequence[NodeRequest]
    ) -> dict[NodeRequest, list[Tensor]]:
        """The KV of `requests` as arrays to be stored, on the CPU."""
        copies, form = PinnedCopies(self._encoder.lower.device), self._manifest.settings.kv
        out = {
            request: [copies.take(array) for array in kv_to_arrays(kv, form)]
            for request, kv in self._encoder.node_kv(ids, requests)
        }
        copies.wait()
        return out


class PinnedCopies:
    """Copies from a GPU into pinned memory, while the GPU goes on; plain copies without CUDA."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def take(self, x: Tensor) -> Tensor:
        """Begin to copy `x`; the copy is not to be read before :meth:`wait`."""
        if self._stream is None:
            return x.cpu()
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(self._stream):
            host.copy_(x, non_blocking=True)
        x.record_stream(self._stream)  # its memory is not given away before it has been read
        return host

    def wait(self) -> None:
        """Return once everything has arrived."""
        if self._stream is not None:
            self._stream.synchronize()


def _named(
    error: DocumentError | TreeMemoryDamagedError,
    document: MemoryDocument,
    number: int,
    count: int,
) -> DocumentError | TreeMemoryDamagedError:
    """The error of one of several documents, which says of which."""
    said = str(error)
    if count == 1 and repr(document.id) in said:
        return error
    name = repr(document.id) + (f" ({document.title})" if document.title else "")
    if count == 1:
        return type(error)(f"document {name}: {said}")
    return type(error)(
        f"document {name}, number {number} of {count}: {said}; those before it are stored, it and "
        "those after it are not"
    )


def is_wanted(connection: sqlite3.Connection, document: MemoryDocument, *, replace: bool) -> bool:
    """True when `document` changes anything.

    Raises
    ------
    DocumentError
        If it is there with another content, or (to be replaced) is not there.
    TreeMemoryDamagedError
    """
    row = connection.execute(
        f"SELECT {tables.DOCUMENT}, t.hash FROM documents d "
        "LEFT JOIN texts t ON t.text = d.text WHERE d.id = ?",
        (document.id,),
    ).fetchone()
    if row is None:
        if replace:
            raise DocumentError(
                f"the memory holds no document {document.id!r} to update; add() it first"
            )
        return True
    if row[-1] is None and not replace:
        raise TreeMemoryDamagedError(f"the text of document {document.id!r} is missing; delete it")
    there = tables.checked_document(row[:-1])
    own = (document.title, document.source, metadata_json(document.metadata))
    same = (there[1:4], row[-1]) == (own, tables.text_hash(document.text))
    if same:  # an outline is no content: a later version may find it better
        outline = outline_to_json(document.outline or ())
        return outline != outlines.outline_json(connection, document.id)
    if not replace:
        raise DocumentError(
            f"the memory already holds a document {document.id!r} with another content; "
            "update() changes it, or give another id"
        )
    return True


def _put(
    connection: sqlite3.Connection,
    waiting: Sequence[_Pending],
    chunks: dict[bytes, int],
    *,
    replace: bool,
) -> None:
    """Let the rows of `waiting` stand, over chunks that are there."""
    before: list[int] = []
    for pending in waiting:
        document, pieces = pending.document, pending.pieces
        if not is_wanted(connection, document, replace=replace):
            continue
        text = tables.text_of_hash(connection, document.text)
        if text is None:
            places = [piece.place for piece in pieces]
            text = tables.insert_text(connection, document.text, _tokens(pieces), places, chunks)
        if replace:
            before.append(tables.document_row(connection, document.id)[4])
        tables.put_document(connection, document, text)
        outlines.put_outline(connection, document)
    records.bump(connection)
    tables.drop_texts(connection, before)


def _chunks(
    connection: sqlite3.Connection, pieces: Sequence[Piece], encoded: Sequence[ChunkRows]
) -> dict[bytes, int] | None:
    """The chunks of all `pieces` by key, `encoded` ones inserted; None if one went meanwhile."""
    keys = {piece.key for piece in pieces}
    there = tables.chunks_of_keys(connection, keys)
    if keys - there.keys() - {one.key for one in encoded}:
        return None
    return there | tables.insert_chunks(connection, encoded)


def _lacking(connection: sqlite3.Connection, done: dict[int, _Placed]) -> list[int]:
    """Texts whose new chunks are not all there."""
    texts = {int(text) for (text,) in connection.execute("SELECT text FROM texts")}
    for text in done.keys() - texts:  # deleted meanwhile
        del done[text]
    out = []
    for text in texts:
        keys = {place.key for place in done[text].places} if text in done else {b""}
        if len(tables.chunks_of_keys(connection, keys)) < len(keys):
            out.append(text)
    return out


def _tokens(pieces: Sequence[Piece]) -> int:
    return sum(map(len, pieces))


def _moved(request: NodeRequest, by: int) -> NodeRequest:
    return replace(request, start=request.start + by, end=request.end + by)
