"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sharedllm import SharedLLMError
from sharedllm_integrations.errors import IntegrationError

logger = logging.getLogger(__name__)
INVALID = "invalid_request_error"
INTERNAL = "the server failed; its log says why"
TOO_LONG = ("WindowError", "CapacityError")


class ServingError(IntegrationError):
    """A request that the server refuses.

    Attributes
    ----------
    status : HTTP's number
    code, param : as OpenAI names them
    retry_after : seconds, or None
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.retry_after = retry_after


def not_found(kind: str, id: str) -> ServingError:
    """The error for an object that is not there, or is another tenant's."""
    return ServingError(f"there is no {kind} {id!r}", status=404, code="not_found")


_hidden: set[str] = set()  # folders whose paths no client is told


def hide_paths(folder: Path) -> None:
    """Let errors of the core, which name memories by their paths, not tell those in `folder`."""
    _hidden.add(re.escape(str(folder.absolute())))


def _without_paths(message: str) -> str:
    for folder in _hidden:
        message = re.sub(rf"'{folder}(/[^']*)?'", "this server", message)
    return message


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as a client is told of it."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def fault_of(error: BaseException) -> Fault:
    """Return the telling of `error`; what is not the client's doing goes to the log only."""
    if isinstance(error, ServingError):
        kind = _type_of(error.status)
        again = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return _fault(error.status, str(error), kind, error.code, error.param, again)
    if isinstance(error, TimeoutError) and isinstance(error, SharedLLMError):
        return _fault(504, str(error), "timeout", "timeout")
    if isinstance(error, SharedLLMError) and isinstance(error, ValueError):
        code = "context_length_exceeded" if type(error).__name__ in TOO_LONG else None
        return _fault(400, _without_paths(str(error)), INVALID, code)
    name = type(error).__name__
    logger.error("a request failed", exc_info=error)
    if name == "TreeMemoryBusyError":
        told = "another process is writing to the memory; try again"
        return _fault(503, told, "server_error", "busy", None, {"Retry-After": "2"})
    if name == "ReaderError":
        return _fault(502, "the model that answers elsewhere failed", "server_error", "reader")
    return _fault(500, INTERNAL, "server_error", None)


def _fault(
    status: int,
    message: str,
    kind: str,
    code: str | None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Fault:
    sound = message.encode("utf-8", "replace").decode()  # it may show what is not Unicode
    told = {"message": sound, "type": kind, "param": param, "code": code}
    return Fault(status, {"error": told}, headers or {})


def _type_of(status: int) -> str:
    special = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return special.get(status, INVALID if status < 500 else "server_error")


def answer_faults(app: FastAPI) -> None:
    """Give every error of `app` OpenAI's shape."""

    def told(_: Request, error: Exception) -> JSONResponse:
        fault = fault_of(error)
        return JSONResponse(fault.body, fault.status, fault.headers)

    def invalid(_: Request, error: Exception) -> JSONResponse:
        first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
        place = [str(part) for part in first.get("loc", ())[1:]]
        message = f"{'.'.join(place) or 'the request'}: {first.get('msg', error)}"
        fault = fault_of(ServingError(message, param=".".join(place) or None))
        return JSONResponse(fault.body, fault.status)

    def http(_: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        message = str(error.detail) if isinstance(error, HTTPException) else INTERNAL
        fault = fault_of(ServingError(message, status=status))
        return JSONResponse(fault.body, fault.status, getattr(error, "headers", None))

    app.add_exception_handler(SharedLLMError, told)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, told)
