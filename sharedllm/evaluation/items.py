"""What is asked: a document, the prompt around it, the right answers."""

from __future__ import annotations

from dataclasses import dataclass, field


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
