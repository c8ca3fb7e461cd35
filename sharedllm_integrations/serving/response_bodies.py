"""The body of /v1/responses, and its items as messages of a chat.

One parser serves both shapes: what a response asks is put as the chat completion that asks it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from sharedllm_integrations.serving.faults import ServingError
from sharedllm_integrations.serving.wire import (
    FILE_SEARCH,
    Asking,
    Body,
    ChatBody,
    ChatMessage,
    Metadata,
    Short,
)

Item = dict[str, Any]
RESULTS = "file_search_call.results"
SKIPPED = ("file_search_call", "reasoning")  # of earlier answers, which say nothing more
ROLES = ("user", "assistant", "system", "developer")
ITEMS = ("message", "function_call", "function_call_output", *SKIPPED)
PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


class TextBody(Body):
    """The form of the text."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponseBody(Asking):
    """The body of /v1/responses.

    Attributes
    ----------
    tools : functions; and one of type "file_search", which names the vector stores that are read
    store : kept for `previous_response_id` and to be retrieved, unless it is false
    """

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: Short | None = None
    store: bool | None = None
    max_output_tokens: PositiveInt | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    include: list[Literal["file_search_call.results", "reasoning.encrypted_content"]] | None = None
    metadata: Metadata | None = None
    # one value of these is supported
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    top_logprobs: Literal[0] | None = None
    conversation: None = None
    prompt: None = None
    # these change no answer
    max_tool_calls: PositiveInt | None = None
    reasoning: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def items(self) -> list[Item]:
        """The items of the input, each with an id.

        Raises
        ------
        ServingError
            If one is of another form.
        """
        if isinstance(self.input, str):
            return [_with_id({"type": "message", "role": "user", "content": self.input})]
        return [_item(one) for one in self.input]

    @property
    def searches(self) -> bool:
        """True if a vector store is named to be read."""
        return any(one.get("type") == FILE_SEARCH for one in self.tools or [])

    @property
    def stores(self) -> list[str]:
        """The vector stores that are named to be read."""
        named = [one.get("vector_store_ids") for one in self.tools or []]
        return [id for ids in named if isinstance(ids, list) for id in ids if isinstance(id, str)]

    @property
    def wants_results(self) -> bool:
        """True if the passages that the search found are to be told with its call."""
        return RESULTS in (self.include or [])

    def as_chat(self, items: Sequence[Item]) -> ChatBody:
        """The chat completion that asks the same of the conversation `items`.

        Raises
        ------
        ServingError
            If items, tools or their choice are of another form.
        """
        messages = list(_messages(items))
        if self.instructions is not None:
            messages.insert(0, ChatMessage(role="system", content=self.instructions))
        common = {name: getattr(self, name) for name in Asking.model_fields}
        return ChatBody(
            **common,
            messages=messages,
            max_completion_tokens=self.max_output_tokens,
            tools=[_tool(one) for one in self.tools or []],
            tool_choice=self._choice,
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=self._form,
        )

    @property
    def _choice(self) -> str | dict[str, Any] | None:
        given = self.tool_choice
        if given == "required" and self.searches and len(self.tools or []) == 1:
            return "auto"  # what it names is read anyway
        if not isinstance(given, Mapping):
            return given
        if given.get("type") == "function" and isinstance(given.get("name"), str):
            return {"type": "function", "function": {"name": given["name"]}}
        if given.get("type") == FILE_SEARCH and self.searches:
            return "auto"
        raise ServingError(
            f"tool_choice is {given!r}; allowed: 'auto', 'none', 'required', {{'type': 'function', "
            "'name'}}, and {'type': 'file_search'} with that tool",
            param="tool_choice",
        )

    @property
    def _form(self) -> dict[str, Any] | None:
        given = self.text.format if self.text else None
        if given is None or given.get("type") != "json_schema":
            return given
        if not isinstance(given.get("schema"), Mapping):
            raise ServingError(
                f"text.format is {given!r}; give {{'type': 'json_schema', 'name', 'schema'}}",
                param="text.format",
            )
        inner = {name: value for name, value in given.items() if name != "type"}
        return {"type": "json_schema", "json_schema": inner}


def _tool(given: dict[str, Any]) -> dict[str, Any]:
    """A tool as chat completions spell it; what is none of them is refused where these are."""
    if given.get("type") != "function":
        return given
    return {"type": "function", "function": {k: v for k, v in given.items() if k != "type"}}


# -- items -----------------------------------------------------------------------------------------


def new_id(prefix: str) -> str:
    """A new id of an item or a response."""
    return f"{prefix}_{secrets.token_hex(24)}"


def _item(given: Item) -> Item:
    kind = given.get("type", "message")
    if kind not in ITEMS:
        hint = "; give the item itself" if kind == "item_reference" else ""
        raise _wrong(f"an item has the type {kind!r}; allowed: {', '.join(ITEMS)}{hint}")
    if kind == "message" and given.get("role") not in ROLES:
        raise _wrong(f"a message has the role {given.get('role')!r}; allowed: {', '.join(ROLES)}")
    if kind == "message" and not isinstance(given.get("content"), str | list):
        raise _wrong("a message has no content; give a text or a list of parts")
    for name in {"function_call": ("call_id", "name", "arguments")}.get(kind, ()):
        if not isinstance(given.get(name), str):
            raise _wrong(f"a function_call has no {name}; give it as the response had it")
    if kind == "function_call_output" and not (
        isinstance(given.get("call_id"), str) and isinstance(given.get("output"), str | list)
    ):
        raise _wrong("a function_call_output has no call_id or no output; give both")
    return _with_id({**given, "type": kind})


def _with_id(item: Item) -> Item:
    """`item` as it is kept and listed: with an id, its text as a part."""
    made = dict(item)
    if isinstance(made.get("content"), str):
        kind = "output_text" if made["role"] == "assistant" else "input_text"
        made["content"] = [{"type": kind, "text": made["content"]}]
    if not isinstance(made.get("id"), str):
        made["id"] = new_id(PREFIXES.get(made["type"], "item"))
    return {**made, "status": "completed"} if made["type"] == "message" else made


def _messages(items: Iterable[Item]) -> Iterator[ChatMessage]:
    """The messages of a chat; neighbouring calls are one message, as they were one answer."""
    calls: list[dict[str, Any]] = []
    for item in items:
        if item["type"] == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            calls.append({"id": item["call_id"], "type": "function", "function": function})
            continue
        if calls:
            yield ChatMessage(role="assistant", tool_calls=calls)
            calls = []
        if item["type"] == "function_call_output":
            content = _content(item["output"])
            yield ChatMessage(role="tool", tool_call_id=item["call_id"], content=content)
        elif item["type"] == "message":
            yield ChatMessage(role=item["role"], content=_content(item["content"]))
    if calls:
        yield ChatMessage(role="assistant", tool_calls=calls)


def _content(given: str | list[Any]) -> str | list[dict[str, Any]]:
    if isinstance(given, str):
        return given
    return [_part(one) for one in given]


def _part(given: Any) -> dict[str, Any]:
    """A part of a message as chat completions spell it."""
    if not isinstance(given, Mapping):
        raise _wrong(f"a part of a message is {given!r}; give {{'type': 'input_text', 'text'}}")
    if given.get("type") != "input_file":
        return dict(given)
    names = ("file_id", "file_data", "filename")
    if given.get("file_url") is not None:
        raise _wrong("an input_file has a file_url; this server fetches nothing: upload the file")
    return {"type": "file", "file": {k: given[k] for k in names if given.get(k) is not None}}


def _wrong(message: str) -> ServingError:
    return ServingError(message, param="input")
