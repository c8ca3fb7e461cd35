"""Checking a memory, mending it from its texts, packing it, and copying documents."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sharedllm.errors import TreeMemoryDamagedError, TreeMemoryError
from sharedllm.memory import MEMORY_FILE, outlines, records, tables
from sharedllm.memory.codes import kept_nodes
from sharedllm.memory.database import AGAIN as RESTORE
from sharedllm.memory.database import Database
from sharedllm.memory.documents import MemoryDocument, Problem, Report
from sharedllm.memory.ingest import Ingest, is_wanted
from sharedllm.memory.manifest import Manifest
from sharedllm.memory.notes import has_notes, notes_of, put_notes
from sharedllm.memory.records import REPAIR
from sharedllm.memory.retrieval import stored_codec
from sharedllm.memory.schema import WORDS
from sharedllm.memory.tables import Place
from sharedllm.text.normalise import normalise
from sharedllm.text.words import searchable

AGAIN = "delete it and add it again"
ORPHANS = "FROM outlines WHERE document NOT IN (SELECT document FROM documents)"
CHUNKS_AT_ONCE = 16  # that are copied in one transaction
FTS5_IN_INTEGRITY_CHECK = (3, 44)  # https://sqlite.org/releaselog/3_44_0.html


# -- verify ----------------------------------------------------------------------------------------


def verify(database: Database, manifest: Manifest) -> Report:
    """Read everything and compare it with its checksums.

    Raises
    ------
    TreeMemoryBusyError
        Where SQLite is older than 3.44: checking the index of words then waits for writers.
    """
    return _look(database, manifest).report()


def _look(database: Database, manifest: Manifest) -> _Findings:
    with database.read() as connection:
        found = _Findings(connection, manifest)
        found.file()
        if not found.structure:  # a broken file gives rows that mean nothing
            for look in (found.manifests, found.codecs, found.texts, found.chunks):
                look()
            for look in (found.words, found.documents):
                look()
    if not found.structure and sqlite3.sqlite_version_info < FTS5_IN_INTEGRITY_CHECK:
        if database.is_writable:
            with database.write() as connection:
                found.index_of_words(connection)
        else:  # SQLite wants a transaction for the check, although it writes nothing
            with database.read() as connection, closing(sqlite3.connect("")) as copy:
                connection.backup(copy)
                found.index_of_words(copy)
    return found


@dataclass
class _Findings:
    """One look at everything, within one snapshot.

    Attributes
    ----------
    broken : chunks to be encoded again
    misplaced : texts to be placed over their chunks again
    outlines : documents whose outline is to be found again
    """

    connection: sqlite3.Connection
    manifest: Manifest
    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"documents": 0, "chunks": 0})
    bytes: int = 0
    broken: set[int] = field(default_factory=set)
    misplaced: set[int] = field(default_factory=set)
    outlines: set[str] = field(default_factory=set)
    structure: bool = False
    codec: bool = False
    index: bool = False

    def report(self, repaired: int = 0) -> Report:
        return Report(
            documents=self.counts["documents"],
            chunks=self.counts["chunks"],
            bytes=self.bytes,
            problems=tuple(self.problems),
            repaired=repaired,
        )

    def note(
        self, what: str, table: str, chunk: int | None = None, documents: tuple[str, ...] = ()
    ) -> None:
        if chunk is not None:
            documents = tables.documents_of(self.connection, chunk)
            self.broken.add(chunk)
        whose = f"document {', '.join(map(repr, documents))}: " if documents else ""
        self.problems.append(
            Problem(what=whose + what, table=table, documents=documents, chunk=chunk)
        )

    def sound(self, row: Sequence[Any], what: str, table: str, chunk: int | None = None) -> bool:
        """Compare a row with its checksum."""
        try:
            records.checked(row, table, what)
        except TreeMemoryDamagedError as error:
            self.note(f"{error}: {REPAIR}", table, chunk)
            return False
        return True

    def file(self) -> None:
        for (found,) in self.connection.execute("PRAGMA integrity_check"):
            if "FTS5" in found:  # an index that SQLite compares with the words
                self.index = True
                self.note(f"{found}: {REPAIR}", "words")
            elif found != "ok":
                self.structure = True
                self.note(f"{found}; {RESTORE}", MEMORY_FILE)
        for table in self.counts:
            count = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            self.counts[table] = count

    def manifests(self) -> None:
        for row in self.connection.execute("SELECT * FROM manifest"):
            self.sound(row, f"the manifest's {row[0]}", "manifest")
        if self.connection.execute("SELECT count(*) FROM manifest").fetchone()[0] < 2:
            self.note(f"the count of changes is missing: {REPAIR}", "manifest")

    def codecs(self) -> None:
        rows = self.connection.execute("SELECT * FROM codecs").fetchall()
        for row in rows:
            self.codec |= not self.sound(row, "the codec of search vectors", "codecs")
        held = {row[1] for row in rows if row[0] == self.manifest.digest}
        compact = self.manifest.settings.vectors == "compact" and self.counts["chunks"]
        if compact and held != {"projection", "levels"}:
            self.codec = True
            self.note(f"the codec of search vectors is missing: {REPAIR}", "codecs")
        elif compact and not self.codec:
            try:
                stored_codec(self.connection, self.manifest)
            except TreeMemoryDamagedError as error:
                self.codec = True
                self.note(str(error), "codecs")

    def texts(self) -> None:
        for (text,) in self.connection.execute("SELECT text FROM texts").fetchall():
            owners = self.connection.execute("SELECT id FROM documents WHERE text = ?", (text,))
            ids = tuple(row[0] for row in owners)
            table = "texts"
            try:
                body, tokens = tables.text_body(self.connection, text)
                self.bytes += len(body.encode())
                table = "placed"
                self._placed(text, tokens)
            except TreeMemoryDamagedError as error:
                self.misplaced.add(text)
                self.note(f"{error}; {self._remedy(text)}", table, documents=ids)
        lost = self.connection.execute(
            "SELECT DISTINCT text FROM placed WHERE text NOT IN (SELECT text FROM texts)"
        )
        for (text,) in lost.fetchall():
            self.misplaced.add(text)
            self.note(f"the text of a chunk's place is missing: {REPAIR}", "placed")

    def _remedy(self, text: int) -> str:
        try:
            tables.text_that_hashes(self.connection, text)
        except TreeMemoryDamagedError:
            return AGAIN
        return REPAIR

    def _placed(self, text: int, tokens: int) -> None:
        """Check that chunks are placed on all of a text."""
        found = self.connection.execute("SELECT count(*) FROM placed WHERE text = ?", (text,))
        placed = tables.placed_chunks(self.connection, text, 0, found.fetchone()[0])
        held = 0
        for chunk, _, _ in placed:
            row = self.connection.execute(
                "SELECT tokens FROM chunks WHERE chunk = ? AND typeof(tokens) = 'integer'", (chunk,)
            )
            held += (row.fetchone() or (0,))[0]
        if held != tokens:
            raise TreeMemoryDamagedError("some of its chunks are missing")

    def chunks(self) -> None:
        tree, keep = self.manifest.tree, self.manifest.settings.keep
        for row in self.connection.execute("SELECT * FROM chunks"):
            chunk = row[0]
            self.bytes += _size(row[3]) + _size(row[4])
            if not self.sound(row, "a chunk's entry", "chunks", chunk):
                continue
            nodes, held = self.connection.execute(
                "SELECT count(*), EXISTS (SELECT 1 FROM placed WHERE chunk = ?1) FROM kv "
                "WHERE chunk = ?1",
                (chunk,),
            ).fetchone()
            if held and nodes != len(kept_nodes(row[2], tree, keep)):
                self.note(f"some KV of a chunk is missing: {REPAIR}", "kv", chunk)
        for row in self.connection.execute("SELECT chunk, node, data, checksum FROM kv"):
            self.bytes += _size(row[2])
            self.sound(row, "KV of a chunk", "kv", row[0])
        for row in self.connection.execute("SELECT * FROM vectors"):
            self.bytes += _size(row[1])
            self.sound(row, "search vectors of a chunk", "vectors", row[0])
        own = ["vectors", "kv"]
        if has_notes(self.connection):
            own.append("notes")
            for row in self.connection.execute("SELECT chunk, key, said, checksum FROM notes"):
                self.bytes += _size(row[2])
                self.sound(row, "a note of a chunk", "notes", row[0])
        for table in own:
            self._both_ways(table, "chunk")

    def words(self) -> None:
        rows = "SELECT c.chunk, c.words, w.text FROM chunks c JOIN words w ON w.rowid = c.chunk"
        try:
            for chunk, check, text in self.connection.execute(rows):
                if records.checksum(text) != check:
                    self.index = True
                    what = f"the words of a chunk are not what was written: {REPAIR}"
                    self.note(what, "words", chunk)
            self._both_ways("words", "rowid")
        except sqlite3.DatabaseError as error:
            self.unreadable_index(error)

    def unreadable_index(self, error: sqlite3.DatabaseError) -> None:
        """Note what SQLite says of the index of words, if it is about damage."""
        # Python gives no code for a text that is not UTF-8
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if code & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
            raise error
        self.index = True
        self.note(f"the index of words is not that of the words ({error}): {REPAIR}", "words")

    def _both_ways(self, table: str, column: str) -> None:
        """Note chunks without rows in a table, and rows without a chunk."""

        def lacking(select: str, there: str) -> list[int]:
            found = self.connection.execute(f"{select} WHERE {there}")
            return [row[0] for row in found.fetchall()]

        if table not in ("kv", "notes"):  # of the first the rows were counted
            absent = f"chunk NOT IN (SELECT {column} FROM {table})"
            for chunk in lacking("SELECT chunk FROM chunks", absent):
                self.note(f"a chunk is missing in the table {table}: {REPAIR}", table, chunk)
        absent = f"{column} NOT IN (SELECT chunk FROM chunks)"
        for chunk in lacking(f"SELECT DISTINCT {column} FROM {table}", absent):
            self.note(f"a row is of no chunk: {REPAIR}", table, chunk)

    def documents(self) -> None:
        for row in self.connection.execute(f"SELECT {tables.DOCUMENT} FROM documents d"):
            try:
                tables.checked_document(row)
            except TreeMemoryDamagedError as error:
                self.note(str(error), "documents", documents=(row[0],))
            self._outline(row[0])
        lost = self.connection.execute(
            "SELECT id FROM documents WHERE text NOT IN (SELECT text FROM texts)"
        )
        for (document,) in lost.fetchall():
            self.note(f"its text is missing; {AGAIN}", "documents", documents=(document,))
        if outlines.has_outlines(self.connection):
            for (row,) in self.connection.execute(f"SELECT document {ORPHANS}").fetchall():
                self.note(f"the outline {row} is of no document: {REPAIR}", "outlines")

    def _outline(self, document: str) -> None:
        """Compare a document's outline, unless its text is broken, which has been noted."""
        try:
            size = self.connection.execute(
                "SELECT t.characters FROM documents d JOIN texts t ON t.text = d.text "
                "WHERE d.id = ?",
                (document,),
            ).fetchone()
            if size is not None:
                outlines.outline_of(self.connection, document, size[0])
        except TreeMemoryDamagedError as error:
            self.outlines.add(document)
            self.note(str(error), "outlines", documents=(document,))

    def index_of_words(self, connection: sqlite3.Connection) -> None:
        """Compare the index of words with the words, by SQLite itself."""
        try:
            connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        except sqlite3.DatabaseError as error:
            self.unreadable_index(error)


