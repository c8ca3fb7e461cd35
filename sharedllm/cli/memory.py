"""Commands for memories: index, docs, remove, verify, compact and parts.

Only typer and rich are imported at the top: help and usage errors must not wait for torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedllm.arguments import path_problem, shown
from sharedllm.cli.options import (
    Device,
    Encoding,
    MemoryAdapter,
    MemoryDtype,
    MemoryModel,
    Quantize,
    Reader,
    ReaderModel,
    ReaderWindow,
    parsed,
)
from sharedllm.cli.terminal import Screen, documents_table, outline_lines
from sharedllm.display.plain import counted, one_line
from sharedllm.errors import ConfigError, InputError
from sharedllm.memory.folder import file_of
from sharedllm.text.loaders import require_encoding
from sharedllm.text.pages import page_starts

if TYPE_CHECKING:
    from sharedllm.memory.documents import StoredDocument
    from sharedllm.memory.files import Indexed
    from sharedllm.memory.tree_memory import TreeMemory
    from sharedllm.shared_llm import SharedLLM
    from sharedllm.whole.note_taking import NotesTaken

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

Memory = Annotated[str, typer.Option("--memory", metavar="DIR", help="The folder of the memory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Paths = Annotated[
    list[str],
    typer.Argument(metavar="PATH", help="Files of any format that is read, and folders."),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="text|leaves|coarse|all",
        help="KV kept beside the text: none, that of every leaf (large), of every chunk's root, or "
        "of all compressed nodes.",
        show_default="the memory's, or text",
    ),
]
Form = Annotated[
    str | None,
    typer.Option(
        metavar="bf16|int8|int4|exact",
        help="How KV is stored.",
        show_default="the memory's, or bf16, int8 with --keep leaves",
    ),
]
Rebuild = Annotated[
    bool, typer.Option("--rebuild", help="Encode all again if model or settings differ.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|auto|local",
        help="Read on a Ray cluster, into a memory of parts: at host:port, on this machine (auto), "
        "or started here (local).",
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Processes of --ray that encode, each into its part.", show_default="2"
    ),
]
TakeNotes = Annotated[
    bool,
    typer.Option(
        "--notes",
        help="Then write a note of each chunk of the memory that has none, so that a first summary "
        "needs no more reading. --reader writes them for questions with the same --reader.",
    ),
]


@app.command()
def index(
    paths: Paths,
    folder: Memory,
    model: MemoryModel = None,
    adapter: MemoryAdapter = None,
    keep: Keep = None,
    kv: Form = None,
    rebuild: Rebuild = False,
    notes: TakeNotes = False,
    reader: Reader = None,
    reader_model: ReaderModel = None,
    reader_window: ReaderWindow = None,
    encoding: Encoding = None,
    device: Device = None,
    dtype: MemoryDtype = None,
    quantize: Quantize = None,
    ray: Ray = None,
    actors: Actors = None,
    as_json: AsJson = False,
) -> None:
    """Read files and folders into a memory on disk; unchanged files are skipped.

    What was left out is named; exit code 1 if a file could not be read, or none was.

    [bold]Example:[/bold]  sharedllm index books/ notes.md --memory memory
    """
    _require_readable(paths, encoding)
    window = parsed("reader-window", reader_window, int)
    elsewhere = {"reader": reader, "reader_model": reader_model, "reader_window": window}
    if not notes:
        _require_notes(elsewhere)
    screen, settings = Screen(silent=as_json), {"keep": keep, "kv": kv}
    place = {"model": model, "adapter": adapter, "device": device, "dtype": dtype}
    place["quantize"] = quantize
    if ray is not None:
        refused, given = {"--rebuild": rebuild, "--notes": notes}, place | settings
        _index_on_ray(screen, paths, folder, ray, actors, encoding, given, refused, as_json)
        return
    if actors is not None:
        raise ConfigError("--actors is the number of processes of --ray; give both, or none")
    with screen.busy("opening the memory"):
        memory = opened(folder, place, settings, rebuild=rebuild, create=True)
    from sharedllm.memory.files import index as read_into

    with memory:
        writer = _writer(screen, memory, elsewhere) if notes else None
        done = read_into(memory, paths, progress=screen.shows_work, encoding=encoding)
        held = len(memory)
        if not as_json:
            _tell(screen, done, held)
        taken = _take_notes(screen, memory, writer) if writer and held else None
    if as_json:
        own = {} if taken is None else {"notes": dataclasses.asdict(taken)}
        typer.echo(json.dumps({**dataclasses.asdict(done), "documents": held, **own}))
    if done.failed or not done.read:
        raise typer.Exit(1)


def _require_readable(paths: Sequence[str], encoding: str | None) -> None:
    """Refuse paths that cannot exist, and an encoding that nobody knows."""
    for path in paths:
        problem = path_problem(path)
        if problem:
            raise InputError(f"PATH is {shown(path)}; {problem}")
    if encoding is not None:
        require_encoding(encoding)


def _index_on_ray(
    screen: Screen,
    paths: Sequence[str],
    folder: str,
    address: str,
    actors: int | None,
    encoding: str | None,
    place: dict[str, Any],
    refused: dict[str, Any],
    as_json: bool,
) -> None:
    """Read into a memory of parts, on a Ray cluster."""
    from sharedllm.cluster.ray_ingest import RayIndexed, ingest

    named = [name for name, value in refused.items() if value]
    if named:
        raise ConfigError(f"{named[0]} cannot be given with --ray; leave it out")
    if place["adapter"] is None:
        place["adapter"] = "default"
    elif place["adapter"] == "none":
        place["adapter"] = None
    with screen.busy("starting the actors") as status:

        def show(done: RayIndexed) -> None:
            status.update(
                f"{done.added + done.updated:,} documents, {done.tokens:,} tokens, "
                f"{done.tokens_per_s:,.0f} tokens a second"
            )

        done = ingest(
            paths,
            folder,
            address=address,
            actors=2 if actors is None else actors,
            encoding=encoding,
            progress=show,
            **place,
        )
    with opened(folder) as memory:
        held = len(memory)
    if as_json:
        rate = {"tokens_per_s": done.tokens_per_s, "documents": held}
        typer.echo(json.dumps({**dataclasses.asdict(done), **rate}))
    else:
        for why in done.failed.values():
            screen.say(f"not read: {one_line(why)}")
        screen.say(
            f"{done.added:,} added, {done.updated:,} updated, {done.unchanged:,} unchanged, "
            f"{done.tokens_per_s:,.0f} tokens a second; "
            f"the memory holds {counted(held, 'document')}"
        )
    if done.failed or not (done.added + done.updated + done.unchanged):
        raise typer.Exit(1)


def _require_notes(given: dict[str, Any]) -> None:
    """Refuse to name a reader that is not asked for anything."""
    for name, value in given.items():
        if value is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is {value!r}, and it writes notes: add --notes")


def _writer(screen: Screen, memory: TreeMemory, elsewhere: dict[str, Any]) -> SharedLLM:
    """Load what writes notes, before files are read for it."""
    from sharedllm.registry import loaded_for

    with screen.busy("loading the model"):
        llm = loaded_for(memory, **elsewhere)
        llm.reader.reach()
    return llm


def _tell(screen: Screen, done: Indexed, held: int) -> None:
    """Say what was read, and what was not."""
    for why in done.failed.values():
        screen.say(f"not read: {one_line(why)}")
    if done.left_out:
        screen.say(f"left out: {_listed(done.left_out)}")
    screen.say(
        f"{len(done.added):,} added, {len(done.updated):,} updated, "
        f"{len(done.unchanged):,} unchanged; the memory holds {counted(held, 'document')}"
    )
    if not done.read:
        screen.say("nothing was read")


def _take_notes(screen: Screen, memory: TreeMemory, llm: SharedLLM) -> NotesTaken:
    """Take the notes that a memory lacks."""
    screen.remark("taking notes; Ctrl-C ends it, and the same command goes on where it ended")
    taken = llm.take_notes(memory, progress=screen.shows_work).result()
    screen.remark(f"{counted(taken.taken, 'note')} taken, {taken.kept:,} there already")
    return taken


@app.command()
def docs(
    folder: Memory,
    outline: Annotated[
        bool, typer.Option("--outline", help="Show the sections of each document.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the documents of a memory, or their outlines: what --section can name."""
    with opened(folder) as memory:
        found = memory.list()
        _name_away(memory)
        if outline:
            _show_outlines(memory, found, as_json=as_json)
            return
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(document) for document in found]))
    else:
        Screen(silent=False).show(documents_table(found))


