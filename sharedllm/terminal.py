"""What a person sees: answers and evidence on standard output, the work on standard error."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sharedllm.answer import Answer, Citation
    from sharedllm.context import Source
    from sharedllm.document import Document
    from sharedllm.memory.records import StoredDocument
    from sharedllm.readers import SourceText
    from sharedllm.shared_llm import SharedLLM
    from sharedllm.stream import AnswerStream

CELLS = 32  # of the bar that shows where evidence lies
NARROW = 100  # columns below which that bar is half as long
EXCERPT = 160  # characters of evidence that are shown
CUT_OFF = " .,:;!?)]\u201d\u2019"  # what a passage that begins between two words may begin with
PIPED_WIDTH = 120  # columns where there is no terminal to ask


class Screen:
    """Shows reading, searching and answering as they happen.

    Parameters
    ----------
    silent : nothing but errors, unless standard error is a terminal

    Attributes
    ----------
    shows_work : whether progress is to be seen
    """

    def __init__(self, *, silent: bool) -> None:
        self._out, self._err = _console(sys.stdout), Console(stderr=True)
        self._silent = silent
        self.shows_work = self._err.is_terminal or not silent

    @contextmanager
    def busy(self, doing: str) -> Iterator[Status]:
        """Show that something slow happens, and what it logs (the conversion of a model)."""
        with self._err.status(doing) as status:
            handler = _Notice(self._err, status) if self.shows_work else logging.NullHandler()
            logger = logging.getLogger("sharedllm")
            level = logger.level
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            try:
                yield status
            finally:
                logger.removeHandler(handler)
                logger.setLevel(level)

    def remember(self, llm: SharedLLM, text: SourceText) -> Document:
        """Read one document, under its title."""
        if not self._silent:
            heading = Text(one_line(text.title), style="bold")
            heading.append(f"  {one_line(text.source)}, ", style="not bold dim")
            heading.append(f"{len(text.text):,} characters", style="not bold dim")
            self._print(heading)
        return llm.remember(
            text.text, title=text.title, source=text.source, progress=self.shows_work
        )

    def answer(
        self,
        llm: SharedLLM,
        question: str,
        context: Sequence[Source],
        options: dict[str, Any],
        repeat: bool,
    ) -> None:
        """Print the answer as it comes, then its evidence and what it took."""
        self._out.print()
        if repeat:
            self._print(Text(one_line(question), style="bold cyan"))
        with self.busy("searching") as status:
            stream = llm.stream(question, context, **options)
            status.update("reading the evidence")
            first = _first_words(stream)
        self._write(first)
        for piece in stream:
            self._write(piece)
        self._write("\n\n")
        answer = stream.answer
        if answer.citations:
            lengths = _lengths(answer.citations, context)
            cells = CELLS if self._out.width >= NARROW else CELLS // 2
            self._out.print(evidence_table(answer.citations, lengths, cells))
        self._print(Text(summary(answer), style="dim"))

    def say(self, text: str) -> None:
        """Print one line about the work."""
        self._print(Text(_printable(text)))

    def show(self, table: Table) -> None:
        """Print a table."""
        self._out.print(table)

    def _print(self, text: Text) -> None:
        """Print a paragraph: broken between words on a terminal, one line elsewhere."""
        self._out.print(text, soft_wrap=not self._out.is_terminal)

    def _write(self, piece: str) -> None:
        self._out.file.write(_printable(piece))
        self._out.file.flush()


class _Notice(logging.Handler):
    """Shows log messages in the spinner, or as lines where standard error is no terminal."""

    def __init__(self, console: Console, status: Status) -> None:
        super().__init__(level=logging.INFO)
        self._console, self._status = console, status

    def emit(self, record: logging.LogRecord) -> None:
        if self._console.is_terminal:
            self._status.update(escape(record.getMessage()))
        else:
            self._console.print(record.getMessage(), markup=False, soft_wrap=True)


def _console(stream: Any) -> Console:
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, width=PIPED_WIDTH if piped else None, highlight=False)


def _first_words(stream: AnswerStream) -> str:
    """The first piece of an answer that shows, without the white space before it."""
    return next((piece.lstrip() for piece in stream if piece.strip()), "")


def _lengths(citations: Sequence[Citation], context: Any) -> dict[str, int]:
    """Characters of each source that is cited from documents or memories."""
    out: dict[str, int] = {}
    cited = {citation.document: citation.source for citation in citations}
    for given in context:
        if hasattr(given, "documents_for"):
            for document in given.list({"id": list(cited)}):
                out[cited[document.id]] = document.characters
        else:
            out[given.source or given.title] = len(given.text)
    return out


def documents_table(documents: Sequence[StoredDocument]) -> Table:
    """A row for each document of a memory."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True, overflow="fold")
    table.add_column("title", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("source", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for document in documents:
        table.add_row(
            Text(one_line(document.id)),
            Text(one_line(document.title)),
            Text(one_line(document.source)),
            f"{document.tokens:,}",
            f"{document.bytes:,}",
        )
    return table


def evidence_table(
    citations: Sequence[Citation], lengths: dict[str, int], cells: int = CELLS
) -> Table:
    """A row for each citation: where it lies, and below it how it begins.

    Parameters
    ----------
    lengths : characters of each source
    cells : length of the bar that shows where it lies
    """
    names, lies = Text("Evidence", style="bold"), Text("where it lies".ljust(cells))
    rows: list[Any] = [_row(names, Text("characters"), lies, Text("score"))]
    for citation in citations:
        bar = position_bar(citation.char_start, citation.char_end, lengths[citation.source], cells)
        place = f"{citation.char_start:,}-{citation.char_end:,}"
        name = Text(one_line(Path(citation.source).name))
        score = Text(f"{citation.score:.2f}")
        before = "…" if citation.char_start else ""
        begins = one_line(citation.text).lstrip(CUT_OFF)[:EXCERPT]
        excerpt = Text(before + begins, style="dim")
        excerpt.no_wrap, excerpt.overflow = True, "ellipsis"
        rows.append(Group(_row(name, Text(place), Text(bar, style="green"), score), excerpt))
    table = Table.grid(expand=True)
    for row in rows:
        table.add_row(row)
    return table


def _row(name: Text, place: Text, bar: Text, score: Text) -> Table:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    row.add_column(width=19, justify="right")
    row.add_column(width=bar.cell_len)
    row.add_column(width=6, justify="right")
    row.add_row(name, place, bar, score)
    return row


def position_bar(start: int, end: int, length: int, cells: int = CELLS) -> str:
    """Draw characters [`start`, `end`) of a text of `length` characters; at least one cell."""
    first = min(start * cells // max(length, 1), cells - 1)
    last = max(first + 1, math.ceil(end * cells / max(length, 1)))
    return "░" * first + "█" * (last - first) + "░" * (cells - last)


def summary(answer: Answer) -> str:
    """What an answer was made of and how long it took, a line each."""
    used, took = answer.usage, answer.timings
    cut = ", cut there: raise --max-new-tokens" if answer.finish_reason == "length" else ""
    return (
        f"{used.context_tokens:,} tokens searched, {used.evidence_tokens:,} given as text, "
        f"{used.injected_tokens:,} injected; prompt {used.prompt_tokens:,}, "
        f"answer {used.new_tokens:,}{cut}\n"
        f"load {took.load_s:.1f} s, read {took.remember_s:.1f} s, search {took.search_s:.1f} s, "
        f"prefill {took.prefill_s:.1f} s, decode {took.decode_s:.1f} s"
    )


def _printable(text: str) -> str:
    """`text` without control characters: a document must not steer the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def one_line(text: str) -> str:
    """`text` without control characters and line ends."""
    return " ".join(_printable(text.replace("\n", " ")).split())
