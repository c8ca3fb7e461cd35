"""LangChain's messages -> turns, and the handles that tools have granted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage

from sharedllm_integrations import toolcalls
from sharedllm_integrations.errors import ContentError, SetupError
from sharedllm_integrations.handles import MARK
from sharedllm_integrations.langchain.documents import HANDLE
from sharedllm_integrations.turns import Given, Role, Turn

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SILENT = ("reasoning", "thinking", "redacted_thinking", "tool_use", "tool_call", "tool_call_chunk")


def turns_of(messages: Sequence[BaseMessage]) -> list[Turn]:
    """The turns of a conversation.

    Raises
    ------
    ContentError
        If a message holds something other than text and documents, or has an unknown role.
    """
    return [_turn(message) for message in messages]


def grants_of(messages: Sequence[BaseMessage]) -> set[str]:
    """Handles that the artifacts of tool messages grant: what a retriever tool has returned.

    Only what stands beside documents counts, never what stands in one. Artifacts of other tools
    grant nothing, whatever they are.
    """
    artifacts = [message.artifact for message in messages if isinstance(message, ToolMessage)]
    return {handle for artifact in artifacts for handle in _in_artifact(artifact)}


def _in_artifact(artifact: Any) -> Iterator[str]:
    beside = []
    if isinstance(artifact, dict):
        beside = artifact.get("handles", [])
    elif isinstance(artifact, list | tuple):
        beside = [one.metadata.get(HANDLE) for one in artifact if isinstance(one, Document)]
    for handle in beside if isinstance(beside, list | tuple) else ():
        if isinstance(handle, str):
            yield handle


def handles_in(given: Any) -> Iterator[str]:
    """The handle ids that an application grants: ids, marks, or retrieved documents.

    Raises
    ------
    SetupError
        If it is none of these.
    """
    for one in [given] if isinstance(given, str | Document) else given:
        if isinstance(one, Document):
            yield from _in_artifact([one])
        elif isinstance(one, str):
            mark = MARK.match(one)
            yield mark["id"] if mark else one
        else:
            raise SetupError(
                f"grants holds {one!r}; give handle ids, marks, or what a retriever returned"
            )


def _turn(message: BaseMessage) -> Turn:
    kind = message.role if isinstance(message, ChatMessage) else message.type
    role = ROLES.get(kind)
    if role is None:
        raise ContentError(
            f"a message has the role {kind!r}; allowed: {', '.join(sorted(set(ROLES)))}"
        )
    parts = list(_parts(message, role))
    if isinstance(message, AIMessage):
        parts += [toolcalls.written(call["name"], call["args"]) for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        failed = " failed" if message.status == "error" else ""
        parts.insert(0, f"Result of {message.name or 'the tool'}{failed}:\n")
    return Turn(role=role, parts=tuple(parts))


def _parts(message: BaseMessage, role: Role) -> Iterator[str | Given]:
    if isinstance(message.content, str):
        if message.content:
            yield message.content
        return
    for block in message.content_blocks:
        kind = block["type"]
        if block["type"] == "text":
            yield block["text"]
        elif block["type"] == "text-plain":
            yield Given(text=str(block.get("text", "")), title=str(block.get("title", "")))
        elif role == "assistant" and (kind in SILENT or _is_silent(block)):
            continue  # calls are written from `tool_calls`; thoughts are not read again
        else:
            raise ContentError(
                f"a message of {role!r} holds a block of type {_kind(block)!r}; allowed: 'text', "
                "and 'text-plain' for a document. Give images, audio and files as text"
            )


def _is_silent(block: Any) -> bool:
    return block["type"] == "non_standard" and block.get("value", {}).get("type") in SILENT


def _kind(block: Any) -> str:
    if block["type"] == "non_standard":
        return str(block.get("value", {}).get("type", "non_standard"))
    return str(block["type"])
