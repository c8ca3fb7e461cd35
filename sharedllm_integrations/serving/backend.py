"""The parts of a running server, and which of them a request gets."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from sharedllm_integrations.serving.config import ServerConfig
from sharedllm_integrations.serving.faults import ServingError, hide_paths
from sharedllm_integrations.serving.keys import KeyFile
from sharedllm_integrations.serving.limits import Line
from sharedllm_integrations.serving.metrics import Clock, Metrics
from sharedllm_integrations.serving.tenants import Ingestion, LookUp, Tenant, Tenants

if TYPE_CHECKING:
    from sharedllm import SharedLLM

logger = logging.getLogger(__name__)
ON_CPU, ON_GPU = 4, 16  # answers at once; rows cost memory, and a CPU gains little by more


class Backend:
    """The model, the tenants, the line, ingestion and figures of one server.

    Parameters
    ----------
    clock : makes the clock of a request
    look_up : as of :class:`Tenants`

    Attributes
    ----------
    ready : bool
        False before the model is there, and while the server drains.
    """

    def __init__(
        self,
        config: ServerConfig,
        llm: SharedLLM,
        clock: Callable[[Metrics], Clock] = Clock,
        look_up: LookUp | None = None,
    ) -> None:
        self.config, self.llm, self._clock = config, llm, clock
        self.started = int(time.time())
        self.keys = None if config.keys is None else KeyFile.read(config.keys)
        wanted = config.at_once or (ON_CPU if llm.model.device.type == "cpu" else ON_GPU)
        self.line = Line(llm.share_passes(wanted), config.max_waiting)
        self.long_line = Line(1, config.max_waiting)
        self.model_name = str(config.reader_model or llm.reader.name)
        names = None if self.keys is None else list(self.keys.tenants)
        root = config.memory.absolute()
        hide_paths(root)
        self.tenants = Tenants(root, llm, names, cleans=config.ingests, look_up=look_up)
        self.ingestion = Ingestion(llm, self.tenants, self._note_file)
        self.metrics = Metrics((self.line, self.long_line), self.ingestion)
        self.ready = True
        if config.ingests:
            self.ingestion.start()

    def close(self) -> None:
        """End ingestion, and let go of all files."""
        self.ready = False
        if self.ingestion.stop():
            self.tenants.close()
        else:  # its files end with the process
            logger.warning("a file is still being read; it is read again after the next start")

    @asynccontextmanager
    async def clock(self) -> AsyncIterator[Clock]:
        """The clock of one request, from now to the end of the block."""
        clock, error = self._clock(self.metrics), None
        try:
            yield clock
        except BaseException as raised:
            error = raised
            raise
        finally:
            clock.close(error)

    @property
    def idle(self) -> bool:
        """True if nobody is answered, and nobody waits."""
        return not any(line.running or line.waiting for line in (self.line, self.long_line))

    @property
    def bounds(self) -> dict[str, Any]:
        """The bounds of one answer."""
        return {"most": self.config.max_tokens, "timeout": self.config.timeout}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait in line for a turn, and keep it for the block; ingestion gives way to both.

        A reader elsewhere takes nothing from ingestion but the search, which it gives way to, too.
        """
        elsewhere = self.config.reader is not None
        if not self.ready:
            raise ServingError(
                "this server is being stopped; ask again in a moment",
                status=503,
                code="draining",
                retry_after=5,
            )
        waits = nullcontext() if elsewhere else self.llm.encoder.lock.question()
        with waits:
            async with self.line.turn(self.config.timeout):
                yield

    @asynccontextmanager
    async def long_turn(self, deadline: float) -> AsyncIterator[None]:
        """Wait for a turn to read a whole until `deadline`, and keep it for the block.

        There is one at a time, beside the line: it would keep short questions waiting for minutes.
        """
        async with self.long_line.turn(max(0.0, deadline - time.monotonic())):
            yield

    def require_model(self, name: str) -> None:
        """Refuse a model that is not served.

        Raises
        ------
        ServingError
        """
        if name != self.model_name:
            raise ServingError(
                f"the model {name!r} does not exist; this server has {self.model_name!r}",
                status=404,
                code="model_not_found",
                param="model",
            )

    def tenant_named(self, authorization: str | None) -> str:
        """The name of the tenant that a request speaks for; "" is the only one without keys.

        Raises
        ------
        ServingError
            With 401.
        """
        if self.keys is None:
            return ""
        kind, _, key = (authorization or "").partition(" ")
        name = self.keys.tenant_of(key.strip()) if kind.lower() == "bearer" else None
        if name is None:
            raise ServingError(
                "the API key is missing or wrong; send it as: Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
            )
        return name

    def _note_file(self, status: str, seconds: float, tokens: int) -> None:
        self.metrics.note_file(status, seconds, tokens)


def backend_of(http: Request) -> Backend:
    """The running server's parts."""
    found: Backend = http.app.state.backend
    return found


BackendOf = Annotated[Backend, Depends(backend_of)]


def tenant_of(http: Request, backend: BackendOf) -> Tenant:
    """The tenant that a request speaks for, opened."""
    return backend.tenants.get(backend.tenant_named(http.headers.get("authorization")))


def require_operator(http: Request, backend: BackendOf) -> None:
    """Refuse whoever may not see the figures of all tenants together."""
    name = backend.tenant_named(http.headers.get("authorization"))
    if backend.keys is not None and not backend.keys.tenants[name].operator:
        raise ServingError(
            "the figures count all tenants; this needs a key of sharedllm serve-key --operator",
            status=403,
        )


TenantOf = Annotated[Tenant, Depends(tenant_of)]
OperatorOnly = Depends(require_operator)
