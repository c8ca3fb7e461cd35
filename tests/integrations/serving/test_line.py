from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from sharedllm import SharedLLM
from sharedllm_integrations.errors import AnswerTimeoutError
from sharedllm_integrations.serving import ServerConfig, create_app
from sharedllm_integrations.serving.faults import ServingError
from sharedllm_integrations.serving.limits import Line
from sharedllm_integrations.serving.running import DrainingServer
from tests.integrations.serving.conftest import PATIENCE, Serve, client_of, model_of, running, until

ASKED: Any = [{"role": "user", "content": "Who lit the lamp?"}]


class Held:
    """A model whose answers have no end until they are let go.

    Attributes
    ----------
    running, ended : how many answers began and ended
    """

    def __init__(self, core: SharedLLM) -> None:
        self._core = core
        self.go = threading.Event()
        self.running = self.ended = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def stream(self, asked: Any, context: Any = (), **options: Any) -> Any:
        whole = self._core.answer(asked, context, max_new_tokens=1)
        return _Endless(self, whole)


class _Endless:
    def __init__(self, held: Held, answer: Any) -> None:
        self._held, self.answer, self.citations = held, answer, answer.citations

    def __iter__(self) -> Any:
        self._held.running += 1
        try:
            while not self._held.go.is_set():
                time.sleep(0.005)
                yield "x"
        finally:
            self._held.ended += 1


@pytest.fixture
def held(llm: SharedLLM) -> Any:
    made = Held(llm)
    yield made
    made.go.set()


def test_more_than_may_wait_are_refused(serve: Serve, held: Held) -> None:
    address = serve(held, at_once=1, max_waiting=1)
    client = client_of(address)
    asked: Any = {"model": model_of(client), "messages": ASKED}
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(client.chat.completions.create, **asked)
        until(lambda: held.running == 1)
        waiting = threads.submit(client.chat.completions.create, **asked)
        until(lambda: "num_requests_waiting 1.0" in httpx.get(f"{address}/metrics").text)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**asked)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**asked, stream=True)
        held.go.set()
        for one in (running, waiting):
            assert one.result(PATIENCE).choices[0].finish_reason
    assert client.chat.completions.create(**asked).choices


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_the_model(serve: Serve, held: Held, stream: bool) -> None:
    address = serve(held, at_once=1)
    client = client_of(address)
    asked: Any = {"model": model_of(client), "messages": ASKED, "stream": stream}
    gone = HTTPConnection(urlsplit(address).netloc)
    headers = {"content-type": "application/json"}
    gone.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
    until(lambda: held.running == 1)
    gone.close()
    until(lambda: held.ended == held.running == 1)
    held.go.set()
    assert client.chat.completions.create(model=asked["model"], messages=ASKED).choices


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_ends(serve: Serve, held: Held, stream: bool) -> None:
    client = client_of(serve(held, at_once=1, timeout=0.3))
    asked: Any = {"model": model_of(client), "messages": ASKED, "stream": stream}
    with pytest.raises(openai.APIError, match="not complete after"):
        list(client.chat.completions.create(**asked))
    until(lambda: held.ended == 1)


def test_a_signal_drains_the_line(llm: SharedLLM, held: Held, tmp_path: Path) -> None:
    config = ServerConfig.of(memory=tmp_path / "memory", port=0, at_once=1)
    server = DrainingServer(create_app(config, held))  # type: ignore[arg-type]
    server.config.port = 0
    with running(server) as address:
        client = client_of(address)
        asked: Any = {"model": model_of(client), "messages": ASKED}
        with ThreadPoolExecutor(2) as threads:
            inline = [threads.submit(client.chat.completions.create, **asked) for _ in range(2)]
            until(lambda: "num_requests_waiting 1.0" in httpx.get(f"{address}/metrics").text)
            assert httpx.get(f"{address}/ready").status_code == 200
            server.handle_exit(signal.SIGTERM, None)
            assert httpx.get(f"{address}/ready").status_code == 503
            with pytest.raises(openai.InternalServerError, match="being stopped") as refused:
                client.chat.completions.create(**asked)
            assert int(refused.value.response.headers["retry-after"]) >= 1
            kept = client.files.create(file=("a.txt", b"late"), purpose="assistants")
            held.go.set()
            for one in inline:
                assert one.result(PATIENCE).choices[0].finish_reason
        until(lambda: server.should_exit)
    again = create_app(config, llm)
    with TestClient(again, "http://127.0.0.1") as later:
        assert later.get(f"/v1/files/{kept.id}/content").content == b"late"


async def test_a_turn_that_does_not_come_is_an_error() -> None:
    line = Line(1, 1)
    async with line.turn(1.0):
        with pytest.raises(AnswerTimeoutError):
            async with line.turn(0.01):
                pass
        waiting = asyncio.ensure_future(line.turn(PATIENCE).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(ServingError, match="wait for the model"):
            async with line.turn(1.0):
                pass
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (line.running, line.waiting) == (1, 0)
    async with line.turn(1.0):
        assert line.running == 1
    assert line.running == 0


def test_several_ask_at_once(serve: Serve, llm: SharedLLM) -> None:
    client = client_of(serve())
    asked: Any = {"model": model_of(client), "max_tokens": 6}
    questions = [f"What is {n}?" for n in range(6)]

    def answer(question: str) -> str:
        messages: Any = [{"role": "user", "content": question}]
        made = client.chat.completions.create(messages=messages, **asked)
        return made.choices[0].message.content or ""

    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(answer, questions))
    assert together == [answer(question) for question in questions]


@pytest.mark.parametrize("stream", [False, True])
def test_answers_at_once_are_those_of_one_at_a_time(
    serve: Serve, filled: Path, llm: SharedLLM, stream: bool
) -> None:
    client = client_of(serve(llm, at_once=4, max_waiting=16))
    model = model_of(client)

    def answer(number: int) -> str:
        asked: Any = {
            "model": model,
            "messages": [{"role": "user", "content": f"Who keeps lamp {number % 3}?"}],
            "max_tokens": 4 + number % 5,
            "temperature": number % 2,
            "seed": number,
        }
        if not stream:
            return client.chat.completions.create(**asked).choices[0].message.content or ""
        chunks = client.chat.completions.create(**asked, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    alone = [answer(number) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(answer, range(8))) == alone
