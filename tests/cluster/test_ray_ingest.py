"""Reading on Ray: each document once, whoever is killed, and the same answers as in one memory.

pytest -m slow tests/cluster
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from sharedllm import Answer, PartedMemory, SharedLLM, TreeMemory
from sharedllm.cli.main import main
from sharedllm.cluster.ray_ingest import ingest
from sharedllm.errors import ConfigError, MissingExtraError
from sharedllm.memory.files import id_of_file
from tests.memory.test_parted_memory import questions, small
from tests.models import make_model, make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray and what it brings
COUNT, MANY = 60, 200
NODES = 4
WAIT_S = 300  # for what takes seconds


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of four nodes on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 80 << 20}
    made = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False},
        shutdown_at_exit=True,
    )
    made.others = [made.add_node(**node) for _ in range(NODES - 1)]
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in a folder, its window wide enough for the default settings."""
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:03}.txt").write_text(small(number).text)
    return folder


def options(model_folder: Path, **more: Any) -> dict[str, Any]:
    named = {"model": str(model_folder), "adapter": None, "dtype": "float32", "device": "cpu"}
    return {**named, "num_cpus": 0.5, "documents_at_once": 4, **more}


class Whole:
    """A memory that was read on Ray, and one of the same documents made in this process."""

    def __init__(self, memory: Path, model_folder: Path, scratch: Path) -> None:
        self.llm = SharedLLM.from_pretrained(
            model_folder, adapter=None, dtype="float32", device="cpu"
        )
        self.parted = PartedMemory(memory, llm=self.llm, candidates=1000)
        self.one = TreeMemory(scratch / "one", llm=self.llm, candidates=1000)
        # in this order: it decides between equal scores
        self.one.add([self.parted.get(stored.id) for stored in self.parted.list()])

    def check(self, files: Path) -> None:
        """Each document is there once, all is sound, and it answers as one memory does."""
        listed = [stored.id for stored in self.parted.list()]
        assert sorted(listed) == sorted(id_of_file(str(path)) for path in files.iterdir())
        assert self.parted.verify().clean
        for asked in questions():
            found = self.parted.search(asked, 5)
            assert found.away == ()
            assert list(found) == list(self.one.search(asked, 5)), asked
        for asked in questions()[:4]:
            own, other = (self.answer(asked, memory) for memory in (self.parted, self.one))
            assert (own.text, own.citations) == (other.text, other.citations)

    def answer(self, question: str, memory: TreeMemory) -> Answer:
        return self.llm.answer(question, memory, budget=200, max_new_tokens=4)


COMMAND = """
import json, sys
from sharedllm.cluster.ray_ingest import ingest

files, memory, address, options = sys.argv[1:]
done = ingest([files], memory, address=address, **json.loads(options))
print(json.dumps([done.added, done.unchanged, done.failed]))
"""


@pytest.mark.slow
def test_a_killed_worker_node_and_driver_lose_nothing(
    cluster: Any, model_folder: Path, tmp_path: Path
) -> None:
    files, memory = tmp_path / "in", tmp_path / "library"
    files.mkdir()
    for number in range(MANY):
        (files / f"{number:03}.txt").write_text(small(number).text)
    given = options(model_folder, actors=4, documents_at_once=2, num_cpus=1)
    command = [sys.executable, "-c", COMMAND, str(files), str(memory), cluster.address]
    command.append(json.dumps(given))
    with subprocess.Popen(command) as driver:
        after(20, memory, driver)
        os.kill(encoders()[0], signal.SIGKILL)
        after(60, memory, driver)
        cluster.remove_node(cluster.others.pop(), allow_graceful=False)
        after(80, memory, driver)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    assert 80 <= held(memory) < MANY
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S)
    added, unchanged, failed = json.loads(done.stdout.splitlines()[-1])
    assert (added + unchanged, failed) == (MANY, {})
    assert unchanged >= 80
    whole = Whole(memory, model_folder, tmp_path)
    whole.check(files)
    a_part_goes_away_and_comes_back(whole, tmp_path)
    whole.check(files)


def a_part_goes_away_and_comes_back(whole: Whole, tmp_path: Path) -> None:
    """Questions are asked all the time; each is answered, and names the part that is away."""
    part, seen, ends = whole.parted.parts[1], list[tuple[str, ...]](), threading.Event()
    asked = questions()[0]

    def ask() -> None:
        while not ends.is_set():
            seen.append(whole.answer(asked, whole.parted).away)

    def until(count: int, *, away: bool) -> None:
        end = time.monotonic() + WAIT_S
        while sum(bool(one) == away for one in list(seen)) < count:
            assert thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        until(2, away=False)
        part.rename(tmp_path / "elsewhere")
        until(3, away=True)
        (tmp_path / "elsewhere").rename(part)
        until(sum(not one for one in seen) + 2, away=False)
    finally:
        ends.set()
        thread.join()
    named = [one for one in seen if one]
    assert all(len(one) == 1 and repr(part.name) in one[0] for one in named)
    assert [bool(one) for one, _ in groupby(seen)] == [False, True, False]