def _show_outlines(
    memory: TreeMemory, documents: Sequence[StoredDocument], *, as_json: bool
) -> None:
    """Print the sections of documents, with their pages where there are any."""
    screen = Screen(silent=as_json)
    for number, document in enumerate(documents):
        held = memory.get(document.id)
        sections = held.outline or ()
        if as_json:
            rows = [dataclasses.asdict(section) for section in sections]
            typer.echo(json.dumps({"id": held.id, "title": held.title, "outline": rows}))
            continue
        if number:
            screen.say("")
        name = held.title or held.source or held.id
        for line in outline_lines(name, sections, page_starts(held.text)):
            screen.paragraph(line)


@app.command()
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="As docs lists them.")],
    folder: Memory,
    as_json: AsJson = False,
) -> None:
    """Remove documents from a memory, all of them or none; the files stay."""
    with opened(folder) as memory:
        memory.delete(ids)
        held = len(memory)
        _name_away(memory)
    removed = list(dict.fromkeys(ids))
    if as_json:
        typer.echo(json.dumps({"removed": removed, "documents": held}))
    else:
        Screen(silent=False).say(
            f"{len(removed):,} removed; the memory holds {counted(held, 'document')}"
        )


@app.command()
def verify(
    folder: Memory,
    repair: Annotated[
        bool, typer.Option("--repair", help="Encode damaged chunks again from their text.")
    ] = False,
    model: MemoryModel = None,
    adapter: MemoryAdapter = None,
    as_json: AsJson = False,
) -> None:
    """Read a whole memory and compare it with its checksums; exit code 0 only when it is clean."""
    named = {"model": model, "adapter": adapter} if repair else {}
    with opened(folder, named) as memory:
        report = memory.verify(repair=repair)
    if as_json:
        typer.echo(json.dumps({"clean": report.clean, **dataclasses.asdict(report)}))
    else:
        screen = Screen(silent=False)
        for problem in report.problems:
            screen.say(f"{problem.table}: {one_line(problem.what)}")
        state = "clean" if report.clean else _counted(len(report.problems), "problem")
        repaired = f", {_counted(report.repaired, 'problem')} mended" if repair else ""
        screen.say(
            f"{report.documents:,} documents, {report.chunks:,} chunks, {report.bytes:,} bytes: "
            f"{state}{repaired}"
        )
    if not report.clean:
        raise typer.Exit(1)


