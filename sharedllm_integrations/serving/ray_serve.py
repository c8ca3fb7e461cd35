"""The server as an application of Ray Serve: on several processes and machines.

Ingress takes requests and hands each to a replica of Answering, which runs the whole server without
a socket and answers; Ingestion, a single replica, runs it too and reads uploads. What they know of
each other lies on disk: all machines see the memory's folder under the same path.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

import ray
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.exceptions import NodeDiedError, RayActorError, RayTaskError, WorkerCrashedError
from ray.serve.config import RequestRouterConfig
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sharedllm import SharedLLMError
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.serving.app import create_app, load_model
from sharedllm_integrations.serving.backend import ON_CPU, ON_GPU
from sharedllm_integrations.serving.config import ServerConfig, is_loopback
from sharedllm_integrations.serving.faults import ServingError, fault_of
from sharedllm_integrations.serving.forwarding import ClientGoneError, Forwarded, replies
from sharedllm_integrations.serving.keys import KeyFile
from sharedllm_integrations.serving.limits import BodyLimit
from sharedllm_integrations.serving.metrics import TYPE, of_replicas
from sharedllm_integrations.serving.ray_routing import HomeRouter
from sharedllm_integrations.serving.ray_search import Searching, SearchingProcesses
from sharedllm_integrations.serving.running import exporting

logger = logging.getLogger(__name__)
NAME = "sharedllm"  # of the application; a second one of that name takes the first one's place
LOST = (RayActorError, WorkerCrashedError, NodeDiedError, RayServeException)
TRIES = 3
GRACE_S = 30.0  # seconds beyond the timeout of an answer, for a replica that is starting
FIGURES_S = 5.0  # seconds that replicas get to tell their figures
OTHERS = 100  # requests beside questions that a replica takes: they are short
INGRESSES = 2
MOST = 10_000
LOOK_S = 5.0
MODELS = ("model", "adapter", "reader")  # names, or paths


class RayScale(BaseModel):
    """The share of a cluster that a server takes.

    Attributes
    ----------
    replicas : processes that answer, at least
    most_replicas : as many there may be under load; None is `replicas`
    target : requests of a replica beyond which another is started, on average; None takes as many
        as a replica answers at once
    num_cpus, num_gpus : of each of them, and of the one that reads uploads; GPUs may be fractions
    searchers : processes that look words up in the parts of a memory, each in those that it owns;
        0 leaves that to those that answer
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    replicas: Annotated[int, Field(ge=1, le=MOST)] = 1
    most_replicas: Annotated[int, Field(ge=1, le=MOST)] | None = None
    target: Annotated[float, Field(gt=0)] | None = None
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    searchers: Annotated[int, Field(ge=0, le=MOST)] = 0

    @classmethod
    def of(cls, replicas: str = "1", **given: Any) -> Self:
        """The scale whose replicas are MIN or MIN-MAX.

        Raises
        ------
        SetupError
            If a value is not allowed.
        """
        least, dash, most = replicas.partition("-")
        if not least.isdecimal() or (dash and not most.isdecimal()):
            raise SetupError(f"replicas is {replicas!r}; give a number, or two as in 1-4")
        try:
            made = cls(replicas=int(least), most_replicas=int(most or least), **given)
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise SetupError(f"the scale cannot be used: {'; '.join(wrong)}") from error
        if made.most < made.replicas:
            raise SetupError(f"replicas is {replicas!r}; the second number is the larger one")
        if made.num_gpus > 1 and made.num_gpus % 1:
            raise SetupError(f"num_gpus is {made.num_gpus:g}; beyond 1 give a whole number")
        return made

    @property
    def most(self) -> int:
        return self.most_replicas or self.replicas

    @property
    def resources(self) -> dict[str, float]:
        """The resources of one process, in Ray's words."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}


# -- the deployments -------------------------------------------------------------------------------


class Server:
    """A server without a socket, which lives as long as this does."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, config: ServerConfig, searching: Sequence[Any] = ()
    ) -> None:
        self._life, self._searching = AsyncExitStack(), searching
        self._app = self._made(config)
        await self._life.enter_async_context(self._app.router.lifespan_context(self._app))

    async def __del__(self) -> None:
        await self._life.aclose()

    def _made(self, config: ServerConfig) -> FastAPI:
        provider = exporting() if config.otel else None
        if provider is not None:
            self._life.callback(provider.shutdown)
        look_up = SearchingProcesses(self._searching) if self._searching else None
        return create_app(config, tracer_provider=provider, look_up=look_up)

    async def figures(self) -> tuple[str, str]:
        """The name of this replica, and its figures."""
        name = serve.get_replica_context().replica_id.unique_id
        return name, self._app.state.backend.metrics.text().decode()


