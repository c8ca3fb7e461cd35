"""A model elsewhere as a reader: any endpoint that speaks OpenAI's chat completions.

Ollama, vLLM, llama.cpp's server, LM Studio, ``transformers serve`` and the hosted ones do. Search,
passages, citations and the prompt are ours; the endpoint applies its model's chat template.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from sharedllm.arguments import shown
from sharedllm.config import (
    GenerationConfig,
    SearchConfig,
)
from sharedllm.encoding.document import Document
from sharedllm.errors import ConfigError, MissingExtraError, ReaderError, WindowError
from sharedllm.generation.assemble import AFTER_EVIDENCE, ChatPrompt, Plan, require_window
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import (
    Asked,
    Conversation,
    Literal,
    ToolCall,
    ToolResult,
    Turn,
    converse,
    folded,
    part_ids,
)
from sharedllm.generation.row_text import grow
from sharedllm.generation.tool_format import ToolFormat
from sharedllm.progress import Progress
from sharedllm.readers.address import WHY, Endpoint
from sharedllm.readers.faults import refused, told
from sharedllm.readers.reader import text_only
from sharedllm.text.tokens import Tokenizer

logger = logging.getLogger(__name__)

WINDOW = 4096  # tokens; Ollama cuts longer prompts without a word unless it is told otherwise
CONNECT_S, RETRIES = 10.0, 2
AT_ONCE = 8  # requests of a batch
TURN = 4  # tokens of a chat format around a message, about
CALLS = ToolFormat(  # how calls that the endpoint reports are written into the answer's text
    before='<tool_call>{"name": "',
    middle='", "arguments": ',
    after="}</tool_call>",
    between='}</tool_call>\n<tool_call>{"name": "',
    special={},
)


class EndpointReader:
    """A model elsewhere as a reader; see :class:`~sharedllm.readers.reader.Reader`.

    Parameters
    ----------
    endpoint : Endpoint
    tokenizer : the scout's, which estimates tokens
    """

    holds_grammar, shares, judges, load_s = False, True, False, 0.0
    tool_format = CALLS

    def __init__(self, endpoint: Endpoint, tokenizer: Tokenizer) -> None:
        self.endpoint, self.tokenizer = endpoint, tokenizer
        self.window = endpoint.window or WINDOW
        self._without = frozenset[str]()  # parameters that this endpoint has refused
        self._client  # noqa: B018  # without the package, say so now

    @cached_property
    def _client(self) -> Any:
        try:
            from openai import OpenAI, Timeout
        except ImportError as error:
            raise MissingExtraError("openai", "reader") from error
        return OpenAI(
            base_url=self.endpoint.url,
            api_key=self.endpoint.key() or "none",  # servers on one's own machine want none
            timeout=Timeout(self.endpoint.timeout_s, connect=CONNECT_S),
            max_retries=RETRIES,
        )

    @cached_property
    def name(self) -> str:
        """The model's name at the endpoint.

        Raises
        ------
        ReaderError
            If none was given, and the endpoint has several or cannot be asked.
        """
        if self.endpoint.model is not None:
            return self.endpoint.model
        try:
            with told(self.endpoint):
                names = [str(model.id) for model in self._client.models.list()]
        except ReaderError as error:
            raise ReaderError(
                f"{error}. Its models could not be listed; name one as reader_model "
                "(--reader-model)"
            ) from error
        if len(names) == 1:
            return names[0]
        raise ReaderError(
            f"{self.endpoint.url} has {len(names)} models ({', '.join(names[:10])}); name one as "
            "reader_model (--reader-model)"
        )

    @property
    def identity(self) -> tuple[object, ...]:
        """Address and model."""
        return (self.endpoint.url, self.name)

    def reach(self) -> None:
        """See that there is an endpoint, and that it takes the key."""
        from openai import APIConnectionError, APIError, AuthenticationError, PermissionDeniedError

        with told(self.endpoint):
            try:
                self._client.with_options(max_retries=0).models.list()
            except (APIConnectionError, AuthenticationError, PermissionDeniedError):
                raise
            except APIError as error:  # not every server lists its models; this one answers
                logger.info("%s lists no models: %s", self.endpoint.url, error)

    def settled(self, search: SearchConfig, generation: GenerationConfig) -> SearchConfig:
        """Refuse settings that need KV, an adapter or logits."""
        if generation.grammar:
            _schema(generation.grammar)
        name = self.endpoint.model or self.endpoint.url
        return text_only(name, WHY, search, generation)

    def converse(
        self, asked: Asked, documents: Sequence[Document], generation: GenerationConfig
    ) -> Conversation:
        """Put documents into the messages, which are left as they are."""
        return converse(asked, documents, None, refuse=not generation.grammar)

    def room(self, conversation: Conversation, new_tokens: int) -> int:
        """Return what the window leaves for evidence, as the scout's tokenizer counts."""
        new_tokens += TURN * conversation.messages + self._count_tools(conversation.tools)
        limit = "reader_window is"
        return require_window(conversation, self.tokenizer, self.window, new_tokens, limit)

    def _count_tools(self, tools: Sequence[Mapping[str, Any]]) -> int:
        return len(part_ids(json.dumps(list(tools)), self.tokenizer)) if tools else 0

    def prompt(self, plan: Plan, new_tokens: int, progress: Progress = None) -> ChatPrompt:
        """Put the selected evidence in its place, as text."""
        conversation, texts = plan.conversation, iter(plan.texts())
        turns: list[Turn] = []
        for role, parts in conversation.turns:
            own: list[Any] = []
            for part in parts:
                if isinstance(part, Document):
                    text = next(texts)
                    own += [text, AFTER_EVIDENCE] if text else []
                else:
                    own.append(part)
            turns.append((role, own))
        messages = tuple(_message(role, parts) for role, parts in turns)
        tokens = sum(
            TURN + len(part_ids(str(message["content"]), self.tokenizer)) for message in messages
        )
        tokens += self._count_tools(conversation.tools)
        if tokens + new_tokens > self.window:
            raise WindowError(
                f"the prompt needs about {tokens + new_tokens} tokens ({new_tokens} of them to be "
                f"generated), and reader_window is {self.window}: raise it if the server allows "
                "more, shorten the question, or lower budget or max_new_tokens"
            )
        return ChatPrompt(
            messages=messages,
            tools=conversation.tools,
            tool_required=conversation.tool_required,
            text_tokens=tokens,
            reads=bool(conversation.documents),
        )

    def run(
        self, prompts: Sequence[ChatPrompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        """Ask for one answer as a stream, for several at once."""
        if len(prompts) == 1:
            for piece in self._answer(prompts[0], config, rows[0]):
                yield (-1, "") if piece is None else (0, piece)
            return
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sharedllm-reader") as pool:
            asked = [
                pool.submit(lambda p, r: list(self._answer(p, config, r)), prompt, row)
                for prompt, row in zip(prompts, rows, strict=True)
            ]
            try:
                yield -1, ""
                for index, done in enumerate(asked):
                    done.result()
                    yield index, rows[index].text
            finally:
                for waiting in asked:
                    waiting.cancel()

    def _answer(
        self, prompt: ChatPrompt, config: GenerationConfig, row: Row
    ) -> Iterator[str | None]:
        """Fill `row` from one stream; yields None before the first word."""
        with told(self.endpoint):
            stream = self._opened(prompt, config)
        answer = _Incoming(row, config)
        begun = False
        with told(self.endpoint, row), stream:
            for chunk in stream:
                piece = answer.take(chunk)
                if not piece and not row.reasoning:
                    continue
                if not begun:
                    begun = True
                    yield None
                yield piece
                if answer.is_full:
                    break
        if not begun:
            yield None
        piece = answer.end(self.endpoint)
        if row.counted is None:
            written = len(part_ids(row.text + row.reasoning, self.tokenizer))
            row.counted = (prompt.text_tokens, written)
        if piece:
            yield piece

    def _opened(self, prompt: ChatPrompt, config: GenerationConfig) -> Any:
        """Open a stream; a parameter that the endpoint refuses by name is left out, if it can be.

        A system message that its model's chat template refuses goes in front of the user's.
        """
        from openai import APIStatusError

        asked = {**self._parameters(config), **_tools(prompt), "messages": list(prompt.messages)}
        while True:
            given = {k: v for k, v in asked.items() if k not in self._without}
            if "max_tokens" in self._without:
                given["max_completion_tokens"] = config.max_new_tokens
            try:
                return self._client.chat.completions.create(
                    model=self.name, stream=True, extra_body=_extra(given), **given
                )
            except APIStatusError as error:
                needed = {"temperature"} if config.temperature else set()
                name = refused(error, asked.keys() - self._without - needed)
                if name is not None:
                    logger.warning("%s refuses %s; it is left out", self.endpoint.url, name)
                    self._without |= {name}
                elif _is_system_refused(error) and asked["messages"][0]["role"] == "system":
                    asked["messages"] = _without_system(asked["messages"])
                else:
                    raise

    def _parameters(self, config: GenerationConfig) -> dict[str, Any]:
        """Return the settings of an answer as the API takes them; defaults are left out."""
        given: dict[str, Any] = {
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {
                "enable_thinking": config.thinking,
                "thinking": config.thinking,
            },
        }
        if config.top_p < 1:
            given["top_p"] = config.top_p
        if config.stop:
            given["stop"] = list(config.stop)
        if config.seed is not None:
            given["seed"] = config.seed
        if config.top_k:
            given["top_k"] = config.top_k
        if config.repetition_penalty != 1:
            given["repetition_penalty"] = config.repetition_penalty
        if config.grammar:
            form = {"name": "answer", "schema": _schema(config.grammar)}
            given["response_format"] = {"type": "json_schema", "json_schema": form}
        return given


class _Incoming:
    """An answer that comes in chunks."""

    def __init__(self, row: Row, config: GenerationConfig) -> None:
        self._row, self._config = row, config
        self._raw = self._thoughts = ""
        self._reason, self._begun = "", False
        self._calls: dict[int, dict[str, str]] = {}

    @property
    def is_full(self) -> bool:
        """True once a stop text has come."""
        return self._row.finish_reason is not None

    def take(self, chunk: Any) -> str:
        """Take a chunk; return the text that it adds for good."""
        self._begun = True
        used = getattr(chunk, "usage", None)
        if used is not None and used.prompt_tokens is not None:
            self._row.counted = (int(used.prompt_tokens), int(used.completion_tokens or 0))
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self._reason = choice.finish_reason or self._reason
        delta = choice.delta
        if delta is None:
            return ""
        content, thought = _contents(delta)
        self._thoughts += thought
        for call in delta.tool_calls or ():
            held = self._calls.setdefault(call.index or 0, {"name": "", "arguments": ""})
            held["name"] += (call.function and call.function.name) or ""
            held["arguments"] += (call.function and call.function.arguments) or ""
        self._raw += content
        return self._grown() if content or thought else ""

    def _grown(self) -> str:
        piece = grow(self._row, self._raw, self._config.stop)
        self._row.reasoning = self._thoughts + self._row.reasoning
        return piece

    def end(self, endpoint: Endpoint) -> str:
        """Say how it ended; return the last text.

        Raises
        ------
        ReaderError
            If it broke off, was withheld, or is empty.
        """
        row = self._row
        if row.finish_reason is None:
            row.finish_reason = self._finished(endpoint)
        written = [_written(call) for call in self._calls.values()]
        self._raw += "\n".join(written)
        piece = self._grown()
        if not row.text.strip() and row.finish_reason != "length":
            raise ReaderError(
                f"the model at {endpoint.url} gave an empty answer; ask again, or name another "
                "reader_model"
            )
        return piece

    def _finished(self, endpoint: Endpoint) -> str:
        if not self._reason and not self._begun:
            raise ReaderError(
                f"{endpoint.url} sent no answer; see that the address is that of an "
                "OpenAI-compatible API (it often ends in /v1), and the server's log"
            )
        if self._reason in ("", "error"):
            raise ReaderError(
                f"the answer from {endpoint.url} broke off after {len(self._raw)} characters; ask "
                "again, and see the server's log"
            )
        if self._reason == "content_filter":
            raise ReaderError(f"the answer was withheld by the content filter of {endpoint.url}")
        return "length" if self._reason in ("length", "max_tokens") else "stop"


def _contents(delta: Any) -> tuple[str, str]:
    """Return text and thoughts of a piece, as servers spell them."""
    thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
    thought = thought if isinstance(thought, str) else ""
    content: Any = delta.content or ""
    if isinstance(content, str):
        return content, thought
    text = ""
    for part in content:  # Mistral's, in blocks
        if part.get("type") == "thinking":
            thought += "".join(inner.get("text", "") for inner in part.get("thinking") or ())
        else:
            text += part.get("text") or ""
    return text, thought


def _message(role: str, parts: Sequence[Any]) -> dict[str, Any]:
    """One message, as OpenAI spells it."""
    content = "".join(
        part.text if isinstance(part, Literal) else part
        for part in parts
        if isinstance(part, str | Literal)
    )
    message: dict[str, Any] = {"role": role, "content": content}
    calls = [part for part in parts if isinstance(part, ToolCall)]
    if calls:
        message["tool_calls"] = [
            {
                "type": "function",
                "id": call.id or f"call_{index}",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(dict(call.arguments), ensure_ascii=False),
                },
            }
            for index, call in enumerate(calls)
        ]
    result = next((part for part in parts if isinstance(part, ToolResult)), None)
    if result is not None:
        return message | {"tool_call_id": result.id or "call_0"}
    return message | {"role": "user"} if role == "tool" else message


def _without_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put the system's text in front of the user's."""
    first = next(i for i, message in enumerate(messages) if message["role"] != "system")
    turns = folded([(str(m["role"]), (str(m["content"]),)) for m in messages[: first + 1]])
    return [*(_message(role, parts) for role, parts in turns), *messages[first + 1 :]]


def _is_system_refused(error: Any) -> bool:
    text = str(error.message).lower()
    return "system" in text and ("role" in text or "template" in text or "roles" in text)


def _tools(prompt: ChatPrompt) -> dict[str, Any]:
    if not prompt.tools:
        return {}
    tools = [{"type": "function", **tool} for tool in prompt.tools]
    return {"tools": tools, **({"tool_choice": "required"} if prompt.tool_required else {})}


OURS = ("chat_template_kwargs", "top_k", "repetition_penalty")  # not of OpenAI's own API


def _extra(given: dict[str, Any]) -> dict[str, Any]:
    """Take out of `given` what the package does not know, and return it."""
    return {name: given.pop(name) for name in OURS if name in given}


def _written(call: Mapping[str, str]) -> str:
    """Write a call that the endpoint reports as :data:`CALLS` spells it."""
    arguments = call["arguments"].strip() or "{}"
    name = json.dumps(call["name"], ensure_ascii=False)[1:-1]
    return f"{CALLS.before}{name}{CALLS.middle}{arguments}{CALLS.after}"


def _schema(grammar: str) -> dict[str, Any]:
    """Return the JSON schema that is all of a grammar.

    Raises
    ------
    ConfigError
        If it is another grammar: an endpoint can be held to a JSON schema only.
    """
    try:
        (only,) = json.loads(grammar)["grammars"]
        schema = dict(only["json_schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"grammar is {shown(grammar)}; {WHY}, so that only a JSON schema can be asked for: "
            '{"grammars": [{"json_schema": {...}}]}, or leave it out'
        ) from error
    return {name: value for name, value in schema.items() if name != "x-guidance"}
