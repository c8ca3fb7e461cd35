"""Broken files are found, named and repaired; a full disk and hostile names cost nothing."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import (
    SharedLLMError,
    StoreDamagedError,
    StoreError,
    StoreFormatError,
)
from sharedllm.memory import shards
from tests.conftest import DOCUMENTS, Make
from tests.texts import FERRY, STORY

ROOT = Path(__file__).parents[2]


def two_shards(make: Make) -> tuple[TreeMemory, Path, Path]:
    """A memory whose story lies in one shard and whose ferry lies in another."""
    memory = make(keep="all", vectors="exact")
    memory.add(DOCUMENTS[0])
    (first,) = (memory.path / "shards").iterdir()
    memory.add(DOCUMENTS[1])
    (second,) = set((memory.path / "shards").iterdir()) - {first}
    return memory, first, second


def flip(file: Path) -> None:
    """One bit of the first array, a chunk's search vectors."""
    data = bytearray(file.read_bytes())
    data[8 + int.from_bytes(data[:8], "little") + 5] ^= 4
    file.write_bytes(bytes(data))


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [flip, halve, empty, Path.unlink])
def test_a_broken_shard_is_named_and_repaired(
    make: Make, llm: SharedLLM, spoil: Callable[[Path], None]
) -> None:
    memory, shard, _ = two_shards(make)
    memory.close()
    spoil(shard)
    memory = make()
    report = memory.verify()
    assert not report.clean
    assert {problem.documents for problem in report.problems} == {("story",)}
    assert {problem.file for problem in report.problems} == {f"shards/{shard.name}"}
    assert all("--repair" in problem.what for problem in report.problems)
    with pytest.raises(StoreDamagedError, match=rf"'story'.*{shard.name}.*--repair"):
        memory.documents_for("the lamp", llm)
    # nothing else is lost
    assert memory.get("story").text == STORY
    assert memory.search("When does the ferry leave?", filter={"id": "ferry"})[0].id == "ferry"
    with pytest.raises(StoreDamagedError, match=r"'story'.*Nothing was changed"):
        memory.compact()
    repaired = memory.verify(repair=True)
    assert repaired.clean
    assert repaired.repaired == len({problem.chunk for problem in report.problems})
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
        ("UPDATE texts SET hash = x'00' WHERE text = 1", "'story': its text is not what was"),
        ("DELETE FROM texts WHERE text = 1", "'story': its text is missing"),
        ("DELETE FROM placed WHERE text = 1 AND ordinal = 2", "'story': some of its chunks"),
        ("UPDATE chunks SET layout = x'00' WHERE chunk = 1", "tokens of a chunk are not"),
        ("UPDATE chunks SET embedding = x'0000' WHERE chunk = 1", "tokens of a chunk are not"),
        ("DELETE FROM words WHERE rowid = 1", "missing in the index of words"),
        ("DELETE FROM arrays WHERE chunk = 1", "arrays of a chunk are missing"),
        ("UPDATE arrays SET shape = '[1]' WHERE chunk = 1", "table of arrays is damaged"),
        ("UPDATE shards SET file = '../../../etc/passwd'", "table of arrays is damaged"),
        ("UPDATE codecs SET data = x'00' WHERE name = 'levels'", "codec of the search vectors"),
    ],
)
def test_broken_rows_are_named(memory: TreeMemory, statement: str, said: str) -> None:
    with memory._database.write() as connection:
        connection.execute(statement)
    report = memory.verify()
    assert any(said in problem.what for problem in report.problems), report.problems


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chunks SET layout = x'00' WHERE chunk = 1",
        "UPDATE chunks SET embedding = x'0000' WHERE chunk = 1",
        "DELETE FROM words WHERE rowid = 1",
        "DELETE FROM arrays WHERE chunk = 1",
        "UPDATE arrays SET shape = '[1]' WHERE chunk = 1",
        "UPDATE shards SET file = '../../../etc/passwd'",
    ],
)
def test_broken_rows_of_chunks_are_repaired(
    memory: TreeMemory, llm: SharedLLM, statement: str
) -> None:
    before = [hit.text for hit in memory.search("the lamp")]
    with memory._database.write() as connection:
        connection.execute(statement)
    assert not memory.verify().clean
    assert memory.verify(repair=True).clean
    assert [hit.text for hit in memory.search("the lamp")] == before


