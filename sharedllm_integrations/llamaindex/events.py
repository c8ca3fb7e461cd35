"""What the adapter tells LlamaIndex's instrumentation, and the query engine around it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
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
