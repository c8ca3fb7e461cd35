"""Broken rows are found, named and repaired; a full disk and hostile names cost nothing."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import (
    DocumentError,
    SharedLLMError,
    TreeMemoryDamagedError,
    TreeMemoryError,
    TreeMemoryFormatError,
)
from sharedllm.memory import maintenance
from sharedllm.memory.maintenance import _words
from sharedllm.memory.records import checksum, inflated
from sharedllm.text.words import searchable
from tests.conftest import DOCUMENTS, Make
from tests.memory import attacks
from tests.memory.attacks import KEYS, fill, flips, told
from tests.texts import FERRY, STORY

ROOT = Path(__file__).parents[2]
GIVEN = ("documents",)  # only their owner can give these again


@pytest.fixture
def full(make: Make) -> TreeMemory:
    """A memory with rows in every table."""
    memory = make(keep="all", candidates=4)
    fill(memory)
    return memory


def execute(memory: TreeMemory, statement: str, values: Any = ()) -> None:
    attacks.execute(memory.path, statement, values)


@pytest.mark.parametrize("table", KEYS)
def test_a_flipped_bit_of_any_table_is_found_and_mended(
    full: TreeMemory, make: Make, table: str
) -> None:
    before = told(full)
    full.close()
    sound = shutil.copytree(full.path, full.path.parent / "sound")
    for name, attack in flips(sound, table, random.Random(table)):
        attack(full.path)
        try:
            memory = make(keep=None, candidates=4)
            report = memory.verify()
        except TreeMemoryDamagedError:  # the manifest: nothing can be read without it
            assert table == "manifest"
        else:
            assert not report.clean, name
            assert table.partition("_")[0] in {problem.table for problem in report.problems}
            if not table.startswith("words"):  # whose index is not compared when it is searched
                reads_right_or_refuses(memory, before)
            repaired = memory.verify(repair=True)
            assert repaired.clean is (table not in GIVEN) or text_is_lost(name), (
                name,
                repaired.problems,
            )
            if repaired.clean:
                assert told(memory) == before, name
            memory.close()
        shutil.rmtree(full.path)
        shutil.copytree(sound, full.path)


def test_words_are_made_again_as_they_were_written() -> None:
    """Early memories index the text of a chunk, and their checksums are of that."""
    text = "The e\u2011mail of\xa0Zoë"
    assert _words(text, checksum(text)) == text
    assert _words(text, checksum("The e-mail of Zoë")) == "The e-mail of Zoë"
    assert _words(text, 0) == _words(text, checksum(searchable(text))) == searchable(text)


def text_is_lost(name: str) -> bool:
    return name in ("a bit of texts.body", "a bit of texts.hash")


def reads_right_or_refuses(memory: TreeMemory, before: list[Any]) -> None:
    try:
        now = told(memory)
    except (TreeMemoryDamagedError, DocumentError):
        return
    assert now == before


def test_a_broken_chunk_is_named_and_nothing_else_is_lost(make: Make, llm: SharedLLM) -> None:
    memory = make(vectors="exact")
    memory.add(DOCUMENTS)
    execute(memory, "UPDATE vectors SET data = zeroblob(length(data)) WHERE chunk = 1")
    report = memory.verify()
    assert {problem.documents for problem in report.problems} == {("story",)}
    assert all("--repair" in problem.what for problem in report.problems)
    with pytest.raises(TreeMemoryDamagedError, match=r"'story' is broken: .*--repair"):
        memory.documents_for("the lamp", llm)
    assert memory.get("story").text == STORY
    assert memory.search("When does the ferry leave?", filter={"id": "ferry"})[0].id == "ferry"
    repaired = memory.verify(repair=True)
    assert repaired.clean
    assert repaired.repaired == len(report.problems)
    fresh = llm.remember(STORY)
    stored = memory.documents_for("the lamp", llm)[0]
    assert stored.text == fresh.text
    assert (stored.tokens.ids == fresh.tokens.ids).all()
    memory.compact()
    assert memory.verify().clean


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE documents SET title = 'Forged' WHERE id = 'story'", "entry of document 'story'"),
        ("UPDATE texts SET body = x'00' WHERE text = 1", "'story': its text cannot be read"),
        ("UPDATE texts SET tokens = 3 WHERE text = 1", "'story': its text's entry is not what"),
        ("DELETE FROM texts WHERE text = 1", "'story': its text is missing"),
        ("DELETE FROM placed WHERE text = 1 AND ordinal = 2", "'story': the place of a chunk"),
        ("UPDATE placed SET char_end = 9 WHERE text = 1", "'story': the place of a chunk is not"),
        ("UPDATE chunks SET layout = x'00' WHERE chunk = 1", "a chunk's entry is not what"),
        ("DELETE FROM chunks WHERE chunk = 1", "'story': some of its chunks are missing"),
        ("DELETE FROM words WHERE rowid = 1", "a chunk is missing in the table words"),
        ("DELETE FROM vectors WHERE chunk = 1", "a chunk is missing in the table vectors"),
        ("DELETE FROM kv WHERE chunk = 1 AND node = 0", "some KV of a chunk is missing"),
        ("DELETE FROM codecs", "codec of search vectors is missing"),
        ("DELETE FROM manifest WHERE name = 'generation'", "count of changes is missing"),
    ],
)
def test_missing_and_broken_rows_are_named(full: TreeMemory, statement: str, said: str) -> None:
    before = told(full)
    execute(full, statement)
    report = full.verify()
    assert any(said in problem.what for problem in report.problems), report.problems
    mended = full.verify(repair=True)
    lost = any(word in statement for word in ("documents", "body", "FROM texts"))
    assert mended.clean is not lost, mended.problems
    if mended.clean:
        assert told(full) == before


def test_a_damaged_database_is_never_taken_for_a_sound_one(full: TreeMemory, make: Make) -> None:
    """Bits are flipped all over the SQLite file: what is read is right, or an error says so."""
    before = told(full)
    full.compact()  # everything is in the main file
    full.close()
    file = full.path / "memory.sqlite"
    sound = file.read_bytes()
    draw = random.Random(5)
    found = 0
    for turn in range(90):
        data = bytearray(sound)
        for _ in range(1 if turn % 3 else 20):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(bytes(data))
        try:
            damaged = make(keep=None, candidates=4)
            clean = damaged.verify().clean
            assert not clean or told(damaged) == before, turn
            found += not clean
            damaged.close()
        except SharedLLMError:
            found += 1
    assert found > 45


def test_a_cut_log_loses_the_last_commits_alone(make: Make) -> None:
    """After a loss of power the end of the write-ahead log may be missing."""
    memory = make()
    held: list[list[str]] = [[]]
    for number in range(6):
        memory.add(MemoryDocument(id=str(number), text=f"{FERRY} It is ship {number}."))
        held.append([d.id for d in memory.list()])
    log = (memory.path / "memory.sqlite-wal").read_bytes()
    file = (memory.path / "memory.sqlite").read_bytes()
    seen = set()
    for cut in range(0, len(log), len(log) // 24):
        folder = memory.path.parent / f"cut {cut}"
        folder.mkdir()
        (folder / "memory.sqlite").write_bytes(file)
        (folder / "memory.sqlite-wal").write_bytes(log[:cut])
        try:
            left = make(folder.name)
        except TreeMemoryFormatError:  # before the first commit there was no memory
            assert cut < len(log) // 2
            continue
        assert left.verify().clean
        assert [d.id for d in left.list()] in held
        seen.add(len(left))
        left.close()
    assert len(seen) > 2


def test_a_full_disk_changes_nothing(memory: TreeMemory) -> None:
    connection = memory._database._connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(TreeMemoryError, match=r"disk is full; nothing that was committed is lost"):
        memory.add(MemoryDocument(id="new", text=(STORY + FERRY) * 30))
    assert [d.id for d in memory.list()] == [d.id for d in DOCUMENTS]
    assert memory.verify().clean
    connection.execute("PRAGMA max_page_count = 1000000").fetchall()
    memory.add(MemoryDocument(id="new", text=STORY + FERRY))
    assert memory.verify().clean


LIMITED = """
import resource, signal, sys
from sharedllm import MemoryDocument, TreeMemory
from sharedllm.errors import TreeMemoryError
from tests.models import shared
llm = shared("llama", sizes={"max_position_embeddings": 8192})
memory = TreeMemory(sys.argv[1], llm=llm, keep=sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    memory.add(MemoryDocument(id="long", text="the reef and the tide " * 3000))
except TreeMemoryError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits")
@pytest.mark.parametrize(
    ("keep", "limit"),
    [("text", 30_000), ("text", 100_000), ("text", 200_000), ("leaves", 1_000_000)],
)
def test_files_that_cannot_grow(make: Make, keep: str, limit: int) -> None:
    """The system refuses to write beyond so many bytes a file."""
    memory = make(keep=keep)
    memory.add(DOCUMENTS)
    command = [sys.executable, "-c", LIMITED, str(memory.path), str(limit), keep]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing that was committed is lost" in done.stderr
    assert "Traceback" not in done.stderr
    assert [memory.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
    assert memory.verify().clean


@pytest.mark.parametrize(
    "name",
    [
        "../../outside",
        "/etc/passwd",
        "C:\\outside",
        "..",
        "index",
        "memory.sqlite",
        "'; DROP TABLE documents; --",
        "$(touch outside)",
        "%2e%2e%2f",
        'a"b\\c',
        "caf\u00e9",
        "a" * 1024,
    ],
)
def test_hostile_names_are_data(make: Make, tmp_path: Path, name: str) -> None:
    memory = make("inner/memory")
    memory.add(MemoryDocument(id=name, text=FERRY, title=name, source=name, metadata={name: name}))
    assert memory.get(name).title == name
    assert [d.id for d in memory.list({name: name})] == [name]
    memory.export(tmp_path / "inner" / "copy")
    memory.delete(name)
    memory.compact()
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert sorted(path.name for path in (tmp_path / "inner").iterdir()) == ["copy", "memory"]
    inside = {path.name for path in memory.path.iterdir()}
    own = ("memory.sqlite", "memory.sqlite-wal", "memory.sqlite-shm", "writer.json")
    assert inside <= set(own)


def test_links_and_pipes_in_place_of_files_are_refused(make: Make, tmp_path: Path) -> None:
    """A memory writes to its own folder only, and waits for nobody's pipe."""
    outside = tmp_path / "outside"
    outside.write_text("precious")
    memory = make()
    memory.close()
    for name in ("writer.json", "memory.sqlite-wal"):
        (memory.path / name).unlink(missing_ok=True)
        (memory.path / name).symlink_to(outside)
        with pytest.raises(TreeMemoryFormatError, match=f"{name} is a link"):
            make()
        (memory.path / name).unlink()
        os.mkfifo(memory.path / name)
        with pytest.raises(TreeMemoryFormatError, match=f"{name} is something else"):
            make()
        (memory.path / name).unlink()
    assert outside.read_text() == "precious"


class Newer:
    """A connection whose integrity check is that of a newer SQLite."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._own = connection

    def execute(self, statement: str, values: Any = ()) -> Any:
        if statement == "PRAGMA integrity_check":
            return [("malformed inverted index for FTS5 table main.words",)]
        return self._own.execute(statement, values)


def test_an_index_of_words_that_newer_sqlite_names_is_made_anew(full: TreeMemory) -> None:
    """From 3.44 on its integrity check looks at the index of words itself."""
    before = told(full)
    with full._database.write() as connection:
        connection.execute("UPDATE words_data SET block = zeroblob(4) WHERE id > 10")
    with full._database.read() as connection:
        found = maintenance._Findings(Newer(connection), full._manifest)  # type: ignore[arg-type]
        found.file()
    assert (found.index, found.structure) == (True, False)
    assert full.verify(repair=True).clean
    assert told(full) == before


@pytest.mark.parametrize("most", [-1, -4, 3, -(4 << 61), 1 << 63])
def test_a_size_that_no_text_has_bounds_nothing(most: int) -> None:
    """A forged row can say any number: for zlib 0 is no bound, and a larger one is no number."""
    with pytest.raises(ValueError, match="bytes"):
        inflated(zlib.compress(b"a" * 1000), most)
