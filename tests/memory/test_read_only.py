"""A closed memory is read where nothing can be written; one that was not closed says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import TreeMemoryBusyError, TreeMemoryError, TreeMemoryFormatError
from sharedllm.memory import folder as folders
from tests.conftest import DOCUMENTS, Make

ROOT = Path(__file__).parents[2]


@pytest.fixture
def closed(memory: TreeMemory) -> Path:
    memory.close()
    return memory.path


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the answer of the system is replaced."""
    monkeypatch.setattr(folders, "is_writable", lambda folder: False)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("unwritable")
def test_a_closed_memory_is_read_as_it_stands(closed: Path, make: Make, llm: SharedLLM) -> None:
    before = files(closed)
    assert set(before) == {"memory.sqlite", "writer.json"}
    memory = make(create=True)
    assert [memory.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
    assert memory.search("When does the ferry leave?")
    assert llm.answer("Who?", memory, max_new_tokens=1, budget=100).citations
    assert memory.verify().clean
    assert memory.verify(repair=True).clean
    memory.export(closed.parent / "copy", ["ferry"])
    for change in (
        lambda: memory.add(MemoryDocument(text="new")),
        lambda: memory.delete("ferry"),
        memory.compact,
    ):
        with pytest.raises(TreeMemoryError, match=r"cannot be written here .* copy the folder"):
            change()
    memory.close()
    assert files(closed) == before


def test_changes_by_others_are_seen_or_told(
    closed: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(folders, "is_writable", lambda folder: False)
        reader = make()
        assert len(reader) == 3
    writer = make()
    writer.delete("story")
    writer.close()
    monkeypatch.setattr(folders, "is_writable", lambda folder: False)
    assert len(reader) == 2
    with (
        pytest.raises(TreeMemoryBusyError, match="changed while it was read"),
        reader._database.read(),
    ):
        os.utime(closed / "memory.sqlite", ns=(1, 1))
    assert len(reader) == 2


def _all_but_the_log(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith("-shm")]


OTHER_USER = """
import os, sys
from sharedllm import TreeMemory
os.setgroups([]); os.setgid(65534); os.setuid(65534)
if not os.access(os.path.dirname(sys.argv[1]), os.R_OK | os.X_OK):
    sys.exit(77)
with TreeMemory(sys.argv[1], create=False) as memory:
    assert len(memory) == 3 and memory.verify().clean
try:
    TreeMemory(sys.argv[2], create=False)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_another_user_reads(memory: TreeMemory, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not all(folder.stat().st_mode & 0o5 == 0o5 for folder in (ROOT, *ROOT.parents)):
        pytest.skip("another user cannot import the package from here")
    shared = tmp_path_factory.getbasetemp().parent.parent / f"shared by users {os.getpid()}"
    try:
        shutil.copytree(memory.path, shared / "left", ignore=_all_but_the_log)
        memory.close()
        shutil.copytree(memory.path, shared / "closed")
        shared.chmod(0o755)
        command = [sys.executable, "-c", OTHER_USER, str(shared / "closed"), str(shared / "left")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 77:
            pytest.skip("another user cannot look into the folder of temporary files here")
        assert done.returncode == 1, done.stderr
        assert "TreeMemoryError: the memory in" in done.stderr
        assert "was not closed when it was last written" in done.stderr
    finally:
        shutil.rmtree(shared)


def test_a_file_with_two_names_is_not_written(closed: Path, make: Make) -> None:
    """Each name would have its own log, and the other may be somebody else's file."""
    (closed.parent / "other").hardlink_to(closed / "memory.sqlite")
    with pytest.raises(TreeMemoryFormatError, match="has other names elsewhere"):
        make()
    (closed.parent / "other").unlink()
    (closed.parent / "other").write_text("precious")
    (closed / "writer.json").unlink()
    (closed / "writer.json").hardlink_to(closed.parent / "other")
    make().delete("story")
    assert (closed.parent / "other").read_text() == "precious"


AT_EXIT = """
import sys
from sharedllm import open_memory
memory = open_memory(sys.argv[1])
memory.delete("story")
"""


def test_the_end_of_a_process_closes_its_memories(closed: Path) -> None:
    subprocess.run([sys.executable, "-c", AT_EXIT, str(closed)], cwd=ROOT, check=True)
    assert set(files(closed)) == {"memory.sqlite", "writer.json"}
