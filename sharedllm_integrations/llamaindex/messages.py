"""LlamaIndex's messages -> turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    DocumentBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from sharedllm_integrations.errors import ContentError
from sharedllm_integrations.turns import Given, Role, Turn

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
OBSERVATION = "Observation: "  # how LlamaIndex's ReAct agent begins the result of a tool
SILENT = (CachePoint, CitationBlock, ThinkingBlock, ToolCallBlock)


def turns_of(messages: Sequence[ChatMessage]) -> list[Turn]:
    """The turns of a conversation.

    A ReAct agent hands the results of its tools on as the user's words. They are turns of a tool
    here, so that documents are searched for what the user asked.

    Raises
    ------
    ContentError
        If a message holds something other than text and documents.
    """
    turns: list[Turn] = []
    for message in messages:
        role = ROLES[message.role.value]
        if role == "user" and _is_observation(message, turns):
            role = "tool"
        turns.append(Turn(role=role, parts=tuple(_parts(message, role))))
    return turns


def _is_observation(message: ChatMessage, before: Sequence[Turn]) -> bool:
    """Whether a user's message is the result of a tool that the assistant has called."""
    if not before or before[-1].role != "assistant":
        return False
    called = "".join(part for part in before[-1].parts if isinstance(part, str))
    asked = any(turn.role == "user" for turn in before)
    return asked and "Action:" in called and (message.content or "").startswith(OBSERVATION)


def _parts(message: ChatMessage, role: Role) -> Iterator[str | Given]:
    for block in message.blocks:
        if isinstance(block, TextBlock):
            if block.text:
                yield block.text
        elif isinstance(block, CitableBlock):
            yield _citable(block, role)
        elif role != "assistant" or not isinstance(block, SILENT):
            if isinstance(block, CachePoint):
                continue
            raise _refused(block, role)


def _citable(block: CitableBlock, role: Role) -> Given:
    texts = []
    for inner in block.content:
        if not isinstance(inner, TextBlock):
            raise _refused(inner, role)
        texts.append(inner.text)
    return Given(text="\n".join(texts), title=block.title, source=block.source)


def _refused(block: ContentBlock, role: Role) -> ContentError:
    hint = "Give images, audio and video as text"
    if isinstance(block, DocumentBlock):
        hint = "Read the file, and give its text as a CitableBlock with a title"
    return ContentError(
        f"a message of {role!r} holds a block of type {block.block_type!r}; allowed: 'text', and "
        f"'citable' for a document. {hint}"
    )
