"""Opening a memory: what is refused, what is rebuilt when told, who else may be using it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeConfig, TreeMemory, open_memory
from sharedllm.errors import (
    ConfigError,
    InputError,
    ModelError,
    SharedLLMError,
    TreeMemoryBusyError,
    TreeMemoryError,
    TreeMemoryFormatError,
    TreeMemoryMismatchError,
)
from tests.conftest import DOCUMENTS, WIDE, Make
from tests.models import shared
from tests.texts import FERRY, STORY

ROOT = Path(__file__).parents[2]
OTHER_TREE = TreeConfig(chunk=32, height=1, ratios=(1,), root_ratio=8)


def test_a_foreign_folder_is_refused_untouched(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(TreeMemoryFormatError, match=r"is no memory: it holds 'cat.jpg'"):
        make("photos")
    assert [path.name for path in folder.iterdir()] == ["cat.jpg"]
    with pytest.raises(TreeMemoryFormatError, match="is a file; a memory is a folder"):
        make("photos/cat.jpg")
    with pytest.raises(TreeMemoryError, match="does not exist"):
        make("nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_foreign_database_is_refused_untouched(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with sqlite3.connect(folder / "memory.sqlite") as other:
        other.execute("CREATE TABLE theirs (a)")
    other.close()
    before = (folder / "memory.sqlite").read_bytes()
    with pytest.raises(TreeMemoryFormatError, match="belongs to another program"):
        make("other")
    assert (folder / "memory.sqlite").read_bytes() == before
    (folder / "memory.sqlite").write_bytes(b"not SQLite at all" * 100)
    with pytest.raises(TreeMemoryFormatError, match="is not an SQLite file"):
        make("other")


def test_another_format_version_is_refused(memory: TreeMemory, make: Make) -> None:
    memory.close()
    with sqlite3.connect(memory.path / "memory.sqlite") as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(
        TreeMemoryFormatError, match="format version 99; this sharedllm reads versions 3 to 4"
    ):
        make()


def test_a_memory_of_another_model_is_rebuilt_only_when_told(make: Make) -> None:
    make(keep="coarse").add(DOCUMENTS)
    other = shared("qwen3", sizes=WIDE, tree=OTHER_TREE)
    with pytest.raises(TreeMemoryMismatchError, match=r"tree .* weights .*rebuild=True"):
        make(llm=other)
    with pytest.raises(TreeMemoryMismatchError, match=r"keep 'coarse' \(given: 'text'\)"):
        make(keep="text")
    old = make()
    rebuilt = make(llm=other, rebuild=True, vectors="exact")
    assert [rebuilt.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
    assert rebuilt.verify().clean
    assert rebuilt.list()[0].chunks == -(-len(STORY.encode()) // 32)
    answer = other.answer("Who kept the light?", rebuilt, max_new_tokens=2, budget=200)
    fresh = [other.remember(d.text, title=d.title or "document") for d in DOCUMENTS]
    assert (
        answer.text == other.answer("Who kept the light?", fresh, max_new_tokens=2, budget=200).text
    )
    for use in (len, lambda memory: memory.add(MemoryDocument(text=FERRY * 2))):
        with pytest.raises(TreeMemoryMismatchError, match=r"rebuilt .* since it was opened"):
            use(old)
    with pytest.raises(TreeMemoryMismatchError, match="weights"):
        make()


def test_a_memory_refuses_another_model_as_reader(memory: TreeMemory) -> None:
    other = shared("llama", sizes=WIDE, tree=OTHER_TREE)
    with pytest.raises(TreeMemoryMismatchError, match="tree"):
        other.answer("Who?", memory)


def test_a_model_that_has_no_name_must_be_given(memory: TreeMemory) -> None:
    memory.close()
    again = TreeMemory(memory.path)
    assert len(again) == 3  # what needs no model works without
    with pytest.raises(TreeMemoryMismatchError, match=r"TreeMemory\(path, llm=...\)"):
        again.search("light")
    again.close()


def test_a_model_that_a_memory_names_is_loaded_when_the_user_names_it(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory may be a stranger's: what it names may be anything on the disk or the hub."""
    from sharedllm.encoding import document_encoder
    from sharedllm.registry import forget, loaded, loaded_for

    tree = TreeConfig(chunk=64, height=2, ratios=(4, 1), root_ratio=8)
    llm = SharedLLM.from_pretrained(tiny_folder, tree=tree)
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        memory.add(DOCUMENTS)
    forget()
    loads: list[object] = []
    own = document_encoder.load
    monkeypatch.setattr(
        document_encoder, "load", lambda name, **options: loads.append(name) or own(name, **options)
    )
    with TreeMemory(tmp_path / "m") as first, TreeMemory(tmp_path / "m") as second:
        for use in (
            lambda: first.search("light"),
            lambda: loaded_for(first),
            lambda: loaded_for(first, device="cpu"),
            lambda: first.add(MemoryDocument(text="more")),
        ):
            with pytest.raises(TreeMemoryMismatchError, match=r"made with the model .*--model"):
                use()
        assert [first.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
        assert first.verify().clean
        assert not loads
        named = loaded_for(first, model=str(tiny_folder))
        assert loaded_for(second, model=str(tiny_folder)) is named
        assert named.tree == tree  # the memory's
    with TreeMemory(tmp_path / "m", llm=named) as memory:
        assert memory.search("light")[0].id in {d.id for d in DOCUMENTS}
    assert loaded(str(tiny_folder), tree=tree) is loaded(str(tiny_folder), tree=tree)
    forget()
    shutil.rmtree(tmp_path / "m")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "most"}, "keep is 'most'; allowed: 'text', 'leaves', 'coarse', 'all'"),
        ({"kv": "int2"}, "kv is 'int2'"),
        ({"busy_s": -1}, "busy_s is -1"),
        ({"candidates": 0}, "candidates is 0"),
    ],
)
def test_wrong_settings_leave_no_folder(
    make: Make, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make("new", **options)
    assert not (tmp_path / "new").exists()


def test_a_second_writer_waits_or_is_told(memory: TreeMemory, make: Make) -> None:
    impatient = make(busy_s=0.2)
    holding = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with memory._database.write():
            holding.set()
            done.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait(5)
    with pytest.raises(
        TreeMemoryBusyError, match=rf"written by process {os.getpid()} on .*waited 0.2 s"
    ):
        impatient.delete("story")
    assert len(impatient) == 3  # reading goes on
    patient = make(busy_s=10)
    waiting = threading.Thread(target=patient.delete, args=("story",))
    waiting.start()
    time.sleep(0.2)
    assert waiting.is_alive()
    done.set()
    holder.join()
    waiting.join(5)
    assert [d.id for d in impatient.list()] == ["ferry", "garden"]


READER = """
import sys, time, torch
from sharedllm import TreeMemory
from tests.models import shared
torch.set_num_threads(1)
llm = shared("llama", sizes={"max_position_embeddings": 8192})
memory = TreeMemory(sys.argv[1], llm=llm)
sys.stdout.write("ready\\n"); sys.stdout.flush()
reads = 0
while "stop" not in memory:
    for part in memory.documents_for("the lamp", llm):
        if not part.text or len(part.vectors) != len(part.tokens):
            raise SystemExit(f"{part.id} is torn")
    reads += 1
sys.stdout.write(str(reads))
"""


def test_readers_beside_a_writer(make: Make, llm: SharedLLM) -> None:
    memory = make()
    memory.add(DOCUMENTS)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(memory.path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        for turn in range(12):
            memory.add(MemoryDocument(id=f"new {turn}", text=STORY[turn:] + FERRY))
            if turn % 3 == 2:
                memory.delete([f"new {turn}", f"new {turn - 1}"])
                memory.compact()
        memory.add(MemoryDocument(id="stop", text="stop"))
        for reader in readers:
            out, err = reader.communicate(timeout=60)
            assert reader.returncode == 0, err
            assert int(out) > 1
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def test_a_path_that_is_no_memory_is_no_context(llm: SharedLLM, tmp_path: Path) -> None:
    for given in (str(tmp_path), str(tmp_path / "nothing"), "a text", "a long text " * 999):
        with pytest.raises(InputError, match="there is no memory in a folder of that name") as told:
            llm.answer("Who?", given)
        assert len(str(told.value)) < 200


@pytest.mark.parametrize(
    "name",
    [
        "n" * 256,
        "\u00e9" * 128,
        "in/" + "n" * 300,
        "a\0b",
        "\ud800",
        "n/" * 3000,
        "ring",
        "ring/in",
    ],
)
def test_names_that_no_file_can_have(
    memory: TreeMemory, llm: SharedLLM, tmp_path: Path, name: str
) -> None:
    (tmp_path / "ring").symlink_to("ring")
    before = sorted(tmp_path.iterdir())
    path = tmp_path / name
    for use in (
        lambda: TreeMemory(path, llm=llm),
        lambda: TreeMemory(path, create=False),
        lambda: open_memory(path),
        lambda: open_memory(path, create=True),
        lambda: memory.export(path),
        lambda: memory.import_from(path),
    ):
        with pytest.raises((TreeMemoryError, InputError)) as told:
            use()
        assert len(str(told.value)) < 8000
    with pytest.raises(InputError, match="no memory in a folder of that name"):
        llm.answer("Who?", str(path))
    with pytest.raises((ModelError, InputError)):
        SharedLLM.from_pretrained(str(path))
    with pytest.raises((ModelError, InputError)):
        SharedLLM.from_pretrained(f"{path}.gguf")
    assert sorted(tmp_path.iterdir()) == before


def test_reading_creates_nothing(llm: SharedLLM, make: Make, tmp_path: Path) -> None:
    """A mistyped path is an error, and an empty memory is no place to answer from."""
    for use in (
        lambda: open_memory(tmp_path / "typo"),
        lambda: llm.answer("Who?", str(tmp_path / "typo")),
        lambda: TreeMemory(tmp_path / "typo", create=False),
    ):
        with pytest.raises(SharedLLMError, match="no memory in"):
            use()
    assert not list(tmp_path.iterdir())
    empty = make("empty")
    for use in (
        lambda: empty.search("Who?"),
        lambda: llm.answer("Who?", empty),
        lambda: llm.answer("Who?", str(tmp_path / "empty")),
    ):
        with pytest.raises(InputError, match=r"the memory holds no document: .*empty"):
            use()
    with empty._database.read() as connection:
        assert connection.execute("SELECT count(*) FROM codecs").fetchone() == (0,)


def test_a_memory_is_no_document(memory: TreeMemory, llm: SharedLLM) -> None:
    with pytest.raises(InputError, match="TreeMemory was given; give a document"):
        llm.encode(memory)  # type: ignore[arg-type]


def test_a_closed_memory_says_so(memory: TreeMemory) -> None:
    memory.close()
    with pytest.raises(TreeMemoryError, match="was closed; open it again"):
        len(memory)
