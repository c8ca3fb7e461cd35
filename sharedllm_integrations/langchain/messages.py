"""LangChain's messages -> those of a request, and answers -> LangChain's messages."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, ToolMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from sharedllm_integrations.engine import Engine, Run
from sharedllm_integrations.report import PROVIDER, Usage
from sharedllm_integrations.requests import (
    CalledTool,
    GivenText,
    Message,
    Role,
    ToolOutput,
    refused_block,
    role_of,
)

SILENT = ("reasoning", "thinking", "redacted_thinking", "tool_use", "tool_call", "tool_call_chunk")
HINT = "Give images, audio and files as text"


def request_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """The messages of a conversation.

    Raises
    ------
    ContentError
        If a message holds something other than text and documents, or has an unknown role.
    """
    return [_message(message) for message in messages]


def _message(message: BaseMessage) -> Message:
    role = role_of(message.role if isinstance(message, ChatMessage) else message.type)
    parts: list[Any] = list(_parts(message, role))
    if isinstance(message, AIMessage):
        parts += [
            CalledTool(name=call["name"], arguments=call["args"], id=call["id"] or "")
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        failed = message.status == "error"
        parts.insert(0, ToolOutput(name=message.name or "", id=message.tool_call_id, failed=failed))
    return Message(role=role, parts=tuple(parts))


def _parts(message: BaseMessage, role: Role) -> Iterator[str | GivenText]:
    if isinstance(message.content, str):
        if message.content:
            yield message.content
        return
    for block in message.content_blocks:
        kind = _kind(block)
        if block["type"] == "text":
            yield block["text"]
        elif block["type"] == "text-plain":
            yield GivenText(text=str(block.get("text", "")), title=str(block.get("title", "")))
        elif role != "assistant" or kind not in SILENT:
            raise refused_block(role, kind, "text-plain", HINT)
        # calls are written from `tool_calls`; thoughts are not read again


def _kind(block: Any) -> str:
    if block["type"] == "non_standard":
        return str(block.get("value", {}).get("type", "non_standard"))
    return str(block["type"])


# -- answers ---------------------------------------------------------------------------------------


def chat_result(run: Run, engine: Engine) -> ChatResult:
    """A whole answer."""
    text, calls = run.read
    message = AIMessage(
        content=text,
        additional_kwargs=_thoughts(run),
        tool_calls=[
            tool_call(name=call.name, args=call.arguments, id=_call_id())
            for call in calls
            if call.arguments is not None
        ],
        invalid_tool_calls=[
            invalid_tool_call(
                name=call.name or None, args=call.raw, id=_call_id(), error=call.error
            )
            for call in calls
            if call.arguments is None
        ],
        usage_metadata=_usage(run.usage),
        response_metadata=run.metadata(engine),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def text_chunk(text: str) -> ChatGenerationChunk:
    """A piece of an answer."""
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


def last_chunks(run: Run, engine: Engine, held: str) -> Iterator[ChatGenerationChunk]:
    """The calls in what was held back, and the last chunk, which says what was used."""
    text, calls = run.form.read(held, run.finish_reason) if held else ("", [])
    if text:
        yield text_chunk(text)
    for index, call in enumerate(calls):
        # what is no call goes as a JSON text: LangChain would complete it and call it valid
        arguments = json.dumps(call.raw if call.arguments is None else call.arguments)
        piece = tool_call_chunk(name=call.name or None, args=arguments, id=_call_id(), index=index)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            additional_kwargs=_thoughts(run),
            usage_metadata=_usage(run.usage),
            response_metadata=run.metadata(engine),
            chunk_position="last",
        )
    )


def _thoughts(run: Run) -> dict[str, Any]:
    """The model's thoughts where LangChain's content blocks look for them."""
    thoughts = run.answer.reasoning
    return {"reasoning_content": thoughts} if thoughts else {}


def _usage(used: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=used.read,
        output_tokens=used.written,
        total_tokens=used.total,
        input_token_details=InputTokenDetails(cache_read=used.reused, cache_creation=used.built),
    )


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


# -- selected evidence as annotations of LangChain's text blocks -----------------------------------


def selected_evidence(message: AIMessage) -> list[dict[str, Any]]:
    """The selected evidence of an answer, as LangChain's citations, best first.

    What was selected was given to the model; that the model used it is not claimed. So there is no
    place in the answer, and `extras` says where the text stands in its document.
    """
    given = message.response_metadata.get(PROVIDER, {}).get("citations", [])
    return [
        {
            "type": "citation",
            "title": one["title"] or one["source"],
            "cited_text": one["text"],
            "extras": {
                "kind": "selected evidence",
                **{key: value for key, value in one.items() if key not in ("title", "text")},
            },
        }
        for one in given
    ]


def content_blocks(message: AIMessage) -> list[Any]:
    """The standard content blocks of a message that SharedLLM wrote."""
    bare = message.model_copy(update={"response_metadata": {}})
    blocks: list[Any] = list(bare.content_blocks)
    found = selected_evidence(message)
    if not found:
        return blocks
    for block in blocks:
        if block["type"] == "text":
            block["annotations"] = found
            return blocks
    if isinstance(message, AIMessageChunk) and not message.tool_calls:
        # the last chunk has no text of its own: this joins the text before it
        return [{"type": "text", "text": "", "annotations": found}, *blocks]
    return blocks


register_translator(PROVIDER, content_blocks, content_blocks)
