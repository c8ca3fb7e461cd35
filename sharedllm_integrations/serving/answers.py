"""/v1/chat/completions and /v1/completions: one question through the line, whole or as events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from sharedllm_integrations.engine import Engine, Plan, Run
from sharedllm_integrations.serving.asking import Asked
from sharedllm_integrations.serving.asking import chat as asked_chat
from sharedllm_integrations.serving.asking import completion as asked_completion
from sharedllm_integrations.serving.backend import Backend, BackendOf, TenantOf
from sharedllm_integrations.serving.faults import ServingError, fault_of
from sharedllm_integrations.serving.shapes import ChatShape, TextShape
from sharedllm_integrations.serving.tenants import Tenant
from sharedllm_integrations.serving.wire import AnswerBody, ChatBody, CompletionBody
from sharedllm_integrations.tool_calling import Call
from sharedllm_integrations.worker import in_thread, iterated

router = APIRouter()
READING_SHARE = 0.5  # of the time that is left, of which a whole is read; then it is written
KEEP_ALIVE_S = 15.0
Chunk = dict[str, Any]
Chunks = AsyncGenerator[Chunk]
Ask = Callable[[], Asked]


@dataclass(frozen=True, slots=True)
class Begun:
    """The beginning of an answer: its documents are found, and the model reads.

    Attributes
    ----------
    whole : all of the documents, which takes a while
    """

    run: Run
    whole: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an answer: what was held back of its text, and its calls."""

    run: Run
    text: str
    calls: list[Call]


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(
    body: ChatBody, http: Request, backend: BackendOf, tenant: TenantOf
) -> Response:
    """Answer a conversation about the tenant's documents, or those that it brings."""
    backend.require_model(body.model)
    shape = ChatShape(backend.model_name)

    def ask() -> Asked:
        return asked_chat(body, tenant, backend.llm, **backend.bounds)

    if body.stream:
        return await _streamed(http, _chat_events(backend, ask, shape, body))
    [run] = await while_wanted(http, runs(backend, [ask]))
    return JSONResponse(shape.whole(run))


@router.post("/v1/completions", response_model=None)
async def completions(
    body: CompletionBody, http: Request, backend: BackendOf, tenant: TenantOf
) -> Response:
    """Answer prompts, each asked as one message of a user."""
    backend.require_model(body.model)
    shape = TextShape(backend.model_name)
    asks = [_prompt(body, prompt, tenant, backend) for prompt in body.prompts]
    if not body.stream:
        return JSONResponse(shape.whole(await while_wanted(http, runs(backend, asks))))
    if len(asks) > 1:
        raise ServingError("prompt holds several texts; a stream answers one", param="prompt")
    return await _streamed(http, _text_events(backend, asks[0], shape, body))


def _prompt(body: CompletionBody, prompt: str, tenant: Tenant, backend: Backend) -> Ask:
    return lambda: asked_completion(body, prompt, tenant, backend.llm, **backend.bounds)


async def answered(backend: Backend, ask: Ask) -> AsyncGenerator[Begun | str | Ended]:
    """The beginning of an answer, its pieces as they come, then its end.

    Dropping this ends the answer, and lets the next request run.
    """
    async with backend.clock() as clock, AsyncExitStack() as line:
        await line.enter_async_context(backend.turn())
        clock.begun()
        engine, request = await in_thread(ask)
        plan = await in_thread(lambda: engine.plan(request, since=clock.since), request.cancelled)
        whole = await in_thread(lambda: engine.reads_whole(plan))
        if whole:  # short questions go on meanwhile; readings of the whole wait for each other
            await line.aclose()
            await line.enter_async_context(backend.long_turn(plan.deadline))
            plan = _bounded(plan)
        async with aclosing(iterated(lambda: _parts(engine, plan, whole), request.cancelled)) as it:
            async for event in it:
                if isinstance(event, Begun):
                    clock.found(event.run)
                elif isinstance(event, Ended):
                    clock.ended(event.run)
                else:
                    clock.piece()
                yield event


def _parts(engine: Engine, plan: Plan, whole: bool) -> Iterator[Begun | str | Ended]:
    run = engine.begin(plan)
    yield Begun(run, whole)
    held = run.form.held_calls()
    for piece in run:
        shown = held.feed(piece)
        if shown:
            yield shown
    rest = held.text
    yield Ended(run, *(run.form.read(rest, run.finish_reason) if rest else ("", [])))


def _bounded(plan: Plan) -> Plan:
    """`plan` with a bound of its reading, so that there is time left to write what was read."""
    left = READING_SHARE * max(0.0, plan.deadline - time.monotonic())
    given = plan.options.get("max_seconds")
    bound = left if given is None else min(left, float(given))
    return replace(plan, options={**plan.options, "max_seconds": bound})


async def runs(backend: Backend, asks: list[Ask]) -> list[Run]:
    """The answers to several requests, one after the other."""
    found: list[Run] = []
    for ask in asks:
        async with aclosing(answered(backend, ask)) as events:
            found += [event.run async for event in events if isinstance(event, Ended)]
    return found


async def _chat_events(backend: Backend, ask: Ask, shape: ChatShape, body: AnswerBody) -> Chunks:
    length, begun = 0, False
    run: Run | None = None  # whose evidence is there when its words come; a whole reading's is not
    async with aclosing(answered(backend, ask)) as events:
        async for event in events:
            if isinstance(event, Begun) and not event.whole:
                run = event.run
                continue  # what the model refuses is still an error of HTTP
            if not begun:
                begun = True
                yield shape.first(run.citations if run else ())
            if isinstance(event, Ended):
                for chunk in shape.last(event.run, event.text, event.calls, length):
                    yield chunk
                if body.tells_usage:
                    yield shape.usage(event.run)
            elif isinstance(event, str):
                length += len(event)
                yield shape.piece(event)


async def _text_events(backend: Backend, ask: Ask, shape: TextShape, body: AnswerBody) -> Chunks:
    async with aclosing(answered(backend, ask)) as events:
        async for event in events:
            if isinstance(event, Ended):
                yield shape.last(0, event.run)
                if body.tells_usage:
                    yield shape.usage(event.run)
            elif isinstance(event, str):
                yield shape.piece(0, event)


# -- events and disconnects ------------------------------------------------------------------------


async def _streamed(http: Request, chunks: Chunks) -> Response:
    """A stream of events; what is refused before the first of them is an error of HTTP."""
    return event_stream(_events(await while_wanted(http, anext(chunks)), chunks))


def event_stream(events: AsyncGenerator[str]) -> Response:
    """A response of server-sent events."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    kept = kept_alive(events)
    return StreamingResponse(kept, media_type="text/event-stream", headers=headers)


async def kept_alive(events: AsyncGenerator[str]) -> AsyncIterator[str]:
    """`events`, with comments in between where none comes for long: proxies drop idle streams."""
    async with aclosing(events):
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({coming}, timeout=KEEP_ALIVE_S))[0]:
                    yield ": the model reads\n\n"
            finally:
                if not coming.done():
                    coming.cancel()
                    with suppress(asyncio.CancelledError):
                        await coming
            event = coming.result()
            if event is None:
                return
            yield event


async def _events(first: Chunk, chunks: Chunks) -> AsyncGenerator[str]:
    try:
        yield _event(first)
        async for chunk in chunks:
            yield _event(chunk)
    except Exception as error:  # of any type: the status is sent, so the stream has to tell it
        yield _event(fault_of(error).body)
    finally:
        await chunks.aclose()
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def while_wanted(http: Request, work: Any) -> Any:
    """The result of `work`, which is cancelled when the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServingError("the client has gone", status=499)
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
