"""Attacks on a memory: flipped bits, forged values, hostile folders. A part of each runs as a test.

Run by hand as a program for as long as wanted, with a folder, a number of seconds and a seed:

    python -m tests.memory.attacks FOLDER 1800 7

It stops at the first attack after which something is lost, a text is wrong and `verify` calls it
clean, an error is not ours, a use takes more than 30 s or a GiB, or a file outside of the memory is
written. Killed writers are in crashing.py, forks in test_forks.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sqlite3
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import DocumentError, SharedLLMError
from sharedllm.memory import notes, records
from tests.conftest import DOCUMENTS, WIDE
from tests.models import shared

KEYS = {  # columns by which a row of a table is found
    "manifest": ("name",),
    "texts": ("text",),
    "documents": ("document",),
    "outlines": ("document",),
    "chunks": ("chunk",),
    "placed": ("text", "ordinal"),
    "vectors": ("chunk",),
    "kv": ("row",),
    "notes": ("row",),
    "codecs": ("made_by", "name"),
    "words_content": ("id",),
    "words_data": ("id",),
    "words_docsize": ("id",),
    "words_idx": ("segid", "term"),
    "words_config": ("k",),
}
UNCHECKED = {
    "texts": ("body",),
    "documents": ("document",),
    "kv": ("row",),
    "notes": ("row",),
}  # not in the checksum
QUERIES = ("the lamp", "When does the ferry leave?", "blue poppies behind the chapel")
LONGEST_S = 30.0
MOST_BYTES = 1 << 30

T = TypeVar("T")
Attack = tuple[str, Callable[[Path], None]]  # its name, and what it does to the folder of a memory


class UnsafeError(AssertionError):
    """An attack did what none may do."""


# -- the memory that is attacked -------------------------------------------------------------------


def fill(memory: TreeMemory) -> None:
    """Put rows into every table."""
    memory.add(DOCUMENTS)
    memory.add(MemoryDocument(id="gone", text="Nobody lives on the reef any more."))
    memory.delete("gone")
    with memory._database.write() as connection:
        notes.put_notes(connection, 1, {b"key" * 8: "It is about a lamp."})


def opened(folder: Path, llm: SharedLLM) -> TreeMemory:
    return TreeMemory(folder, llm=llm, candidates=4)


def told(memory: TreeMemory) -> list[Any]:
    """Everything that the memory says."""
    filters: tuple[Any, ...] = (None, {"place": "Penmor"}, {"year": {"gte": 1800}})
    return [
        [memory.get(document.id) for document in memory.list()],
        [
            (hit.id, hit.char_start, hit.text)
            for query in QUERIES
            for given in filters
            for hit in memory.search(query, filter=given)
        ],
    ]


def execute(folder: Path, statement: str, values: Any = ()) -> None:
    with closing(sqlite3.connect(folder / "memory.sqlite")) as connection, connection:
        connection.execute(statement, values)


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "memory.sqlite")) as connection:
        found = connection.execute(f"SELECT * FROM {table}")
        columns = [column[0] for column in found.description]
        return [dict(zip(columns, row, strict=True)) for row in found]


def change(table: str, row: dict[str, Any], column: str, value: Any) -> Callable[[Path], None]:
    """Write one value of a row, by SQL and so with its indexes."""
    where = " AND ".join(f"{key} IS ?" for key in KEYS[table])
    keys = [row[key] for key in KEYS[table]]
    return lambda folder: execute(
        folder, f"UPDATE {table} SET {column} = ? WHERE {where}", [value, *keys]
    )


# -- attacks ---------------------------------------------------------------------------------------


def flipped(value: Any, draw: random.Random) -> Any:
    """`value` with one bit changed, of the same type; None where that cannot be."""
    if isinstance(value, int):
        return value ^ 1 << draw.randrange(12)
    data = bytearray(value.encode() if isinstance(value, str) else value)
    if not data:
        return None
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(7 if isinstance(value, str) else 8)
    return data.decode(errors="replace") if isinstance(value, str) else bytes(data)


def flips(folder: Path, table: str, draw: random.Random) -> Iterator[Attack]:
    """One bit of every column of a table, in some row."""
    found = rows(folder, table)
    for column in found[0]:
        row = draw.choice(found)
        value = flipped(row[column], draw)
        if (table, column) == ("kv", "node"):  # no two of a chunk may be alike
            value = row[column] ^ 1 << 10
        if value is not None and value != row[column] and column not in KEYS[table]:
            yield f"a bit of {table}.{column}", change(table, row, column, value)


def raw_flips(draw: random.Random) -> Attack:
    """Bits anywhere in the file."""
    count, seed = draw.choice((1, 1, 20)), draw.random()

    def attack(folder: Path) -> None:
        own = random.Random(seed)
        file = folder / "memory.sqlite"
        data = bytearray(file.read_bytes())
        for _ in range(count):
            data[own.randrange(len(data))] ^= 1 << own.randrange(8)
        file.write_bytes(bytes(data))

    return f"{count} bits of the file", attack


STRANGE: tuple[Any, ...] = (
    *(-1, 0, 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63), 1.5, float("inf")),
    *("", "x", "1e9", "\0", "[" * 100_000, "9" * 5_000, "[1, 2]", "{}", "null", '{"a": NaN}'),
    *(b"", b"x", b"\xff" * 8, zlib.compress(bytes(1 << 24)), bytes(1 << 16)),
)


def forgeries(folder: Path, table: str, draw: random.Random) -> Iterator[Attack]:
    """A strange value in every column of a table, with a checksum that says that it is right."""
    found = rows(folder, table)
    for column in found[0]:
        if column in KEYS[table] or column == "checksum":
            continue
        row, value = dict(draw.choice(found)), draw.choice(STRANGE)
        yield f"{table}.{column} = {str(value)[:20]!r}", _forged(table, row, column, value)


def _forged(table: str, row: dict[str, Any], column: str, value: Any) -> Callable[[Path], None]:
    own = {**row, column: value}
    left_out = ("checksum", *UNCHECKED.get(table, ()))
    values = [own[name] for name in own if name not in left_out]
    steps = [change(table, row, column, value)]
    if "checksum" in own:
        steps.append(change(table, own, "checksum", records.checksum(*values)))
    return lambda folder: [step(folder) for step in steps] and None


def bombs(folder: Path) -> Iterator[Attack]:
    """Values that are small in the file and huge when they are read."""
    text = dict(rows(folder, "texts")[0])
    chunk = dict(rows(folder, "chunks")[0])
    bomb = zlib.compress(bytes(1 << 31), 9)  # 2 GiB in 2 MiB
    nested = "[" * 1_000_000 + "]" * 1_000_000
    for characters in (text["characters"], 1 << 29, 1 << 60):
        own = {**text, "characters": characters}
        step = _forged("texts", own, "tokens", characters)
        yield f"a text that says {characters}", _both(step, change("texts", text, "body", bomb))
    for tokens in (chunk["tokens"], 1 << 28, 1 << 60):
        own = {**chunk, "tokens": tokens}
        step = change("chunks", chunk, "tokens", tokens)
        yield f"{tokens} tokens", _both(step, _forged("chunks", own, "layout", bomb))
    document = dict(rows(folder, "documents")[0])
    yield "nested metadata", _forged("documents", document, "metadata", nested)
    yield "a long title", _forged("documents", document, "title", "t" * (1 << 26))


def _both(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [step(folder) for step in steps] and None


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
SCHEMAS = {
    "a view in the place of a table": (
        "DROP TABLE codecs",
        f"CREATE VIEW codecs (made_by, name, shape, data, checksum) AS {ENDLESS} "
        "SELECT x, x, x, x, x FROM n",
    ),
    "a view of documents": (
        "ALTER TABLE documents RENAME TO other",
        f"CREATE VIEW documents AS {ENDLESS} SELECT other.* FROM other, n",
    ),
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON documents BEGIN DELETE FROM documents; END",),
    "a computed column": ("ALTER TABLE placed ADD COLUMN more AS (hex(zeroblob(500000000)))",),
    "an index that computes": (
        "CREATE INDEX slow ON documents (length(replace(id, 'a', printf('%.*c', 100000, 'a'))))",
    ),
    "another table": ("CREATE TABLE mine (a)",),
    "other words": ("DROP TABLE words", "CREATE TABLE words (text)"),
}


def schemas() -> Iterator[Attack]:
    """SQL of a stranger's in the file."""
    for name, statements in SCHEMAS.items():
        yield name, _statements(statements)