def after(count: int, memory: Path, driver: subprocess.Popen[bytes]) -> None:
    """Wait until so many documents are there."""
    end = time.monotonic() + WAIT_S
    while held(memory) < count:
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


def held(memory: Path) -> int:
    """The documents that are committed."""
    count = 0
    for file in memory.glob("*/memory.sqlite"):
        # one that is being made has no tables
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection,
        ):
            count += connection.execute("SELECT count(*) FROM documents").fetchone()[0]
    return count


def encoders() -> list[int]:
    """The processes of this test's clusters that encode."""
    import psutil

    below = psutil.Process().children(recursive=True)
    return [one.pid for one in below if "Encoder" in " ".join(one.cmdline())]


@pytest.mark.slow
def test_files_that_change_and_files_that_fail(
    cluster: Any, files: Path, model_folder: Path, tmp_path: Path
) -> None:
    memory = tmp_path / "library"
    (files / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (files / "empty.txt").write_text("")
    done = ingest([str(files)], memory, actors=1, **options(model_folder))
    assert done.added == COUNT
    assert len(done.failed) == 2
    assert done.tokens > 0
    assert done.tokens_per_s > 0
    (files / "000.txt").write_text("Another text, of a mill.")
    done = ingest([str(files)], memory, actors=2, **options(model_folder))
    assert (done.updated, done.added, done.unchanged) == (1, 0, COUNT - 1)
    with PartedMemory(memory) as held:
        assert len(held.parts) == 2
        assert len(held) == COUNT
        assert held.verify().clean


@pytest.mark.slow
def test_tables_and_datasets_are_read(cluster: Any, model_folder: Path, tmp_path: Path) -> None:
    import pyarrow
    import ray.data
    from pyarrow import parquet

    rows = [
        {"id": f"row {i}", "text": small(i).text, "metadata": json.dumps({"number": i})}
        for i in range(20)
    ]
    rows.append({"id": "bad", "text": "", "metadata": "{}"})
    dataset = ray.data.from_items(rows, override_num_blocks=2)
    table = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    for name, source in (("a", dataset), ("b", [str(table)])):
        done = ingest(source, tmp_path / name, **options(model_folder))
        assert (done.added, list(done.failed)) == (20, ["bad"])
        with PartedMemory(tmp_path / name) as memory:
            assert memory.get("row 7").metadata == {"number": 7}


@pytest.mark.slow
def test_the_command_reads_on_ray(
    cluster: Any,
    files: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--memory", str(tmp_path / "library"), "--model", str(model_folder)]
    where += ["--adapter", "none"]
    given = [str(files), *where, "--dtype", "float32", "--ray", "auto", "--actors", "1"]
    given += ["--keep", "coarse", "--kv", "int8"]
    assert main(["index", *given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["added"], told["documents"], told["failed"]) == (COUNT, COUNT, {})
    with PartedMemory(tmp_path / "library") as memory:
        assert memory._manifest.settings.keep == "coarse"
    assert main(["index", *given, "--json"]) == 0  # the same again
    assert json.loads(capsys.readouterr().out)["unchanged"] == COUNT
    assert main(["index", *given, "--kv", "int4"]) == 2
    assert "kv 'int8' (given: 'int4')" in capsys.readouterr().err
    asked = ["ask", "-q", "Where is the cedar?", *where, "--max-new-tokens", "2", "--budget", "100"]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["away"] == []


@pytest.mark.parametrize("refused", ["--rebuild", "--notes"])
def test_what_ray_does_not_do_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    assert main(["index", ".", "--memory", str(tmp_path / "x"), "--ray", "local", refused]) == 2
    assert f"{refused} cannot be given with --ray" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:1",
        "nowhere.invalid:6379",
        "127.0.0.1:99999",
        "",
        "-1",
        "x",
        ":1",
        "a:b",
        "é:\u0661",
    ],
)
def test_no_cluster_is_one_line(tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="no Ray cluster at"):
        ingest([], tmp_path / "library", address=address)
    assert not (tmp_path / "library").exists()


def test_no_ray_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"sharedllm\[ray\]"):
        ingest([], tmp_path / "library")


@pytest.mark.parametrize(
    "wrong", [{"actors": 0}, {"parsers": -1}, {"num_gpus": -0.5}, {"documents_at_once": 0}]
)
def test_wrong_numbers_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ingest([], tmp_path / "library", **wrong)
