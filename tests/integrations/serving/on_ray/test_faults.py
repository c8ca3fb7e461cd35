"""The server on Ray: which process answers, and what is left when some of them end.

pytest -m slow tests/integrations/serving/on_ray
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.integrations.serving.conftest import Serve, client_of, model_of, read, until
from tests.integrations.serving.on_ray.conftest import (
    LONG_S,
    kill_node,
    node_of,
    replicas_that,
    within,
)
from tests.texts import FERRY, GARDEN

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Ray and what it brings
ASKED: Any = [{"role": "user", "content": "Who lit the lamp of the lighthouse?"}]


def asked(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model=model_of(client), messages=ASKED, **more)


class Load:
    """Clients that ask without end, and what became of their questions."""

    def __init__(self, address: str, clients: int = 4) -> None:
        self._ended, self.answers, self.failures = threading.Event(), 0, list[Exception]()
        self._threads = [
            threading.Thread(target=self._run, args=(address, n)) for n in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(LONG_S)
            assert not thread.is_alive(), "a question hangs"

    def _run(self, address: str, number: int) -> None:
        with openai.OpenAI(
            base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=90
        ) as own:
            model = model_of(own)
            while not self._ended.is_set():
                given: Any = {"model": model, "messages": ASKED, "max_tokens": 8}
                try:
                    if number % 2:
                        text = own.chat.completions.create(**given).choices[0].message.content
                    else:
                        pieces = own.chat.completions.create(**given, stream=True)
                        text = "".join(one.choices[0].delta.content or "" for one in pieces)
                    assert text
                    self.answers += 1
                except Exception as error:
                    self.failures.append(error)

    def more(self, count: int) -> None:
        """Return once so many more questions are answered."""
        wanted = self.answers + count
        within(lambda: self.answers >= wanted)


def test_requests_about_a_memory_go_to_one_replica(serve: Serve) -> None:
    address = serve(timeout=61)
    client = client_of(address)
    stores = [client.vector_stores.create(name="s").id for _ in range(6)]
    for _ in range(4):
        asked(client, max_tokens=2)
    assert list(replicas_that(address, "time_to_first_token_seconds_count").values()) == [4.0]
    for store in stores:  # others have others
        read(client, store, GARDEN, "garden.txt")
        for _ in range(2):
            search: Any = {"type": "file_search", "vector_store_ids": [store]}
            asked(client, max_tokens=2, tools=[search])
    told = replicas_that(address, "time_to_first_token_seconds_count")
    assert len(told) == 2
    assert all(count % 2 == 0 for count in told.values())


def test_more_than_one_replica_answers_at_once_is_shared(serve: Serve) -> None:
    address = serve(slow=True, at_once=2)
    with Load(address, 4):
        within(lambda: len(replicas_that(address, "num_requests_running")) == 2)


def test_a_client_that_goes_away_frees_its_replica(serve: Serve) -> None:
    address = serve(slow=True, at_once=2)
    client = client_of(address)
    for stream in (False, True):
        gone = HTTPConnection(urlsplit(address).netloc)
        body = {"model": model_of(client), "messages": ASKED, "stream": stream}
        headers = {"content-type": "application/json"}
        gone.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        until(lambda: bool(replicas_that(address, "num_requests_running")))
        done = replicas_that(address, "e2e_request_latency_seconds_count")
        gone.close()
        until(lambda: not replicas_that(address, "num_requests_running"))
        assert (
            replicas_that(address, "e2e_request_latency_seconds_count") == done
        )  # left, not ended


def test_an_update_under_load_loses_no_request(serve: Serve) -> None:
    address = serve(slow=True, at_once=2)
    with Load(address) as load:
        load.more(2)
        before = set(node_of("Answering"))
        serve(slow=True, at_once=2, max_tokens=4000)
        load.more(8)
    assert before
    assert load.failures == []


def test_a_killed_node_costs_no_more_than_what_ran_there(cluster: Any, serve: Serve) -> None:
    address = serve(slow=True, at_once=2)
    client = client_of(address)
    with Load(address) as load:
        load.more(4)
        kill_node(cluster, node_of("Answering")[0])
        load.more(12)
        within(lambda: len(node_of("Answering")) == 2)
        load.more(4)
    assert len(load.failures) <= 4
    for error in load.failures:
        assert isinstance(error, openai.APIError), error
    assert asked(client, max_tokens=2).choices


def test_an_upload_is_read_though_ingestion_is_killed(cluster: Any, serve: Serve) -> None:
    client = client_of(serve(slow=True, at_once=2))
    store = client.vector_stores.create(name="s").id
    [node] = node_of("Ingestion")
    ids = [
        client.files.create(file=(f"{n}.txt", text.encode()), purpose="assistants").id
        for n, text in enumerate([FERRY * 20, GARDEN])
    ]
    client.vector_stores.file_batches.create(store, file_ids=ids)
    kill_node(cluster, node)
    again = client_of(serve(slow=True, at_once=2))

    def all_read() -> bool:
        with suppress(openai.InternalServerError):  # of what ran on that node
            return again.vector_stores.retrieve(store).file_counts.completed == 2
        return False

    within(all_read)
    assert (
        again.vector_stores.search(store, query="a ticket of the ferry").data[0].file_id == ids[0]
    )


def test_more_than_may_wait_are_refused(serve: Serve) -> None:
    address = serve(slow=True, at_once=1, max_waiting=0, replicas="1")
    client = client_of(address)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(asked, client)
        until(lambda: bool(replicas_that(address, "num_requests_running")))
        with pytest.raises(openai.RateLimitError) as caught:
            asked(client)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert running.result(LONG_S).choices


def test_more_replicas_start_under_load(serve: Serve) -> None:
    address = serve(slow=True, at_once=2, replicas="1-2", target=1.0)
    assert len(node_of("Answering")) == 1
    with Load(address):
        within(lambda: len(node_of("Answering")) == 2)
