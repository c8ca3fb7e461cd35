"""What the adapter tells LlamaIndex's instrumentation, and the query engine around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llama_index.core import instrumentation
from llama_index.core.instrumentation.events import BaseEvent
from pydantic import Field

from sharedllm_integrations.details import details
from sharedllm_integrations.engine import Run

Calls = list[dict[str, Any]]
_calls: ContextVar[Calls | None] = ContextVar("sharedllm_calls", default=None)
dispatcher: Any = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]


class DocumentsReadEvent(BaseEvent):
    """The model has answered a prompt: what happened to the documents in it.

    Attributes
    ----------
    documents : one dict a document: how it was found, whether its tree was there, its length
    refused : marks that were taken for plain text, and why
    citations : the selected evidence, best first
    """

    documents: list[dict[str, Any]] = Field(default_factory=list)
    refused: list[dict[str, Any]] = Field(default_factory=list)
    citations: list[dict[str, Any]] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        """The event's name in traces."""
        return "DocumentsReadEvent"


@contextmanager
def collecting() -> Iterator[Calls]:
    """A list of what happened in each call of the model within; a stream adds to it at its end."""
    calls: Calls = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def around() -> Calls | None:
    """The list of whoever is collecting; to be asked when a call begins."""
    return _calls.get()


def told(run: Run, calls: Calls | None) -> dict[str, Any]:
    """What happened in `run`, after telling everybody who wants to know."""
    found = details(run)
    dispatcher.event(DocumentsReadEvent(**found))
    if calls is not None:
        calls.append(found)
    return found
