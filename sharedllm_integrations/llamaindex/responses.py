"""What the model wrote -> LlamaIndex's responses, whole and in pieces."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CitationBlock,
    CompletionResponse,
    MessageRole,
)

from sharedllm_integrations.details import PROVIDER
from sharedllm_integrations.engine import Run, usage
from sharedllm_integrations.names import page_label

Extra = dict[str, Any]


def completion(text: str, delta: str | None, raw: Extra | None) -> CompletionResponse:
    """An answer so far; `raw` when it is whole."""
    return CompletionResponse(text=text, delta=delta, raw=raw, additional_kwargs=_extra(raw))


def chat(text: str, delta: str | None, raw: Extra | None) -> ChatResponse:
    """As :func:`completion`, as a message."""
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    return ChatResponse(message=message, delta=delta, raw=raw, additional_kwargs=_extra(raw))


def raw_of(run: Run, model: str, found: Extra) -> Extra:
    """Everything about a whole answer, as plain values; `found` is what became of its documents."""
    read, written, reused, built = usage(run)
    return {
        "model": model,
        "finish_reason": run.answer.finish_reason,
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "cache_read": reused,
            "cache_creation": built,
        },
        PROVIDER: found,
    }


def citation_blocks(response: CompletionResponse | ChatResponse) -> list[CitationBlock]:
    """The selected evidence of an answer as LlamaIndex's blocks, best first.

    They are no part of the message: a chat history would send them to the model again.
    """
    return [
        CitationBlock(
            cited_content=one["text"],
            source=one["source"],
            title=one["title"] or one["source"],
            additional_location_info=_place(one),
        )
        for one in response.additional_kwargs.get(PROVIDER, {}).get("citations", [])
    ]


def _place(citation: Extra) -> Extra:
    return {
        "char_start": citation["char_start"],
        "char_end": citation["char_end"],
        "tree_level": citation["level"],
        **page_label(citation["page"]),
    }


def _extra(raw: Extra | None) -> Extra:
    """What LlamaIndex's token counters and its users look for."""
    return {} if raw is None else {PROVIDER: raw[PROVIDER], **raw["usage"]}
