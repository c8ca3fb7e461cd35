"""Limits of requests: bytes of a body, whose page may send it, and how many wait for the model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sharedllm_integrations.errors import AnswerTimeoutError
from sharedllm_integrations.serving.config import is_loopback
from sharedllm_integrations.serving.faults import ServingError, fault_of

UPLOADS = "/v1/files"
MULTIPART = 1 << 16  # bytes of a form around its file


class BodyLimit:
    """Refuse bodies that are too long, also those that do not say how long they are."""

    def __init__(self, app: ASGIApp, most: int, most_uploaded: int) -> None:
        self._app, self._most, self._uploaded = app, most, most_uploaded + MULTIPART

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._uploaded if scope["path"] == UPLOADS else self._most
        message = (
            f"the request has more than {most:,} bytes, which is the most that this server takes; "
            "send less, or upload the document as a file"
        )
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > most:
            fault = fault_of(ServingError(message, status=413, code="request_too_large"))
            await JSONResponse(fault.body, fault.status)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message_in = await receive()
            read += len(message_in.get("body", b""))
            if read > most:  # the one exception that FastAPI lets through while it reads a body
                raise HTTPException(413, message)
            return message_in

        await self._app(scope, counted, send)


class OwnPages:
    """Refuse what pages of other sites send, who would speak with their visitor's rights.

    Without keys a loopback server trusts whoever reaches it, and that includes every page in the
    user's browser: by a form, or by a name that resolves to 127.0.0.1.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or self._is_own(headers):
            await self._app(scope, receive, send)
            return
        error = ServingError(
            "this server has no keys, so it answers programs of this machine and its own page "
            "only; serve with --keys to answer other names and pages",
            status=403,
        )
        fault = fault_of(error)
        await JSONResponse(fault.body, fault.status)(scope, receive, send)

    def _is_own(self, headers: dict[bytes, bytes]) -> bool:
        host = headers.get(b"host", b"localhost").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        try:
            named = urlsplit(f"//{host}").hostname or ""
            return is_loopback(named) and origin in ("", f"http://{host}", f"https://{host}")
        except ValueError:  # no host has such a name
            return False


class Line:
    """The requests that run, and those that wait for the model.

    Attributes
    ----------
    running, waiting : int
    """

    def __init__(self, at_once: int, most_waiting: int) -> None:
        self._slots, self._at_once = asyncio.Semaphore(at_once), at_once
        self._most = most_waiting
        self.running = self.waiting = 0
        self._took = 1.0  # seconds of an answer, smoothed

    @asynccontextmanager
    async def turn(self, timeout: float) -> AsyncIterator[None]:
        """Wait for a turn, and keep it for the ``with`` block.

        Raises
        ------
        ServingError
            With 429, if too many wait already.
        AnswerTimeoutError
            If the turn does not come in time.
        """
        if self._slots.locked() and self.waiting >= self._most:
            raise ServingError(
                f"{self.waiting} requests wait for the model, which is the most; try again later",
                status=429,
                code="queue_full",
                retry_after=self.retry_after,
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError as error:
            raise AnswerTimeoutError(
                f"other requests kept the model busy for {timeout:g} s; try again later"
            ) from error
        finally:
            self.waiting -= 1
        since = time.monotonic()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._took += 0.2 * (time.monotonic() - since - self._took)
            self._slots.release()

    @property
    def retry_after(self) -> int:
        """Seconds after which half of those who wait now will have been answered."""
        return max(1, math.ceil(self._took * (self.waiting + 1) / (2 * self._at_once)))
