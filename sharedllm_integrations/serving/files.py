"""/v1/files: uploads, which are on disk when they are acknowledged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, UploadFile
from fastapi.responses import FileResponse

from sharedllm_integrations.serving.backend import BackendOf, TenantOf
from sharedllm_integrations.serving.catalog import StoredFile
from sharedllm_integrations.serving.faults import ServingError
from sharedllm_integrations.serving.shapes import page

router = APIRouter(prefix="/v1/files")
LONGEST_NAME = 255
Order = Literal["asc", "desc"]
Limit = Annotated[int, Query(ge=1, le=10_000)]


@router.post("")
def upload(
    file: UploadFile,
    purpose: Annotated[str, Form(max_length=64)],
    backend: BackendOf,
    tenant: TenantOf,
    expires: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
) -> dict[str, Any]:
    """Keep a file; a vector store reads it when it is added there."""
    if expires is not None:
        raise ServingError(
            "expires_after is given; nothing expires here: leave it out, and delete the file",
            param="expires_after",
        )
    name = (file.filename or "file").replace("\\", "/").rpartition("/")[2][-LONGEST_NAME:]
    printable = "".join(sign if sign.isprintable() else "_" for sign in name)
    return shown(tenant.catalog.keep(file.file, printable, purpose, backend.config.max_upload))


@router.get("")
def listed(
    tenant: TenantOf,
    purpose: str | None = None,
    limit: Limit = 10_000,
    order: Order = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    """List the tenant's files."""
    found = [shown(file) for file in tenant.catalog.files(purpose)]
    return page(found, limit=limit, order=order, after=after)


@router.get("/{id}")
def described(id: str, tenant: TenantOf) -> dict[str, Any]:
    """Describe a file."""
    return shown(tenant.catalog.file(id))


@router.get("/{id}/content", response_model=None)
def content(id: str, tenant: TenantOf) -> FileResponse:
    """Give the bytes of a file, never as a page that a browser would run."""
    file = tenant.catalog.file(id)
    return FileResponse(
        tenant.catalog.path(file),
        media_type="application/octet-stream",
        filename=file.filename,
        headers={"X-Content-Type-Options": "nosniff"},
    )


@router.delete("/{id}")
def deleted(id: str, tenant: TenantOf) -> dict[str, Any]:
    """Remove a file, and its documents from all vector stores."""
    for store in tenant.catalog.forget_file(id):
        tenant.drop(store, id)
    return {"id": id, "object": "file", "deleted": True}


def shown(file: StoredFile) -> dict[str, Any]:
    """A file as OpenAI spells it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "expires_at": None,
        "status_details": None,
    }
