"""The page at ``/``, and what it shows beyond OpenAI's API: documents, their text, their trees.

The page's own files hold nothing of a tenant's, so that they need no key; the routes for data ask
for one as all others do. Ids of documents are parameters here, because those of an index may hold
"/". Nothing is sent as markup: the page puts all of it into text nodes.
"""

from __future__ import annotations

import heapq
import mimetypes
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from pydantic import Field

from sharedllm_integrations.serving.backend import BackendOf, TenantOf
from sharedllm_integrations.serving.catalog import UPLOADED, Member
from sharedllm_integrations.serving.faults import ServingError, not_found
from sharedllm_integrations.serving.tenants import Tenant
from sharedllm_integrations.serving.wire import Body, Long, filter_of

if TYPE_CHECKING:
    from sharedllm import SharedLLM, TreeMemory

router = APIRouter()
Told = dict[str, Any]
STATIC = Path(__file__).parent / "static"
FILES = {path.name: path for path in sorted(STATIC.iterdir())}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
MOST_CHARACTERS = 100_000  # of a document's text in one answer
MOST_TREES = 12  # as notebooks and pages of an answer show
MOST_TURNS = 64
OF_FILES = ("file_bytes", "file_modified")  # by which an index knows an unchanged file


class Turn(Body):
    """A message of the conversation."""

    role: Literal["user", "assistant"]
    content: Long


class TreesBody(Body):
    """The body that asks for the trees of a question.

    Attributes
    ----------
    looks : how often the answer looked: 2 selects what its second look did
    """

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MOST_TURNS)]
    filters: dict[str, Any] | None = None
    section: Annotated[str, Field(min_length=1)] | None = None
    looks: Annotated[int, Field(ge=0, le=2)] = 1


# -- the page's own files --------------------------------------------------------------------------


@router.get("/", include_in_schema=False)
def index() -> FileResponse:
    """Give the page."""
    return _own("index.html")


@router.get("/page/static/{name}", include_in_schema=False)
def static(name: str) -> FileResponse:
    """Give a file of the page."""
    return _own(name)


def _own(name: str) -> FileResponse:
    if name not in FILES:
        raise not_found("file of the page", name)
    kind = mimetypes.guess_type(name)[0]
    return FileResponse(FILES[name], media_type=kind, headers=HEADERS)


# -- what it shows ---------------------------------------------------------------------------------


@router.get("/page/stores/{store}/documents")
def documents(store: str, tenant: TenantOf) -> Told:
    """List the documents of a vector store, by name, and the files that are still to be read."""
    memory = tenant.memory(store)
    rows = {row.file: row for row in tenant.catalog.members(store)}
    stores = [one.id for one in tenant.catalog.stores()]
    names = {file.id: file.filename for file in tenant.catalog.files()}
    held = memory.list()
    found = [
        {
            "id": one.id,
            "name": one.title or one.source or one.id,
            "source": one.source,
            "characters": one.characters,
            "tokens": one.tokens,
            "attributes": {k: v for k, v in one.metadata.items() if k not in OF_FILES},
            **_state(rows.get(one.id)),
            **_origin(tenant, stores, one.id, names.get(one.id)),
        }
        for one in held
    ]
    known = {one.id for one in held}
    waiting = [
        {
            "id": id,
            "name": names.get(id, id),
            "source": names.get(id, ""),
            "characters": 0,
            "tokens": 0,
            "attributes": row.attributes,
            **_state(row),
            **_origin(tenant, stores, id, names.get(id)),
        }
        for id, row in rows.items()
        if id not in known
    ]
    return {"object": "list", "data": [*found, *waiting]}


def _state(row: Member | None) -> Told:
    """The status of a document; what an index has read has no row."""
    if row is None:
        return {"status": "completed", "error": None}
    return {"status": row.status, "error": row.message}


def _origin(tenant: Tenant, stores: list[str], id: str, filename: str | None) -> Told:
    """The upload that a document came from, and how many vector stores hold that."""
    if filename is None or UPLOADED.match(id) is None:
        return {"uploaded": False, "pdf": False, "stores": 0}
    held = sum(tenant.catalog.member(store, id) is not None for store in stores)
    return {"uploaded": True, "pdf": filename.lower().endswith(".pdf"), "stores": held}


@router.get("/page/stores/{store}/text")
def text(
    store: str,
    document: Annotated[str, Query(max_length=1024)],
    tenant: TenantOf,
    start: Annotated[int, Query(ge=0)] = 0,
    end: Annotated[int, Query(ge=0)] = MOST_CHARACTERS,
) -> Told:
    """Give characters [start, end) of a document, with its sections and where its pages start."""
    if end - start > MOST_CHARACTERS:
        raise ServingError(
            f"{end - start:,} characters were asked for; one answer has at most "
            f"{MOST_CHARACTERS:,}",
            param="end",
        )
    memory = tenant.memory(store)
    if document not in memory:
        raise not_found("document", document)
    held = memory.get(document)
    sections = [
        {"title": one.title, "level": one.level, "start": one.start} for one in held.outline or ()
    ]
    breaks = [found.end() for found in re.finditer("\f", held.text)]
    return {
        "document": document,
        "characters": len(held.text),
        "pages": [0, *breaks] if breaks else [],
        "sections": sections,
        "start": start,
        "text": held.text[start:end],
    }


@router.post("/page/stores/{store}/trees")
def trees(store: str, body: TreesBody, backend: BackendOf, tenant: TenantOf) -> Told:
    """Search as an answer does, and give the scores of all nodes of the trees that hold passages.

    Spans are characters of the document; ``chosen`` tells the nodes that are read.
    """
    if body.messages[-1].role != "user":
        raise ServingError("the last message is not the user's", param="messages")
    memory, where = tenant.memory(store), filter_of(body.filters)
    if not (len(memory) if where is None else memory.list(where)):
        raise ServingError("no document is there to be searched", param="filters")
    return {"object": "list", "data": _drawn(backend.llm, memory, where, body)}


def _drawn(
    llm: SharedLLM, memory: TreeMemory, where: dict[str, Any] | None, body: TreesBody
) -> list[Told]:
    asked = [one.model_dump() for one in body.messages]
    within: dict[str, Any] = {} if body.section is None else {"section": body.section}
    found = memory.documents_for(body.messages[-1].content, llm, where, section=body.section)
    prepared = llm.prepare(asked, found, max_new_tokens=1, **within)
    if body.looks > 1 and prepared.again is not None:
        prepared = prepared.again()
    selected = prepared.selection
    drawn = [tree for one in selected.searched for tree in _trees(one)] if selected else []
    best = heapq.nlargest(MOST_TREES, drawn, key=_best)
    return sorted(best, key=lambda tree: (tree["document"], tree["nodes"][0]["start"]))


def _best(tree: Told) -> float:
    return max(float(node["score"]) for node in tree["nodes"])


def _trees(one: Any) -> list[Told]:
    """The trees of a searched document that hold selected nodes."""
    document, forest = one.document, one.document.forest
    fine = {node.node for node in one.nodes if node.fine}
    return [
        {
            "document": document.id,
            "name": document.title or document.source or document.id,
            "nodes": [_node(one, node, node in fine) for node in forest.nodes_of(tree)],
        }
        for tree in sorted({int(forest.tree[node]) for node in fine})
    ]


def _node(one: Any, node: int, chosen: bool) -> Told:
    document, forest = one.document, one.document.forest
    start, end = document.place(int(forest.start[node]), int(forest.end[node]))
    return {
        "start": start,
        "end": end,
        "level": int(forest.level[node]),
        "score": round(float(one.scores[node]), 4),
        "chosen": chosen,
    }
