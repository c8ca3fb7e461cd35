"""A request as a value that another process answers: what is sent there, and what comes back."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from starlette.types import ASGIApp, Message, Receive, Scope

END_S = 5.0  # seconds that an application gets to end after its client has gone
COPIED = ("method", "path", "raw_path", "query_string", "http_version", "scheme", "root_path")
IN_PATH = re.compile(r"/v1/vector_stores/([^/]+)")
IN_BODY = re.compile(rb'"(vs_[0-9a-z]{1,64})"')
ASKED = re.compile(r"/v1/(chat/completions|completions|responses|vector_stores/[^/]+/search)/?\Z")


class ClientGoneError(Exception):
    """The client went away before it had sent all of its request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """A request of HTTP with its body.

    Attributes
    ----------
    about : its line and headers, as ASGI tells them
    """

    about: dict[str, Any] = field(repr=False)  # holds the key, which no log may have
    body: bytes = field(repr=False)

    @classmethod
    async def of(cls, scope: Scope, receive: Receive) -> Self:
        """The request that `receive` gives to the end.

        Raises
        ------
        ClientGoneError
            If it does not come to its end.
        """
        pieces: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGoneError
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        about = {name: scope[name] for name in COPIED if name in scope}
        about["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        for end in ("client", "server"):
            about[end] = tuple(scope[end]) if scope.get(end) else None
        return cls(about=about, body=b"".join(pieces))

    @property
    def path(self) -> str:
        return str(self.about["path"])

    @property
    def home(self) -> str:
        """The same for all requests that a key sends about a vector store: a hash of both.

        Whoever answered the last of them has that memory open.
        """
        key = dict(self.about["headers"]).get(b"authorization", b"")
        named = IN_PATH.match(self.path)
        found = None if named else IN_BODY.search(self.body)
        store = named[1].encode() if named else found[1] if found else b"vs_main"
        return hashlib.sha256(key + b"\0" + store).hexdigest()[:32]

    @property
    def repeatable(self) -> bool:
        """True if it may be sent twice: it asks, and changes nothing that a client sees."""
        return self.about["method"] in ("GET", "HEAD") or (
            self.about["method"] == "POST" and ASKED.match(self.path) is not None
        )


async def replies(app: ASGIApp, request: Forwarded) -> AsyncGenerator[list[Message]]:
    """The messages of an application's answer, those together that are there together.

    Dropping this tells the application that the client has gone.
    """
    out: asyncio.Queue[Message | None] = asyncio.Queue()
    taken, gone = False, asyncio.Event()

    async def receive() -> Message:
        nonlocal taken
        if not taken:
            taken = True
            return {"type": "http.request", "body": request.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, **request.about}
    work = asyncio.ensure_future(app(scope, receive, out.put))
    work.add_done_callback(lambda _: out.put_nowait(None))
    whole = ended = False
    try:
        while not ended:
            messages = [await out.get()]
            while not out.empty():
                messages.append(out.get_nowait())
            ended = None in messages
            told = [message for message in messages if message is not None]
            whole = whole or any(_is_last(message) for message in told)
            if told:
                yield told
        if not whole:  # else its error has been answered, and is in the log
            await work
    finally:
        gone.set()
        await asyncio.wait({work}, timeout=END_S)
        work.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await work


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)
