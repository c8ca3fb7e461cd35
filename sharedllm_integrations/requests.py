"""One question as plain values: messages, in which documents may stand, and how to answer."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sharedllm_integrations.errors import ContentError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {  # as the frameworks spell them
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
LONGEST = 1000  # characters of what is taken for a question and repeated
QUESTION = "\n\nQuestion: {question}"  # as the core asks behind documents


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenText:
    """A text that its sender declares to be a document."""

    text: str
    title: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalledTool:
    """A call of a tool, in a message of the assistant."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolOutput:
    """The beginning of a tool's message: which tool it is the result of."""

    name: str = ""
    id: str = ""
    failed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message.

    Attributes
    ----------
    role : str
    parts : sequence
        Text, GivenText, CalledTool and ToolOutput; once documents are resolved, text, documents
        and what the model's chat template spells itself.
    """

    role: Role
    parts: Sequence[Any]

    @property
    def texts(self) -> list[str]:
        """Its text, without documents."""
        return [part for part in self.parts if isinstance(part, str)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question.

    Parameters
    ----------
    messages : sequence of Message
    filter : what documents of the memory it may read, as ``TreeMemory.search`` takes it; None is
        the engine's own
    options : fields of SearchConfig and GenerationConfig for this answer
    tools : that the model may call, as OpenAI spells them
    tool_choice : "auto", "any", "none", a tool's name, ...
    parallel : several calls in one answer; None allows them to models that were trained on calls
    schema : JSON schema of the answer, where it is no call
    timeout : seconds, or None
    cancelled : set when nobody waits for the answer any more
    """

    messages: Sequence[Message]
    filter: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Any = None
    parallel: bool | None = None
    schema: Mapping[str, Any] | None = None
    timeout: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


def sound_text(text: str) -> str:
    """`text` with U+FFFD for each half of a surrogate pair, which no tokenizer reads.

    Such halves come from badly decoded files. The length stays, unless both halves of a pair stand
    together: these are one character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def sound_message(message: Message) -> Message:
    """`message` with :func:`sound_text`."""
    parts = []
    for part in message.parts:
        if isinstance(part, str):
            part = sound_text(part)
        elif isinstance(part, GivenText):
            given = (sound_text(part.text), sound_text(part.title), sound_text(part.source))
            part = GivenText(text=given[0], title=given[1], source=given[2])
        parts.append(part)
    return Message(role=message.role, parts=tuple(parts))


def role_of(name: str) -> Role:
    """The role that a framework calls `name`.

    Raises
    ------
    ContentError
        If there is no such role.
    """
    if name not in ROLES:
        raise ContentError(
            f"a message has the role {name!r}; allowed: {', '.join(sorted(set(ROLES)))}"
        )
    return ROLES[name]


def refused_block(role: Role, kind: str, document: str, hint: str) -> ContentError:
    """The error for a block of a message that holds neither text nor a document."""
    return ContentError(
        f"a message of {role!r} holds a block of type {kind!r}; allowed: 'text', and {document!r} "
        f"for a document. {hint}"
    )


def merged(messages: Iterable[Message]) -> list[Message]:
    """`messages` with neighbours of one role joined: chat formats want roles to alternate."""
    out: list[Message] = []
    for one in messages:
        if out and out[-1].role == one.role and one.role != "tool":
            out[-1] = Message(role=one.role, parts=(*out[-1].parts, "\n\n", *one.parts))
        else:
            out.append(one)
    return out


def question_in(messages: Sequence[Message]) -> str:
    """The question in the last message of the user, in which documents are resolved.

    Raises
    ------
    ContentError
        If there is no such message, or no text in it.
    """
    asked = [one.parts for one in messages if one.role == "user"]
    if not asked:
        raise ContentError("the messages hold no user message; the last one is what gets answered")
    parts = asked[-1]
    from sharedllm import query_of  # loads torch

    question = query_of("".join(part if isinstance(part, str) else "\n" for part in parts))
    if not question:
        raise ContentError("the last user message has no text; ask something")
    return question


def with_question_last(messages: Sequence[Message], question: str) -> tuple[list[Message], bool]:
    """`messages` with `question` behind the documents, and whether it was put there.

    It is repeated if it stands in the last message of the user in front of the last document, and
    not behind it. Nothing else is changed, and nothing is taken away. Templates that put the
    question first (the best-known one of LangChain does) leave nothing but "Answer:" behind the
    documents, and a small model then tends to answer that the documents do not say
    (docs/integrations.md, docs/experiments.md).
    """
    out = list(messages)
    last = max((i for i, one in enumerate(out) if one.role == "user"), default=None)
    if last is None:
        return out, False
    parts = out[last].parts
    end = max((i for i, part in enumerate(parts) if not isinstance(part, str)), default=None)
    if end is None:
        return out, False
    rest = [part for part in parts[end + 1 :] if isinstance(part, str)]
    before, after = _plain(part for part in parts[:end] if isinstance(part, str)), _plain(rest)
    wanted = _plain([question])
    if not wanted or len(wanted) > LONGEST or wanted not in before or wanted in after:
        return out, False
    repeated = QUESTION.format(question=question)
    if after and not rest[0].lstrip(" \t").startswith("\n"):
        repeated += "\n"
    out[last] = Message(role="user", parts=(*parts[: end + 1], repeated, *rest))
    return out, True


def _plain(texts: Iterable[str]) -> str:
    """One line, with single blanks."""
    return " ".join(" ".join(texts).split())
