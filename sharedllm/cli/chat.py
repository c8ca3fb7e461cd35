"""``sharedllm chat [PATH...] [--memory DIR]``: questions that follow up, in the terminal.

Only typer and rich are imported at the top: help and usage errors must not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from sharedllm.arguments import path_problem, shown, unicode_problem
from sharedllm.cli.chat_file import Conversation, Turn, path_for
from sharedllm.cli.opening import check_place, given, loaded
from sharedllm.cli.options import (
    AnsweringModel,
    Device,
    Encoding,
    InSection,
    MemoryAdapter,
    MemoryDtype,
    Quantize,
    Reader,
    ReaderModel,
    ReaderWindow,
    ScopeOption,
    parsed,
)
from sharedllm.cli.terminal import Screen
from sharedllm.config import AUTO, GenerationConfig, SearchConfig
from sharedllm.display.picture import colour
from sharedllm.display.plain import counted, flowing, one_line, printable
from sharedllm.errors import InputError, SharedLLMError, WindowError
from sharedllm.text.loaders import STDIN, SourceText, read_file

if TYPE_CHECKING:
    from sharedllm.encoding.document import Document
    from sharedllm.memory.resolve import Source
    from sharedllm.memory.tree_memory import TreeMemory
    from sharedllm.search.citations import Citation
    from sharedllm.shared_llm import SharedLLM

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

MOST_TURNS = 16  # that a question brings along
AROUND = 700  # characters of a document that /open shows on either side of a passage
PROMPT = "> "

Paths = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH", help="Files as ask reads them; with --memory, added to it."),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="DIR", help="Ask the memory there, made if PATHs are given."),
]
Budget = Annotated[
    str | None,
    typer.Option(metavar="N|auto", help="Token budget, as ask takes it.", show_default=AUTO),
]
MaxNewTokens = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Longest answer, in tokens.",
        show_default=str(GenerationConfig().max_new_tokens),
    ),
]
New = Annotated[bool, typer.Option("--new", help="Begin anew instead of resuming.")]


@app.command()
def chat(
    paths: Paths = None,
    folder: Memory = None,
    new: New = False,
    encoding: Encoding = None,
    model: AnsweringModel = None,
    reader: Reader = None,
    reader_model: ReaderModel = None,
    reader_window: ReaderWindow = None,
    adapter: MemoryAdapter = None,
    scope: ScopeOption = None,
    budget: Budget = None,
    section: InSection = None,
    max_new_tokens: MaxNewTokens = None,
    device: Device = None,
    dtype: MemoryDtype = None,
    quantize: Quantize = None,
) -> None:
    """Ask question after question; the conversation is kept, and goes on the next time.

    Ctrl-C ends an answer; /help lists what else there is. Without a terminal, each line of standard
    input is a question.

    [bold]Examples:[/bold]

      sharedllm chat report.pdf

      sharedllm chat --memory memory
    """
    paths = paths or []
    if STDIN in paths:
        raise InputError("- is standard input, where the questions come from; name files")
    for name, one in (*(("PATH", path) for path in paths), ("--memory", folder or "memory")):
        problem = path_problem(one)
        if problem:
            raise InputError(f"{name} is {shown(one)}; {problem}")
    tokens = AUTO if budget == AUTO else parsed("budget", budget, int, f" or {AUTO!r}")
    longest = parsed("max-new-tokens", max_new_tokens, int)
    selecting = given(scope=scope, section=section, budget=tokens)
    decoding = given(max_new_tokens=longest)
    SearchConfig(**selecting)  # refuses wrong values before files are read
    GenerationConfig(**decoding)
    place = given(device=device, dtype=dtype, quantize=quantize)
    check_place(**place)
    kept = path_for(folder, paths)
    conversation = Conversation(kept) if new else Conversation.open(kept)
    screen = Screen(silent=False)
    texts = [] if folder is not None else [read_file(one, encoding=encoding) for one in paths]
    named = given(model=model, adapter=adapter, reader=reader, reader_model=reader_model) | place
    named |= given(reader_window=parsed("reader-window", reader_window, int))
    with screen.busy("loading the model"):
        llm, memory = loaded(folder, named, create=bool(paths))
        llm.reader.reach()
    session = Session(screen, llm, memory, conversation, {**selecting, **decoding}, encoding)
    session.add_texts(texts)
    if memory is not None and paths:
        session.index(memory, paths)
    session.greet()
    if not session.run():
        raise typer.Exit(2)


class Quit(Exception):  # noqa: N818  # no error: the user ends the session
    """The session is to end."""


class Session:
    """One run of the command: its documents, its conversation, what a line does.

    Parameters
    ----------
    options : of every question, as ``SharedLLM.stream`` takes them
    """

    def __init__(
        self,
        screen: Screen,
        llm: SharedLLM,
        memory: TreeMemory | None,
        conversation: Conversation,
        options: dict[str, Any],
        encoding: str | None,
    ) -> None:
        self._screen, self._llm, self._memory = screen, llm, memory
        self._conversation, self._options, self._encoding = conversation, options, encoding
        self._documents: list[Document] = []
        self._is_terminal = sys.stdin.isatty()
        self._commands: dict[str, tuple[Callable[[str], None], str, str]] = {
            "/open": (self._open, "N", "show passage N of the last answer in its document"),
            "/sources": (self._sources, "", "list the documents"),
            "/add": (self._add, "PATH", "read one more document"),
            "/new": (self._new, "", "begin a new conversation"),
            "/help": (self._help, "", "this list"),
            "/quit": (self._quit, "", "end; so does Ctrl-D"),
        }

    # -- documents ---------------------------------------------------------------------------------

    def add_texts(self, texts: Sequence[SourceText]) -> None:
        """Read documents for this session."""
        self._documents += [self._screen.remember(self._llm, text) for text in texts]

    def index(self, memory: TreeMemory, paths: Sequence[str]) -> None:
        """Read files and folders into the memory of this session.

        Raises
        ------
        InputError
            If one cannot be read; the others are.
        """
        from sharedllm.memory.files import index

        progress = self._screen.shows_work
        done = index(memory, paths, progress=progress, encoding=self._encoding)
        held = counted(len(memory), "document")
        self._screen.say(
            f"{len(done.added):,} added, {len(done.updated):,} updated, "
            f"{len(done.unchanged):,} unchanged; the memory holds {held}"
        )
        if done.failed:
            raise InputError("; ".join(done.failed.values()))

    def greet(self) -> None:
        """Say what is resumed, and what to type."""
        last = self._conversation.last
        if last is not None:
            number = counted(len(self._conversation.turns), "question")
            self._screen.say(f"resuming after {number}; the last was: {one_line(last.question)}")
        if self._is_terminal:
            self._screen.paragraph(Text("Ask; /help lists what else there is.", style="dim"))

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> bool:
        """Do what each line says until there are no more; True if all of it went well."""
        went_well = True
        for line in self._lines():
            try:
                self._do(line)
            except Quit:
                break
            except KeyboardInterrupt:
                if not self._is_terminal:
                    raise
                self._screen.say("\nstopped")
            except SharedLLMError as error:
                self._screen.complain(str(error))
                went_well = went_well and self._is_terminal
        return went_well

    def _lines(self) -> Iterator[str]:
        if not self._is_terminal:
            yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
            return
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import NestedCompleter, PathCompleter
        from prompt_toolkit.history import InMemoryHistory

        history = InMemoryHistory([turn.question for turn in self._conversation.turns])
        after = dict.fromkeys(self._commands) | {"/add": PathCompleter(expanduser=True)}
        prompt: PromptSession[str] = PromptSession(
            history=history,
            completer=NestedCompleter(after),
            complete_while_typing=False,
            reserve_space_for_menu=4,  # lines; more would push the answers up
        )
        while True:
            try:
                line = prompt.prompt(PROMPT)
            except KeyboardInterrupt:
                continue  # the line is thrown away, as in a shell
            except EOFError:
                return
            if line.strip():
                yield line

    def _do(self, line: str) -> None:
        """Carry out a command, or answer a question; a space in front makes it a question."""
        name, _, rest = line.partition(" ")
        if not name.startswith("/"):
            self._ask(line.strip())
        elif name in self._commands:
            self._commands[name][0](rest.strip())
        else:
            known = ", ".join(self._commands)
            raise InputError(
                f"there is no command {shown(name)}; there are {known}. A question that begins "
                "with / is asked with a space before it"
            )

    def _ask(self, question: str) -> None:
        problem = unicode_problem(question)
        if problem:
            raise InputError(f"the question {shown(question)} is not valid Unicode: {problem}")
        sources: list[Source] = list(self._documents)
        if self._memory is not None:
            sources.insert(0, self._memory)
        if not sources:
            raise InputError("there is no document yet; /add PATH reads one")
        turns = min(MOST_TURNS, len(self._conversation.turns))
        while True:
            earlier = self._conversation.messages(turns)
            try:
                answer = self._screen.answer(
                    self._llm, question, sources, self._options, not self._is_terminal, earlier
                )
                break
            except WindowError:
                if not turns:
                    raise
                turns //= 2
                self._screen.complain(
                    f"the conversation is too long for the model's window; asking with the last "
                    f"{counted(turns, 'turn')} of it"
                )
        self._conversation.add(Turn(question, answer.text, answer.citations))
        if answer.citations and self._is_terminal:
            self._screen.paragraph(Text("/open N shows a passage in its document", style="dim"))

    # -- commands ----------------------------------------------------------------------------------

    def _open(self, rest: str) -> None:
        last = self._conversation.last
        cited = () if last is None else last.citations
        if not cited:
            raise InputError("no answer cites a passage yet; ask something")
        if not rest.isdecimal() or not 1 <= int(rest) <= len(cited):
            raise InputError(f"/open {rest}: give the number of a passage, 1 to {len(cited)}")
        self._screen.paragraph(passage_in_context(cited[int(rest) - 1], self._text_of))

    def _text_of(self, citation: Citation) -> str | None:
        """The text that a citation is of, if it is still here."""
        if self._memory is not None and citation.document in self._memory:
            return self._memory.get(citation.document).text
        found = (one.text for one in self._documents if one.id == citation.document)
        return next(found, None)

    def _sources(self, rest: str) -> None:
        held = [] if self._memory is None else self._memory.list()
        listed = [(one.id, one.title, one.source, one.tokens) for one in held]
        listed += [(one.id, one.title, one.source, len(one)) for one in self._documents]
        if not listed:
            raise InputError("there is no document yet; /add PATH reads one")
        last = self._conversation.last
        for id, title, source, tokens in listed:
            cited = [
                str(number)
                for number, one in enumerate(last.citations if last else (), start=1)
                if one.document == id
            ]
            line = Text(one_line(title or source or id), style="bold")
            line.append(f"  {one_line(source)}, " if source else "  ", style="not bold dim")
            line.append(counted(tokens, "token"), style="not bold dim")
            if cited:
                line.append(f"  passages {', '.join(cited)}", style="not bold")
            self._screen.paragraph(line)

    def _add(self, rest: str) -> None:
        if not rest:
            raise InputError("/add needs the path of a file")
        if self._memory is not None:
            self.index(self._memory, [rest])
        else:
            self.add_texts([read_file(rest, encoding=self._encoding)])

    def _new(self, rest: str) -> None:
        self._conversation.clear()
        self._screen.say("a new conversation")

    def _help(self, rest: str) -> None:
        for name, (_, takes, what) in self._commands.items():
            line = Text(f"{f'{name} {takes}':<12}", style="bold")
            self._screen.paragraph(line.append(what, style="not bold"))

    def _quit(self, rest: str) -> None:
        raise Quit


def passage_in_context(citation: Citation, text_of: Callable[[Citation], str | None]) -> Text:
    """A passage with the text around it, its matching sentence bold.

    Where the document is not here any more, or has changed, the passage stands alone.
    """
    start, end = citation.char_start, citation.char_end
    text = text_of(citation)
    here = text is not None and text[start:end] == citation.text
    first, last = (max(0, start - AROUND), end + AROUND) if here else (start, end)
    if text and first:
        first = text.find(" ", first, start) + 1 or first  # between two words
    whole = flowing((text or "")[first:last] if here else citation.text)
    from_, to = citation.match_start, citation.match_end
    match = (end, end) if from_ is None or to is None else (from_, to)

    def part(begin: int, stop: int) -> str:
        return printable(whole[begin - first : stop - first].replace("\f", "\n"))

    out = Text(one_line(citation.title or citation.source or citation.document), style="bold")
    page = f", page {citation.page:,}" if citation.page else ""
    section = f", {one_line(citation.section)}" if citation.section else ""
    out.append(f"{section}{page}, characters {start:,} to {end:,}\n\n", style="not bold dim")
    if first > 0 and here:
        out.append("…", style="not bold dim")
    out.append(part(first, start), style="not bold dim")
    shade = colour(citation.level)
    out.append(part(start, match[0]), style=f"not bold {shade}")
    out.append(part(*match), style=f"bold {shade}")
    out.append(part(match[1], end), style=f"not bold {shade}")
    if here:
        more = "…" if last < len(text or "") else ""
        out.append(f"{part(end, last)}{more}", style="not bold dim")
    else:
        out.append("\n\nthe document is not here, or has changed since", style="not bold yellow")
    return out
