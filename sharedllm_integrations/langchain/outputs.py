"""What the model wrote -> LangChain's messages, whole and in chunks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from sharedllm_integrations import toolcalls
from sharedllm_integrations.details import PROVIDER, details
from sharedllm_integrations.engine import Run, usage


class Held:
    """Holds back what may be a tool call, which is shown as one at the end.

    Attributes
    ----------
    text : str
        What is held.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled, self._decided, self.text = enabled, not enabled, ""

    def feed(self, piece: str) -> str:
        """What of `piece` is text beside calls; a call can only stand first."""
        if self._decided:
            return piece
        self.text += piece
        start = self.text.lstrip()
        if not start or toolcalls.OPEN.startswith(start) or start.startswith(toolcalls.OPEN):
            return ""
        shown, self.text, self._decided = self.text, "", True
        return shown


def result(run: Run, model_name: str, *, with_tools: bool) -> ChatResult:
    """A whole answer."""
    text, calls = toolcalls.parsed(run.text) if with_tools else (run.text, [])
    good = [call for call in calls if call.arguments is not None]
    message = AIMessage(
        content=text.strip(),
        tool_calls=[
            tool_call(name=call.name, args=call.arguments or {}, id=_call_id()) for call in good
        ],
        invalid_tool_calls=[
            invalid_tool_call(
                name=call.name or None, args=call.raw, id=_call_id(), error="no JSON object"
            )
            for call in calls
            if call.arguments is None
        ],
        usage_metadata=_usage(run),
        response_metadata=_metadata(run, model_name),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def chunk(text: str) -> ChatGenerationChunk:
    """A piece of an answer."""
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


def last_chunks(run: Run, held: Held, model_name: str) -> Iterator[ChatGenerationChunk]:
    """What was held back, and the last chunk, which says what was used."""
    text, calls = toolcalls.parsed(held.text)
    if text.strip():
        yield chunk(text)
    for index, call in enumerate(calls):
        # what is cut short goes as a JSON text: LangChain would complete it and call it valid
        arguments = json.dumps(call.raw if call.arguments is None else call.arguments)
        piece = tool_call_chunk(name=call.name or None, args=arguments, id=_call_id(), index=index)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            usage_metadata=_usage(run),
            response_metadata=_metadata(run, model_name),
            chunk_position="last",
        )
    )


def _usage(run: Run) -> UsageMetadata:
    read, written, reused, built = usage(run)
    return UsageMetadata(
        input_tokens=read,
        output_tokens=written,
        total_tokens=read + written,
        input_token_details=InputTokenDetails(cache_read=reused, cache_creation=built),
    )


def _metadata(run: Run, model_name: str) -> dict[str, Any]:
    return {
        "model_name": model_name,
        "model_provider": PROVIDER,
        "finish_reason": run.answer.finish_reason,
        PROVIDER: details(run),
    }


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
