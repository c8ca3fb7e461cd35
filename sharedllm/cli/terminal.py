"""The terminal: answers and evidence on standard output, progress on standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from sharedllm.display.console import Results
from sharedllm.display.plain import one_line, printable
from sharedllm.progress import reporter
from sharedllm.text.pages import page_of

if TYPE_CHECKING:
    from sharedllm.answer import Answer, AnswerStream
    from sharedllm.encoding.document import Document
    from sharedllm.generation.prompt import Message
    from sharedllm.memory.documents import StoredDocument
    from sharedllm.memory.resolve import Source
    from sharedllm.shared_llm import SharedLLM
    from sharedllm.text.loaders import SourceText
    from sharedllm.text.outline import Section
    from sharedllm.whole.stream import WholeStream

LONG_S = 5.0  # seconds of reading that are announced
PIPED_WIDTH = 120  # columns when standard output is not a terminal


class Screen:
    """Shows reading, searching and answering on the terminal.

    Parameters
    ----------
    silent : print only errors, unless standard error is a terminal

    Attributes
    ----------
    shows_work : True if progress is shown
    """

    def __init__(self, *, silent: bool) -> None:
        self._out, self._err = _console(sys.stdout), Console(stderr=True)
        self._silent = silent
        self.shows_work = self._err.is_terminal or not silent

    @property
    def width(self) -> int:
        """Columns of standard output."""
        return self._out.width

    @contextmanager
    def busy(self, doing: str) -> Iterator[Status]:
        """Show a spinner during slow work, with its log messages (the conversion of a model)."""
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
            text.text,
            title=text.title,
            source=text.source,
            outline=text.outline,
            progress=self.shows_work,
        )

    def answer(
        self,
        llm: SharedLLM,
        question: str,
        context: Sequence[Source],
        options: dict[str, Any],
        repeat: bool,
        earlier: Sequence[Message] = (),
    ) -> Answer:
        """Stream the answer, then print its evidence and usage; return it.

        Parameters
        ----------
        repeat : print the question above its answer
        earlier : messages of the conversation before it
        """
        asked = [*earlier, {"role": "user", "content": question}] if earlier else question
        self._out.print()
        if repeat:
            self._print(Text(one_line(question), style="bold cyan"))
        with self.busy("searching") as status:
            stream = llm.stream(asked, context, **options)
            whole = _as_whole(stream)
            status.update("reading the first parts" if whole else "reading the evidence")
            first = next(whole, "") if whole else _first_words(stream)
        if whole:
            first = self._read_on(whole, first)
        self._write(first)
        for piece in stream:
            self._write(piece)
        self._write("\n\n")
        answer = stream.answer
        shown = answer.answered(question, "--max-new-tokens")
        if shown.warning:
            self._print(Text(f"{one_line(shown.warning)}\n", style="yellow"))
        self._out.print(Results(shown.pictures))
        self._print(Text(shown.summary, style="dim"))
        return answer

    def _read_on(self, stream: WholeStream, first: str) -> str:
        """Read the parts of the documents that are left; return the first words of the answer."""
        left = stream.seconds_left or 0.0
        if first or self._silent:
            return first.lstrip() or _first_words(stream)
        if left > LONG_S:
            parts = stream.total - stream.done
            note = f"reading {parts:,} more parts of the whole: about {_duration(left)}"
            self._err.print(f"{note}; Ctrl-C ends it, --max-chunks and --max-seconds limit it")
        with reporter(self.shows_work, stream.total, "reading", "parts") as report:
            done = 0
            while not first:
                report(stream.done - done)
                done = stream.done
                try:
                    first = next(stream).lstrip()
                except StopIteration:
                    break
            report(stream.done - done)
        return first

    def say(self, text: str) -> None:
        """Print one line of text."""
        self._print(Text(printable(text)))

    def complain(self, text: str) -> None:
        """Print one line about what went wrong on standard error."""
        self._err.print(Text(f"sharedllm: {one_line(text)}"), soft_wrap=True)

    def remark(self, text: str) -> None:
        """Print a line about slow work on standard error, where progress is shown."""
        if self.shows_work:
            self._err.print(Text(printable(text)), soft_wrap=True)

    def paragraph(self, text: Text) -> None:
        """Print a paragraph with styles."""
        self._print(text)

    def show(self, table: Table) -> None:
        """Print a table."""
        self._out.print(table)

    def _print(self, text: Text) -> None:
        """Print a paragraph: broken between words on a terminal, one line elsewhere."""
        self._out.print(text, soft_wrap=not self._out.is_terminal)

    def _write(self, piece: str) -> None:
        self._out.file.write(printable(piece))
        self._out.file.flush()


class _Notice(logging.Handler):
    """Shows log messages in the spinner, or as lines if standard error is not a terminal."""

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


def _as_whole(stream: AnswerStream) -> WholeStream | None:
    """Return a stream that reads the whole as one; None for passages."""
    from sharedllm.whole.stream import WholeStream  # torch is loaded by now

    return stream if isinstance(stream, WholeStream) else None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _first_words(stream: AnswerStream) -> str:
    """Return the first visible piece of an answer, without leading white space."""
    return next((piece.lstrip() for piece in stream if piece.strip()), "")


def outline_lines(title: str, outline: Sequence[Section], pages: Sequence[int]) -> Iterator[Text]:
    """Yield a document's title and its sections, a line each, with their page or first character.

    Parameters
    ----------
    pages : characters at which the document's pages start; empty without pages
    """
    yield Text(one_line(title), style="bold")
    if not outline:
        yield Text("  no outline: no headings, chapters or numbered sections were found", "dim")
    for section in outline:
        place = f"p. {page_of(pages, section.start, 'x')}" if pages else f"{section.start:,}"
        line = Text("  " * section.level + one_line(section.title))
        line.append(f"  {place}", style="dim")
        yield line


def documents_table(documents: Sequence[StoredDocument]) -> Table:
    """Build a table with a row for each document of a memory."""
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
