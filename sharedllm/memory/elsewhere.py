"""Asking parts of a memory through other processes, each of which keeps some of them open.

The process that asks needs the files of all parts as well: it reads from them the chunks that the
others found. What they look up is of the same state of a part as what it reads, or it asks again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sharedllm.arguments import check_fields
from sharedllm.errors import InputError
from sharedllm.memory import records

T = TypeVar("T")


class ElsewhereError(Exception):
    """A part could not be asked, or has changed since this process looked at it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """A question to one part.

    Attributes
    ----------
    folder : of the part
    generation : the number of its changes, as the process that asks sees it
    question : the name of a function of :mod:`sharedllm.memory.word_index`
    args : of that function, after the connection
    """

    folder: str
    generation: int
    question: str
    args: tuple[Any, ...]

    def __post_init__(self) -> None:
        check_fields(self, InputError)


Send = Callable[[Sequence[Lookup]], Sequence[Any]]


class Elsewhere:
    """Parts that are asked through `send`, in the states that this process has snapshots of.

    Parameters
    ----------
    send : gives the answers of :meth:`PartSearcher.answer` to lookups, in their order
    folders, connections : of each part
    """

    def __init__(
        self,
        send: Send,
        folders: Sequence[str | os.PathLike[str]],
        connections: Sequence[sqlite3.Connection],
    ) -> None:
        self._send = send
        states = map(records.generation, connections)
        self._parts = list(zip(map(os.path.realpath, folders), states, strict=True))

    def __len__(self) -> int:
        return len(self._parts)

    def ask(self, question: Callable[..., T], *args: Any) -> list[T]:
        return self.ask_each(question, [args] * len(self._parts))

    def ask_each(self, question: Callable[..., T], args: Sequence[tuple[Any, ...]]) -> list[T]:
        """As :meth:`sharedllm.memory.word_index.Parts.ask_each`.

        Raises
        ------
        ElsewhereError
        """
        lookups = [
            Lookup(folder, generation, question.__name__, own)
            for (folder, generation), own in zip(self._parts, args, strict=True)
        ]
        try:
            answers = self._send(lookups)
        except Exception as error:  # every way to send has errors of its own
            raise ElsewhereError(f"{type(error).__name__}: {error}") from error
        if any(answer is None for answer in answers):
            raise ElsewhereError("a part has changed meanwhile")
        return [answer[0] for answer in answers]
