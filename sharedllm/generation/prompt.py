"""A question or chat messages -> the model's chat format, split at the documents' places."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from sharedllm.arguments import check_fields, shown, unicode_problem
from sharedllm.config import TreeConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.parts import parts_in
from sharedllm.errors import ConfigError, InputError
from sharedllm.search.conversation import in_conversation
from sharedllm.search.query import query_of
from sharedllm.text.tokens import Tokenizer, special_tokens, tokenize

ROLES = ("system", "user", "assistant", "tool")
BEFORE = "Read the text below and answer the question about it.\n\nText:\n"
AFTER = "\n\nQuestion: {question}\nGive a short answer, using only the text."

ABSENT = "not in the documents"  # the text by which an adapter abstains
REFUSE = f"If the text does not contain the answer, reply only: {ABSENT}"  # asked of other models
ECHO = re.compile(
    r"(?:the |these |this )?(?:given |provided )?(?:text|document|passage|context)s? "
    r"(?:do not|does not|don't|doesn't) (?:contain|include|provide|mention|state|give|say|specify)"
    r"\b(?:(?! but | however )[^.;])*\.?$",
    re.IGNORECASE,
)
FOLDED = "\n\n"  # between turns that become one

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Literal:
    """Text of a message that spells special tokens; it is tokenised as plain text."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call of a tool in an assistant's message, spelled by the model's chat template."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """The mark of a tool's message: which call it answers."""

    name: str
    id: str = ""


Part = str | Literal | Document
TurnPart = Part | ToolCall | ToolResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A prompt before search.

    Attributes
    ----------
    parts : tuple of (str, Literal or Document)
        The chat format, with each document where its evidence and KV will be.
    query : str
        The text to search for: the question in the last user message, with the turns before it
        where it refers to them.
    messages : int
        Messages in it.
    last : str
        The text of the last user message.
    question : str
        The question in it.
    turns : tuple of (role, parts)
        The messages themselves, with each document in its place.
    tools : tuple of mapping
    tool_required : bool
        See :class:`Asked`.
    """

    parts: tuple[Part, ...]
    query: str
    messages: int = 1
    last: str = ""
    question: str = ""
    turns: tuple[tuple[str, tuple[TurnPart, ...]], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_required: bool = False

    @property
    def documents(self) -> tuple[Document, ...]:
        return tuple(part for part in self.parts if isinstance(part, Document))


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A parsed question, before its documents are known.

    Attributes
    ----------
    turns : tuple of (role, parts)
        Chat messages.
    query : str
        The question in the last user message.
    plain : bool
        True for a question alone, around which the default instructions are put.
    tools : tuple of mapping
        For the model's chat template, as OpenAI spells tools; :attr:`SharedLLM.tool_format` says
        whether the template knows any.
    tool_required : bool
        The answer has to call one of them. A grammar holds a model on this machine to it; an
        endpoint is told.
    """

    turns: tuple[tuple[str, tuple[TurnPart, ...]], ...]
    query: str
    plain: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_required: bool = False

    def __post_init__(self) -> None:
        check_fields(self, InputError)

    @property
    def documents(self) -> tuple[Document, ...]:
        """The documents that stand in the messages."""
        found = (part for _, parts in self.turns for part in parts)
        return tuple(part for part in found if isinstance(part, Document))

    def without_documents(self) -> Asked:
        """Return it without the documents in its messages."""
        turns = tuple(
            (role, tuple(part for part in parts if not isinstance(part, Document)))
            for role, parts in self.turns
        )
        return replace(self, turns=turns)

    @property
    def sought(self) -> str:
        """The text to search for: the question, with earlier turns where it refers to them."""
        last = max((i for i, (role, _) in enumerate(self.turns) if role == "user"), default=0)
        earlier: list[tuple[str, str]] = []
        for role, parts in self.turns[:last]:
            text = _text(parts)
            if role == "user":
                earlier.append((query_of(text), ""))
            elif role == "assistant" and earlier and not is_refusal(text):
                earlier[-1] = (earlier[-1][0], text)
        return in_conversation(self.query, earlier)


