"""The command line: ``sharedllm ask PATH... -q QUESTION``.

Only typer and rich are imported at the top: help and usage errors must not wait for torch.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.status import Status
from rich.table import Table
from rich.text import Text

from sharedllm import __version__
from sharedllm.config import (
    FINEST,
    INJECTION_MODES,
    POLICIES,
    SEARCHES,
    GenerationConfig,
    InjectionConfig,
    SearchConfig,
    one_of,
)
from sharedllm.errors import ConfigError, InputError, SharedLLMError
from sharedllm.readers import STDIN, SourceText, read_file

if TYPE_CHECKING:
    from sharedllm.answer import Answer, Citation
    from sharedllm.document import Document
    from sharedllm.shared_llm import AnswerStream, SharedLLM

CELLS = 32  # of the bar that shows where evidence lies
EXCERPT = 160  # characters of evidence that are shown
PIPED_WIDTH = 120  # columns where there is no terminal to ask
OFFERED = tuple(name for name in POLICIES if name != "embedding")  # it needs Python objects

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for bad input, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode still gets answers
    try:
        code = app(args=argv, prog_name="sharedllm", standalone_mode=False)
        sys.stdout.flush()
    except (SharedLLMError, typer.TyperException) as error:
        plain = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        sys.stderr.write(f"sharedllm: {_one_line(plain)}\n")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the reader left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return int(code or 0)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sharedllm {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Answers with citations from whole long documents, on a local language model.

    [bold]Example:[/bold]  sharedllm ask book.txt -q "Who buys the house?"
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _one_of(names: Sequence[str]) -> str:
    return ", ".join(names)


@app.command()
def ask(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH", help="Text, Markdown, HTML or PDF files; - is standard input."
        ),
    ],
    questions: Annotated[
        list[str],
        typer.Option(
            "-q", "--question", metavar="TEXT", help="What to ask. Again for a further question."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Hugging Face name, folder or .gguf file of a Llama, Mistral, Qwen2, Qwen3, "
            "Phi-3 or SmolLM2 model.",
            show_default="the embedded SmolLM2-135M-Instruct",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help=f"What scores a passage: {_one_of(OFFERED)}.",
            show_default=SearchConfig().policy,
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="S",
            help=f"How passages are selected: {_one_of(SEARCHES)}.",
            show_default=SearchConfig().search,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Attention entries for evidence and memory.",
            show_default=str(SearchConfig().budget),
        ),
    ] = None,
    finest: Annotated[
        str | None,
        typer.Option(
            metavar="text|kv",
            help=f"How selected passages enter the model: {_one_of(FINEST)}.",
            show_default=SearchConfig().finest,
        ),
    ] = None,
    injection: Annotated[
        str | None,
        typer.Option(
            metavar="joint|cross",
            help=f"How memory enters the model: {_one_of(INJECTION_MODES)}.",
            show_default=InjectionConfig().mode,
        ),
    ] = None,
    max_new_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Longest answer, in tokens.",
            show_default=str(GenerationConfig().max_new_tokens),
        ),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(metavar="T", help="0 always takes the likeliest token.", show_default="0"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="D", help="cpu, cuda or cuda:N.", show_default="cuda if there is one"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="float32, bfloat16 or float16.",
            show_default="float32 on cpu, bfloat16 on cuda",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Ask a question about documents of any length; print the answer and where it was found.

    [bold]Examples:[/bold]

      sharedllm ask book.txt -q "Who buys the house?"

      sharedllm ask report.pdf notes.md -q "What was decided?" --budget 2048

      curl -s https://example.org/page.html | sharedllm ask - -q "Who wrote this?" --json
    """
    _check(paths, questions, policy, injection, as_json=as_json)
    entries = _parsed("budget", budget, int)
    longest = _parsed("max-new-tokens", max_new_tokens, int)
    warmth = _parsed("temperature", temperature, float)
    selecting = _given(policy=policy, search=search, budget=entries, finest=finest)
    decoding = _given(max_new_tokens=longest, temperature=warmth)
    SearchConfig(**selecting)  # wrong values are refused before anything slow happens
    GenerationConfig(**decoding)
    inject = InjectionConfig(**_given(mode=injection))
    texts = [read_file(path) for path in paths]
    screen = _Screen(silent=as_json)
    with screen.busy("loading the model"):
        from sharedllm.shared_llm import SharedLLM

        llm = SharedLLM.from_pretrained(model, device=device, dtype=dtype, injection=inject)
    documents = [screen.remember(llm, text) for text in texts]
    for question in questions:
        if as_json:
            with screen.busy("answering"):
                answer = llm.answer(question, documents, **selecting, **decoding)
            typer.echo(json.dumps(answer.to_dict()))
        else:
            screen.answer(llm, question, documents, {**selecting, **decoding}, len(questions) > 1)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others are the model's to decide."""
    return {name: value for name, value in options.items() if value is not None}


def _parsed(name: str, given: str | None, kind: type[int] | type[float]) -> float | None:
    """The value of a numeric option; typer's own message does not say what was given."""
    try:
        return None if given is None else kind(given)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"--{name} is {given!r}; it must be {wanted}") from error