def _statements(given: tuple[str, ...]) -> Callable[[Path], None]:
    return lambda folder: [execute(folder, one) for one in given] and None


OWN_NAMES = ("memory.sqlite-wal", "memory.sqlite-journal", "memory.sqlite-shm", "writer.json")


def things(outside: Path) -> Iterator[Attack]:
    """Something else in the place of each of a memory's files; `outside` is to stay as it is."""

    def listening(path: Path) -> None:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        with closing(socket.socket(socket.AF_UNIX)) as made:
            made.bind(path.name)
        os.chdir(here)

    makers: dict[str, Callable[[Path], Any]] = {
        "a link": lambda path: path.symlink_to(outside),
        "a hard link": lambda path: path.hardlink_to(outside),
        "a pipe": os.mkfifo,
        "a folder": Path.mkdir,
        "a socket": listening,
        "a device": lambda path: os.mknod(path, 0o20666, os.makedev(1, 5)),  # /dev/zero
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "an endless file": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    }
    for name in (*OWN_NAMES, "memory.sqlite"):
        for what, maker in makers.items():
            if name == "memory.sqlite" and what == "an endless file":
                continue  # a file of that size is not one of SQLite's: it has no header
            yield f"{what} as {name}", _placed(name, maker)


def _placed(name: str, maker: Callable[[Path], Any]) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        with suppress(PermissionError):  # devices are root's
            maker(path)

    return attack


