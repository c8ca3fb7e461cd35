"""Items: a document, the chat format around it, a question and its right answers.

Every method gets the same text before and after the document; only the document's place differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sharedllm.encoding.document import Document
from sharedllm.generation.prompt import Conversation, Literal, Part, converse, part_ids
from sharedllm.text.tokens import Tokenizer

MARK = "\u27e6document\u27e7\u2063\u27e6here\u27e7"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question to be answered, or one text to be continued.

    Attributes
    ----------
    id : str
        Unique in a run. Methods are compared on items of the same id.
    task : str
    length : int
        Tokens of the document asked for; 0 takes a document as it is.
    text : str
        The document; empty for none.
    before, after : str
        Text of the user's turn around the document.
    query : str
        The text to search for.
    prefix : str
        The beginning of the answer, which is given.
    answers : tuple of str
    target : str
        Text whose likelihood is measured; empty for none.
    options : tuple of str
        Options of a multiple-choice question; `correct` holds the indices of the right ones.
    new_tokens : int
        Tokens of the answer, at most.
    chat : bool
        True to use the model's chat format; otherwise the target continues the document.
    earlier : tuple of dict
        Chat messages before the user's turn.
    notes : dict
        Further values for a task's measures.
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
    """Format 4096 as "4K" and 1048576 as "1M"; other numbers with commas."""
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
        Their token ids; the tail ends with the given beginning of the answer.
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
    """Build the chat format of `item`, split at its document's place."""
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
    """Split `parts` at the mark, which is in one of them."""
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
