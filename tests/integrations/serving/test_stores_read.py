"""What a question reads of vector stores: several, some of their passages, or all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sharedllm import SharedLLM, open_memory
from sharedllm_integrations.serving import answers
from tests.integrations.serving.conftest import (
    PATIENCE,
    Serve,
    client_of,
    model_of,
    read,
    until,
)
from tests.integrations.serving.test_line import Held
from tests.texts import FERRY, GARDEN, STORY

ASKED: Any = [{"role": "user", "content": "What does a ticket of the ferry cost?"}]


def searching(*stores: str, **more: Any) -> Any:
    return {"type": "file_search", "vector_store_ids": list(stores), **more}


def told(made: Any) -> Any:
    return made.model_extra["sharedllm"]


def cited(made: Any) -> set[str]:
    return {one["document"] for one in told(made)["citations"]}


@pytest.fixture
def stores(serve: Serve) -> tuple[openai.OpenAI, list[str], list[str]]:
    """A client, two vector stores of one file each, and the files."""
    client = client_of(serve())
    made = [client.vector_stores.create(name=name).id for name in ("boats", "plants")]
    files = [
        read(client, store, text, f"{n}.txt", attributes={"n": n})
        for n, (store, text) in enumerate(zip(made, (FERRY, GARDEN), strict=True))
    ]
    return client, made, files


def test_a_question_reads_several_stores(
    stores: tuple[openai.OpenAI, list[str], list[str]],
) -> None:
    client, (boats, plants), files = stores
    asked: Any = {"model": model_of(client), "messages": ASKED, "max_tokens": 4}
    one = client.chat.completions.create(**asked, tools=[searching(boats)])
    both = client.chat.completions.create(**asked, tools=[searching(boats, plants)])
    assert (cited(one), cited(both)) == ({files[0]}, set(files))
    assert both.usage.prompt_tokens_details.cached_tokens > (  # type: ignore[union-attr]
        one.usage.prompt_tokens_details.cached_tokens  # type: ignore[union-attr]
    )
    filters = {"type": "eq", "key": "n", "value": 1}
    some = client.chat.completions.create(
        **asked, tools=[searching(boats, plants, filters=filters)]
    )
    assert cited(some) == {files[1]}
    all_of_both: Any = {**asked, "tools": [searching(boats, plants)]}
    whole = client.chat.completions.create(**all_of_both, extra_body={"scope": "whole"})
    assert told(whole)["scope"] != "passages"
    assert whole.usage.prompt_tokens_details == both.usage.prompt_tokens_details  # type: ignore[union-attr]
    empty = client.vector_stores.create(name="empty").id
    again = client.chat.completions.create(**asked, tools=[searching(empty, boats, boats)])
    assert cited(again) == {files[0]}
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**asked, tools=[searching(boats, "vs_no")])
    with pytest.raises(openai.BadRequestError, match="no document is in the vector store"):
        client.chat.completions.create(**asked, tools=[searching(empty)])
    none = {"type": "eq", "key": "n", "value": 7}
    with pytest.raises(openai.BadRequestError, match="no document that the filters"):
        client.chat.completions.create(**asked, tools=[searching(boats, plants, filters=none)])


def test_a_file_in_two_stores_is_read_once(
    stores: tuple[openai.OpenAI, list[str], list[str]],
) -> None:
    client, (boats, plants), files = stores
    client.vector_stores.files.create_and_poll(
        files[0], vector_store_id=plants, poll_interval_ms=20
    )
    made = client.chat.completions.create(
        model=model_of(client), messages=ASKED, tools=[searching(boats, plants)], max_tokens=4
    )
    spans = [(c["document"], c["char_start"]) for c in told(made)["citations"]]
    assert len(set(spans)) == len(spans)
    assert cited(made) == set(files)


def test_a_response_tells_results_of_several_stores(
    stores: tuple[openai.OpenAI, list[str], list[str]],
) -> None:
    client, made, files = stores
    response: Any = client.responses.create(
        model=model_of(client),
        input="What does a ticket of the ferry cost?",
        tools=[searching(*made)],
        include=["file_search_call.results"],
        max_output_tokens=4,
    )
    found = {one.file_id: one.attributes for one in response.output[0].results}
    assert found == {file: {"n": n} for n, file in enumerate(files)}


def test_results_are_bounded(serve: Serve, filled: Path) -> None:
    client = client_of(serve())
    asked: Any = {"model": model_of(client), "messages": ASKED, "max_tokens": 4}
    for most in (1, 2):
        tool = searching("vs_main", max_num_results=most)
        made = client.chat.completions.create(**asked, tools=[tool])
        assert 1 <= len(told(made)["citations"]) <= most
    free = client.chat.completions.create(**asked, tools=[searching("vs_main")])
    assert len(told(free)["citations"]) > 2
    summary: Any = [{"role": "user", "content": "Summarise the documents."}]
    tool = searching("vs_main", max_num_results=1)
    made = client.chat.completions.create(**{**asked, "messages": summary}, tools=[tool])
    assert told(made)["scope"] == "passages"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_num_results": 0}, "max_num_results"),
        ({"max_num_results": 51}, "max_num_results"),
        ({"ranking_options": {"score_threshold": 0.5}}, "no shares of 1"),
        ({"ranking_options": {"ranker": "best"}}, "ranker"),
        ({"ranking_options": {"hybrid_search": {"embedding_weight": 1}}}, "hybrid_search"),
        ({"vector_store_ids": [f"vs_{n}" for n in range(33)]}, "vector_store_ids"),
        ({"max_num_results": 3, "scope": "whole"}, "leave one of them out"),
    ],
)
def test_searches_of_another_form_are_refused(
    shared_address: str, given: dict[str, Any], said: str
) -> None:
    client = client_of(shared_address)
    store = client.vector_stores.create(name="s").id
    read(client, store, FERRY, "ferry.txt")
    scope = {"scope": given.pop("scope")} if "scope" in given else {}
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(
            model=model_of(client),
            messages=ASKED,
            tools=[{**searching(store), **given}],
            extra_body=scope,
        )
    harmless: Any = {"ranker": "auto", "score_threshold": 0}
    assert client.vector_stores.search(store, query="ticket", ranking_options=harmless).data
    with pytest.raises(openai.BadRequestError, match="no shares of 1"):
        client.vector_stores.search(store, query="ticket", ranking_options={"score_threshold": 0.5})


class Emptied:
    """A model before whose scope is asked the memory loses its documents, as by another client."""

    def __init__(self, core: SharedLLM, memory: Any) -> None:
        self._core, self._memory = core, memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def scope(self, *given: Any, **options: Any) -> Any:
        found = self._core.scope(*given, **options)
        self._memory.delete([one.id for one in self._memory.list()])
        return found


def test_documents_that_are_deleted_meanwhile_are_an_error_without_a_path(
    serve: Serve, llm: SharedLLM, filled: Path
) -> None:
    model: Any = Emptied(llm, open_memory(filled))
    client = client_of(serve(model))
    asked: Any = {"model": model_of(client), "messages": ASKED, "max_tokens": 2}
    with pytest.raises(openai.BadRequestError, match="holds no document") as caught:
        client.chat.completions.create(**asked)
    assert str(filled) not in str(caught.value)
    assert client.chat.completions.create(**asked).choices  # the memory is empty now


# -- scope -----------------------------------------------------------------------------------------


def test_the_scope_is_chosen(serve: Serve) -> None:
    client = client_of(serve())
    read(client, "vs_main", STORY * 4, "story.txt")
    asked: Any = {"model": model_of(client), "messages": ASKED, "max_tokens": 8}
    short = client.chat.completions.create(
        **asked, extra_body={"scope": "whole", "max_seconds": 1e-6}
    )
    assert told(short)["partial"]
    scopes = {}  # from here on what was read is kept
    for scope in ("auto", "passages", "whole"):
        made = client.chat.completions.create(**asked, extra_body={"scope": scope})
        scopes[scope] = told(made)["scope"]
        assert not told(made)["partial"]
    assert scopes == {"auto": "passages", "passages": "passages", "whole": "list"}
    chunks = list(
        client.chat.completions.create(**asked, stream=True, extra_body={"scope": "whole"})
    )
    assert chunks[-1].model_extra["sharedllm"]["scope"] == "list"  # type: ignore[index]
    response: Any = client.responses.create(
        model=asked["model"], input="What is told?", extra_body={"scope": "whole"}
    )
    assert told(response)["scope"] != "passages"
    with pytest.raises(openai.BadRequestError, match="scope"):
        client.chat.completions.create(**asked, extra_body={"scope": "all"})
    with pytest.raises(openai.BadRequestError, match="max_seconds"):
        client.chat.completions.create(**asked, extra_body={"max_seconds": 0})


class HeldWhole(Held):
    """A model whose readings of the whole have no end until they are let go."""

    def stream(self, asked: Any, context: Any = (), **options: Any) -> Any:
        if options.get("scope") == "whole":
            self.options = options
            return super().stream(asked, context, **{**options, "scope": "passages"})
        return self._core.stream(asked, context, **options)


def test_a_reading_of_the_whole_keeps_no_short_question_waiting(
    serve: Serve, llm: SharedLLM, filled: Path
) -> None:
    held = HeldWhole(llm)
    address = serve(held, timeout=100)
    client = client_of(address)
    asked: Any = {"model": model_of(client), "messages": ASKED, "max_tokens": 2}
    whole: Any = {**asked, "extra_body": {"scope": "whole"}}
    with ThreadPoolExecutor(1) as threads:
        with client.chat.completions.create(**whole, stream=True) as stream:
            next(iter(stream))
            assert held.options["max_seconds"] <= 50  # the rest of the time is for writing
            assert client.chat.completions.create(**asked).choices[0].finish_reason
            second = threads.submit(client.chat.completions.create, **whole)
            until(lambda: "num_requests_waiting 1.0" in httpx.get(f"{address}/metrics").text)
            assert client.chat.completions.create(**asked).choices[0].finish_reason
            assert held.running == 1
        until(lambda: held.ended == 1)  # the client went away
        held.go.set()
        assert second.result(PATIENCE).choices[0].finish_reason


async def test_an_idle_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.01)
    ended = False

    async def slow() -> AsyncGenerator[str]:
        nonlocal ended
        try:
            yield "data: 1\n\n"
            await asyncio.sleep(0.05)
            yield "data: 2\n\n"
            await asyncio.sleep(PATIENCE)
        finally:
            ended = True

    stream = answers.kept_alive(slow())
    got = [await anext(stream) for _ in range(3)]
    assert got[0] == "data: 1\n\n"
    assert all(one.startswith(":") for one in got[1:])
    while (one := await anext(stream)).startswith(":"):
        pass
    assert one == "data: 2\n\n"
    assert (await anext(stream)).startswith(":")
    await stream.aclose()
    assert ended