MANIFESTS: tuple[tuple[str, Any], ...] = (
    ("loads.model", "stranger/model"),
    ("loads.model", "/dev/zero"),
    ("loads.model", ["a"]),
    ("loads.adapter", "stranger/adapter"),
    ("loads.adapter", 3),
    ("loads.dtype", "float1024"),
    ("loads.tree", {"chunk": 1 << 60}),
    ("loads.tree", None),
    ("loads.tree", {"height": 10**6, "ratios": [1] * 10**6}),
    ("loads.injection", {"layers": -5}),
    ("loads.injection", []),
    ("loads.named", True),
    ("settings.keep", "code"),
    ("settings.vectors", "os.system"),
    ("settings", []),
    ("made_by.tree", None),
    ("made_by", "x"),
    ("loads", "[" * 10**5),
)


def manifests(folder: Path) -> Iterator[Attack]:
    """Manifests that name something else, or are none."""
    row = next(row for row in rows(folder, "manifest") if row["name"] == "manifest")
    for place, value in MANIFESTS:
        given = json.loads(row["value"])
        *parents, last = place.split(".")
        at = given
        for name in parents:
            at = at[name]
        at[last] = value
        yield f"{place} = {str(value)[:20]}", _forged("manifest", row, "value", json.dumps(given))
    for text in ("", "null", "[]", "[" * 100_000, '{"settings": {}}', "9" * 10_000):
        yield f"the manifest {text[:20]!r}", _forged("manifest", row, "value", text)


# -- what comes of them ----------------------------------------------------------------------------


def timed(use: Callable[[], T]) -> T | None:
    """What `use` gives; None if it is refused."""
    started = time.monotonic()
    try:
        return use()
    except SharedLLMError:
        return None
    finally:
        seconds = time.monotonic() - started
        if seconds > LONGEST_S:
            raise UnsafeError(f"it took {seconds:.0f} s")


