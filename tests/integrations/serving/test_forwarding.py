"""Requests that another process answers, and the application that does it."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from sharedllm_integrations.serving import forwarding
from sharedllm_integrations.serving.forwarding import ClientGoneError, Forwarded, replies
from sharedllm_integrations.serving.metrics import of_replicas

KEY = b"Bearer sk-secret"


def scope(path: str = "/v1/files", method: str = "GET", key: bytes = KEY) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"limit=1",
        "headers": [(b"authorization", key)],
        "client": ["127.0.0.1", 1],
        "server": None,
        "extensions": {"http.response.pathsend": {}},
        "state": object(),  # cannot be sent
    }


def receiving(*bodies: bytes, ends: bool = True) -> Receive:
    messages: list[Message] = [
        {"type": "http.request", "body": body, "more_body": number < len(bodies) - 1 or not ends}
        for number, body in enumerate(bodies)
    ]
    messages.append({"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    return receive


async def forwarded(path: str, body: bytes = b"", method: str = "GET", **more: Any) -> Forwarded:
    return await Forwarded.of(scope(path, method, **more), receiving(body))


async def test_a_request_is_sent_whole_and_without_its_key_in_a_log() -> None:
    made = await Forwarded.of(scope(), receiving(b"a", b"", b"b"))
    sent = pickle.loads(pickle.dumps(made))
    assert sent.body == b"ab"
    assert sent.about["query_string"] == b"limit=1"
    assert sent.about["headers"] == [(b"authorization", KEY)]
    assert "secret" not in repr(sent)
    assert "secret" not in sent.home
    with pytest.raises(ClientGoneError):
        await Forwarded.of(scope(), receiving(b"a", ends=False))


async def test_what_is_about_one_memory_has_one_home() -> None:
    stores = "/v1/vector_stores"
    chat = "/v1/chat/completions"
    main = (await forwarded("/v1/models")).home
    for path, body in (
        (chat, b'{"messages": []}'),
        ("/v1/files", b""),
        (f"{stores}/vs_main/search", b'{"query": "vs_other"}'),
        (stores, b""),
    ):
        assert (await forwarded(path, body)).home == main, path
    other = (await forwarded(f"{stores}/vs_0a/files/x")).home
    assert other != main
    named = b'{"tools": [{"type": "file_search", "vector_store_ids": ["vs_0a", "vs_0b"]}]}'
    assert (await forwarded(chat, named)).home == other
    assert (await forwarded("/v1/models", key=b"Bearer sk-another")).home != main


@pytest.mark.parametrize(
    ("method", "path", "twice"),
    [
        ("GET", "/v1/files", True),
        ("HEAD", "/", True),
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/completions", True),
        ("POST", "/v1/responses", True),
        ("POST", "/v1/vector_stores/vs_1/search", True),
        ("POST", "/v1/files", False),
        ("POST", "/v1/vector_stores", False),
        ("POST", "/v1/vector_stores/vs_1/files", False),
        ("POST", "/v1/responses/resp_1/cancel", False),
        ("POST", "/v1/chat/completions/more", False),
        ("DELETE", "/v1/files/file-1", False),
        ("PUT", "/v1/chat/completions", False),
    ],
)
async def test_only_what_changes_nothing_is_sent_twice(method: str, path: str, twice: bool) -> None:
    assert (await forwarded(path, method=method)).repeatable is twice


async def heard(app: Any, request: Forwarded) -> list[list[Message]]:
    return [messages async for messages in replies(app, request)]


def start() -> Message:
    return {"type": "http.response.start", "status": 200, "headers": []}


def body(text: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": text, "more_body": more}


async def test_an_application_gets_the_request_and_its_messages_come_back() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        asked = await receive()
        await send(start())
        await send(body(asked["body"], more=True))
        await asyncio.sleep(0.01)
        await send(body(scope["path"].encode()))

    told = await heard(echo, await forwarded("/x", b"asked"))
    assert [len(some) for some in told] == [2, 1]  # what is there together comes together
    assert [one["body"] for some in told for one in some if "body" in one] == [b"asked", b"/x"]


async def test_an_error_is_raised_unless_it_was_answered() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("before")

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"the server failed"))
        raise ValueError("as Starlette does, for the log")

    request = await forwarded("/x")
    with pytest.raises(ValueError, match="before"):
        await heard(broken, request)
    assert len(await heard(answered, request)) == 1


@pytest.mark.parametrize("listens", [True, False])
async def test_an_application_is_told_that_its_client_has_gone(listens: bool) -> None:
    ended: list[str] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
            await send(start())
            if listens:
                ended.append((await receive())["type"])
            else:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def ask() -> None:
        async for _ in replies(endless, await forwarded("/x")):
            begun.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forwarding, "END_S", 0.05)
        begun = asyncio.Event()
        work = asyncio.ensure_future(ask())
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert ended == ["http.disconnect" if listens else "cancelled"]


def test_figures_of_replicas_are_told_together() -> None:
    def told(count: int) -> str:
        return (
            "# HELP sharedllm:prompt_tokens_total Tokens.\n"
            "# TYPE sharedllm:prompt_tokens_total counter\n"
            f"sharedllm:prompt_tokens_total {count}.0\n"
            "# HELP sharedllm:wait_seconds Waiting.\n# TYPE sharedllm:wait_seconds histogram\n"
            f'sharedllm:wait_seconds_bucket{{le="1.0"}} {count}.0\n'
            f'sharedllm:wait_seconds_bucket{{le="+Inf"}} {count}.0\n'
            f"sharedllm:wait_seconds_count {count}.0\nsharedllm:wait_seconds_sum 0.5\n"
        )

    text = of_replicas({"b": told(2), "a": told(1)}).decode()
    lines = text.splitlines()
    assert lines.count("# TYPE sharedllm:prompt_tokens_total counter") == 1
    for name, count in (("a", 1), ("b", 2)):
        assert f'sharedllm:prompt_tokens_total{{replica="{name}"}} {count}.0' in lines
        assert f'sharedllm:wait_seconds_bucket{{le="1.0",replica="{name}"}} {count}.0' in lines
    assert lines.count("# TYPE sharedllm:wait_seconds histogram") == 1
