"""LlamaIndex's messages -> those of a request, and answers -> LlamaIndex's responses and events."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llama_index.core import instrumentation
from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    DocumentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms.llm import ToolSelection
from pydantic import Field

from sharedllm.arguments import shown
from sharedllm_integrations.engine import Engine, Run
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.report import PROVIDER
from sharedllm_integrations.requests import (
    CalledTool,
    GivenText,
    Message,
    Role,
    ToolOutput,
    refused_block,
    role_of,
)
from sharedllm_integrations.tool_calling import Call

OBSERVATION = "Observation: "  # how LlamaIndex's ReAct agent begins the result of a tool
SILENT = (CachePoint, CitationBlock, ThinkingBlock, ToolCallBlock)
FILE = "Read the file, and give its text as a CitableBlock with a title"
OTHER = "Give images, audio and video as text"
Extra = dict[str, Any]
Calls = list[Extra]


def request_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The messages of a conversation.

    A ReAct agent hands the results of its tools on as the user's words. They are messages of a tool
    here, so that documents are searched for what the user asked.

    Raises
    ------
    ContentError
        If a message holds something other than text and documents.
    SetupError
        If these are no messages.
    """
    given: Any = messages
    if not isinstance(given, Sequence) or not all(isinstance(one, ChatMessage) for one in given):
        raise SetupError(f"the model was given {shown(given)}; give a str or ChatMessages")
    out: list[Message] = []
    called: dict[str, str] = {}  # ids of calls -> names of tools
    for message in messages:
        role = role_of(message.role.value)
        parts: list[Any] = [*_parts(message, role), *_called(message, called)]
        if role == "user" and _is_observation(message, out):
            role = "tool"
        elif role == "tool":
            id = str(message.additional_kwargs.get("tool_call_id") or "")
            parts.insert(0, ToolOutput(name=called.get(id, ""), id=id))
        out.append(Message(role=role, parts=tuple(parts)))
    return out


def _called(message: ChatMessage, names: dict[str, str]) -> Iterator[CalledTool]:
    """The calls in an assistant's message, whose names are put into `names`."""
    for block in message.blocks:
        if isinstance(block, ToolCallBlock):
            id, given = block.tool_call_id or "", block.tool_kwargs
            names[id] = block.tool_name
            if isinstance(given, str):
                given = _arguments(given)
            yield CalledTool(name=block.tool_name, arguments=given, id=id)


def _arguments(given: str) -> dict[str, Any]:
    """The arguments of a call that came as a text."""
    try:
        found = json.loads(given)
    except ValueError:
        found = given
    return found if isinstance(found, dict) else {"input": found}


def _is_observation(message: ChatMessage, before: Sequence[Message]) -> bool:
    """Tell the result of a tool, which the assistant has called, from a user's message."""
    if not before or before[-1].role != "assistant":
        return False
    called = "".join(before[-1].texts)
    asked = any(one.role == "user" for one in before)
    return asked and "Action:" in called and (message.content or "").startswith(OBSERVATION)


def _parts(message: ChatMessage, role: Role) -> Iterator[str | GivenText]:
    for block in message.blocks:
        if isinstance(block, TextBlock):
            if block.text:
                yield block.text
        elif isinstance(block, CitableBlock):
            texts = [_text(inner, role) for inner in block.content]
            yield GivenText(text="\n".join(texts), title=block.title, source=block.source)
        elif not isinstance(block, CachePoint) and (
            role != "assistant" or not isinstance(block, SILENT)
        ):
            _text(block, role)


def _text(block: Any, role: Role) -> str:
    if isinstance(block, TextBlock):
        return block.text
    hint = FILE if isinstance(block, DocumentBlock) else OTHER
    raise refused_block(role, block.block_type, "citable", hint)


# -- answers -------------------------------------------------------------------------------------


def completion(text: str, delta: str | None, raw: Extra | None) -> CompletionResponse:
    """An answer so far; `raw` when it is whole."""
    return CompletionResponse(text=text, delta=delta, raw=raw, additional_kwargs=_extra(raw))


