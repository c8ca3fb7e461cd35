"""Memories on disks that other machines share, where SQLite's write-ahead log does not work."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sharedllm import MemoryDocument, TreeMemory
from sharedllm.errors import TreeMemoryBusyError
from sharedllm.memory import database, disks
from tests.conftest import Make

MOUNTED = {"/": "ext4", "/srv": "nfs4", "/srv/local": "xfs", "/home": "fuse.sshfs", "/m": "lustre"}


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found = [SimpleNamespace(mountpoint=at, fstype=kind) for at, kind in MOUNTED.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    disks._kind_of_disk.cache_clear()
    yield
    disks._kind_of_disk.cache_clear()


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/tmp", "ext4"),
        ("/", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/a/b", "nfs4"),
        ("/srv/local/a", "xfs"),
        ("/srvs", "ext4"),
        ("/home/me", "fuse.sshfs"),
        ("/m/x", "lustre"),
    ],
)
def test_the_disk_is_the_nearest_that_is_mounted(mounted: None, place: str, kind: str) -> None:
    assert disks._kind_of_disk(place, 0) == kind


@pytest.mark.parametrize(
    ("kind", "journal"),
    [("ext4", "WAL"), ("", "WAL"), ("fuseblk", "WAL"), ("nfs", "DELETE"), ("fuse.x", "DELETE")],
)
def test_the_journal_follows_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, journal: str
) -> None:
    monkeypatch.setattr(disks, "_kind_of_disk", lambda place, device: kind)
    assert disks.journal_of(tmp_path) == disks.journal_of(tmp_path / "new" / "er") == journal


def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "journal_of", lambda folder: "DELETE")


def document(number: int) -> MemoryDocument:
    return MemoryDocument(id=str(number), text=f"Lamp {number} burns.")


def mode(memory: TreeMemory) -> str:
    with sqlite3.connect(memory.path / "memory.sqlite") as connection:
        found = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.close()
    return str(found)


def test_two_use_a_memory_on_a_shared_disk(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    shared(monkeypatch)
    writer, reader = make(), make()
    writer.add(document(1))
    assert mode(writer) == "delete"
    assert [one.id for one in reader.list()] == ["1"]
    assert not list(writer.path.glob("*-wal")) + list(writer.path.glob("*-shm"))
    writer.add(document(2))
    assert reader.search("Which lamp?", 5)
    assert len(reader) == 2
    reader.delete("1")
    assert [one.id for one in writer.list()] == ["2"]
    assert writer.verify().clean


def test_a_writer_waits_for_readers_and_gives_up_in_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared(monkeypatch)
    writer, reader = make(busy_s=0.2), make()
    writer.add(document(1))
    with reader._database.read():
        assert len(reader) == 1
        with pytest.raises(TreeMemoryBusyError):
            writer.add(document(2))
        assert len(reader) == 1
    writer.add(document(2))
    assert len(reader) == 2


def test_a_memory_that_was_moved_there_is_changed_unless_it_is_in_use(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(busy_s=0.2)
    here.add(document(1))
    assert mode(here) == "wal"
    shared(monkeypatch)
    with pytest.raises(TreeMemoryBusyError):
        make(busy_s=0.2)
    here.close()
    there = make()
    assert mode(there) == "delete"
    assert [one.id for one in there.list()] == ["1"]