def _size(value: object) -> int:
    return len(value) if isinstance(value, bytes) else 0


# -- repair ----------------------------------------------------------------------------------------


def repair(
    database: Database,
    manifest: Manifest,
    model: Callable[[], object],
    ingest: Callable[[], Ingest],
) -> Report:
    """Look at everything, and make broken rows anew where they follow from the texts.

    Parameters
    ----------
    model : loads what encodes, before anything is changed
    ingest : gives what encodes

    Raises
    ------
    TreeMemoryDamagedError
        If the file is broken in a way that SQLite cannot mend.
    """
    before = _look(database, manifest)
    found = before
    if found.structure:  # where its indexes are broken, and not its tables, they are made anew
        with database.write() as connection:
            connection.execute("REINDEX")
        found = _look(database, manifest)
    if found.structure or not found.problems:
        return found.report(len(before.problems) - len(found.problems))
    if found.broken or found.misplaced or found.codec:
        model()
    with database.write() as connection:
        texts = _cleared(connection, found)
    if texts:
        ingest().place_again(texts)
    after = _look(database, manifest)
    return after.report(max(0, len(before.problems) - len(after.problems)))


def _cleared(connection: sqlite3.Connection, found: _Findings) -> list[int]:
    """Remove broken rows, and give the texts that have to be placed again."""
    if any(problem.table == "manifest" for problem in found.problems):
        _renumber(connection)
    broken = set(found.broken)
    if found.codec:  # codes mean nothing without it
        connection.execute("DELETE FROM codecs")
        broken |= {row[0] for row in connection.execute("SELECT chunk FROM chunks")}
    connection.execute(f"DELETE {ORPHANS}")
    for document in found.outlines:
        _outline_again(connection, document)
    if found.index:
        broken |= _index_again(connection)
    tables.drop_chunks(connection, broken)
    connection.execute("DELETE FROM placed WHERE text NOT IN (SELECT text FROM texts)")
    lacking = connection.execute(
        "SELECT DISTINCT text FROM placed WHERE chunk NOT IN (SELECT chunk FROM chunks)"
    )
    texts = {row[0] for row in lacking} | found.misplaced
    there = {row[0] for row in connection.execute("SELECT text FROM texts")}
    records.bump(connection)
    return sorted(texts & there)