def chat(
    text: str, delta: str | None, raw: Extra | None, tools: Sequence[Call] = ()
) -> ChatResponse:
    """As :func:`completion`, as a message, with the model's thoughts and calls of tools."""
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    if raw is not None and raw["reasoning"]:
        message.blocks.insert(0, ThinkingBlock(content=raw["reasoning"]))
    blocks = [
        ToolCallBlock(
            tool_call_id=f"call_{uuid.uuid4().hex[:24]}",
            tool_name=call.name,
            tool_kwargs=call.arguments or {},
        )
        for call in tools
    ]
    message.blocks += blocks
    if blocks:  # where LlamaIndex's programs look for calls in a stream
        message.additional_kwargs["tool_calls"] = [block.model_dump() for block in blocks]
    return ChatResponse(message=message, delta=delta, raw=raw, additional_kwargs=_extra(raw))


def first_call(blocks: Sequence[Any]) -> list[Any]:
    """`blocks` without any call but the first."""
    calls = [block for block in blocks if isinstance(block, ToolCallBlock)]
    return [block for block in blocks if block not in calls[1:]]


def tool_calls(response: ChatResponse) -> list[ToolSelection]:
    """The calls in a response, as LlamaIndex's agents take them."""
    return [
        ToolSelection(
            tool_id=block.tool_call_id or "",
            tool_name=block.tool_name,
            tool_kwargs=block.tool_kwargs if isinstance(block.tool_kwargs, dict) else {},
        )
        for block in response.message.blocks
        if isinstance(block, ToolCallBlock)
    ]


def raw_of(run: Run, engine: Engine) -> Extra:
    """Everything about a whole answer, as plain values."""
    used = run.usage
    counts = {
        "prompt_tokens": used.read,
        "completion_tokens": used.written,
        "total_tokens": used.total,
        "cache_read": used.reused,
        "cache_creation": used.built,
    }
    return {**run.metadata(engine), "usage": counts, "reasoning": run.answer.reasoning}


def _extra(raw: Extra | None) -> Extra:
    """The fields that LlamaIndex's token counters and its users look for."""
    return {} if raw is None else {PROVIDER: raw[PROVIDER], **raw["usage"]}


# -- events: what LlamaIndex's instrumentation and the query engine around a call are told ---------

_calls: ContextVar[Calls | None] = ContextVar("sharedllm_calls", default=None)
dispatcher: Any = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]


class DocumentsReadEvent(BaseEvent):
    """The model has answered a prompt: what happened to the documents in it.

    Attributes
    ----------
    documents : one dict a document: how it was found, whether its tree was there, its length
    refused : marks that were taken for plain text, and why
    question_repeated : whether the question was repeated behind the documents
    citations : the selected evidence, best first
    answer_id : what the core's answer is found by
    """

    documents: list[dict[str, Any]] = Field(default_factory=list)
    refused: list[dict[str, Any]] = Field(default_factory=list)
    question_repeated: bool = False
    citations: list[dict[str, Any]] = Field(default_factory=list)
    answer_id: str = ""

    @classmethod
    def class_name(cls) -> str:
        """The event's name in traces."""
        return "DocumentsReadEvent"


@contextmanager
def collecting(calls: Calls | None = None) -> Iterator[Calls]:
    """A list of what happened in each call of the model within; a stream adds to it at its end.

    Parameters
    ----------
    calls : the list to go on with; None is a new one
    """
    held = [] if calls is None else calls
    token = _calls.set(held)
    try:
        yield held
    finally:
        _calls.reset(token)


def collected(tokens: Iterator[str], calls: Calls) -> Generator[str, None, None]:
    """`tokens`, with the model's calls that they lead to collected in `calls`."""
    while True:
        with collecting(calls):
            try:
                token = next(tokens)
            except StopIteration:
                return
        yield token


async def acollected(tokens: AsyncIterator[str], calls: Calls) -> AsyncGenerator[str, None]:
    """As :func:`collected`."""
    while True:
        with collecting(calls):
            try:
                token = await anext(tokens)
            except StopAsyncIteration:
                return
        yield token


def collector() -> Calls | None:
    """The list that collects calls now; to be asked for when a call begins."""
    return _calls.get()


def announce(run: Run, calls: Calls | None) -> None:
    """Tell the instrumentation what happened in `run`, and `calls`."""
    dispatcher.event(DocumentsReadEvent(**run.details))
    if calls is not None:
        calls.append(run.details)
