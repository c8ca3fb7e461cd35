"""Reading on Ray: each document once, whoever is killed, and the same answers as in one memory.

pytest -m slow tests/cluster
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharedllm import PartedMemory, TreeMemory
from sharedllm.cli.main import main
from sharedllm.cluster.ray_ingest import RayIndexed, ingest
from sharedllm.encoding.document_encoder import loaded_encoder
from sharedllm.errors import ConfigError, MissingExtraError
from sharedllm.memory.files import id_of_file
from tests.memory.test_parted_memory import questions, small
from tests.models import make_model, make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray and what it brings
COUNT = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100 << 20}
    made = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False},
        shutdown_at_exit=True,
    )
    made.second = made.add_node(**node)
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


def check(memory: Path, files: Path, model_folder: Path, tmp_path: Path) -> None:
    """Each document is there once, all is sound, and it answers as one memory does."""
    own = loaded_encoder(str(model_folder), adapter=None, dtype="float32", device="cpu")
    with (
        PartedMemory(memory, llm=own, candidates=1000) as parted,
        TreeMemory(tmp_path / "one", llm=own, candidates=1000) as one,
    ):
        listed = [stored.id for stored in parted.list()]
        assert sorted(listed) == sorted(id_of_file(str(path)) for path in files.iterdir())
        assert parted.verify().clean
        one.add([parted.get(id) for id in listed])  # in this order: it decides between equal scores
        for asked in questions():
            assert list(parted.search(asked, 5)) == list(one.search(asked, 5)), asked


@pytest.mark.slow
def test_a_killed_actor_and_a_killed_driver_lose_nothing(
    cluster: Any, files: Path, model_folder: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(done: RayIndexed) -> None:
        if done.added + done.updated >= 8 and not killed:
            import psutil

            actors = [
                one
                for one in psutil.process_iter(["cmdline"])
                if "Encoder" in " ".join(one.info["cmdline"] or ())
            ]
            assert actors
            killed.append(actors[0].pid)
            os.kill(actors[0].pid, signal.SIGKILL)
        if done.added >= 30:
            raise KeyboardInterrupt

    memory = tmp_path / "library"
    with pytest.raises(KeyboardInterrupt):
        ingest([str(files)], memory, progress=kill_one, **options(model_folder))
    assert killed
    with PartedMemory(memory) as held:
        before = len(held)
    assert before >= 30
    done = ingest([str(files)], memory, **options(model_folder))
    assert done.failed == {}
    assert done.added + done.unchanged == COUNT
    assert done.unchanged >= 30
    check(memory, files, model_folder, tmp_path)
    again = ingest([str(files)], memory, **options(model_folder))
    assert (again.added, again.updated, again.unchanged) == (0, 0, COUNT)


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
    assert main(["index", *given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["added"], told["documents"], told["failed"]) == (COUNT, COUNT, {})
    asked = ["ask", "-q", "Where is the cedar?", *where, "--max-new-tokens", "2", "--budget", "100"]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["away"] == []


@pytest.mark.slow
def test_a_killed_node_loses_nothing(
    cluster: Any, files: Path, model_folder: Path, tmp_path: Path
) -> None:
    killed: list[bool] = []

    def kill(done: RayIndexed) -> None:
        if done.added >= 8 and not killed:
            killed.append(True)
            cluster.remove_node(cluster.second, allow_graceful=False)

    done = ingest([str(files)], tmp_path / "library", progress=kill, **options(model_folder))
    assert killed
    assert done.failed == {}
    assert done.added + done.unchanged == COUNT  # what was stored, and not told, is there
    check(tmp_path / "library", files, model_folder, tmp_path)


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
