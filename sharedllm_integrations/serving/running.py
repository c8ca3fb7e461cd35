"""The server's process: its address, and its end, which drains the line."""

from __future__ import annotations

import socket
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

from sharedllm_integrations.errors import MissingFrameworkError, SetupError
from sharedllm_integrations.serving.app import create_app
from sharedllm_integrations.serving.config import ServerConfig

if TYPE_CHECKING:
    from sharedllm import SharedLLM

DRAIN_S = 30.0  # seconds that those in line get at the end
CLOSE_S = 5  # seconds that other requests get then
# An answer waits so long for the interpreter after each pass on a GPU while the ingestion thread
# parses a file; the default is 5 ms, as long as the pass
SWITCH_S = 0.0005


def bound_socket(config: ServerConfig) -> socket.socket:
    """The socket of the server's address, bound before a model is loaded for it.

    Raises
    ------
    SetupError
        If the address cannot be had.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=kind)
    except OSError as error:
        raise SetupError(
            f"{config.host}:{config.port} cannot be served: {error.strerror or error}; give "
            "another host or port"
        ) from error


def run(config: ServerConfig, llm: SharedLLM, bound: socket.socket) -> None:
    """Serve at `bound` until SIGINT or SIGTERM, and answer those who are in line then.

    Raises
    ------
    MissingFrameworkError
        If requests are to be traced, and a package of the extra "otel" is not installed.
    """
    sys.setswitchinterval(SWITCH_S)
    if not config.otel:
        DrainingServer(create_app(config, llm)).run([bound])
        return
    provider = exporting()
    try:
        DrainingServer(create_app(config, llm, provider)).run([bound])
    finally:
        provider.shutdown()  # sends what is left


def exporting() -> Any:
    """OpenTelemetry's provider that sends spans where the environment says.

    Raises
    ------
    MissingFrameworkError
        If a package of the extra "otel" is not installed.
    """
    try:
        from sharedllm_integrations.serving.tracing import exporting as made
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("opentelemetry"):
            raise MissingFrameworkError("opentelemetry", "otel") from error
        raise
    return made()


class DrainingServer(uvicorn.Server):
    """A server that drains at the first signal, and ends at the second.

    While it drains, /ready says so, new questions are refused, and those in line are answered.
    """

    def __init__(self, app: FastAPI) -> None:
        own = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=CLOSE_S)
        super().__init__(own)
        self._app = app
        self._until: float | None = None  # when draining ends

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at a second signal end at once."""
        if self._until is not None or not self.started:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self._app.state.backend.ready = False
        self._until = time.monotonic() + DRAIN_S

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to end: also once the line is empty while it drains."""
        if self._until is not None:
            ended = self._app.state.backend.idle or time.monotonic() > self._until
            self.should_exit = self.should_exit or ended
        return await super().on_tick(counter)