def _renumber(connection: sqlite3.Connection) -> None:
    """Count changes from a number on that no process has seen: the microseconds since 1970."""
    records.set_value(connection, "generation", str(time.time_ns() // 1000))


def _outline_again(connection: sqlite3.Connection, document: str) -> None:
    """Find a document's outline in its text; that of a text that is broken is removed."""
    text, row = connection.execute(
        "SELECT text, document FROM documents WHERE id = ?", (document,)
    ).fetchone()
    connection.execute("DELETE FROM outlines WHERE document = ?", (row,))
    try:
        body = tables.text_that_hashes(connection, text)
    except TreeMemoryDamagedError:
        return  # it is named by verify
    outlines.put_outline(connection, MemoryDocument(id=document, text=body))


def _index_again(connection: sqlite3.Connection) -> set[int]:
    """Make the index of words anew from the texts; the chunks whose words none of them gives."""
    # one of an unknown version cannot be dropped: https://sqlite.org/fts5.html
    connection.execute("INSERT OR REPLACE INTO words_config VALUES ('version', 4)")
    connection.execute("DROP TABLE words")
    connection.execute(WORDS)
    bare = dict(connection.execute("SELECT chunk, words FROM chunks").fetchall())
    for (text,) in connection.execute("SELECT text FROM texts").fetchall():
        try:
            body = tables.text_that_hashes(connection, text)
        except TreeMemoryDamagedError:
            continue  # it is named by verify
        for row in connection.execute("SELECT * FROM placed WHERE text = ?", (text,)).fetchall():
            chunk, first, last = row[2:5]
            if chunk in bare and records.checksum(*row[:-1]) == row[-1]:
                words = _words(body[first:last], bare.pop(chunk))
                tables.insert_words(connection, chunk, words)
    return set(bare)


def _words(text: str, check: int) -> str:
    """Return the words of a chunk as they were written; early versions indexed its text."""
    forms = (searchable(text), normalise(text).text, text)
    return next((words for words in forms if records.checksum(words) == check), forms[0])


def compact(database: Database) -> None:
    """Remove chunks that no text holds, and give the space of what was deleted back to the disk.

    Raises
    ------
    TreeMemoryDamagedError
        If the places of chunks are broken, or the file is; nothing is changed then.
    """
    with database.write() as connection:
        for row in connection.execute("SELECT * FROM placed"):
            what = f"Nothing was changed; {REPAIR}, then compact: a chunk's place"
            records.checked(row, "placed", what)
        records.bump(connection)
        idle = connection.execute(
            "SELECT chunk FROM chunks WHERE chunk NOT IN (SELECT chunk FROM placed)"
        )
        tables.drop_chunks(connection, [chunk for (chunk,) in idle.fetchall()])
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")
    database.vacuum()


# -- export and import -----------------------------------------------------------------------------


def export(source: Database, manifest: Manifest, folder: Path, ids: Sequence[str]) -> None:
    """Copy documents into a new memory in `folder`.

    Raises
    ------
    DocumentError
        If one is not there; the folder is not made then.
    TreeMemoryError, TreeMemoryFormatError, TreeMemoryDamagedError
    """
    with source.read() as connection:
        for document_id in ids:
            tables.document_row(connection, document_id)
    target = Database(folder, create=True, busy_s=0)
    try:
        if target.manifest() is not None:
            raise TreeMemoryError(
                f"there is a memory in {str(folder)!r} already; export into a new folder, or open "
                "that one and import_from() this one"
            )
        target.found(manifest.to_json())
        if not shares_codecs(source, target):
            raise TreeMemoryError(f"another process writes to the new memory in {str(folder)!r}")
        copy(source, target, ids)
    finally:
        target.close()


def shares_codecs(source: Database, target: Database) -> bool:
    """True when codes of both mean the same; an empty target takes the source's codec."""
    with source.read() as connection:
        given = connection.execute("SELECT * FROM codecs ORDER BY 1, 2").fetchall()
    with target.write() as connection:
        if connection.execute("SELECT 1 FROM documents LIMIT 1").fetchone() is None:
            connection.executemany("INSERT OR IGNORE INTO codecs VALUES (?, ?, ?, ?, ?)", given)
        return given == connection.execute("SELECT * FROM codecs ORDER BY 1, 2").fetchall()


def copy(source: Database, target: Database, ids: Sequence[str]) -> None:
    """Copy documents; one that is there with the same content is left alone.

    Raises
    ------
    DocumentError
        If the source has no such document, or the target has it with another content.
    TreeMemoryDamagedError
        If something that is copied is broken.
    """
    for document_id in ids:
        with source.read() as connection:
            document = outlines.memory_document(connection, document_id)
            if not outlines.has_outlines(connection):
                document = replace(document, outline=None)  # to be found in its text
        while not _copy(source, target, document):
            pass  # another writer of the target took a chunk away


def _copy(source: Database, target: Database, document: MemoryDocument) -> bool:
    """Copy one document; False if a chunk of it went from the target meanwhile."""
    with source.read() as connection:
        text = tables.document_row(connection, document.id)[4]
        tokens = tables.text_body(connection, text)[1]
        count = connection.execute("SELECT count(*) FROM placed WHERE text = ?", (text,))
        placed = tables.placed_chunks(connection, text, 0, count.fetchone()[0])
        keys = {chunk: tables.chunk_row(connection, chunk)[1] for chunk, _, _ in placed}
        notes = {key: notes_of(connection, chunk) for chunk, key in keys.items()}
    with target.read() as connection:
        there = tables.chunks_of_keys(connection, keys.values())
    missing = [chunk for chunk, key in keys.items() if key not in there]
    for at in range(0, len(missing), CHUNKS_AT_ONCE):
        with source.read() as connection:
            some = [
                tables.chunk_rows(connection, chunk) for chunk in missing[at : at + CHUNKS_AT_ONCE]
            ]
        with target.write() as connection:
            tables.insert_chunks(connection, some)
    with target.write() as connection:
        there = tables.chunks_of_keys(connection, keys.values())
        for key in notes.keys() & there.keys():
            put_notes(connection, there[key], notes[key])
        if not is_wanted(connection, document, replace=False):
            return True
        own = tables.text_of_hash(connection, document.text)
        if own is None:
            if any(key not in there for key in keys.values()):
                return False
            places = [Place(keys[chunk], first, last) for chunk, first, last in placed]
            own = tables.insert_text(connection, document.text, tokens, places, there)
        tables.put_document(connection, document, own)
        outlines.put_outline(connection, document)
        records.bump(connection)
    return True
