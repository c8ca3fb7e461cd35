"""Responses as OpenAI's API spells them: the object, its items, and the events of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sharedllm_integrations.engine import Run
from sharedllm_integrations.report import PROVIDER, Usage
from sharedllm_integrations.serving.faults import Fault
from sharedllm_integrations.serving.response_bodies import Item, ResponseBody, new_id
from sharedllm_integrations.serving.shapes import file_citations, told, valid, with_invalid
from sharedllm_integrations.tool_calling import Call

Event = dict[str, Any]
TEXT, SEARCH = "response.output_text", "response.file_search_call"
CUT = {"reason": "max_output_tokens"}


class ResponseShape:
    """The response to one body.

    Parameters
    ----------
    attributes_of : the attributes of a document by its id

    Attributes
    ----------
    id : str
    """

    def __init__(
        self, body: ResponseBody, model: str, attributes_of: Callable[[str], dict[str, Any]]
    ) -> None:
        self.id, self._body, self._model = new_id("resp"), body, model
        self._created = int(time.time())
        self._attributes_of = attributes_of

    def whole(self, run: Run) -> dict[str, Any]:
        """The response to an answer that is complete, as it is kept."""
        events = ResponseEvents(self)
        list(events.begin(run))
        list(events.end(run, *run.read))
        return events.response

    def told(self, response: dict[str, Any]) -> dict[str, Any]:
        """A response as the client wants it: with the passages of the search, or without."""
        return response if self._body.wants_results else without_results(response)

    def results(self, run: Run) -> list[dict[str, Any]]:
        """The passages that were given to the model, as results of the search, best first."""
        return [
            {
                "file_id": one.document,
                "filename": one.source,
                "score": one.score,
                "text": one.text,
                "attributes": self._attributes_of(one.document),
            }
            for one in run.citations
        ]

    def response(self, status: str, output: Sequence[Item], **more: Any) -> dict[str, Any]:
        """The response as it is now."""
        body = self._body
        ended = int(time.time()) if status in ("completed", "incomplete", "failed") else None
        form = body.text.format if body.text and body.text.format else {"type": "text"}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": ended,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._model,
            "output": list(output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": body.store is not False,
            "temperature": 0.0 if body.temperature is None else body.temperature,
            "text": {"format": form},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            **more,
        }

    @property
    def searches(self) -> bool:
        """True if the search of a vector store is an item of its own."""
        return self._body.searches


class ResponseEvents:
    """The events of one response, numbered; and the response that they make.

    Attributes
    ----------
    response : dict
        As it is kept, with the passages of the search.
    """

    def __init__(self, shape: ResponseShape) -> None:
        self._shape, self._number = shape, 0
        self._output: list[Item] = []
        self._search: Item | None = None  # until its passages are told
        self._message: Item | None = None  # until its text has ended
        self._text, self._blanks = "", ""
        self.response: dict[str, Any] = {}

    @property
    def searching(self) -> bool:
        """True while the passages are not told, for which the next event looks into memories."""
        return self._search is not None

    def begin(self, run: Run) -> Iterator[Event]:
        """The events before any text."""
        yield self._state("created")
        yield self._state("in_progress")
        if self._shape.searches:
            self._search = {
                "type": "file_search_call",
                "id": new_id("fs"),
                "queries": [run.question],
                "status": "in_progress",
                "results": None,
            }
            yield self._added(self._search)
            for step in ("in_progress", "searching"):
                yield self._of(f"{SEARCH}.{step}", self._search)

    def piece(self, run: Run, text: str) -> Iterator[Event]:
        """The events of some text; blanks around the whole are left out."""
        text = self._blanks + text if self._text else text.lstrip()
        kept = text.rstrip()
        self._blanks = text[len(kept) :]
        if not kept:
            return
        if self._message is None:
            yield from self._open(run)
        self._text += kept
        yield self._of(f"{TEXT}.delta", self._message, content_index=0, delta=kept, logprobs=[])

    def end(self, run: Run, text: str, calls: Sequence[Call]) -> Iterator[Event]:
        """The events of the rest of the text, of the calls, and of the end."""
        good = valid(calls)
        yield from self.piece(run, with_invalid(text, calls))
        if self._message is None and not good:
            yield from self._open(run)
        yield from self._found(run)
        cut = run.finish_reason == "length" and not good
        status = "incomplete" if cut else "completed"
        if self._message is not None:
            yield from self._close(self._message, run, status)
        if run.answer.reasoning:
            yield from self._reasoned(run.answer.reasoning)
        for call in good:
            yield from self._called(call)
        self.response = self._shape.response(
            status,
            self._output,
            incomplete_details=CUT if cut else None,
            usage=usage_of(run.usage),
            **{PROVIDER: told(run, calls)},
        )
        yield self._ended(status)

    def failed(self, fault: Fault) -> Event:
        """The event of an error behind the first event."""
        known = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
        code = known.get(fault.status, "server_error")
        error = {"code": code, "message": fault.body["error"]["message"]}
        self.response = self._shape.response("failed", self._output, error=error)
        return self._ended("failed")

    # -- items -----------------------------------------------------------------------------------

    def _found(self, run: Run) -> Iterator[Event]:
        """End the item of the search, whose passages are known now."""
        if self._search is None:
            return
        item, self._search = self._search, None
        item |= {"status": "completed", "results": self._shape.results(run)}
        yield self._of(f"{SEARCH}.completed", item)
        yield self._done(item)

    def _open(self, run: Run) -> Iterator[Event]:
        yield from self._found(run)
        self._message = {
            "type": "message",
            "id": new_id("msg"),
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        yield self._added(self._message)
        part = _part("", [])
        yield self._of("response.content_part.added", self._message, content_index=0, part=part)

    def _close(self, item: Item, run: Run, status: str) -> Iterator[Event]:
        cited = file_citations(run, len(self._text))
        for index, one in enumerate(cited):
            place = {"content_index": 0, "annotation_index": index}
            yield self._of(f"{TEXT}.annotation.added", item, **place, annotation=one)
        yield self._of(f"{TEXT}.done", item, content_index=0, text=self._text, logprobs=[])
        part = _part(self._text, cited)
        yield self._of("response.content_part.done", item, content_index=0, part=part)
        item |= {"status": status, "content": [part]}
        yield self._done(item)

    def _reasoned(self, text: str) -> Iterator[Event]:
        content = [{"type": "reasoning_text", "text": text}]
        item = {"type": "reasoning", "id": new_id("rs"), "summary": [], "content": content}
        yield self._added(item)
        yield self._of("response.reasoning_text.done", item, content_index=0, text=text)
        yield self._done(item)

    def _called(self, call: Call) -> Iterator[Event]:
        written = json.dumps(call.arguments, ensure_ascii=False)
        item: Item = {
            "type": "function_call",
            "id": new_id("fc"),
            "call_id": new_id("call"),
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        yield self._added(item)
        yield self._of("response.function_call_arguments.delta", item, delta=written)
        name = {"name": call.name, "arguments": written}
        yield self._of("response.function_call_arguments.done", item, **name)
        item |= {"status": "completed", "arguments": written}
        yield self._done(item)

    # -- events ----------------------------------------------------------------------------------

    def _added(self, item: Item) -> Event:
        self._output.append(item)
        return self._item("added", item)

    def _done(self, item: Item) -> Event:
        return self._item("done", item)

    def _item(self, step: str, item: Item) -> Event:
        index = self._output.index(item)
        [shown] = self._shape.told({"output": [dict(item)]})["output"]
        return self._event(f"response.output_item.{step}", output_index=index, item=shown)

    def _of(self, kind: str, item: Item | None, **more: Any) -> Event:
        """An event of an item that was added."""
        if item is None:
            raise ValueError("an event of an item needs the item")
        index = self._output.index(item)
        return self._event(kind, item_id=item["id"], output_index=index, **more)

    def _state(self, kind: str) -> Event:
        now = self._shape.response("in_progress", self._output)
        return self._event(f"response.{kind}", response=now)

    def _ended(self, status: str) -> Event:
        return self._event(f"response.{status}", response=self._shape.told(self.response))

    def _event(self, kind: str, **more: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **more}


def usage_of(used: Usage) -> dict[str, Any]:
    """The tokens of an answer; cached are those of documents whose trees were there."""
    return {
        "input_tokens": used.read,
        "input_tokens_details": {"cached_tokens": used.reused, "cache_write_tokens": used.built},
        "output_tokens": used.written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.total,
    }


def without_results(response: dict[str, Any]) -> dict[str, Any]:
    """A kept response, told to a client that does not ask for the passages of its searches."""
    output = [{**one, "results": None} if "results" in one else one for one in response["output"]]
    return {**response, "output": output}


def _part(text: str, cited: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": cited, "logprobs": []}