class Answering(Server):
    """Answers requests; what is to be read it leaves to Ingestion."""

    async def answer(self, request: Forwarded) -> Any:
        """The messages of the answer, several at a time."""
        async for messages in replies(self._app, request):
            yield messages


class Ingestion(Server):
    """Reads uploads into memories. There is one at a time: a memory has one writer."""


class Ingress:
    """Takes requests, and hands each to the replica of Answering that has its memory open."""

    def __init__(self, answering: Any, ingestion: Any, config: ServerConfig) -> None:
        self._answering, self._ingestion, self._config = answering, ingestion, config

    async def __call__(self, request: Request) -> Response:
        return _Relayed(BodyLimit(self._relay, self._config.max_body, self._config.max_upload))

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await Forwarded.of(scope, receive)
        except ClientGoneError:
            return
        except HTTPException as error:
            await _refuse(ServingError(error.detail, status=error.status_code), send)
            return
        if request.path == "/metrics":
            await self._tell_figures(request, scope, receive, send)
        else:
            await self._forward(request, send)

    async def _forward(self, request: Forwarded, send: Send) -> None:
        """Send the answer of a replica on; ask another one if it ends before it has begun."""
        for left in reversed(range(TRIES if request.repeatable else 1)):
            answer = _Answer(send)
            try:
                await answer.relay(self._answering, request, self._config.timeout + GRACE_S)
                return
            except LOST as error:
                logger.warning("a replica ended while it answered: %s", type(error).__name__)
                lost = ServingError(
                    "the process that answered has ended; ask again",
                    status=503,
                    code="replica_lost",
                    retry_after=1,
                )
                if answer.begun or not left:
                    await answer.fail(lost)
                    return
            except TimeoutError:
                late = f"no process took the request within {self._config.timeout + GRACE_S:g} s"
                await answer.fail(ServingError(f"{late}; ask again", status=504, code="timeout"))
                return
            except RayTaskError as error:
                await answer.fail(error)
                return

    async def _tell_figures(
        self, request: Forwarded, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Give the figures of all replicas, if one of them says that this key may see them."""
        told: list[Message] = []

        async def keep(message: Message) -> None:
            told.append(message)

        await self._forward(request, keep)
        if told[0]["status"] != 200:
            for message in told:
                await send(message)
            return
        asked = [one.broadcast("figures") for one in (self._answering, self._ingestion)]
        waiting = [one.results_async(timeout_s=FIGURES_S, return_exceptions=True) for one in asked]
        found = [figures for some in await asyncio.gather(*waiting) for figures in some]
        own = dict(one for one in found if not isinstance(one, BaseException))
        await Response(of_replicas(own), media_type=TYPE)(scope, receive, send)


class _Answer:
    """The answer to one request, as far as it has been sent on."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun, self._is_stream = send, False, False

    async def relay(self, answering: Any, request: Forwarded, timeout: float) -> None:
        """Send on what a replica answers; the first of it has to come in time."""
        messages = answering.options(stream=True, session_id=request.home).answer.remote(request)
        try:
            async with asyncio.timeout(timeout) as waiting:
                async for some in messages:
                    waiting.reschedule(None)
                    for message in some:
                        await self._pass_on(message)
        finally:
            messages.cancel()  # nothing, if it has ended

    async def fail(self, error: Exception) -> None:
        """Tell the client of an error, in the way that is left."""
        if not self.begun:
            await _refuse(error, self._send)
        elif self._is_stream:
            told = JSONResponse(fault_of(error).body).body
            last = b"data: %s\n\ndata: [DONE]\n\n" % bytes(told)
            await self._send({"type": "http.response.body", "body": last})
        else:
            raise error  # the connection is cut

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._is_stream = kind.startswith(b"text/event-stream")
        self.begun = True
        await self._send(message)


class _Relayed(Response):
    """A response that an application of ASGI gives."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def _refuse(error: Exception, send: Send) -> None:
    fault = fault_of(error)
    told = JSONResponse(fault.body, fault.status, fault.headers)
    start = {"type": "http.response.start", "status": told.status_code, "headers": told.raw_headers}
    await send(start)
    await send({"type": "http.response.body", "body": bytes(told.body)})


# -- the application -------------------------------------------------------------------------------


def application(config: ServerConfig, scale: RayScale) -> Any:
    """The application for :func:`ray.serve.run`."""
    at_once = config.at_once or (ON_GPU if scale.num_gpus else ON_CPU)
    # both lines and those who wait in them, and what is no question: the line's 429 comes first
    taken = at_once + 1 + 2 * config.max_waiting + OTHERS
    leave = {"graceful_shutdown_wait_loop_s": 0.5}
    answering = serve.deployment(
        Answering,
        name="Answering",
        ray_actor_options=scale.resources,
        max_ongoing_requests=taken,
        autoscaling_config={
            "min_replicas": scale.replicas,
            "max_replicas": scale.most,
            "target_ongoing_requests": scale.target or float(at_once),
        },
        request_router_config=RequestRouterConfig(
            request_router_class=HomeRouter, request_router_kwargs={"busy": at_once}
        ),
        graceful_shutdown_timeout_s=config.timeout + GRACE_S,
        max_constructor_retry_count=TRIES,
        **leave,
    )
    ingestion = serve.deployment(
        Ingestion,
        num_replicas=1,
        ray_actor_options=scale.resources,
        max_constructor_retry_count=TRIES,
        **leave,
    )
    ingress = serve.deployment(
        Ingress,
        num_replicas=INGRESSES,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=taken * scale.most,
        graceful_shutdown_timeout_s=config.timeout + 2 * GRACE_S,
        max_surge_percent=100,
        **leave,
    )
    # a deployment each: a part has one process that keeps it open
    searching = [
        serve.deployment(
            Searching,
            name=f"Searching-{number}",
            ray_actor_options={"num_cpus": scale.num_cpus},
            max_ongoing_requests=taken * scale.most,
            **leave,
        ).bind()
        for number in range(scale.searchers)
    ]
    reads, answers = config.model_copy(), config.model_copy(update={"ingests": False})
    return ingress.bind(answering.bind(answers, searching), ingestion.bind(reads), config)


def deploy(config: ServerConfig, scale: RayScale) -> None:
    """Serve on the cluster that this process is connected to, until the application is deleted.

    Where it is served already, it is replaced, process by process: no request is lost.

    Raises
    ------
    SetupError
        If the settings cannot be used there.
    SharedLLMError
        Of the core, if model or memory cannot be used.
    """
    if not ray.is_initialized():
        raise SetupError("this process is not connected to Ray; call ray.init(address=...) first")
    if config.port == 0:
        raise SetupError("port is 0; on Ray name the port")
    _require_room(scale)
    config = _with_whole_paths(config)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        _start(config)
        first = _deployed() is None
        ray.get(ray.remote(_prepare).options(**scale.resources).remote(config))
        try:
            serve.run(application(config, scale), name=NAME)
        except BaseException:
            if first:
                serve.delete(NAME)
            raise
    except BaseException as error:
        if not serve.status().applications:
            serve.shutdown()
        if isinstance(error, RayTaskError) and isinstance(error.cause, SharedLLMError):
            raise error.cause from None
        raise


def _start(config: ServerConfig) -> None:
    """Have Ray Serve answer at the address."""
    try:
        serve.start(
            proxy_location="HeadOnly" if is_loopback(config.host) else "EveryNode",
            http_options={"host": config.host, "port": config.port},
        )
    except (RayTaskError, RuntimeError) as error:
        why = str(error).splitlines()[-1].rstrip(".")
        raise SetupError(
            f"{config.host}:{config.port} cannot be served: {why}; give another host or port"
        ) from error
    _require_address(config)


def _require_address(config: ServerConfig) -> None:
    """Refuse an address that is not the cluster's: Ray Serve has one, and only warns of another."""
    held = _get_global_client().http_config  # nothing public tells it, as of Ray 2.60
    if (held.host, held.port) != (config.host, config.port):
        raise SetupError(
            f"Ray Serve answers at {held.host}:{held.port} on this cluster, and host:port is "
            f"{config.host}:{config.port}; give that one, or end the applications there first "
            "(serve shutdown)"
        )


def _with_whole_paths(config: ServerConfig) -> ServerConfig:
    """`config` with paths that mean the same in other processes."""
    named = {name: getattr(config, name) for name in ("memory", "keys", *MODELS)}
    there = {name: Path(one) for name, one in named.items() if one and Path(one).exists()}
    there["memory"] = config.memory
    whole = {name: path.absolute() for name, path in there.items()}
    return config.model_copy(
        update={name: str(path) if name in MODELS else path for name, path in whole.items()}
    )


def _require_room(scale: RayScale) -> None:
    """Refuse processes that no machine of the cluster could hold: Ray would wait for one."""
    held = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = [
        one
        for one in held
        if one.get("CPU", 0) >= scale.num_cpus and one.get("GPU", 0) >= scale.num_gpus
    ]
    if not fits:
        machines = ", ".join(
            f"{one.get('CPU', 0):g} CPUs and {one.get('GPU', 0):g} GPUs" for one in held
        )
        raise SetupError(
            f"a replica takes {scale.num_cpus:g} CPUs and {scale.num_gpus:g} GPUs, and no machine "
            f"of the cluster has them ({machines}); give less"
        )


def _prepare(config: ServerConfig) -> None:
    """Refuse what no replica could use, and make the memory that all of them open."""
    if config.keys is not None:
        KeyFile.read(config.keys)
    load_model(config)


# -- the command -----------------------------------------------------------------------------------


def run_until_signal(*, own_cluster: bool = False) -> None:
    """Wait for SIGINT or SIGTERM, answer those who are in line then, and take all down.

    An application that another program has put in the place of this one stays.

    Parameters
    ----------
    own_cluster : the cluster ends with this process

    Raises
    ------
    SetupError
        If another program took the application down.
    """
    since = _deployed()
    with _signalled() as ended:
        while not ended.wait(LOOK_S):
            if _deployed() is None:
                raise SetupError(f"the application {NAME!r} was deleted by another program")
        if _deployed() == since:
            serve.delete(NAME)
        if not own_cluster and not serve.status().applications:
            serve.shutdown()
    ray.shutdown()


def _deployed() -> float | None:
    """The time at which the application was deployed; None if it is not there."""
    found = serve.status().applications.get(NAME)
    return None if found is None else float(found.last_deployed_time_s)


@contextmanager
def _signalled() -> Iterator[threading.Event]:
    """An event that the first signal sets; a second one ends the program at once."""
    ended = threading.Event()

    def end(*_: Any) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
