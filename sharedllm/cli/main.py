"""The entry point of the command line, and ``sharedllm ask PATH... -q QUESTION``.

Only typer and rich are imported at the top: help and usage errors must not wait for torch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedllm import __version__
from sharedllm.arguments import shown, unicode_problem
from sharedllm.cli.chat import app as chat
from sharedllm.cli.evaluation import app as evaluation
from sharedllm.cli.memory import app as memories
from sharedllm.cli.models import app as models
from sharedllm.cli.opening import check_place, given, loaded
from sharedllm.cli.options import (
    DEFAULT_NAME,
    SHIPPED,
    AnsweringModel,
    Device,
    Encoding,
    InSection,
    Leaves,
    MaxChunks,
    MaxSeconds,
    MemoryAdapter,
    MemoryDtype,
    Quantize,
    Reader,
    ReaderModel,
    ReaderWindow,
    ScopeOption,
    Scorer,
    Selecting,
    Thinking,
    default_of,
    parsed,
)
from sharedllm.cli.serving import app as serving
from sharedllm.cli.terminal import Screen
from sharedllm.cli.training import app as training
from sharedllm.config import (
    AUTO,
    INJECTION_MODES,
    SCORERS,
    GenerationConfig,
    InjectionConfig,
    SearchConfig,
    require_one_of,
)
from sharedllm.display import page
from sharedllm.display.plain import one_line
from sharedllm.errors import (
    InputError,
    SharedLLMError,
    WindowError,
)
from sharedllm.text.loaders import STDIN, SourceText, read_file
from sharedllm.text.outline import absent_section, sections_named

if TYPE_CHECKING:
    from sharedllm.answer import Answer
    from sharedllm.memory.resolve import Source
    from sharedllm.shared_llm import SharedLLM

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.add_typer(chat)
app.add_typer(evaluation, name="eval")
app.add_typer(memories)
app.add_typer(models)
app.add_typer(serving)
app.add_typer(training)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for bad input, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # for terminals without Unicode
    try:
        code = app(args=argv, prog_name="sharedllm", standalone_mode=False)
        sys.stdout.flush()
    except (SharedLLMError, typer.TyperException) as error:
        plain = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        sys.stderr.write(f"sharedllm: {one_line(plain)}\n")
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


# The options of `ask`, in the order of its help.
Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH",
        help="Text, HTML, PDF, DOCX, PPTX, EPUB, RTF, EML, CSV, JSON, subtitles, source code; "
        "- is standard input.",
    ),
]
Questions = Annotated[
    list[str],
    typer.Option(
        "-q", "--question", metavar="TEXT", help="What to ask. Again for a further question."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="DIR", help="Also search the memory that index made there."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Token budget: evidence pasted as text, plus injected KV entries. auto follows the "
        "question.",
        show_default=default_of("budget"),
    ),
]
Injection = Annotated[
    str | None,
    typer.Option(
        metavar="joint|cross",
        help=f"How memory enters the model: {', '.join(INJECTION_MODES)}.",
        show_default=f"the adapter's, or {InjectionConfig().mode}",
    ),
]
MaxNewTokens = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Longest answer, in tokens.",
        show_default=str(GenerationConfig().max_new_tokens),
    ),
]
Temperature = Annotated[
    str | None,
    typer.Option(
        metavar="T",
        help="0 always takes the likeliest token.",
        show_default=f"{GenerationConfig().temperature:g}",
    ),
]
Html = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Also write one page with the evidence in its text."),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object a question, each on its line, and nothing else."
    ),
]


@app.command()
def ask(
    questions: Questions,
    paths: Paths = None,
    folder: Memory = None,
    encoding: Encoding = None,
    model: AnsweringModel = None,
    reader: Reader = None,
    reader_model: ReaderModel = None,
    reader_window: ReaderWindow = None,
    adapter: MemoryAdapter = None,
    scope: ScopeOption = None,
    max_chunks: MaxChunks = None,
    max_seconds: MaxSeconds = None,
    scorer: Scorer = None,
    selection: Selecting = None,
    budget: Budget = None,
    leaves: Leaves = None,
    section: InSection = None,
    injection: Injection = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    thinking: Thinking = False,
    device: Device = None,
    dtype: MemoryDtype = None,
    quantize: Quantize = None,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question about documents of any length; print the answer and where it was found.

    [bold]Examples:[/bold]

      sharedllm ask book.txt -q "Who buys the house?"

      sharedllm ask report.pdf notes.md -q "What was decided?" --budget 2048

      sharedllm ask book.txt -q "Who is the sailor?" --section "chapter 1"

      sharedllm ask --memory memory -q "Which book has a furmity seller?"

      curl -s https://example.org/page.html | sharedllm ask - -q "Who wrote this?" --json

      sharedllm ask book.txt -q "List all ships that were built at the yard."

      sharedllm ask book.txt -q "Who buys the house?" --reader http://localhost:11434/v1
    """
    paths = paths or []
    _check(paths, folder, questions, scorer, injection, html)
    tokens = AUTO if budget == AUTO else parsed("budget", budget, int, f" or {AUTO!r}")
    longest = parsed("max-new-tokens", max_new_tokens, int)
    heat = parsed("temperature", temperature, float)
    limits = {
        "max_chunks": parsed("max-chunks", max_chunks, int),
        "max_seconds": parsed("max-seconds", max_seconds, float),
    }
    chosen = {"scorer": scorer, "selection": selection, "budget": tokens, "leaves": leaves}
    selecting = given(scope=scope, section=section, **limits, **chosen)
    decoding = given(max_new_tokens=longest, temperature=heat, thinking=thinking or None)
    SearchConfig(**selecting)  # refuses wrong values before files are read
    inject = InjectionConfig(**given(mode=injection)) if injection else None
    for_answer = GenerationConfig(**decoding)
    place = given(device=device, dtype=dtype, quantize=quantize)
    check_place(**place)
    screen = Screen(silent=as_json)
    with screen.busy("opening the files"):
        texts = [read_file(path, encoding=encoding) for path in paths]
    if section is not None and folder is None:
        _require_section(section, texts)
    named = given(model=model, adapter=adapter, injection=inject) | place
    room = parsed("reader-window", reader_window, int)
    named |= given(reader=reader, reader_model=reader_model, reader_window=room)
    with screen.busy("loading the model"):
        llm, memory = loaded(folder, named)
        llm.reader.reach()
    llm.reader.settled(llm.search.replace(**selecting), for_answer)
    _require_room(llm, questions, llm.search.replace(**selecting), for_answer)
    stored: list[Source] = [] if memory is None else [memory]
    documents = [*stored, *(screen.remember(llm, text) for text in texts)]
    _answer(screen, llm, questions, documents, {**selecting, **decoding}, html, as_json=as_json)


