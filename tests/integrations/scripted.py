"""A model that says what a test wants, whatever it is asked; its prompts are real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sharedllm import Answer, SharedLLM


class Scripted:
    """`core`, which answers each request with the next of `texts`.

    Attributes
    ----------
    asked : the requests' conversations, and their options
    """

    def __init__(self, core: SharedLLM, *texts: str, finish_reason: str = "stop") -> None:
        self._core, self._texts, self._finish = core, list(texts), finish_reason
        self.asked: list[Any] = []
        self.options: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    @property
    def grammar(self) -> str:
        """The grammar of the last request."""
        return str(self.options[-1].get("grammar", ""))

    @property
    def prompt(self) -> str:
        """The text of the last request's messages."""
        turns = self.asked[-1].turns
        return "\n".join(f"{role}: {''.join(map(str, parts))}" for role, parts in turns)

    def stream(self, asked: Any, context: Any = (), **options: Any) -> _Script:
        self.asked.append(asked)
        self.options.append(options)
        whole = self._core.answer(asked, context, max_new_tokens=1)
        return _Script(replace(whole, text=self._texts.pop(0), finish_reason=self._finish))


class _Script(Iterator[str]):
    """The pieces of an answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.citations = answer, answer.citations
        self._pieces = iter([answer.text[at : at + 3] for at in range(0, len(answer.text), 3)])

    def __next__(self) -> str:
        return next(self._pieces)
