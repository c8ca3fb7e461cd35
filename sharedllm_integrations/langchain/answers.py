"""The core's answer behind a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage

from sharedllm_integrations.answers import kept
from sharedllm_integrations.details import PROVIDER

if TYPE_CHECKING:
    from sharedllm import Answer


def answer_of(message: AIMessage) -> Answer:
    """The core's answer that `message` brought: ``to_html(path)``, ``plot()``, citations.

    The last 64 of a process are kept.

    Raises
    ------
    SetupError
        If no SharedLLM wrote the message, or its answer is not kept any more.
    """
    return kept(getattr(message, "response_metadata", {}).get(PROVIDER))
