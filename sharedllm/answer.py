"""What a question gives back: the answer, its evidence, what was used and how long it took."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from sharedllm.display.picture import Pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """Selected evidence: a span of a document that the model was given verbatim.

    Attributes
    ----------
    source : str
        The document's source (a path), else its title.
    char_start, char_end : int
        Characters [char_start, char_end) of the document's text; `text` is exactly these.
    level : int
        Tree level of the nodes; 0 is a root.
    score : float
        The policy's score of the best node.
    text : str
    document, title : str
        The document's id (in its memory) and title.
    page : int or None
        The page on which it begins, from 1; None where the text has no pages (form feeds).
    """

    source: str
    char_start: int
    char_end: int
    level: int
    score: float
    text: str
    document: str = ""
    title: str = ""
    page: int | None = None


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
class Answer:
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
    pictures : tuple of Picture
        What shows the evidence in its documents: see :mod:`sharedllm.display.picture`.
    question : str
        What was asked: the last words of the user.
    """

    text: str
    citations: tuple[Citation, ...] = field(repr=False)
    usage: Usage = field(repr=False)
    timings: Timings = field(repr=False)
    finish_reason: str
    pictures: Pictures = field(default=(), repr=False)
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
        from sharedllm.display import console, links, page

        question, summary = self.question or "Answer", console.summary(self)
        shown = page.Answered(
            question=question, text=self.text, pictures=self.pictures, summary=summary
        )
        if path is None:
            return page.page([shown])
        page.check(path, [one.source for one in self.pictures if links.local(one.source)], "path")
        return page.write(path, [shown], "path")

    def plot(self) -> Figure:
        """A figure of where the citations lie in their documents, and of their scores.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed (extra "eval").
        """
        from sharedllm.display.extra import figures

        figure: Figure = figures().answer(self.pictures, self.text)
        return figure

    def _repr_html_(self) -> str:
        from sharedllm.display import console, notebook

        return notebook.cell(notebook.answer(self.text, self.pictures, console.summary(self)))

    def __rich__(self) -> RenderableType:
        from sharedllm.display import console

        return console.answer(self)