Question = str | Sequence[Message] | Asked
Turn = tuple[str, Sequence[TurnPart]]


def parse(question: Question) -> Asked:
    """Parse a question or chat messages; an :class:`Asked` is returned as it is.

    Parameters
    ----------
    question : str, or messages
        A message is ``{"role", "content"}``; content is a str or a list of parts,
        ``{"type": "text", "text"}`` or ``{"type": "document", "document"}``.

    Raises
    ------
    InputError
        For an empty question, or a message that is not of this form.
    """
    if isinstance(question, Asked):
        return question
    if isinstance(question, str):
        _require_unicode("the question", question)
        if not question.strip():
            raise InputError("the question is empty; ask something")
        return Asked(turns=(("user", (question,)),), query=question.strip(), plain=True)
    if not isinstance(question, list | tuple):
        raise InputError(
            f"the question is {shown(question)}; give a str, or a list of chat messages"
        )
    turns = tuple(_turn(message, index) for index, message in enumerate(question))
    users = [parts for role, parts in turns if role == "user"]
    if not users:
        raise InputError("the messages hold no user message; the last one is what gets answered")
    query = query_of(_text(users[-1]))
    if not query:
        raise InputError("the last user message has no text; ask something")
    return Asked(turns=turns, query=query)


def in_section(asked: Asked, section: str, tree: TreeConfig) -> tuple[Asked, Sequence[Document]]:
    """Leave of the documents in messages what lies in the section of that name.

    Returns
    -------
    Asked, sequence of Document
        The messages, and their documents as they were.
    """

    def within(part: TurnPart) -> Sequence[TurnPart]:
        return parts_in(part, section, tree) if isinstance(part, Document) else [part]

    turns = tuple((role, tuple(w for p in parts for w in within(p))) for role, parts in asked.turns)
    return replace(asked, turns=turns), asked.documents


def is_refusal(text: str) -> bool:
    """Tell an answer that says that the documents do not hold one.

    It is :data:`ABSENT`, or the one sentence with which models that were only asked to say so echo
    the request ("The text does not contain the answer.").
    """
    words = re.sub(r"[^\w\s]", "", text).strip().lower()
    return words == ABSENT or words.startswith(f"{ABSENT}\n") or bool(ECHO.match(text.strip()))


def converse(
    question: Question,
    context: Sequence[Document],
    tokenizer: Tokenizer | None,
    *,
    thinking: bool = False,
    refuse: bool = False,
) -> Conversation:
    """Put documents and question (or messages) into the model's chat format.

    Parameters
    ----------
    question : see :func:`parse`
    context : documents that are in no message; they go to the front of the last user message
    tokenizer : its chat template is applied; None leaves the texts as they are
    thinking : let a template that can turn thinking off leave it on
    refuse : ask the model to say :data:`ABSENT` where the documents do not hold the answer

    Raises
    ------
    InputError
        If the question is not of the form that :func:`parse` takes, or names a document twice.
    """
    asked = parse(question)
    turns = [(role, list(parts)) for role, parts in asked.turns]
    last = next(parts for role, parts in reversed(turns) if role == "user")
    if context and asked.plain:
        last[:] = [BEFORE, *context, AFTER.format(question=asked.query)]
    elif context:
        last[:0] = [*context, "\n\n"]
    documents = [part for _, parts in turns for part in parts if isinstance(part, Document)]
    if refuse and documents and not asked.tools:
        if asked.plain:
            last.append(f" {REFUSE}")
        else:  # in front: templates of chains end with "Answer:"
            last.insert(0, f"{REFUSE}\n\n")
    if len({(document.id, document.offset) for document in documents}) < len(documents):
        raise InputError("a document stands in the messages twice; give each one once")
    if tokenizer is None:
        parts = tuple(part for _, own in turns for part in own)
        shown = tuple(part for part in parts if isinstance(part, str | Literal | Document))
    else:
        shown = _rendered(asked, turns, tokenizer, thinking=thinking)
    return Conversation(
        parts=shown,
        query=asked.sought,
        messages=len(turns),
        last=_text(last),
        question=asked.query,
        turns=tuple((role, tuple(parts)) for role, parts in turns),
        tools=asked.tools,
        tool_required=asked.tool_required,
    )


