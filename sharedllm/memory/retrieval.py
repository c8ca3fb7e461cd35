"""A question -> the stored documents, and the passages, that a memory finds for it."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharedllm.config import SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.encoding.parts import parts_in
from sharedllm.errors import InputError, TreeMemoryDamagedError
from sharedllm.memory import outlines, records, tables
from sharedllm.memory.codes import VectorCodec
from sharedllm.memory.database import Database, read_all
from sharedllm.memory.elsewhere import Elsewhere, ElsewhereError, Send
from sharedllm.memory.hits import Hits, best_passages
from sharedllm.memory.manifest import Manifest
from sharedllm.memory.prefilter import (
    candidates_of,
    every_text,
    in_sections,
    is_large,
    naming,
    runs_of,
)
from sharedllm.memory.stored_documents import Run, StoredDocuments
from sharedllm.memory.word_index import Opened, Parts
from sharedllm.search.finding import find_in_rounds, follow
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.rounds import Looked
from sharedllm.search.scorers import score
from sharedllm.text.outline import Outline, Section, absent_section, sections_named

logger = logging.getLogger(__name__)
TRIES = 2  # to have words looked up by other processes, before they are looked up here


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """The finds of a round: documents with names and metadata, scores, and what is followed."""

    documents: list[Document]
    names: list[dict[str, Any]]
    scores: list[Scores]
    looked: Looked


class FoundDocuments(list[Document]):
    """Documents that were found to be searched.

    Attributes
    ----------
    away : tuple of str
        Parts of memories that could not be searched, each with the reason.
    """

    def __init__(self, documents: Iterable[Document] = (), away: tuple[str, ...] = ()) -> None:
        super().__init__(documents)
        self.away = away


class Part:
    """One file of a memory, as a search reads it: most memories are one.

    Parameters
    ----------
    codec : of search vectors; None where they are stored whole
    """

    def __init__(self, database: Database, manifest: Manifest, codec: VectorCodec | None) -> None:
        self.database, self._manifest, self._codec = database, manifest, codec
        self._lock = threading.RLock()
        self._stored: dict[tuple[object, ...], StoredDocuments] = {}
        self._looked = False
        self._outlined: tuple[int, dict[str, Outline]] = (-1, {})

    def stored_for(self, encoder: DocumentEncoder) -> StoredDocuments:
        """The stored documents for `encoder`, which may be another object of the same weights.

        Raises
        ------
        TreeMemoryMismatchError
        """
        key = (id(encoder), encoder.identity)
        with self._lock:
            if key not in self._stored:
                settings = self._manifest.settings
                self._manifest.require(Manifest.of(encoder, settings), self.database.folder)
                codec = self._codec and self._codec.to(encoder.lower.device)
                self._stored[key] = StoredDocuments(self.database, settings, encoder, codec)
            return self._stored[key]

    def look(self) -> None:
        """Compare once what decides what is found at all: its rows are not read when they are not.

        Raises
        ------
        TreeMemoryDamagedError
        """
        with self.database.read() as connection:
            if not self._looked:
                tables.require_findable(connection)
                self._looked = True

    def outlines(self, connection: sqlite3.Connection) -> dict[str, Outline]:
        """The outlines of all documents, read once after every change."""
        now = records.generation(connection)
        if self._outlined[0] != now:
            self._outlined = (now, outlines.outlines(connection))
        return self._outlined[1]


class Retrieval:
    """Finds in one memory, of one part or several that the same model made.

    Parameters
    ----------
    candidates : chunks that the exact search looks at
    send : asks other processes to look words up (:mod:`sharedllm.memory.part_searcher`); None
        looks them up here
    """

    def __init__(self, parts: Sequence[Part], candidates: int, send: Send | None = None) -> None:
        self._parts, self._candidates, self._send = parts, candidates, send

    def _asked(self, connections: Sequence[sqlite3.Connection], *, here: bool) -> Parts:
        if here or self._send is None:
            return Opened(connections)
        folders = [part.database.folder for part in self._parts]
        return Elsewhere(self._send, folders, connections)

    @contextmanager
    def _snapshots(self) -> Iterator[list[sqlite3.Connection]]:
        """One snapshot of each part, whose documents no other thread reads meanwhile."""
        with read_all([part.database for part in self._parts]) as connections:
            yield connections

    def documents_for(
        self,
        query: str,
        encoder: DocumentEncoder,
        given: Mapping[str, Any] | None,
        names: Sequence[str] = (),
        section: str | None = None,
    ) -> FoundDocuments:
        """Find what to search for `query`, the best part last.

        Parameters
        ----------
        names : what a later round of search searches for besides
        section : names the sections that are searched

        Raises
        ------
        TreeMemoryMismatchError
            If `encoder` is not what the memory was made by.
        InputError
            If there is no document, or none that the filter lets through.
        SectionError
            If none of these has such a section.
        """
        found = self._found(query, encoder, given, names, section)
        return FoundDocuments(document for document, _ in found)

    def whole_documents(
        self, encoder: DocumentEncoder, given: Mapping[str, Any] | None
    ) -> FoundDocuments:
        """Return all documents that the filter lets through, whole, in the order of addition.

        Raises
        ------
        TreeMemoryMismatchError, InputError
            As :meth:`documents_for`.
        """
        stored = self._stored_for(encoder)
        with self._snapshots() as connections:
            found = FoundDocuments(
                stored[run.part].document(connections[run.part], run)
                for run in every_text(Opened(connections), given)
            )
        if not found:
            raise _nothing(given)
        return found

    def search(
        self,
        query: str,
        k: int,
        encoder: DocumentEncoder,
        given: Mapping[str, Any] | None,
        section: str | None = None,
    ) -> Hits:
        """The passages of the `k` leaves with the best scores."""
        default = SearchConfig()

        def find(also: Sequence[str]) -> _Scored:
            parts = self._found(query, encoder, given, also, section)
            documents = [document for document, _ in parts]
            scores = score(query, documents, encoder, default.scorer)
            looked = follow(query, documents, scores, default)
            return _Scored(documents, [names for _, names in parts], scores, looked)

        most = default.rounds if self.leaves_out(given) else 1
        found = find_in_rounds(find, lambda one: one.looked.unfound, most)
        return best_passages(
            query, k, found.documents, found.names, found.scores, found.looked.followed
        )

    def leaves_out(self, given: Mapping[str, Any] | None) -> bool:
        """Return True where a search looks at a part of the documents only."""
        with self._snapshots() as connections:
            return is_large(Opened(connections), given, self._candidates)

    def _found(
        self,
        query: str,
        encoder: DocumentEncoder,
        given: Mapping[str, Any] | None,
        names: Sequence[str],
        section: str | None,
    ) -> list[tuple[Document, dict[str, Any]]]:
        """Documents to search, each with the names and metadata of its stored document."""
        for _ in range(TRIES if self._send is not None else 0):
            try:
                return self._look_for(query, encoder, given, names, section, here=False)
            except ElsewhereError as error:
                logger.warning("words are looked up once more, or here: %s", error)
        return self._look_for(query, encoder, given, names, section, here=True)

    def _look_for(
        self,
        query: str,
        encoder: DocumentEncoder,
        given: Mapping[str, Any] | None,
        names: Sequence[str],
        section: str | None,
        *,
        here: bool,
    ) -> list[tuple[Document, dict[str, Any]]]:
        """As :meth:`_found`, with words that are looked up here, or by other processes.

        Raises
        ------
        ElsewhereError
            If these cannot.
        """
        stored = self._stored_for(encoder)
        with self._snapshots() as connections:
            parts = self._asked(connections, here=here)
            if section is None:
                runs = self._runs(parts, query, encoder, given, names)
            else:
                sections = self._sections(connections, given, section)
                near = encoder.near_words
                runs = in_sections(parts, query, near, self._candidates, given, sections, names)
            # text by text: a long one is unpacked once for all of its runs
            made = {
                run: stored[run.part].document(connections[run.part], run)
                for run in sorted(runs, key=lambda r: (r.part, r.text))
            }
            found = [
                (made[run], tables.names(tables.document_row(connections[run.part], run.document)))
                for run in runs
            ]
        if section is not None:
            found = [
                (part, names)
                for document, names in found
                for part in parts_in(document, section, encoder.tree)
            ]
        if not found:
            raise _nothing(given)
        return found

    def _sections(
        self,
        connections: Sequence[sqlite3.Connection],
        given: Mapping[str, Any] | None,
        section: str,
    ) -> dict[tuple[int, int], list[Section]]:
        """The sections that are named, by the part and the row of their text.

        Raises
        ------
        SectionError
        """
        held = [one.outlines(own) for one, own in zip(self._parts, connections, strict=True)]
        found: dict[tuple[int, int], list[Section]] = {}
        searched = every_text(Opened(connections), given)
        for run in searched:
            own = sections_named(held[run.part].get(run.document, ()), section)
            if own:
                found[run.part, run.text] = own
        if searched and not found:
            shown = [run for run in searched if held[run.part].get(run.document)] or searched[:2]
            titles = [
                tables.document_row(connections[run.part], run.document)[1] or run.document
                for run in shown
            ]
            outlined = [held[run.part].get(run.document, ()) for run in shown]
            raise absent_section(section, list(zip(titles, outlined, strict=True)))
        return found

    def _stored_for(self, encoder: DocumentEncoder) -> list[StoredDocuments]:
        """The stored documents of each part, which are looked at once."""
        stored = [part.stored_for(encoder) for part in self._parts]
        for part in self._parts:
            part.look()
        return stored

    def _runs(
        self,
        parts: Parts,
        query: str,
        encoder: DocumentEncoder,
        given: Mapping[str, Any] | None,
        names: Sequence[str],
    ) -> list[Run]:
        """All texts of a small memory; of a large one those stretches that the prefilter finds."""
        if not is_large(parts, given, self._candidates):
            return every_text(parts, given)
        chunks = candidates_of(parts, query, encoder.near_words, self._candidates, given)
        return runs_of(parts, [*chunks, *naming(parts, names, given)], given)


def _nothing(given: Mapping[str, Any] | None) -> InputError:
    through = " that the filter lets through" if given else ""
    return InputError(f"the memory holds no document{through}; add() some")


def codec_of(
    database: Database, manifest: Manifest, encoder: DocumentEncoder
) -> VectorCodec | None:
    """The codec of a memory's search vectors, fitted to the model in a memory that is new.

    None where they are stored whole.

    Raises
    ------
    TreeMemoryDamagedError
        If it is missing, or is not what was written.
    """
    if manifest.settings.vectors == "exact":
        return None
    with database.read() as connection:
        codec = stored_codec(connection, manifest)
    if codec is None:
        with encoder.lock.forward:
            fitted = VectorCodec.fit(encoder.lower.vocabulary())
        with database.write() as connection:
            for name, array in fitted.arrays().items():
                row = (
                    manifest.digest,
                    name,
                    json.dumps(array.shape),
                    array.astype("<f4").tobytes(),
                )
                connection.execute(
                    "INSERT OR IGNORE INTO codecs VALUES (?, ?, ?, ?, ?)",
                    (*row, records.checksum(*row)),
                )
            codec = stored_codec(connection, manifest)  # of the first process to fit one
    if codec is not None and codec.hidden != encoder.shape.hidden:
        raise TreeMemoryDamagedError(
            f"the codec is for search vectors of {codec.hidden} numbers, and the model's have "
            f"{encoder.shape.hidden}; {records.REPAIR}"
        )
    return codec.to(encoder.lower.device) if codec else None


def stored_codec(connection: sqlite3.Connection, manifest: Manifest) -> VectorCodec | None:
    """The codec that stands in the file; None in a memory that has no search vectors yet.

    Raises
    ------
    TreeMemoryDamagedError
        If it is missing, or is not what was written.
    """
    arrays = {}
    rows = connection.execute("SELECT * FROM codecs WHERE made_by = ?", (manifest.digest,))
    try:
        for row in rows:
            _, name, shape, data = records.checked(row, "codecs", "the codec of the search vectors")
            arrays[name] = np.frombuffer(data, "<f4").reshape(json.loads(shape))
        if arrays:
            return VectorCodec.from_arrays(arrays)
    except (ValueError, TypeError, RecursionError) as error:  # of InputError: one is missing
        raise TreeMemoryDamagedError(f"{error}; {records.REPAIR}") from error
    # the codes of a memory mean nothing without it; while a memory is rebuilt, it is yet to come
    own = records.value_of(connection, "manifest") == manifest.to_json()
    if own and connection.execute("SELECT 1 FROM vectors LIMIT 1").fetchone() is not None:
        raise TreeMemoryDamagedError(
            f"the codec of the search vectors is missing; {records.REPAIR}"
        )
    return None
