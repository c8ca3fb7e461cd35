"""Adding, updating and deleting documents.

Everything is encoded before the write lock is taken. A document appears, changes or goes in one
transaction. The chunks of a long one are committed as they are encoded, without a document that
has them: that bounds memory, and an addition that was killed goes on where it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharedllm.errors import DocumentError, StoreDamagedError
from sharedllm.memory import rows, shards
from sharedllm.memory.database import Database
from sharedllm.memory.encoding import EncodedPiece, PieceEncoder
from sharedllm.memory.pieces import Piece, pieces
from sharedllm.memory.records import MemoryDocument, metadata_json
from sharedllm.memory.rows import chunks_of_keys
from sharedllm.progress import Progress, Reporter, reporter
from sharedllm.text.tokens import tokenize

if TYPE_CHECKING:
    from sharedllm.shared_llm import SharedLLM

DOCUMENTS_AT_ONCE = 256  # committed in one transaction


@dataclass(frozen=True, slots=True)
class Pending:
    """A document that waits to be committed; without pieces if its text is there already."""

    document: MemoryDocument
    pieces: tuple[Piece, ...]


class Writer:
    """Writes documents into one memory with one model.

    Parameters
    ----------
    made_by : the digest that chunk keys take in
    """

    def __init__(
        self, database: Database, llm: SharedLLM, encoder: PieceEncoder, made_by: bytes
    ) -> None:
        self._database, self._llm, self._encoder = database, llm, encoder
        self._made_by = made_by

    def put(
        self, documents: Sequence[MemoryDocument], *, replace: bool, progress: Progress = None
    ) -> None:
        """Commit `documents` in order.

        Parameters
        ----------
        replace : they are there and are changed; else they are new

        Raises
        ------
        DocumentError
            If one is there with another content, or (to be replaced) is not there.
        """
        with self._database.read() as connection:
            given = [d for d in documents if is_wanted(connection, d, replace=replace)]
        total = sum(len(document.text) for document in given)
        with reporter(progress, total, "adding to the memory", "characters") as report:
            waiting: list[Pending] = []
            new_tokens = 0
            for document in given:
                pending = self._cut(document)
                waiting.append(pending)
                new_tokens += sum(map(len, pending.pieces))
                enough = len(waiting) >= DOCUMENTS_AT_ONCE
                if new_tokens >= self._encoder.batch_tokens or enough:
                    self._commit(waiting, replace=replace, report=report)
                    waiting, new_tokens = [], 0
            if waiting:
                self._commit(waiting, replace=replace, report=report)

    def _cut(self, document: MemoryDocument) -> Pending:
        """The document with the pieces of its text, unless the memory has the text."""
        with self._database.read() as connection:
            if rows.text_of_hash(connection, document.text) is not None:
                return Pending(document, ())
        return self._cut_anew(document)

    def _cut_anew(self, document: MemoryDocument) -> Pending:
        tokens = tokenize(document.text, self._llm.tokenizer)
        cut = pieces(document.text, tokens, self._llm.tree.chunk, self._made_by)
        return Pending(document, tuple(cut))

    def _commit(self, waiting: list[Pending], *, replace: bool, report: Reporter) -> None:
        """Encode what is missing, then commit; again where another writer took away a chunk."""
        left = sum(len(pending.document.text) for pending in waiting)

        def reported(characters: int) -> None:
            nonlocal left
            report(min(characters, left))
            left -= min(characters, left)

        while True:
            encoded = self.encode_missing([p for w in waiting for p in w.pieces], reported)
            with self._database.write() as connection:
                waiting, complete = self._still(connection, waiting, encoded)
                if complete:
                    chunks = insert_encoded(connection, self._database, encoded)
                    self._insert(connection, waiting, chunks, replace=replace)
            if complete:
                break
        report(left)  # what was there already

    def encode_missing(
        self, wanted: Sequence[Piece], report: Reporter = lambda characters: None
    ) -> list[EncodedPiece]:
        """Encode the pieces that are not there; all but the last batch are committed at once.

        `report` is called with the number of characters just encoded.
        """
        with self._database.read() as connection:
            there = chunks_of_keys(connection, (piece.key for piece in wanted))
        missing = [p for p in {p.key: p for p in wanted}.values() if p.key not in there]
        batch: list[Piece] = []
        tokens = 0
        for piece in missing:
            if batch and tokens + len(piece) > self._encoder.batch_tokens:
                encoded = self._encoder.encode(batch)
                report(sum(len(one.text) for one in batch))
                with self._database.write() as connection:
                    insert_encoded(connection, self._database, encoded)
                batch, tokens = [], 0
            batch.append(piece)
            tokens += len(piece)
        return self._encoder.encode(batch) if batch else []

    def _still(
        self,
        connection: sqlite3.Connection,
        waiting: Sequence[Pending],
        encoded: Sequence[EncodedPiece],
    ) -> tuple[list[Pending], bool]:
        """The pending documents as they stand now, and whether all their chunks are at hand."""
        out = []
        for pending in waiting:
            gone = not pending.pieces and (
                rows.text_of_hash(connection, pending.document.text) is None
            )
            out.append(self._cut_anew(pending.document) if gone else pending)
        keys = {piece.key for pending in out for piece in pending.pieces}
        keys -= {one.piece.key for one in encoded}
        return out, len(chunks_of_keys(connection, keys)) == len(keys)

    def _insert(
        self,
        connection: sqlite3.Connection,
        waiting: Sequence[Pending],
        chunks: dict[bytes, int],
        *,
        replace: bool,
    ) -> None:
        before: list[int] = []
        for pending in waiting:
            document = pending.document
            if not is_wanted(connection, document, replace=replace):
                continue
            text = rows.text_of_hash(connection, document.text)
            if text is None:
                chunks |= chunks_of_keys(connection, (p.key for p in pending.pieces))
                text = rows.insert_text(connection, document.text, pending.pieces, chunks)
            if replace:
                before.append(rows.document_row(connection, document.id)[4])
            rows.put_document(connection, document, text)
        rows.bump(connection)
        rows.drop_texts(connection, before)


def insert_encoded(
    connection: sqlite3.Connection, database: Database, encoded: Sequence[EncodedPiece]
) -> dict[bytes, int]:
    """Put encoded pieces in, their arrays in one new shard; their chunks by key."""
    there = chunks_of_keys(connection, (one.piece.key for one in encoded))
    new = [one for one in encoded if one.piece.key not in there]
    arrays: dict[tuple[int, str], shards.Stored] = {}
    for one in new:
        chunk = rows.insert_chunk(connection, one.piece, one.embedding)
        there[one.piece.key] = chunk
        arrays |= {(chunk, name): stored for name, stored in one.arrays.items()}
    if arrays:
        shards.insert(connection, *shards.write(database.folder, arrays))
        rows.bump(connection)
    return there


def is_wanted(connection: sqlite3.Connection, document: MemoryDocument, *, replace: bool) -> bool:
    """Whether `document` changes anything."""
    row = connection.execute(
        "SELECT d.id, d.title, d.source, d.metadata, t.hash FROM documents d "
        "LEFT JOIN texts t ON t.text = d.text WHERE d.id = ?",
        (document.id,),
    ).fetchone()
    if row is None:
        if replace:
            raise DocumentError(
                f"the memory holds no document {document.id!r} to update; add() it first"
            )
        return True
    if row[4] is None:
        raise StoreDamagedError(f"the text of document {document.id!r} is missing; delete it")
    own = (document.title, document.source, metadata_json(document.metadata))
    same = (tuple(row[1:4]), row[4]) == (own, rows.text_hash(document.text))
    if not same and not replace:
        raise DocumentError(
            f"the memory already holds a document {document.id!r} with another content; "
            "update() changes it, or give another id"
        )
    return not same