@app.command()
def compact(folder: Memory, as_json: AsJson = False) -> None:
    """Free the disk space of removed documents."""
    with opened(folder) as memory:
        memory.compact()
        held = len(memory)
    if as_json:
        typer.echo(json.dumps({"documents": held}))
    else:
        Screen(silent=False).say(f"packed; the memory holds {counted(held, 'document')}")


@app.command()
def parts(
    folder: Memory,
    attach: Annotated[
        list[str] | None,
        typer.Option("--attach", metavar="DIR", help="A memory that is a part from now on."),
    ] = None,
    detach: Annotated[
        list[str] | None,
        typer.Option("--detach", metavar="DIR", help="A part that is taken off; it stays."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the parts of a memory, or make one of several memories, which are then used as one.

    Exit code 1 if a part is away.

    [bold]Example:[/bold]  sharedllm parts --attach east --attach west --memory library
    """
    from sharedllm.memory.parted_memory import PartedMemory

    new = attach and not PartedMemory.is_at(folder)
    with PartedMemory(folder, attach if new else None) as memory:
        if attach and not new:
            memory.attach(attach)
        for part in detach or ():
            memory.detach(part)
        held, paths, away = len(memory), [str(path) for path in memory.parts], memory.away
    if as_json:
        typer.echo(json.dumps({"parts": paths, "away": away, "documents": held}))
    else:
        screen = Screen(silent=False)
        for path in paths:
            screen.say(one_line(path))
        for one in away:
            screen.say(one_line(one))
        screen.say(f"{_counted(len(paths), 'part')}; they hold {counted(held, 'document')}")
    if away:
        raise typer.Exit(1)


def _name_away(memory: TreeMemory) -> None:
    """Name the parts that are away on standard error, where they do not disturb JSON."""
    for one in memory.away:
        typer.echo(one_line(one), err=True)


def _listed(left_out: dict[str, int]) -> str:
    """The kinds of files that were left out, the most frequent first."""
    return ", ".join(f"{number:,} {one_line(kind)}" for kind, number in left_out.items())


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def opened(
    folder: str,
    model: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    *,
    rebuild: bool = False,
    create: bool = False,
) -> TreeMemory:
    """Open the memory in `folder`.

    Parameters
    ----------
    model : arguments of :func:`loaded_encoder`, None if not given; they change how the memory's
        own model is loaded, where there is a memory
    """
    from sharedllm.memory.parted_memory import PartedMemory, open_at
    from sharedllm.memory.tree_memory import TreeMemory

    given = {name: value for name, value in (model or {}).items() if value is not None}
    if given.get("adapter") == "none":
        given["adapter"] = None
    llm = None
    is_there = file_of(Path(folder)) != (0, 0)
    if given and is_there and not (rebuild and "model" in given):
        with open_at(folder) as there:
            llm = there.load_encoder(**given)
    elif given:
        from sharedllm.encoding.document_encoder import loaded_encoder

        llm = loaded_encoder(given.pop("model", None), **given)
    if PartedMemory.is_at(folder):
        if rebuild:
            raise ConfigError(
                "--rebuild cannot be given for a memory of parts: rebuild each part by itself, or "
                "index into a new memory"
            )
        return PartedMemory(folder, llm=llm, **(settings or {}))
    return TreeMemory(folder, llm=llm, rebuild=rebuild, create=create, **(settings or {}))