def _require_unicode(name: str, text: str) -> None:
    problem = unicode_problem(text)
    if problem:
        raise InputError(f"{name} is not valid Unicode: {problem}")


def _text(parts: Sequence[TurnPart]) -> str:
    """Return the text of `parts`, with a line feed at each document's place."""
    return "".join(part if isinstance(part, str) else "\n" for part in parts)


def _turn(message: Message, index: int) -> tuple[str, tuple[Part, ...]]:
    """Return role and parts of one message."""
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise InputError(f"message {index} is {shown(message)}; it needs 'role' and 'content'")
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(f"message {index} has role {shown(role)}; allowed: {', '.join(ROLES)}")
    if isinstance(content, str):
        _require_unicode(f"message {index}", content)
        return role, (content,)
    parts: list[Part] = []
    for part in content if isinstance(content, Sequence) else [content]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            _require_unicode(f"message {index}", part["text"])
            parts.append(part["text"])
        elif kind == "document" and isinstance(part.get("document"), Document):
            parts.append(part["document"])
        else:
            raise InputError(
                f"message {index} has the part {shown(part)}; allowed: a str, "
                "{'type': 'text', 'text'} and {'type': 'document', 'document'} "
                "with what remember() returned"
            )
    return role, tuple(parts)


class _Marks:
    """Marks in place of what must not reach the chat template as text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._mark = f"\u27e6{uuid.uuid4().hex}-"  # random: no message contains it
        self._special = special_tokens(tokenizer)
        self._apart: list[Literal | Document] = []

    def put(self, part: Literal | Document) -> str:
        """The mark of `part`."""
        self._apart.append(part)
        return f"{self._mark}{len(self._apart) - 1}\u27e7"

    def safe(self, value: Any) -> Any:
        """`value` with marks for the texts in it that spell special tokens.

        Texts within tools and calls are shown as JSON, and so is what a mark stands for.
        """
        if isinstance(value, Mapping):
            return {self.safe(key): self.safe(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.safe(inner) for inner in value]
        if isinstance(value, str) and self.spells_special(value):
            return self.put(Literal(json.dumps(value, ensure_ascii=False)[1:-1]))
        return value

    def spells_special(self, text: str) -> bool:
        """Tell a text that spells a special token."""
        return any(token in text for token in self._special)

    def split(self, rendered: str) -> tuple[Part, ...]:
        """The parts of the rendered chat format.

        Raises
        ------
        InputError
            If the chat template has dropped or repeated a mark.
        """
        texts = re.split(re.escape(self._mark) + r"(\d+)\u27e7", rendered)
        found = [int(number) for number in texts[1::2]]
        if sorted(found) != list(range(len(self._apart))):
            raise InputError(
                "the model's chat template drops or repeats a message that holds a document (or "
                "the spelling of a special token); put the documents into the last user message"
            )
        out: list[Part] = [texts[0]]
        for number, text in zip(found, texts[2::2], strict=True):
            out += [self._apart[number], text]
        return tuple(out)


def _rendered(
    asked: Asked, turns: Sequence[Turn], tokenizer: Tokenizer, *, thinking: bool
) -> tuple[Part, ...]:
    """Apply the chat template with a mark in each document's place, then split at the marks.

    Text that spells a special token is kept apart in the same way, so that no question or message
    can end a chat turn. Where the template refuses a system turn, or drops it, or wants user and
    assistant in turns, the turns are folded.
    """
    if not tokenizer.chat_template:
        marks = _Marks(tokenizer)
        messages = _messages(turns, marks)
        text = FOLDED.join(message["content"] for message in messages) + "\n\nAnswer:"
        return marks.split((tokenizer.bos_token or "") + text)
    try:
        return _templated(asked, turns, tokenizer, thinking=thinking)
    except InputError:
        other = folded(turns)
        if [role for role, _ in other] == [role for role, _ in turns]:
            raise
        try:
            return _templated(asked, other, tokenizer, thinking=thinking)
        except InputError:
            pass
        raise


def _templated(
    asked: Asked, turns: Sequence[Turn], tokenizer: Tokenizer, *, thinking: bool
) -> tuple[Part, ...]:
    """Apply the chat template.

    Raises
    ------
    InputError
        If it refuses the messages, or leaves one of them out.
    """
    marks = _Marks(tokenizer)
    messages = _messages(turns, marks)
    tools = [marks.safe(tool) for tool in asked.tools]
    # as models of different makers call it; a template passes over what it does not know
    effort = {} if thinking else {"reasoning_effort": "low"}
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
            thinking=thinking,
            **effort,
        )
    except Exception as error:  # templates raise exceptions of any type
        raise InputError(f"the model's chat template refuses these messages: {error}") from error
    told = [one["content"].strip() for one in messages if one["role"] == "system"]
    if any(content not in text for content in told):
        raise InputError("the model's chat template leaves out the system message")
    return marks.split(str(text))


def folded(turns: Sequence[Turn]) -> list[tuple[str, tuple[TurnPart, ...]]]:
    """Put system turns in front of the user's next one, and join turns of one role.

    For models that know only user and assistant, one after the other. Results of tools that the
    model has no form for are the user's.
    """
    out: list[tuple[str, tuple[TurnPart, ...]]] = []
    for role, parts in turns:
        native = any(isinstance(part, ToolResult) for part in parts)
        as_role = "user" if role == "system" or (role == "tool" and not native) else role
        if out and out[-1][0] == as_role != "tool":
            out[-1] = (as_role, (*out[-1][1], FOLDED, *parts))
        else:
            out.append((as_role, tuple(parts)))
    return out


def _messages(turns: Sequence[Turn], marks: _Marks) -> list[dict[str, Any]]:
    ids: dict[str, str] = {}
    return [_message(role, parts, marks, ids) for role, parts in turns]


def _message(
    role: str, parts: Sequence[TurnPart], marks: _Marks, ids: dict[str, str]
) -> dict[str, Any]:
    """One message for the chat template; special tokens are looked for in joined texts."""
    content = ""
    for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            text = "".join(map(str, group))
            content += marks.put(Literal(text)) if marks.spells_special(text) else text
        else:
            content += "".join(marks.put(p) for p in group if isinstance(p, Literal | Document))
    calls = [
        ToolCall(name=marks.safe(part.name), arguments=marks.safe(part.arguments), id=part.id)
        for part in parts
        if isinstance(part, ToolCall)
    ]
    if calls:
        return call_message(content, calls, ids)
    message: dict[str, Any] = {"role": role, "content": content}
    for part in parts:
        if isinstance(part, ToolResult):
            message |= {"name": marks.safe(part.name), "tool_call_id": _id(part.id, ids)}
    return message


def call_message(content: str, calls: Sequence[ToolCall], ids: dict[str, str]) -> dict[str, Any]:
    """An assistant's message with calls, as chat templates take it.

    Parameters
    ----------
    ids : of calls -> as they are shown, which this extends
    """
    spelled = [
        {
            "type": "function",
            "id": _id(call.id, ids),
            "function": {"name": call.name, "arguments": dict(call.arguments)},
        }
        for call in calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": spelled}


def _id(given: str, ids: dict[str, str]) -> str:
    """The id of a call with nine digits, which is what Mistral's templates take."""
    return ids.setdefault(given, f"{len(ids):09d}")


def turn_end(tokenizer: Tokenizer) -> int:
    """Return the token id that ends the assistant's turn in the model's chat format.

    Raises
    ------
    ConfigError
        If the tokenizer has neither a chat template nor an end-of-text token.
    """
    if tokenizer.chat_template:
        mark = uuid.uuid4().hex
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        after = part_ids(text.rpartition(mark)[2], tokenizer)
        if after:
            return after[0]
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the tokenizer has neither a chat template that ends a turn nor an eos_token; set one"
        )
    return int(tokenizer.eos_token_id)


def part_ids(part: str | Literal, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of one part of a conversation."""
    if isinstance(part, Literal):
        return list(map(int, tokenize(part.text, tokenizer).ids))
    return list(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
