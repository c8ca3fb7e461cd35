"""A server on loopback with a tiny model, and the official client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from sharedllm import SharedLLM, open_memory
from sharedllm_integrations.serving import ServerConfig, create_app
from tests.conftest import DOCUMENTS, WIDE
from tests.models import make_model, make_tokenizer

Serve = Callable[..., str]
PATIENCE = 20  # seconds, against hangs


@contextmanager
def served(config: ServerConfig, llm: SharedLLM) -> Iterator[str]:
    """The address of a server that runs for as long as the block does."""
    own = uvicorn.Config(create_app(config, llm), port=0, log_level="error", lifespan="on")
    with running(uvicorn.Server(own)) as address:
        yield address


@contextmanager
def running(server: uvicorn.Server) -> Iterator[str]:
    """The address of `server`, which runs in a thread for as long as the block does."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve(llm: SharedLLM, tmp_path: Path) -> Iterator[Serve]:
    """Start a server over a memory in the test's folder; returns its address."""
    with ExitStack() as stack:

        def start(model: Any = llm, **given: Any) -> str:
            config = ServerConfig.of(**{"memory": tmp_path / "served", **given})
            return stack.enter_context(served(config, model))

        yield start


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model of the tests, for servers that load it themselves."""
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", **WIDE).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_address(llm: SharedLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server for tests that only ask."""
    config = ServerConfig.of(memory=tmp_path_factory.mktemp("asked") / "memory")
    with served(config, llm) as address:
        yield address


@pytest.fixture
def filled(llm: SharedLLM, tmp_path: Path) -> Path:
    """The folder of the served memory, which holds three documents."""
    folder = tmp_path / "served"
    open_memory(folder, llm=llm, create=True).add(DOCUMENTS)
    return folder


_clients: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    """Close what :func:`client_of` made: sockets that are left open are warnings, at any time."""
    yield
    while _clients:
        _clients.pop().close()


def client_of(address: str, key: str = "none") -> openai.OpenAI:
    """The official client, closed when the test ends."""
    made = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=60)
    _clients.append(made)
    return made


def model_of(client: openai.OpenAI) -> str:
    [model] = client.models.list().data
    return model.id


def read(client: openai.OpenAI, store: str, text: str, name: str, **more: Any) -> str:
    """Upload a text and have it read; returns the file's id."""
    file = client.files.create(file=(name, text.encode()), purpose="assistants")
    done = client.vector_stores.files.create_and_poll(
        file.id, vector_store_id=store, poll_interval_ms=20, **more
    )
    assert done.status == "completed", done.last_error
    return file.id


def until(true: Callable[[], bool]) -> None:
    """Return once `true` is."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
