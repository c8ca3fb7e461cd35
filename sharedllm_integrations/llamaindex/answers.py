"""The core's answer behind a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sharedllm_integrations.answers import kept
from sharedllm_integrations.details import PROVIDER

if TYPE_CHECKING:
    from sharedllm import Answer


def answer_of(response: Any) -> Answer:
    """The core's answer behind the response of an engine or a model: ``to_html(path)``, ``plot()``.

    Of several calls of the model it is the last one's. The last 64 of a process are kept.

    Raises
    ------
    SetupError
        If no SharedLLM wrote the response, or its answer is not kept any more.
    """
    fields = getattr(response, "additional_kwargs", None) or getattr(response, "metadata", None)
    found = (fields or {}).get(PROVIDER)
    return kept(found[-1] if isinstance(found, list) and found else found)
