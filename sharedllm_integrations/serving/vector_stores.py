"""/v1/vector_stores: memories, the files that they hold or are to hold, and searches in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter
from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send

from sharedllm_integrations.documents import place_of
from sharedllm_integrations.report import PROVIDER
from sharedllm_integrations.serving.backend import BackendOf, TenantOf
from sharedllm_integrations.serving.catalog import Member, Store
from sharedllm_integrations.serving.faults import ServingError, not_found
from sharedllm_integrations.serving.files import Limit, Order
from sharedllm_integrations.serving.shapes import page
from sharedllm_integrations.serving.tenants import Ingestion, Tenant
from sharedllm_integrations.serving.wire import (
    BatchBody,
    MemberBody,
    MemberChange,
    SearchBody,
    StoreBody,
    StoreChange,
    filter_of,
)

if TYPE_CHECKING:
    from sharedllm import Hit, StoredDocument

router = APIRouter(prefix="/v1/vector_stores")
SLASH = "\x1f"  # stands for a slash within an id, which is printable
Id = Annotated[str, AfterValidator(lambda id: id.replace(SLASH, "/"))]
STATES = ("in_progress", "completed", "failed", "cancelled")
Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Held:
    """A file of a vector store: read by its memory, or a row that says what became of it.

    Attributes
    ----------
    tokens : of its text, once they are counted
    """

    id: str
    attributes: Told
    status: str
    created_at: int
    bytes: int = 0
    tokens_read: int = 0
    tokens: int | None = None
    error: Told | None = None
    batch: str | None = None


class SlashedIds:
    """Let an id hold slashes, as those of an index may: in an address they are written %2F."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path") or b""
        if scope["type"] == "http" and b"%2f" in raw.lower():
            parts = (unquote(part).replace("/", SLASH) for part in raw.decode("latin-1").split("/"))
            scope = {**scope, "path": "/".join(parts)}
        await self._app(scope, receive, send)


# -- vector stores ---------------------------------------------------------------------------------


@router.post("")
def created(body: StoreBody, backend: BackendOf, tenant: TenantOf) -> Told:
    """Make a vector store, and have files read into it."""
    for id in body.file_ids:
        tenant.catalog.file(id)  # refuses an unknown one before anything is made
    store = tenant.catalog.add_store(body.name or "", body.description or "", body.metadata or {})
    if body.file_ids:
        _want(tenant, backend.ingestion, store.id, [(id, {}) for id in body.file_ids])
    return _shown(tenant, store)


@router.get("")
def listed(
    tenant: TenantOf,
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
) -> Told:
    """List the tenant's vector stores; the first one is its own memory."""
    found = [_shown(tenant, store) for store in tenant.catalog.stores()]
    return page(found, limit=limit, order=order, after=after, before=before)


@router.get("/{store}")
def described(store: str, tenant: TenantOf) -> Told:
    """Describe a vector store."""
    return _shown(tenant, tenant.catalog.store(store))


@router.post("/{store}")
def changed(store: str, body: StoreChange, tenant: TenantOf) -> Told:
    """Give a vector store another name, description or other metadata."""
    given = body.model_dump(include={"name", "description", "metadata"})
    return _shown(tenant, tenant.catalog.change_store(store, **given))


@router.delete("/{store}")
def deleted(store: str, tenant: TenantOf) -> Told:
    """Remove a vector store; the uploads stay."""
    tenant.remove_store(store)
    return {"id": store, "object": "vector_store.deleted", "deleted": True}


@router.post("/{store}/search")
def searched(store: str, body: SearchBody, tenant: TenantOf) -> Told:
    """Find the passages that match a query best, with page, span, match and section."""
    memory = tenant.memory(store)
    tenant.catalog.note_active([store])
    where = filter_of(body.filters)
    some = len(memory) and (where is None or memory.list(where))
    hits = memory.search(body.text, body.max_num_results, where) if some else []
    return {
        "object": "vector_store.search_results.page",
        "search_query": [body.text],
        "data": [_hit(hit) for hit in hits],
        "has_more": False,
        "next_page": None,
    }


