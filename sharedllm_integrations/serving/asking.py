"""A request's body -> the engine that answers it, and the engine's request.

What is read, in this order: the vector stores that a file_search names; else the documents that the
messages bring, as files or as long text; else the tenant's own memory, if it holds anything.
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sharedllm_integrations.engine import Engine
from sharedllm_integrations.long_text import LONG_TEXT
from sharedllm_integrations.requests import (
    CalledTool,
    GivenText,
    Message,
    Request,
    Role,
    ToolOutput,
    refused_block,
    role_of,
)
from sharedllm_integrations.serving.catalog import MAIN, SUFFIX
from sharedllm_integrations.serving.faults import ServingError
from sharedllm_integrations.serving.tenants import Tenant, read_named
from sharedllm_integrations.serving.wire import ChatBody, ChatMessage, CompletionBody, filter_of
from sharedllm_integrations.settings import AnswerFields, Reads

if TYPE_CHECKING:
    from sharedllm import SharedLLM, TreeMemory

Asked = tuple[Engine, Request]
HINT = "Give a whole document as {'type': 'file', 'file': {'file_id'}} or {'file': {'file_data'}}"
HISTORY = "<chat_history>"
TEXTS = ("text", "input_text", "output_text", "refusal")


class ServedFields(AnswerFields):
    """The fields of an adapter for one question of one tenant."""

    def request(self, messages: Sequence[Message], given: Mapping[str, Any]) -> Request:
        """The engine's request; `given` are options of this question."""
        return self._request(messages, given)


class ServedEngine(Engine):
    """The engine of one question.

    Parameters
    ----------
    named : the client names what is read, so that nothing else may take its place
    """

    def __init__(
        self, fields: ServedFields, *, also: Sequence[TreeMemory] = (), named: bool
    ) -> None:
        super().__init__(fields, also=also)
        self._named = named

    def _require_documents(self) -> None:
        """Require none: what is empty was looked at before, or has been emptied since."""

    def _refuse_to_read_nothing(self, filter: Mapping[str, Any] | None) -> None:
        if self._named:
            raise ServingError(
                "the documents of the vector stores were deleted while the question waited",
                status=409,
                code="conflict",
                param="tools",
            )


def chat(body: ChatBody, tenant: Tenant, llm: SharedLLM, *, most: int, timeout: float) -> Asked:
    """The engine and the request of a chat completion.

    Raises
    ------
    ServingError
        If it names a file or vector store that is not there.
    ContentError, SetupError, DocumentError
    """
    if body.tool_choice not in (None, "none", "auto") and not body.functions:
        raise ServingError("tool_choice needs tools; give the functions", param="tool_choice")
    messages = list(_messages(body.messages, tenant))
    search = body.search
    given = body.options(most) | {
        "tools": body.functions,
        "tool_choice": body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": body.response_format,
    }
    if search is None:
        stores = _stores_for(messages, tenant)
    else:
        where = filter_of(search.filters)
        stores = _holding(tenant, search.stores, where)
        given |= {"filter": where, **search.options(body.scope)}
    named = search is not None
    return _asked(tenant, llm, stores, timeout, messages, given, named=named)


def completion(
    body: CompletionBody, prompt: str, tenant: Tenant, llm: SharedLLM, *, most: int, timeout: float
) -> Asked:
    """The engine and the request of one prompt of a completion."""
    messages = [Message(role="user", parts=(prompt,))]
    stores = _stores_for(messages, tenant)
    return _asked(tenant, llm, stores, timeout, messages, body.options(most))


def _asked(
    tenant: Tenant,
    llm: SharedLLM,
    stores: Sequence[str],
    timeout: float,
    messages: Sequence[Message],
    given: Mapping[str, Any],
    *,
    named: bool = False,
) -> Asked:
    memories = [tenant.memory(store) for store in stores]
    tenant.catalog.note_active(stores)
    reads: Reads = "memory" if memories else "prompt"
    first = memories[0] if memories else None
    fields = ServedFields(llm=llm, memory=first, tenant=tenant.name, reads=reads, timeout=timeout)
    engine = ServedEngine(fields, also=memories[1:], named=named)
    return engine, fields.request(messages, given)


