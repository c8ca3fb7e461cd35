"""What is asked: a document, the model's chat format around it, the right answers.

Every method gets the same text before and after the document; only what stands between differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sharedllm.encoding.document import Document
from sharedllm.generation.prompt import Conversation, Literal, Part, converse, part_ids
from sharedllm.text.tokens import Tokenizer

MARK = "\u27e6document\u27e7\u2063\u27e6here\u27e7"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing to be answered or continued.

    Attributes
    ----------
    id : str
        Unique in a run; items of the same id are compared between methods.
    task : str
    length : int
        Tokens asked for; 0 where a document is taken as it is.
    text : str
        The document. Empty: there is none.
    before, after : str
        What stands in the user's turn around the document.
    query : str
        What is searched for.
    prefix : str
        How the answer begins.
    answers : tuple of str
    target : str
        The text whose likelihood is measured; empty for none.
    options : tuple of str
        Choices of a multiple-choice question; `correct` are the indexes of the right ones.
    new_tokens : int
        The longest answer.
    chat : bool
        Whether the model's chat format is used; without it the target continues the document.
    earlier : tuple of dict
        Chat messages before the user's turn.
    notes : dict
        What a task's measures need beside.
    """

    id: str
    task: str
    length: int = 0
    text: str = ""
    before: str = ""
    after: str = ""
    query: str = ""
    prefix: str = ""
    answers: tuple[str, ...] = ()
    target: str = ""
    options: tuple[str, ...] = ()
    correct: tuple[int, ...] = ()
    new_tokens: int = 64
    chat: bool = True
    earlier: tuple[dict[str, str], ...] = ()
    notes: dict[str, object] = field(default_factory=dict)


def thousands(tokens: int) -> str:
    """4096 -> "4K", 1048576 -> "1M"; other numbers as they are."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "K")):
        if tokens and tokens % unit == 0:
            return f"{tokens // unit}{letter}"
    return f"{tokens:,}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The prompt around a document.

    Attributes
    ----------
    left, right : tuple of (str or Literal)
        The chat format before and after it.
    head, tail : tuple of int
        Their token ids; the tail ends with how the answer begins.
    prefix : tuple of int
        The answer's beginning alone.
    following : int
        Tokens that may come after the tail: the answer, or the longest text that is scored.
    """

    left: tuple[Part, ...]
    right: tuple[Part, ...]
    head: tuple[int, ...]
    tail: tuple[int, ...]
    prefix: tuple[int, ...]
    following: int

    def conversation(self, document: Document, query: str) -> Conversation:
        return Conversation(parts=(*self.left, document, *self.right), query=query)


def frame(item: Item, tokenizer: Tokenizer) -> Frame:
    """The chat format of `item`, cut where its document stands."""
    left: tuple[Part, ...] = (item.before,)
    right: tuple[Part, ...] = (item.after,)
    if item.chat:
        content = item.before + MARK + item.after
        parts = converse([*item.earlier, {"role": "user", "content": content}], (), tokenizer).parts
        left, right = _cut(parts)
    scored = [text for text in (item.target, *item.options) if text]
    prefix = part_ids(item.prefix, tokenizer) if item.prefix else []
    return Frame(
        left=left,
        right=right,
        head=tuple(i for part in left for i in _ids(part, tokenizer)),
        tail=(*(i for part in right for i in _ids(part, tokenizer)), *prefix),
        prefix=tuple(prefix),
        following=max([item.new_tokens, *(len(part_ids(t, tokenizer)) for t in scored)]),
    )


def _cut(parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """`parts` before and after the mark, which stands in one of them."""
    for at, part in enumerate(parts):
        text = part.text if isinstance(part, Literal) else part
        if isinstance(text, str) and MARK in text:
            before, after = text.split(MARK)
            kind = Literal if isinstance(part, Literal) else str
            pieces = [(kind(piece),) if piece else () for piece in (before, after)]
            return (*parts[:at], *pieces[0]), (*pieces[1], *parts[at + 1 :])
    raise ValueError("the chat template lost the place of the document")


def _ids(part: Part, tokenizer: Tokenizer) -> list[int]:
    return part_ids(part, tokenizer) if isinstance(part, str | Literal) else []
