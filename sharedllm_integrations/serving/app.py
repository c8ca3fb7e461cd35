"""The application: routes, limits, and a life that loads the model once and drains at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from sharedllm import __version__, open_memory
from sharedllm_integrations.engine import Engine
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.memories import holds_memory
from sharedllm_integrations.serving.answers import router as answers
from sharedllm_integrations.serving.backend import Backend, BackendOf, OperatorOnly, TenantOf
from sharedllm_integrations.serving.config import ServerConfig
from sharedllm_integrations.serving.faults import answer_faults, not_found
from sharedllm_integrations.serving.files import router as files
from sharedllm_integrations.serving.limits import BodyLimit, OwnPages
from sharedllm_integrations.serving.metrics import TYPE, Clock, Metrics
from sharedllm_integrations.serving.page import router as page
from sharedllm_integrations.serving.responses import router as responses
from sharedllm_integrations.serving.shapes import model_card
from sharedllm_integrations.serving.shapes import page as page_of
from sharedllm_integrations.serving.tenants import LookUp
from sharedllm_integrations.serving.vector_stores import SlashedIds
from sharedllm_integrations.serving.vector_stores import router as vector_stores
from sharedllm_integrations.worker import in_thread

if TYPE_CHECKING:
    from sharedllm import SharedLLM


def load_model(config: ServerConfig) -> SharedLLM:
    """The model that `config` names, else the one that its memory was made with.

    Raises
    ------
    SetupError
        If the folder of the tenants is a memory itself, or cannot be made.
    SharedLLMError
        Of the core, if model or memory cannot be used.
    """
    fields, there = config.answering, holds_memory(config.memory)
    if config.keys is not None:
        if there:
            raise SetupError(
                f"{str(config.memory)!r} is a memory; with keys it must be the folder of the "
                "tenants: move the memory into it, under the name of its tenant"
            )
        try:
            config.memory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"memory is {str(config.memory)!r}, which cannot be a folder of tenants: "
                f"{error.strerror or error}; name another path"
            ) from error
        return Engine(fields).llm
    if not there:
        llm = Engine(fields).llm
        # made now: a path that cannot be a memory is refused before the server starts
        open_memory(config.memory.absolute(), llm=llm, create=True)
        return llm
    with open_memory(config.memory.absolute()) as memory:  # opened again later, with this model
        return Engine(fields, memory=memory).llm


def create_app(
    config: ServerConfig,
    llm: SharedLLM | None = None,
    tracer_provider: Any = None,
    look_up: LookUp | None = None,
) -> FastAPI:
    """The application for `config`.

    Parameters
    ----------
    llm : a loaded model; None loads it when the application starts
    tracer_provider : OpenTelemetry's, for a span a request; None makes none
    look_up : has words of memories of parts looked up by other processes; None looks them up here
    """
    clock: Callable[[Metrics], Clock] = Clock
    if tracer_provider is not None:
        from sharedllm_integrations.serving.tracing import TracedClock, trace_requests

        clock = partial(TracedClock, provider=tracer_provider)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        backend = await in_thread(
            lambda: Backend(config, llm or load_model(config), clock, look_up)
        )
        app.state.backend = backend
        try:
            yield
        finally:
            await in_thread(backend.close)

    app = FastAPI(title="SharedLLM", version=__version__, lifespan=life)
    app.include_router(answers)
    app.include_router(responses)
    app.include_router(files)
    app.include_router(vector_stores)
    app.include_router(page)
    _add_state(app)
    answer_faults(app)
    app.add_middleware(SlashedIds)
    app.add_middleware(BodyLimit, config.max_body, config.max_upload)
    if config.keys is None:
        app.add_middleware(OwnPages)
    if tracer_provider is not None:
        trace_requests(app, tracer_provider)
    return app


def _add_state(app: FastAPI) -> None:
    """Add what monitors and clients ask before anything else."""

    @app.get("/health")
    def health() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready(backend: BackendOf) -> JSONResponse:
        """Tell that questions are taken: the model is there, and the server does not drain."""
        now = backend.ready
        return JSONResponse({"status": "ready" if now else "draining"}, 200 if now else 503)

    @app.get("/metrics", dependencies=[OperatorOnly], response_model=None)
    def figures(backend: BackendOf) -> Response:
        """Give the figures for Prometheus."""
        return Response(backend.metrics.text(), media_type=TYPE)

    @app.get("/v1/models")
    def models(backend: BackendOf, tenant: TenantOf) -> dict[str, Any]:
        """List the one model."""
        cards = [model_card(backend.model_name, backend.started)]
        return page_of(cards, limit=1, order="asc")

    @app.get("/v1/models/{name:path}")
    def model(name: str, backend: BackendOf, tenant: TenantOf) -> dict[str, Any]:
        """Describe a model."""
        if name != backend.model_name:
            raise not_found("model", name)
        return model_card(name, backend.started)