def _stores_for(messages: Sequence[Message], tenant: Tenant) -> list[str]:
    """The vector stores of a question that names none.

    A chat page (Open WebUI) also asks for a title, tags and further questions of a conversation,
    which it puts between these marks: that is about no document, and would read all of them.
    """
    asked = next((one for one in reversed(messages) if one.role == "user"), None)
    if asked is not None and any(HISTORY in text for text in asked.texts):
        return []
    parts = [part for one in messages if one.role == "user" for part in one.parts]
    brings = any(isinstance(part, GivenText) or len(part) >= LONG_TEXT for part in parts)
    return [] if brings or not len(tenant.memory(MAIN)) else [MAIN]


def _holding(tenant: Tenant, stores: Sequence[str], where: Mapping[str, Any] | None) -> list[str]:
    """Those of `stores` that hold a document which the filter lets through.

    Raises
    ------
    ServingError
        If one is not there, or none holds any.
    """
    memories = {store: tenant.memory(store) for store in stores}
    found = [id for id, one in memories.items() if (one.list(where) if where else len(one))]
    if not found:
        members = [one for store in stores for one in tenant.catalog.members(store)]
        waiting = sum(one.status == "in_progress" for one in members)
        todo = f"{waiting} files are still being read" if waiting else "add files"
        let = " that the filters let through" if where else ""
        named = ", ".join(map(repr, stores))
        raise ServingError(
            f"no document{let} is in the vector store {named}: {todo}", param="tools"
        )
    return found


# -- messages --------------------------------------------------------------------------------------


def _messages(given: Sequence[ChatMessage], tenant: Tenant) -> Iterator[Message]:
    names: dict[str, str] = {}  # of the tools that were called, which their outputs do not repeat
    for message in given:
        role = role_of(message.role)
        parts = list(_parts(message, role, tenant))
        for call in message.tool_calls or []:
            called = _called(call)
            names[called.id] = called.name
            parts.append(called)
        if role == "tool":
            id = message.tool_call_id or ""
            parts.insert(0, ToolOutput(name=message.name or names.get(id, ""), id=id))
        yield Message(role=role, parts=tuple(parts))


def _parts(message: ChatMessage, role: Role, tenant: Tenant) -> Iterator[Any]:
    if isinstance(message.content, str):
        if message.content:
            yield message.content
        return
    for part in message.content or []:
        kind = str(part.get("type"))
        text = part.get("refusal" if kind == "refusal" else "text")
        if kind in TEXTS and isinstance(text, str):
            yield text
        elif kind == "file" and isinstance(part.get("file"), Mapping):
            yield _given_file(part["file"], tenant)
        else:
            raise refused_block(role, kind, "file", HINT)


def _called(call: Mapping[str, Any]) -> CalledTool:
    function = call.get("function")
    try:
        if not isinstance(function, Mapping):
            raise ValueError("it has no function")
        name, written = str(function["name"]), function.get("arguments") or "{}"
        arguments = json.loads(written)
        if not isinstance(arguments, dict):
            raise ValueError("its arguments are no JSON object")
    except (ValueError, KeyError, TypeError) as error:
        raise ServingError(
            f"a call of a tool in the messages cannot be read: {error}; give it as the answer had "
            "it: {'id', 'type': 'function', 'function': {'name', 'arguments'}}",
            param="messages",
        ) from error
    return CalledTool(name=name, arguments=arguments, id=str(call.get("id") or ""))


def _given_file(file: Mapping[str, Any], tenant: Tenant) -> GivenText:
    """A document in a message: an upload by its id, or the bytes themselves."""
    if isinstance(file.get("file_id"), str):
        stored = tenant.catalog.file(file["file_id"])
        found = tenant.document(stored, {})
        return GivenText(text=found.text, title=found.title, source=found.source)
    data, name = file.get("file_data"), str(file.get("filename") or "")
    if not isinstance(data, str):
        raise ServingError("a file in a message has no file_id and no file_data", param="messages")
    with tempfile.TemporaryDirectory(prefix="sharedllm-") as folder:
        found_suffix = SUFFIX.search(name.lower())
        path = Path(folder) / f"document{found_suffix[0] if found_suffix else ''}"
        path.write_bytes(_bytes(data))
        given = read_named(path, name)
    stated = "" if given.title == "document" else given.title
    return GivenText(text=given.text, title=stated or Path(name).stem, source=name)


def _bytes(data: str) -> bytes:
    """The bytes of a data URL, or of base64 alone."""
    head, comma, body = data.partition(",")
    try:
        if head.startswith("data:") and comma and not head.endswith(";base64"):
            return unquote(body).encode()
        return base64.b64decode(body if head.startswith("data:") else data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ServingError(
            f"file_data cannot be read: {error}; give a data URL with base64", param="messages"
        ) from error