def _check(
    paths: Sequence[str],
    questions: Sequence[str],
    policy: str | None,
    injection: str | None,
    *,
    as_json: bool,
) -> None:
    """Refuse what is known to be wrong before files are read and the model is loaded."""
    if not all(question.strip() for question in questions):
        raise InputError("the question is empty; ask something after -q")
    if as_json and len(questions) > 1:
        raise ConfigError(
            f"--json prints one object, and -q was given {len(questions)} times; give it once"
        )
    if paths.count(STDIN) > 1:
        raise InputError("- (standard input) was given more than once; it can be read once")
    if policy == "embedding":
        raise ConfigError(
            "policy is 'embedding', which needs an embedder: pass one to "
            f"SharedLLM.from_pretrained in Python; allowed here: {_one_of(OFFERED)}"
        )
    for name, value, allowed in (
        ("policy", policy, OFFERED),
        ("injection", injection, INJECTION_MODES),
    ):
        if value is not None:
            one_of(name, value, allowed)


class _Screen:
    """What a person sees: answers and evidence on standard output, the work on standard error.

    Parameters
    ----------
    silent : nothing but errors, unless standard error is a terminal
    """

    def __init__(self, *, silent: bool) -> None:
        self._out, self._err = _console(sys.stdout), Console(stderr=True)
        self._silent = silent
        self._shows_work = self._err.is_terminal or not silent

    @contextmanager
    def busy(self, doing: str) -> Iterator[Status]:
        """Show that something slow happens, and what it logs (the conversion of a model)."""
        with self._err.status(doing) as status:
            handler = _Notice(self._err, status) if self._shows_work else logging.NullHandler()
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
            heading = Text(_one_line(text.title), style="bold")
            heading.append(f"  {_one_line(text.source)}, ", style="not bold dim")
            heading.append(f"{len(text.text):,} characters", style="not bold dim")
            self._out.print(heading, soft_wrap=True)
        return llm.remember(
            text.text, title=text.title, source=text.source, progress=self._shows_work
        )

    def answer(
        self,
        llm: SharedLLM,
        question: str,
        documents: Sequence[Document],
        options: dict[str, Any],
        repeat: bool,
    ) -> None:
        """Print the answer as it comes, then its evidence and what it took."""
        self._out.print()
        if repeat:
            self._out.print(Text(_one_line(question), style="bold cyan"), soft_wrap=True)
        with self.busy("searching") as status:
            stream = llm.stream(question, documents, **options)
            status.update("reading the evidence")
            first = _first_words(stream)
        self._write(first)
        for piece in stream:
            self._write(piece)
        self._write("\n\n")
        answer = stream.answer
        if answer.citations:
            lengths = {d.source or d.title: len(d.text) for d in documents}
            self._out.print(evidence_table(answer.citations, lengths))
        self._out.print(Text(summary(answer), style="dim"), soft_wrap=True)

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
            self._status.update(record.getMessage())
        else:
            self._console.print(record.getMessage(), markup=False, soft_wrap=True)


def _console(stream: Any) -> Console:
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, width=PIPED_WIDTH if piped else None, highlight=False)


def _first_words(stream: AnswerStream) -> str:
    """The first piece of an answer that shows, without the white space before it."""
    return next((piece.lstrip() for piece in stream if piece.strip()), "")


def evidence_table(citations: Sequence[Citation], lengths: dict[str, int]) -> Table:
    """A row for each citation: where it lies, and below it how it begins.

    Parameters
    ----------
    lengths : characters of each source
    """
    names = Text.assemble(("Evidence", "bold"))
    rows: list[Any] = [_row(names, Text("characters"), Text("where it lies"), Text("score"))]
    for citation in citations:
        bar = position_bar(citation.char_start, citation.char_end, lengths[citation.source])
        place = f"{citation.char_start:,}-{citation.char_end:,}"
        name = Text(_one_line(Path(citation.source).name))
        score = Text(f"{citation.score:.2f}")
        excerpt = Text(_one_line(citation.text)[:EXCERPT], style="dim")
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
    row.add_column(width=CELLS)
    row.add_column(width=6, justify="right")
    row.add_row(name, place, bar, score)
    return row


def position_bar(start: int, end: int, length: int, cells: int = CELLS) -> str:
    """Draw characters [`start`, `end`) of a text of `length` characters; at least one cell."""
    first = min(start * cells // max(length, 1), cells - 1)
    last = max(first + 1, math.ceil(end * cells / max(length, 1)))
    return "░" * first + "█" * (last - first) + "░" * (cells - last)


def summary(answer: Answer) -> str:
    """What an answer was made of and how long it took, on one line."""
    used, took = answer.usage, answer.timings
    cut = ", cut there: raise --max-new-tokens" if answer.finish_reason == "length" else ""
    return (
        f"{used.context_tokens:,} tokens searched, {used.evidence_tokens:,} given as text, "
        f"{used.injected_tokens:,} injected; prompt {used.prompt_tokens:,}, "
        f"answer {used.new_tokens:,}{cut} | "
        f"load {took.load_s:.1f} s, read {took.remember_s:.1f} s, search {took.search_s:.1f} s, "
        f"prefill {took.prefill_s:.1f} s, decode {took.decode_s:.1f} s"
    )


def _printable(text: str) -> str:
    """`text` without control characters: a document must not steer the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def _one_line(text: str) -> str:
    return " ".join(_printable(text.replace("\n", " ")).split())
