"""Answers as OpenAI's API spells them, whole and in chunks.

Beside OpenAI's fields every shape has ``sharedllm``: the record of the documents, with the
citations (page, span, matching sentence, section) that the adapters tell, too.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.engine import Run
from sharedllm_integrations.report import PROVIDER, Usage
from sharedllm_integrations.serving.faults import ServingError
from sharedllm_integrations.tool_calling import Call

if TYPE_CHECKING:
    from sharedllm import Citation


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The names that all chunks of one answer share."""

    model: str
    prefix: str
    kind: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, choices: list[dict[str, Any]], *, chunk: bool = False) -> dict[str, Any]:
        """An object with these choices."""
        kind = f"{self.kind}.chunk" if chunk and self.kind == "chat.completion" else self.kind
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


class ChatShape(Shape):
    """Chat completions."""

    def __init__(self, model: str) -> None:
        super().__init__(model=model, prefix="chatcmpl", kind="chat.completion")

    def whole(self, run: Run) -> dict[str, Any]:
        """A chat completion."""
        text, calls = run.read
        good, text = [call_of(call) for call in valid(calls)], with_invalid(text, calls)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not good else None,
            "refusal": None,
            "annotations": file_citations(run, len(text)),
        }
        if run.answer.reasoning:
            message["reasoning_content"] = run.answer.reasoning
        if good:
            message["tool_calls"] = good
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": "tool_calls" if good else run.finish_reason,
        }
        return {
            **self.body([choice]),
            "usage": usage_of(run.usage),
            PROVIDER: told(run, calls),
        }

    def first(self, evidence: Sequence[Citation]) -> dict[str, Any]:
        """The chunk that opens a stream; it tells the evidence that its first words have."""
        found = [asdict(citation) for citation in evidence]
        told = {PROVIDER: {"citations": found}} if found else {}
        return {**self._chunk({"role": "assistant", "content": ""}), **told}

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk of text."""
        return self._chunk({"content": text})

    def last(self, run: Run, text: str, calls: list[Call], length: int) -> Iterator[dict[str, Any]]:
        """The chunks that end a stream: what was held back, and why it ended."""
        text, good = with_invalid(text, calls), valid(calls)
        if text:
            yield self.piece(text)
        for index, call in enumerate(good):
            yield self._chunk({"tool_calls": [{"index": index, **call_of(call)}]})
        delta = {"annotations": file_citations(run, length + len(text))}
        ended = self._chunk(delta, "tool_calls" if good else run.finish_reason)
        yield {**ended, PROVIDER: told(run, calls)}

    def usage(self, run: Run) -> dict[str, Any]:
        """The chunk of usage behind all others."""
        return {**self.body([], chunk=True), "usage": usage_of(run.usage)}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self.body([choice], chunk=True)


class TextShape(Shape):
    """Completions."""

    def __init__(self, model: str) -> None:
        super().__init__(model=model, prefix="cmpl", kind="text_completion")

    def whole(self, runs: list[Run]) -> dict[str, Any]:
        """A completion; several prompts have one choice each."""
        choices = [
            {**self._choice(i, run.text.strip(), run.finish_reason), PROVIDER: told(run)}
            for i, run in enumerate(runs)
        ]
        used = [run.usage for run in runs]
        names = ("read", "written", "reused", "built")
        summed = Usage(**{name: sum(getattr(one, name) for one in used) for name in names})
        return {**self.body(choices), "usage": usage_of(summed), PROVIDER: told(runs[0])}

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A chunk of text."""
        return self.body([self._choice(index, text, None)], chunk=True)

    def last(self, index: int, run: Run) -> dict[str, Any]:
        """The chunk that ends the answer to one prompt."""
        choice = self._choice(index, "", run.finish_reason)
        return {**self.body([choice], chunk=True), PROVIDER: told(run)}

    def usage(self, run: Run) -> dict[str, Any]:
        """The chunk of usage behind all others."""
        return {**self.body([], chunk=True), "usage": usage_of(run.usage)}

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def usage_of(used: Usage) -> dict[str, Any]:
    """The tokens of an answer; cached are those of documents whose trees were there."""
    return {
        "prompt_tokens": used.read,
        "completion_tokens": used.written,
        "total_tokens": used.total,
        "prompt_tokens_details": {"cached_tokens": used.reused},
    }


def told(run: Run, calls: Sequence[Call] = ()) -> dict[str, Any]:
    """The record of a run's documents, as the adapters tell it, and its calls that are none.

    Answers of a server have no id.
    """
    known = {name: value for name, value in run.details.items() if name != "answer_id"}
    bad = [asdict(call) for call in calls if call.arguments is None]
    return {**known, "invalid_tool_calls": bad} if bad else known


def valid(calls: Sequence[Call]) -> list[Call]:
    """The calls that a client can make."""
    return [call for call in calls if call.arguments is not None]


def with_invalid(text: str, calls: Sequence[Call]) -> str:
    """An answer's text with what the model wrote in place of calls, so that none of it is lost."""
    return "\n".join(filter(None, [text, *(c.raw for c in calls if c.arguments is None)]))


def file_citations(run: Run, index: int) -> list[dict[str, Any]]:
    """The citations as OpenAI's ``file_citation``, best first.

    What was selected was given to the model; that it used it is not claimed. So each stands at the
    end of the answer, `index`, and the other fields say where the passage stands in its document.
    """
    return [
        {
            "type": "file_citation",
            "index": index,
            "file_id": one.document,
            "filename": one.source,
            "title": one.title,
            "text": one.text,
            "page": one.page,
            "end_page": one.end_page,
            "char_start": one.char_start,
            "char_end": one.char_end,
            "match_start": one.match_start,
            "match_end": one.match_end,
            "section": one.section,
            "score": one.score,
        }
        for one in run.answer.citations
    ]


def call_of(call: Call) -> dict[str, Any]:
    """A tool call."""
    written = json.dumps(call.arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": written}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def model_card(name: str, created: int) -> dict[str, Any]:
    """A model in the list of models."""
    return {"id": name, "object": "model", "created": created, "owned_by": PROVIDER}


def page(
    found: list[dict[str, Any]],
    *,
    limit: int,
    order: str,
    after: str | None = None,
    before: str | None = None,
) -> dict[str, Any]:
    """A page of a list whose oldest object comes first, as cursors name it.

    Raises
    ------
    ServingError
        If a cursor names nothing in the list.
    """
    ordered = list(found) if order == "asc" else found[::-1]
    ids = [one["id"] for one in ordered]
    for name, cursor in (("after", after), ("before", before)):
        if cursor is not None and cursor not in ids:
            raise ServingError(
                f"{name} is {cursor!r}, which is not in the list; give the id of an object in it",
                param=name,
            )
    start = 0 if after is None else ids.index(after) + 1
    end = len(ids) if before is None else ids.index(before)
    shown = ordered[start:end]
    part = shown[:limit] if after or not before else shown[-limit:]
    return {
        "object": "list",
        "data": part,
        "first_id": part[0]["id"] if part else None,
        "last_id": part[-1]["id"] if part else None,
        "has_more": len(part) < len(shown),
    }
