"""/v1/responses: a question as one response of typed events, kept for the next one."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from sharedllm_integrations.serving.answers import (
    Begun,
    Ended,
    answered,
    event_stream,
    runs,
    while_wanted,
)
from sharedllm_integrations.serving.asking import Asked
from sharedllm_integrations.serving.asking import chat as asked_chat
from sharedllm_integrations.serving.backend import Backend, BackendOf, TenantOf
from sharedllm_integrations.serving.faults import ServingError, fault_of
from sharedllm_integrations.serving.files import Order
from sharedllm_integrations.serving.response_bodies import RESULTS, Item, ResponseBody
from sharedllm_integrations.serving.response_shapes import (
    ResponseEvents,
    ResponseShape,
    without_results,
)
from sharedllm_integrations.serving.shapes import page
from sharedllm_integrations.serving.tenants import Tenant
from sharedllm_integrations.serving.wire import require_length
from sharedllm_integrations.worker import in_thread

router = APIRouter(prefix="/v1/responses")
Include = Annotated[list[str] | None, Query(alias="include[]")]
Few = Annotated[int, Query(ge=1, le=100)]
Ask = Callable[[], Asked]
Keep = Callable[[dict[str, Any]], None]


@router.post("", response_model=None)
async def created(
    body: ResponseBody, http: Request, backend: BackendOf, tenant: TenantOf
) -> Response:
    """Answer about the tenant's documents, whole or as typed events."""
    backend.require_model(body.model)
    require_length("max_output_tokens", body.max_output_tokens, backend.config.max_tokens)
    items = body.items
    shape = ResponseShape(body, backend.model_name, _attributes(body, tenant))

    def ask() -> Asked:
        before = tenant.catalog.conversation(body.previous_response_id)
        chat = body.as_chat([*before, *items])
        return asked_chat(chat, tenant, backend.llm, **backend.bounds)

    def keep(response: dict[str, Any]) -> None:
        if body.store is not False:
            tenant.catalog.keep_response(response, items)

    if body.stream:
        events = _events(backend, ask, shape, keep)
        return event_stream(_sent(await while_wanted(http, anext(events)), events))
    [run] = await while_wanted(http, runs(backend, [ask]))
    whole = await in_thread(lambda: shape.whole(run))
    await in_thread(lambda: keep(whole))
    return _json(shape.told(whole))


@router.get("/{id}", response_model=None)
def retrieved(
    id: str,
    tenant: TenantOf,
    stream: bool = False,
    include: Include = None,
) -> Response:
    """Give a response that was kept."""
    found = tenant.catalog.response(id)[0]
    if stream:
        raise ServingError(
            "a response that was kept is given whole; leave stream out", param="stream"
        )
    return _json(found if RESULTS in (include or []) else without_results(found))


@router.delete("/{id}")
def deleted(id: str, tenant: TenantOf) -> dict[str, Any]:
    """Forget a response; those that follow it cannot be followed any more."""
    tenant.catalog.forget_response(id)
    return {"id": id, "object": "response", "deleted": True}


@router.post("/{id}/cancel")
def cancelled(id: str, tenant: TenantOf) -> None:
    """Refuse to cancel: what is kept has ended, as nothing runs in the background."""
    tenant.catalog.response(id)
    raise ServingError(
        f"the response {id!r} has ended; one that runs is cancelled by closing its connection"
    )


@router.get("/{id}/input_items", response_model=None)
def input_items(
    id: str,
    tenant: TenantOf,
    limit: Few = 20,
    order: Order = "desc",
    after: str | None = None,
) -> Response:
    """List the items of a response's own input; those before it are listed by its predecessors."""
    items = tenant.catalog.response(id)[1]
    return _json(page(items, limit=limit, order=order, after=after))


async def _events(
    backend: Backend, ask: Ask, shape: ResponseShape, keep: Keep
) -> AsyncGenerator[Item]:
    events = ResponseEvents(shape)
    begun = False
    try:
        async with aclosing(answered(backend, ask)) as parts:
            async for part in parts:
                if isinstance(part, Begun):
                    run, begun = part.run, True
                    made = events.begin(run)
                elif isinstance(part, Ended):
                    made = events.end(part.run, part.text, part.calls)
                else:
                    made = events.piece(run, part)
                for event in await _listed(made, apart=events.searching):
                    if event["type"] in ("response.completed", "response.incomplete"):
                        await in_thread(lambda: keep(events.response))
                    yield event
    except Exception as error:  # of any type: the status is sent, so the stream has to tell it
        if not begun:
            raise
        yield events.failed(fault_of(error))
        await in_thread(lambda: keep(events.response))


async def _listed(made: Iterator[Item], *, apart: bool) -> list[Item]:
    """The events in `made`; what looks into memories runs apart from the event loop."""
    return await in_thread(lambda: list(made)) if apart else list(made)


async def _sent(first: Item, events: AsyncGenerator[Item]) -> AsyncGenerator[str]:
    async with aclosing(events):
        yield _event(first)
        async for event in events:
            yield _event(event)


def _event(value: Item) -> str:
    return f"event: {value['type']}\ndata: {json.dumps(value)}\n\n"


def _json(value: Any) -> Response:
    """JSON of ASCII, as what a client sent may hold halves of surrogate pairs."""
    return Response(json.dumps(value), media_type="application/json")


def _attributes(body: ResponseBody, tenant: Tenant) -> Callable[[str], dict[str, Any]]:
    """Gives the attributes of a document of the vector stores that `body` names."""

    def of(id: str) -> dict[str, Any]:
        there = {store.id for store in tenant.catalog.stores()}  # one may have been deleted since
        for store in (store for store in body.stores if store in there):
            for found in tenant.memory(store).list({"id": id}):
                return dict(found.metadata)
        return {}

    return of
