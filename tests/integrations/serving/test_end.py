"""The end of a server's process: drained by SIGTERM, or killed; nothing acknowledged is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sharedllm import SharedLLM, open_memory
from sharedllm_integrations.serving import ServerConfig
from tests.integrations.serving.conftest import PATIENCE, client_of, served, until
from tests.texts import GARDEN, STORY

ROOT = Path(__file__).parents[3]
ASKED: Any = [{"role": "user", "content": "Who lit the lamp?"}]
LOAD_S = 1.5  # seconds of load before the kill


@contextmanager
def spawned(memory: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and its address."""
    command = [sys.executable, "-m", "tests.integrations.serving.child", str(memory), *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        until(lambda: _is_ready(address))
        yield process, address
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _is_ready(address: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{address}/ready", timeout=PATIENCE).status_code == 200
    return False


def upload(client: openai.OpenAI, text: str) -> str:
    return client.files.create(file=("a.txt", text.encode()), purpose="assistants").id


def all_read(client: openai.OpenAI, ids: list[str]) -> bool:
    states = [client.vector_stores.files.retrieve(id, vector_store_id="vs_main") for id in ids]
    assert all(one.status in ("in_progress", "completed") for one in states)
    return all(one.status == "completed" for one in states)


@pytest.mark.slow
def test_a_signal_drains_the_line(llm: SharedLLM, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    with spawned(folder, "slow") as (process, address), client_of(address) as client:
        [model] = client.models.list().data
        ids = [upload(client, f"{n}. {STORY * 9}") for n in range(3)]
        stream = client.chat.completions.create(model=model.id, messages=ASKED, stream=True)
        chunks = iter(stream)
        next(chunks)
        batch = client.vector_stores.file_batches.create("vs_main", file_ids=ids)
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{address}/ready").status_code == 503)
        assert httpx.get(f"{address}/health").status_code == 200
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(model=model.id, messages=ASKED)
        assert refused.value.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) >= 1
        late = upload(client, GARDEN)
        text = "".join(one.choices[0].delta.content or "" for one in chunks)
        assert len(text) >= 149  # whoever was in line is answered
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    with served(ServerConfig.of(memory=folder), llm) as again, client_of(again) as client:
        assert client.files.content(late).read() == GARDEN.encode()
        until(lambda: all_read(client, ids))
        [done] = [client.vector_stores.file_batches.retrieve(batch.id, vector_store_id="vs_main")]
        assert done.file_counts.completed == 3


class Load:
    """Clients that upload, delete and ask until the server is gone, and what it acknowledged."""

    def __init__(self, address: str) -> None:
        self._client = client_of(address)
        self._model = self._client.models.list().data[0].id
        self.files: dict[str, str] = {}  # acknowledged uploads -> their texts
        self.added: set[str] = set()  # acknowledged additions to the vector store
        self.deleted: set[str] = set()  # asked for, acknowledged or not
        self.gone: set[str] = set()  # acknowledged deletions
        self.answers = 0

    def run(self) -> list[threading.Thread]:
        work = [self._upload, self._upload, self._delete, self._ask, self._ask]
        threads = [threading.Thread(target=self._until_gone, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        return threads

    def close(self) -> None:
        self._client.close()

    def _until_gone(self, work: Callable[[random.Random], None]) -> None:
        own = random.Random(work.__name__ + threading.current_thread().name)
        with suppress(openai.APIConnectionError, httpx.TransportError):
            while True:
                work(own)

    def _upload(self, own: random.Random) -> None:
        text = f"{own.random()}. " + STORY[own.randrange(200) :] * own.randrange(1, 6)
        id = upload(self._client, text)
        self.files[id] = text
        self._client.vector_stores.files.create(file_id=id, vector_store_id="vs_main")
        self.added.add(id)

    def _delete(self, own: random.Random) -> None:
        time.sleep(0.05)
        left = sorted(self.added - self.deleted)
        if left:
            id = own.choice(left)
            self.deleted.add(id)
            self._client.files.delete(id)
            self.gone.add(id)

    def _ask(self, own: random.Random) -> None:
        self._client.chat.completions.create(model=self._model, messages=ASKED, max_tokens=4)
        self.answers += 1


@pytest.mark.slow
def test_everything_acknowledged_survives_a_kill_under_load(llm: SharedLLM, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    with spawned(folder) as (process, address):
        load = Load(address)
        threads = load.run()
        time.sleep(LOAD_S)
        until(lambda: bool(load.gone) and load.answers > 0 and len(load.added) > 4)
        process.kill()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        load.close()
    with served(ServerConfig.of(memory=folder), llm) as again, client_of(again) as client:
        kept = {one.id for one in client.files.list()}
        assert set(load.files) - load.deleted <= kept
        assert not kept & load.gone
        for id in set(load.files) - load.deleted:
            assert client.files.content(id).read() == load.files[id].encode()
        until(lambda: all_read(client, sorted(load.added - load.deleted)))
        until(lambda: not _in_progress(client))
        memory = open_memory(folder)
        assert memory.verify().problems == ()
        for one in memory.list():  # whole documents only, of files that are there
            assert one.id in kept
            assert memory.get(one.id).text.split() == load.files[one.id].split()


def _in_progress(client: openai.OpenAI) -> int:
    return client.vector_stores.retrieve("vs_main").file_counts.in_progress