def _require_section(section: str, texts: Sequence[SourceText]) -> None:
    """Refuse a section that no file has, before the files are read by the model."""
    if not any(sections_named(text.outline, section) for text in texts):
        raise absent_section(section, [(text.title, text.outline) for text in texts])


def _answer(
    screen: Screen,
    llm: SharedLLM,
    questions: Sequence[str],
    documents: Sequence[Source],
    options: dict[str, Any],
    html: str | None,
    *,
    as_json: bool,
) -> None:
    """Answer the questions one by one, then write the page."""
    answers = []
    for question in questions:
        if as_json:
            with screen.busy("answering"):
                answer = llm.answer(question, documents, **options)
            typer.echo(json.dumps(named_answer(llm, question, answer)))
        else:
            answer = screen.answer(llm, question, documents, options, len(questions) > 1)
        answers.append(answer.answered(question, "--max-new-tokens"))
    if html is not None:
        page.write(html, answers)
        if not as_json:
            screen.say(f"page written: {html}")


def named_answer(llm: SharedLLM, question: str, answer: Answer) -> dict[str, Any]:
    """Return what ``--json`` prints of an answer: the question, who answered, and the answer."""
    from sharedllm.readers.injecting import InjectingReader

    model, adapter = llm.encoder.loaded_from or (None, None)
    if adapter is not None and Path(adapter) == SHIPPED:
        adapter = "default"
    who: dict[str, Any] = {"model": model or DEFAULT_NAME, "adapter": adapter}
    if not isinstance(llm.reader, InjectingReader):
        who = {"model": llm.reader.name, "adapter": None, "searched_by": who}
    return {"question": question, **who, **answer.to_dict()}


def _require_room(
    llm: SharedLLM, questions: Sequence[str], search: SearchConfig, generation: GenerationConfig
) -> None:
    """Refuse a budget for which no prompt has room, before a long document is read."""
    window, new = llm.window, generation.max_new_tokens
    asked = max(len(llm.tokenizer(question, verbose=False)["input_ids"]) for question in questions)
    budget = search.budget if isinstance(search.budget, int) else 0  # auto takes what room there is
    if budget + asked + new > window:
        raise WindowError(
            f"the budget of {budget:,} tokens, a question of {asked:,} tokens and an answer of up "
            f"to {new:,} need more than the {window:,} positions of the model's window: lower "
            "--budget or --max-new-tokens, or shorten the question"
        )


def _check(
    paths: Sequence[str],
    folder: str | None,
    questions: Sequence[str],
    scorer: str | None,
    injection: str | None,
    html: str | None,
) -> None:
    """Refuse wrong arguments before files are read and the model is loaded."""
    if not paths and folder is None:
        raise typer.BadParameter("Missing argument 'PATH': name files, or a memory with --memory")
    if not all(question.strip() for question in questions):
        raise InputError("the question is empty; ask something after -q")
    for question in questions:
        problem = unicode_problem(question)
        if problem:
            raise InputError(f"the question {shown(question)} is not valid Unicode: {problem}")
    if paths.count(STDIN) > 1:
        raise InputError("- (standard input) was given more than once; it can be read once")
    for name, value, allowed in (
        ("scorer", scorer, SCORERS),
        ("injection", injection, INJECTION_MODES),
    ):
        if value is not None:
            require_one_of(name, value, allowed)
    if html is not None:
        read = [path for path in (*paths, folder or STDIN) if path != STDIN]
        page.check(html, read)
