"""What a question gives back: the answer, its evidence, what was used and how long it took."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sharedllm.display import console, html, page, views
from sharedllm.display.picture import Answered, Pictures
from sharedllm.displayed import Displayed, View, view
from sharedllm.search.passages import Citation
from sharedllm.search.selection import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # of the extra "eval"


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What an answer was made of.

    Attributes
    ----------
    context_tokens : int
        Tokens of the documents that were searched.
    injected_tokens : int
        KV entries injected in each injection layer.
    evidence_tokens : int
        Tokens pasted as evidence, separators and labels included.
    prompt_tokens : int
        All running tokens, evidence included.
    new_tokens : int
    coarse_ratio : float or None
        Tokens per entry of the unexpanded chunks; None without a coarse rest.
    left_out_chunks : int
        Chunks of which nothing was selected.
    """

    context_tokens: int
    injected_tokens: int
    evidence_tokens: int
    prompt_tokens: int
    new_tokens: int
    coarse_ratio: float | None
    left_out_chunks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds: loading the model, reading the documents, and the stages of this answer.

    `prefill_s` includes encoding nodes that were not encoded before.
    """

    load_s: float
    remember_s: float
    search_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Displayed):
    """An answer with its evidence; a notebook and rich's console show both.

    Attributes
    ----------
    text : str
    citations : tuple of Citation
        Best score first. Empty without documents.
    usage : Usage
    timings : Timings
    finish_reason : str
        "stop" (the model ended, or a stop text came) or "length" (max_new_tokens).
    selection : Selection or None
        What was selected of which documents, and what shows it there; None without documents.
    question : str
        What was asked: the last words of the user.
    """

    text: str
    citations: tuple[Citation, ...] = field(repr=False)
    usage: Usage = field(repr=False)
    timings: Timings = field(repr=False)
    finish_reason: str
    selection: Selection | None = field(default=None, repr=False)
    question: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain values, as ``sharedllm ask --json`` prints it."""
        return {
            "answer": self.text,
            "citations": [asdict(citation) for citation in self.citations],
            "usage": asdict(self.usage),
            "timings": asdict(self.timings),
        }

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """One page with the answer and its evidence, as ``sharedllm ask --html`` writes it.

        It needs nothing else: no script, no font, no network.

        Parameters
        ----------
        path : the file to write; from there, pages of documents that are files are linked

        Raises
        ------
        ConfigError
            If it cannot be written, or is one of the documents' own files.
        """
        shown = self._answered()
        if path is None:
            return page.page([shown])
        page.check(path, [one.source for one in shown.pictures if page.local(one.source)], "path")
        return page.write(path, [shown], "path")

    def plot(self) -> Figure:
        """A figure of where the citations lie in their documents, and of their scores.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed (extra "eval").
        """
        from sharedllm.display import plot

        return plot.answer(self.pictures, self.text)

    @property
    def pictures(self) -> Pictures:
        """Plain values that show the evidence in its documents, made anew at each call."""
        return views.pictures(self.selection.searched) if self.selection else ()

    def summary(self, option: str = "max_new_tokens") -> str:
        """Say what the answer was made of and how long it took, a line each.

        Parameters
        ----------
        option : what to raise where it was cut
        """
        used, took = self.usage, self.timings
        cut = f", cut there: raise {option}" if self.finish_reason == "length" else ""
        return (
            f"{used.context_tokens:,} tokens searched, {used.evidence_tokens:,} given as text, "
            f"{used.injected_tokens:,} injected; prompt {used.prompt_tokens:,}, "
            f"answer {used.new_tokens:,}{cut}\n"
            f"load {took.load_s:.1f} s, read {took.remember_s:.1f} s, "
            f"search {took.search_s:.1f} s, prefill {took.prefill_s:.1f} s, "
            f"decode {took.decode_s:.1f} s"
        )

    def _answered(self) -> Answered:
        return Answered(
            question=self.question or "Answer",
            text=self.text,
            pictures=self.pictures,
            summary=self.summary(),
        )


@view.register
def _(answer: Answer) -> View:
    shown = answer._answered()
    return View(partial(html.answer, shown), partial(console.answer, shown))
