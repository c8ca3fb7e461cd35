"""Checking a memory, encoding again what is broken, and packing its shards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharedllm.errors import StoreDamagedError
from sharedllm.memory import rows, shards
from sharedllm.memory.database import FILE, Database
from sharedllm.memory.orphans import remove_orphans
from sharedllm.memory.records import Problem, Report
from sharedllm.memory.rows import documents_of
from sharedllm.memory.shards import COLUMNS, FOLDER, Place, Shards, Stored

if TYPE_CHECKING:
    from sharedllm.memory.reading import MemoryReader

SHARD_BYTES = 256 << 20  # of the shards that compaction writes
REPAIR = "run sharedllm verify --repair, which encodes it again from the text"
AGAIN = "delete it and add it again"


def verify(database: Database, reader: MemoryReader | None) -> Report:
    """Read everything; with a `reader`, encode broken chunks again and look once more."""
    report = _checked(database)
    broken = {p.chunk for p in report.problems if p.chunk is not None}
    if reader is None or not broken:
        return report
    from sharedllm.memory.repair import encode_again

    encode_again(reader, sorted(broken))
    after = _checked(database)
    return Report(
        documents=after.documents,
        chunks=after.chunks,
        bytes=after.bytes,
        problems=after.problems,
        repaired=len(broken - {p.chunk for p in after.problems}),
    )


def _checked(database: Database) -> Report:
    with database.read() as connection:
        check = _Check(connection, Shards(database.folder))
        check.sqlite()
        if not check.problems:  # a broken file gives rows that mean nothing
            check.codecs()
            check.texts()
            check.chunks()
            check.arrays()
            check.documents()
        return Report(
            documents=check.counts["documents"],
            chunks=check.counts["chunks"],
            bytes=check.bytes,
            problems=tuple(check.problems),
        )


@dataclass
class _Check:
    """One look at everything, within one snapshot."""

    connection: sqlite3.Connection
    shards: Shards
    problems: list[Problem] = field(default_factory=list)
    bytes: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"documents": 0, "chunks": 0})

    def note(
        self, what: str, file: str, chunk: int | None = None, documents: tuple[str, ...] = ()
    ) -> None:
        if chunk is not None:
            documents = documents_of(self.connection, chunk)
        whose = f"document {', '.join(map(repr, documents))}: " if documents else ""
        self.problems.append(
            Problem(what=whose + what, file=file, documents=documents, chunk=chunk)
        )

    def sqlite(self) -> None:
        for (found,) in self.connection.execute("PRAGMA integrity_check"):
            if found != "ok":
                self.note(f"{found}; restore it from a copy, or index again", FILE)
        for table in ("documents", "chunks"):
            count = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            self.counts[table] = count

    def codecs(self) -> None:
        for name, shape, data, check in self.connection.execute(
            "SELECT name, shape, data, checksum FROM codecs"
        ):
            if rows.checksum(name, shape, data) != check:
                self.note(
                    "the codec of the search vectors is not what was written; open the memory "
                    "with rebuild=True and another setting of vectors",
                    FILE,
                )

    def documents(self) -> None:
        found = self.connection.execute(
            "SELECT id, title, source, metadata, text, checksum FROM documents"
        )
        for row in found:
            try:
                rows.checked_document(row)
            except StoreDamagedError as error:
                self.note(str(error), FILE, documents=(row[0],))
        lost = self.connection.execute(
            "SELECT id FROM documents WHERE text NOT IN (SELECT text FROM texts)"
        )
        for (document,) in lost.fetchall():
            self.note(f"its text is missing; {AGAIN}", FILE, documents=(document,))

    def texts(self) -> None:
        for text, tokens in self.connection.execute("SELECT text, tokens FROM texts").fetchall():
            owners = self.connection.execute("SELECT id FROM documents WHERE text = ?", (text,))
            ids = tuple(row[0] for row in owners)
            try:
                body = rows.text_body(self.connection, text)
                self.bytes += len(body.encode())
            except StoreDamagedError as error:
                self.note(f"{error}; {AGAIN}", FILE, documents=ids)
            placed = self.connection.execute(
                "SELECT count(*), max(p.ordinal) + 1, sum(c.tokens) FROM placed p "
                "LEFT JOIN chunks c ON c.chunk = p.chunk WHERE p.text = ?",
                (text,),
            ).fetchone()
            if placed[0] != placed[1] or placed[2] != tokens:
                self.note(f"some of its chunks are missing; {AGAIN}", FILE, documents=ids)

    def chunks(self) -> None:
        found = self.connection.execute(
            "SELECT chunk, key, tokens, layout, embedding, checksum FROM chunks"
        )
        for chunk, key, tokens, layout, embedding, check in found.fetchall():
            self.bytes += len(layout) + len(embedding)
            if rows.checksum(key, tokens, layout, embedding) != check:
                self.note(f"the tokens of a chunk are not what was written: {REPAIR}", FILE, chunk)
        bare = self.connection.execute(
            "SELECT chunk FROM chunks WHERE chunk NOT IN (SELECT chunk FROM arrays)"
        )
        for (chunk,) in bare.fetchall():
            self.note(f"the arrays of a chunk are missing: {REPAIR}", FILE, chunk)
        lost = self.connection.execute(
            "SELECT chunk FROM chunks WHERE chunk NOT IN (SELECT rowid FROM words)"
        )
        for (chunk,) in lost.fetchall():
            self.note(f"a chunk is missing in the index of words: {REPAIR}", FILE, chunk)

    def arrays(self) -> None:
        found = self.connection.execute(
            f"SELECT {COLUMNS} FROM arrays LEFT JOIN shards USING (shard)"
        )
        for row in found.fetchall():
            file = f"{FOLDER}/{row[2]}"
            try:
                place = Place.of_row(row)
                self.bytes += place.bytes
                self.shards.array(place, check=True)
            except (StoreDamagedError, OSError) as error:
                gone = isinstance(error, FileNotFoundError)
                what = "the file is missing" if gone else str(error)
                self.note(f"a chunk is broken in {file}: {what}; {REPAIR}", file, int(row[0]))


def compact(database: Database) -> None:
    """Write the arrays that are alive into new shards where old ones hold others as well.

    Raises
    ------
    StoreDamagedError
        If an array that is alive is broken.
    """
    source = Shards(database.folder)
    with database.write() as connection:
        now = rows.bump(connection)
        idle = connection.execute(
            "SELECT chunk FROM chunks WHERE chunk NOT IN (SELECT chunk FROM placed)"
        )
        rows.drop_chunks(connection, [chunk for (chunk,) in idle.fetchall()])
        old = _worn(connection, database)
        for places in _sized(_places(connection, old)):
            arrays: dict[tuple[int, str], Stored] = {}
            for place in places:
                arrays[place.chunk, place.name] = _sound(connection, source, place)
            shards.insert(connection, *shards.write(database.folder, arrays))
        for some in rows.batches(old):
            connection.execute(f"DELETE FROM shards WHERE shard IN ({rows.marks(some)})", some)
        connection.execute("DELETE FROM dropped WHERE generation < ?", (now,))
        connection.execute("INSERT OR REPLACE INTO manifest VALUES ('trimmed', ?)", (str(now),))
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")
    with database.write() as connection, suppress(OSError):
        remove_orphans(database.folder, connection)
    database.vacuum()


def _worn(connection: sqlite3.Connection, database: Database) -> list[int]:
    """The shards that are small, or hold more than what is alive."""
    out = []
    found = connection.execute(
        "SELECT s.shard, s.file, coalesce(sum(a.bytes), 0) FROM shards s "
        "LEFT JOIN arrays a ON a.shard = s.shard GROUP BY s.shard"
    ).fetchall()
    for shard, file, alive in found:
        path = database.folder / FOLDER / file
        size = path.stat().st_size if path.is_file() else 0
        header = 1 << 12 if not size else 8 + _header_length(path)
        if alive < SHARD_BYTES // 2 or size > header + alive:
            out.append(shard)
    return out


def _header_length(path: Any) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _places(connection: sqlite3.Connection, old: Sequence[int]) -> Iterator[Place]:
    for some in rows.batches(old):
        yield from map(
            Place.of_row,
            connection.execute(
                f"SELECT {COLUMNS} FROM arrays JOIN shards USING (shard) "
                f"WHERE shard IN ({rows.marks(some)}) ORDER BY chunk, name",
                some,
            ).fetchall(),
        )


def _sized(places: Iterator[Place]) -> Iterator[list[Place]]:
    """`places` in groups that make one shard each."""
    group: list[Place] = []
    held = 0
    for place in places:
        if group and held + place.bytes > SHARD_BYTES:
            yield group
            group, held = [], 0
        group.append(place)
        held += place.bytes
    if group:
        yield group


def _sound(connection: sqlite3.Connection, source: Shards, place: Place) -> Stored:
    """The array at `place`, checked."""
    try:
        return Stored(source.array(place, check=True), place.dtype)
    except (StoreDamagedError, OSError) as error:
        ids = documents_of(connection, place.chunk)
        what = "the file is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise StoreDamagedError(
            f"a chunk of document {', '.join(map(repr, ids))} is broken in {FOLDER}/{place.file}: "
            f"{what}. Nothing was changed; {REPAIR}, then compact"
        ) from error