class Attacker:
    """Attacks copies of one sound memory."""

    def __init__(self, folder: Path, llm: SharedLLM) -> None:
        self.llm, self.sound, self.folder = llm, folder / "sound", folder / "attacked"
        self.outside = folder / "outside"
        self.outside.write_text("precious")
        with TreeMemory(self.sound, llm=llm, keep="all", candidates=4) as memory:
            fill(memory)
            self.before = told(memory)
        self.counts: Counter[str] = Counter()

    def check(self, attack: Attack, *, honest: bool) -> None:
        """Attack a copy and use it.

        Parameters
        ----------
        honest : nobody has forged checksums: what is wrong must be refused, or found by verify
        """
        name, do = attack
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.sound, self.folder)
        with suppress(sqlite3.IntegrityError):  # SQLite does not take everything
            do(self.folder)
        rss = psutil.Process().memory_info().rss
        try:
            self._use(honest=honest)
        except UnsafeError as error:
            raise UnsafeError(f"{name}: {error}") from error
        except Exception as error:
            raise UnsafeError(f"{name}: {type(error).__name__}: {error}") from error
        grown = psutil.Process().memory_info().rss - rss
        if grown > MOST_BYTES:
            raise UnsafeError(f"{name}: {grown >> 20} MiB")
        if self.outside.read_bytes() != b"precious":
            raise UnsafeError(f"{name}: a file outside was written")

    def _use(self, *, honest: bool) -> None:
        memory = timed(lambda: opened(self.folder, self.llm))
        if memory is None:
            self.counts["refused"] += 1
            return
        with memory:
            now, report = timed(lambda: told(memory)), timed(memory.verify)
            clean = report is not None and report.clean
            if honest and clean and now != self.before:
                raise UnsafeError("verify calls it clean, and it says something else")
            if honest and now not in (None, self.before):
                self.counts["a search that only verify explains"] += 1
                if now[0] != self.before[0]:
                    raise UnsafeError("a document is wrong")
            self.counts["clean" if clean else "found"] += 1
            for use in self._uses(memory):
                timed(use)
        with suppress(SharedLLMError), opened(self.folder, self.llm) as memory:
            if honest and memory.verify().clean and "new" in memory:
                memory.delete("new")
                if any(self._differs(memory, document) for document in DOCUMENTS):
                    raise UnsafeError("a document is not what it was after the repair")

    def _differs(self, memory: TreeMemory, document: MemoryDocument) -> bool:
        try:
            return memory.get(document.id) != document
        except DocumentError:
            return False  # one whose entry or text was broken, and which was deleted

    def _uses(self, memory: TreeMemory) -> Iterator[Callable[[], object]]:
        yield lambda: memory.revision
        yield lambda: self.llm.answer(QUERIES[0], memory, max_new_tokens=2, budget=100)
        yield lambda: memory.add(MemoryDocument(id="new", text="A new lamp on the reef."))
        yield lambda: memory.verify(repair=True)
        yield lambda: memory.export(self.folder.parent / "export")
        yield lambda: shutil.rmtree(self.folder.parent / "export", ignore_errors=True)
        yield memory.compact
        yield lambda: memory.update(MemoryDocument(id="new", text="An old lamp."))

    def a_round(self, draw: random.Random) -> Iterator[tuple[Attack, bool]]:
        """Attacks of every kind, each with whether nobody forged anything."""
        for table in KEYS:
            for attack in flips(self.sound, table, draw):
                yield attack, True
        for _ in range(20):
            yield raw_flips(draw), True
        for table in KEYS:
            for attack in forgeries(self.sound, table, draw):
                yield attack, False
        for attack in (*things(self.outside), *schemas(), *manifests(self.sound)):
            yield attack, False


def main() -> None:
    folder, seconds, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    attacker, draw = Attacker(folder, shared("llama", sizes=WIDE)), random.Random(seed)
    end, done = time.monotonic() + seconds, 0
    for attack in bombs(attacker.sound):
        attacker.check(attack, honest=False)
    while time.monotonic() < end:
        for attack, honest in attacker.a_round(draw):
            attacker.check(attack, honest=honest)
            done += 1
    sys.stdout.write(json.dumps({"attacks": done, **attacker.counts}) + "\n")


if __name__ == "__main__":
    main()