# -- their files -----------------------------------------------------------------------------------


@router.post("/{store}/files")
def file_added(store: str, body: MemberBody, backend: BackendOf, tenant: TenantOf) -> Told:
    """Have a file read into a vector store, in the background."""
    _want(tenant, backend.ingestion, store, [(body.file_id, body.attributes or {})])
    return _member(store, _held(tenant, store, body.file_id))


@router.get("/{store}/files")
def files_listed(
    store: str,
    tenant: TenantOf,
    filter: str | None = None,
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
) -> Told:
    """List the files of a vector store; those of an index made elsewhere are named by their ids."""
    tenant.catalog.store(store)
    found = _files(tenant, store, filter)
    return page(found, limit=limit, order=order, after=after, before=before)


@router.get("/{store}/files/{id}/content")
def file_content(store: str, id: Id, tenant: TenantOf) -> Told:
    """Give the text of a file, as it was read."""
    _held(tenant, store, id)
    memory = tenant.memory(store)
    if id not in memory:
        raise ServingError(f"the file {id!r} is not read yet", status=409, code="not_ready")
    part = {"type": "text", "text": memory.get(id).text}
    return {"object": "vector_store.file_content.page", "data": [part], "has_more": False}


@router.get("/{store}/files/{id}")
def file_described(store: str, id: Id, tenant: TenantOf) -> Told:
    """Describe a file of a vector store: its status, and why it failed."""
    return _member(store, _held(tenant, store, id))


@router.post("/{store}/files/{id}")
def file_changed(store: str, id: Id, body: MemberChange, tenant: TenantOf) -> Told:
    """Give a file other attributes."""
    _held(tenant, store, id)
    tenant.set_attributes(store, id, body.attributes or {})
    return _member(store, _held(tenant, store, id))


@router.delete("/{store}/files/{id}")
def file_deleted(store: str, id: Id, tenant: TenantOf) -> Told:
    """Remove a file from a vector store; the upload stays."""
    tenant.catalog.store(store)
    row = tenant.catalog.forget_member(store, id)
    if not tenant.drop(store, id) and not row:
        raise not_found("file", id)
    return {"id": id, "object": "vector_store.file.deleted", "deleted": True}


# -- batches ---------------------------------------------------------------------------------------


@router.post("/{store}/file_batches")
def batch_added(store: str, body: BatchBody, backend: BackendOf, tenant: TenantOf) -> Told:
    """Have several files read into a vector store, all or (if one is not there) none."""
    batch = _want(tenant, backend.ingestion, store, body.wanted, batch=True)
    return _batch(tenant, store, batch or "")


@router.get("/{store}/file_batches/{id}")
def batch_described(store: str, id: str, tenant: TenantOf) -> Told:
    """Describe a batch."""
    return _batch(tenant, store, id)


@router.post("/{store}/file_batches/{id}/cancel")
def batch_cancelled(store: str, id: str, tenant: TenantOf) -> Told:
    """Leave the files of a batch unread that are not read yet."""
    tenant.catalog.batch(store, id)
    for member in tenant.catalog.members(store, id):
        tenant.catalog.settle(member, "cancelled")
    return _batch(tenant, store, id)


@router.get("/{store}/file_batches/{id}/files")
def batch_files(
    store: str,
    id: str,
    tenant: TenantOf,
    filter: str | None = None,
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
    before: str | None = None,
) -> Told:
    """List the files of a batch."""
    tenant.catalog.batch(store, id)
    found = _files(tenant, store, filter, id)
    return page(found, limit=limit, order=order, after=after, before=before)


# -- what is told ----------------------------------------------------------------------------------


def _want(
    tenant: Tenant,
    ingestion: Ingestion,
    store: str,
    files: list[tuple[str, Told]],
    *,
    batch: bool = False,
) -> str | None:
    made = tenant.catalog.add_members(store, files, batch=batch)
    tenant.catalog.note_active([store])
    ingestion.tell()
    return made


