"""Processes that own parts of the served memory, and look words up in them.

pytest -m slow tests/integrations/serving/on_ray
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sharedllm import MemoryDocument, PartedMemory, SharedLLM
from tests.integrations.serving.conftest import Serve, client_of, model_of
from tests.integrations.serving.on_ray.conftest import within

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Ray and what it brings
COUNT = 160  # more than the chunks that are searched without looking words up


@pytest.fixture
def library(own_llm: SharedLLM, tmp_path: Path) -> Iterator[PartedMemory]:
    with PartedMemory(tmp_path / "library", 4, llm=own_llm) as memory:
        memory.add(
            MemoryDocument(id=f"note {n}", text=f"Note {n}. The keeper of lamp {n} is Olga {n}.")
            for n in range(COUNT)
        )
        yield memory


def searching_processes() -> dict[str, int]:
    """Those of the deployments that own parts, by their names."""
    from ray._private import state

    alive = [one for one in state.actors().values() if one["State"] == "ALIVE"]
    return {one["Name"].split("#")[1]: one["Pid"] for one in alive if "#Searching-" in one["Name"]}


def open_parts(process: int) -> set[str]:
    """The names of the parts whose files a process has open."""
    files = Path(f"/proc/{process}/fd")
    held = [file.readlink() for file in files.iterdir() if file.exists()]
    return {path.parent.name for path in held if path.suffix == ".sqlite"}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc tells open files here")
def test_each_part_is_looked_up_by_one_process(deployed: Serve, library: PartedMemory) -> None:
    address = deployed(memory=library.path, replicas="1", searchers=2)

    def found(n: int) -> list[Any]:
        told = httpx.post(
            f"{address}/v1/vector_stores/vs_main/search",
            json={"query": f"Who is the keeper of lamp {n}?", "max_num_results": 4},
            timeout=90,
        )
        return [(hit["file_id"], hit["score"]) for hit in told.raise_for_status().json()["data"]]

    expected = {
        n: [(hit.id, hit.score) for hit in library.search(f"Who is the keeper of lamp {n}?", 4)]
        for n in (3, 77, 159)
    }
    assert {n: found(n) for n in expected} == expected
    held = {name: open_parts(process) for name, process in searching_processes().items()}
    assert sorted(held) == ["Searching-0", "Searching-1"]
    assert set.union(*held.values()) == {f"part-{n:03}" for n in range(4)}
    assert not set.intersection(*held.values())
    for process in searching_processes().values():
        os.kill(process, 9)
    assert {n: found(n) for n in expected} == expected  # whoever asks looks them up meanwhile
    within(lambda: len(searching_processes()) == 2)
    client = client_of(address)
    asked: Any = [{"role": "user", "content": "Who is the keeper of lamp 77?"}]
    told: Any = client.chat.completions.create(model=model_of(client), messages=asked, max_tokens=3)
    assert told.model_extra["sharedllm"]["citations"][0]["document"] == "note 77"
