"""Selected evidence as annotations of LangChain's text blocks."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator

from sharedllm_integrations.details import PROVIDER


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