def _all_held(tenant: Tenant, store: str) -> list[Held]:
    """The files of a vector store: rows first, then what its memory holds beside them."""
    made = tenant.catalog.store(store).created_at
    rows = tenant.catalog.members(store)  # before the memory: what is completed is there
    stored = {one.id: one for one in tenant.memory(store).list()}
    found = [_of_row(row, tenant, stored.get(row.file)) for row in rows]
    known = {row.file for row in rows}
    return found + [_of_index(one, made) for id, one in stored.items() if id not in known]


def _held(tenant: Tenant, store: str, id: str) -> Held:
    made = tenant.catalog.store(store).created_at
    row = tenant.catalog.member(store, id)
    stored = next(iter(tenant.memory(store).list({"id": id})), None)
    if row is not None:
        return _of_row(row, tenant, stored)
    if stored is None:
        raise not_found("file", id)
    return _of_index(stored, made)


def _of_index(stored: StoredDocument, made: int) -> Held:
    """A document that no row is for: an index made elsewhere holds it."""
    size, tokens = stored.bytes, stored.tokens
    return Held(stored.id, dict(stored.metadata), "completed", made, size, tokens, tokens)


def _of_row(row: Member, tenant: Tenant, stored: StoredDocument | None) -> Held:
    error = None if row.code is None else {"code": row.code, "message": row.message}
    made = Held(row.file, row.attributes, row.status, row.created_at, error=error, batch=row.batch)
    if row.status == "completed" and stored is not None:
        size, tokens = stored.bytes, stored.tokens
        return replace(made, bytes=size, tokens_read=tokens, tokens=tokens)
    done, tokens = tenant.catalog.progress(row.store, row.file)
    return replace(made, tokens_read=done, tokens=tokens)


def _files(tenant: Tenant, store: str, status: str | None, batch: str | None = None) -> list[Told]:
    if status is not None and status not in STATES:
        raise ServingError(f"filter is {status!r}; allowed: {', '.join(STATES)}", param="filter")
    found = _all_held(tenant, store)
    wanted = [one for one in found if status in (None, one.status) and batch in (None, one.batch)]
    return [_member(store, one) for one in wanted]


def _member(store: str, held: Held) -> Told:
    return {
        "id": held.id,
        "object": "vector_store.file",
        "created_at": held.created_at,
        "vector_store_id": store,
        "usage_bytes": held.bytes,
        "status": held.status,
        "last_error": held.error,
        "attributes": held.attributes,
        PROVIDER: {"tokens_read": held.tokens_read, "tokens": held.tokens},
    }


def _counts(held: list[Held]) -> dict[str, int]:
    counted = Counter(one.status for one in held)
    return {**{state: counted[state] for state in STATES}, "total": len(held)}


def _shown(tenant: Tenant, store: Store) -> Told:
    held = _all_held(tenant, store.id)
    counts = _counts(held)
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "description": store.description,
        "usage_bytes": sum(one.bytes for one in held),
        "file_counts": counts,
        "status": "in_progress" if counts["in_progress"] else "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": store.active_at,
        "metadata": store.metadata,
    }


def _batch(tenant: Tenant, store: str, id: str) -> Told:
    made = tenant.catalog.batch(store, id)
    counts = _counts([one for one in _all_held(tenant, store) if one.batch == id])
    ended = "cancelled" if counts["cancelled"] else "completed"
    return {
        "id": id,
        "object": "vector_store.file_batch",
        "created_at": made,
        "vector_store_id": store,
        "status": "in_progress" if counts["in_progress"] else ended,
        "file_counts": counts,
    }


def _hit(hit: Hit) -> Told:
    return {
        "file_id": hit.id,
        "filename": hit.source or hit.title,
        "score": hit.score,
        "attributes": dict(hit.metadata),
        "content": [{"type": "text", "text": hit.text}],
        **place_of(hit),
    }