def test_a_damaged_database_is_never_taken_for_a_sound_one(make: Make) -> None:
    """Bits are flipped all over the SQLite file: what is read is right, or an error says so."""
    memory = make("sound")
    memory.add(DOCUMENTS)
    memory.compact()  # everything is in the main file
    memory.close()
    sound = (memory.path / "memory.sqlite").read_bytes()
    draw = random.Random(5)
    found = 0
    for turn in range(60):
        data = bytearray(sound)
        for _ in range(20):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (memory.path / "memory.sqlite").write_bytes(bytes(data))
        try:
            damaged = make("sound")
            clean = damaged.verify().clean
            for document in DOCUMENTS:
                assert not clean or damaged.get(document.id) == document, turn
            found += not clean
            damaged.close()
        except SharedLLMError:
            found += 1
    assert found > 50


def test_a_full_disk_changes_nothing(
    memory: TreeMemory, monkeypatch: pytest.MonkeyPatch, llm: SharedLLM
) -> None:
    before = set((memory.path / "shards").iterdir())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(shards.os, name, full)
            with pytest.raises(StoreError, match=r"No space left on device; nothing .* is lost"):
                memory.add(MemoryDocument(id="new", text=STORY + FERRY))
            with pytest.raises(StoreError, match="No space left"):
                memory.compact()
        assert set((memory.path / "shards").iterdir()) == before
        assert [d.id for d in memory.list()] == [d.id for d in DOCUMENTS]
        assert memory.verify().clean
    memory.add(MemoryDocument(id="new", text=STORY + FERRY))
    assert memory.verify().clean


def test_what_killed_writers_left_goes_with_the_next_write(make: Make) -> None:
    memory = make()
    memory.add(DOCUMENTS[0])
    memory.close()
    held = set((memory.path / "shards").iterdir())
    for name in ("a" * 32 + ".safetensors", "b" * 32 + ".safetensors.tmp"):
        (memory.path / "shards" / name).write_bytes(b"left behind")
    memory = make()
    assert memory.verify().clean
    assert set((memory.path / "shards").iterdir()) > held
    memory.delete("story")
    assert set((memory.path / "shards").iterdir()) == held


LIMITED = """
import resource, signal, sys
from sharedllm import MemoryDocument, TreeMemory
from sharedllm.errors import StoreError
from tests.models import shared
llm = shared("llama", sizes={"max_position_embeddings": 8192})
memory = TreeMemory(sys.argv[1], llm=llm)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    memory.add(MemoryDocument(id="long", text="the reef and the tide " * 3000))
except StoreError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits")
@pytest.mark.parametrize("limit", [30_000, 100_000, 200_000])
def test_files_that_cannot_grow(memory: TreeMemory, limit: int) -> None:
    """The system refuses to write beyond so many bytes a file: shards or SQLite's own."""
    command = [sys.executable, "-c", LIMITED, str(memory.path), str(limit)]
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
        "shards",
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
    assert inside <= {
        *("memory.sqlite", "memory.sqlite-wal", "memory.sqlite-shm"),
        *("writer.json", "shards", "index"),
    }


def test_a_link_in_place_of_a_shard_folder_is_not_followed(make: Make, tmp_path: Path) -> None:
    """Orphans are removed in the memory's own folder only."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep.txt").write_text("precious")
    memory = make()
    memory.close()
    (memory.path / "shards").rmdir()
    (memory.path / "shards").symlink_to(outside)
    with pytest.raises(StoreFormatError, match="shards is a link"):
        make()
    assert (outside / "keep.txt").read_text() == "precious"
