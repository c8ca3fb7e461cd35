"""A question or chat messages -> the model's chat format, split at the documents' places."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharedllm.arguments import check_fields, shown, unicode_problem
from sharedllm.encoding.document import Document
from sharedllm.errors import ConfigError, InputError
from sharedllm.search.query import query_of
from sharedllm.text.tokens import Tokenizer, special_tokens, tokenize

ROLES = ("system", "user", "assistant", "tool")
BEFORE = "Read the text below and answer the question about it.\n\nText:\n"
AFTER = "\n\nQuestion: {question}\nGive a short answer, using only the text."

ABSENT = "not in the documents"  # the text by which an adapter abstains

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Literal:
    """Text of a message that spells special tokens; it is tokenised as plain text."""

    text: str


Part = str | Literal | Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A prompt before search.

    Attributes
    ----------
    parts : tuple of (str, Literal or Document)
        The chat format, with each document where its evidence and KV will be.
    query : str
        The text to search for: the question in the last user message.
    """

    parts: tuple[Part, ...]
    query: str

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
        The text to search for: the question in the last user message.
    plain : bool
        True for a question alone, around which the default instructions are put.
    """

    turns: tuple[tuple[str, tuple[Part, ...]], ...]
    query: str
    plain: bool = False

    def __post_init__(self) -> None:
        check_fields(self, InputError)


Question = str | Sequence[Message] | Asked


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


def converse(question: Question, context: Sequence[Document], tokenizer: Tokenizer) -> Conversation:
    """Put documents and question (or messages) into the model's chat format.

    Parameters
    ----------
    question : see :func:`parse`
    context : documents that are in no message; they go to the front of the last user message

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
    parts = _rendered(turns, tokenizer)
    documents = [part for part in parts if isinstance(part, Document)]
    if len({(document.id, document.offset) for document in documents}) < len(documents):
        raise InputError("a document stands in the messages twice; give each one once")
    return Conversation(parts=parts, query=asked.query)


def _require_unicode(name: str, text: str) -> None:
    problem = unicode_problem(text)
    if problem:
        raise InputError(f"{name} is not valid Unicode: {problem}")


def _text(parts: Sequence[Part]) -> str:
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


def _rendered(
    turns: Sequence[tuple[str, Sequence[Part]]], tokenizer: Tokenizer
) -> tuple[Part, ...]:
    """Apply the chat template with a mark in each document's place, then split at the marks.

    Text that spells a special token is kept apart in the same way, so that no question or message
    can end a chat turn.
    """
    mark = f"\u27e6{uuid.uuid4().hex}\u27e7"  # random: no message contains it
    special = special_tokens(tokenizer)
    apart: list[Part] = []
    messages = []
    for role, parts in turns:
        content = ""
        for part in parts:
            if isinstance(part, str) and any(token in part for token in special):
                part = Literal(part)
            content += part if isinstance(part, str) else mark
            if not isinstance(part, str):
                apart.append(part)
        messages.append({"role": role, "content": content})
    if tokenizer.chat_template:
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise exceptions of any type
            raise InputError(
                f"the model's chat template refuses these messages: {error}"
            ) from error
    else:
        text = "\n\n".join(message["content"] for message in messages) + "\n\nAnswer:"
        text = (tokenizer.bos_token or "") + text
    pieces = str(text).split(mark)
    if len(pieces) != len(apart) + 1:
        raise InputError(
            "the model's chat template drops or repeats a message that holds a document (or the "
            "spelling of a special token); put the documents into the last user message"
        )
    out: list[Part] = [pieces[0]]
    for part, piece in zip(apart, pieces[1:], strict=True):
        out += [part, piece]
    return tuple(out)


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
