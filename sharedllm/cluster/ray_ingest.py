"""Reading documents into a memory of parts on Ray Data: one part an actor."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm.arguments import checked, path_problem, shown
from sharedllm.cluster.connecting import connected
from sharedllm.cluster.sources import Row, document_of, found_in, parsed
from sharedllm.config import require_int, require_number
from sharedllm.encoding.document_encoder import loaded_encoder
from sharedllm.errors import DocumentError, InputError
from sharedllm.memory.documents import MemoryDocument
from sharedllm.memory.files import Search, id_of_file, marks_of_file, own_marks
from sharedllm.memory.parted_memory import PartedMemory
from sharedllm.memory.parts_list import locked
from sharedllm.memory.tree_memory import TreeMemory

if TYPE_CHECKING:
    from ray.data import Dataset  # of the extra "ray"


@dataclass
class RayIndexed:
    """Counts of the documents that were read into a memory so far.

    Attributes
    ----------
    added, updated : int
        Documents that were committed by this run.
    unchanged : int
        Documents that were there already.
    failed : reason by name
        Documents that could not be read or stored; the others are not concerned.
    tokens : int
        Of the documents that were added and updated.
    seconds : float
        Since the first actor was asked for.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@checked("source", "progress")
def ingest(
    source: Dataset | Sequence[str],
    memory: str | os.PathLike[str],
    *,
    address: str | None = None,
    model: str | None = None,
    adapter: str | None = "default",
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    keep: str | None = None,
    kv: str | None = None,
    encoding: str | None = None,
    actors: int = 2,
    parsers: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    documents_at_once: int = 64,
    progress: Callable[[RayIndexed], None] | None = None,
) -> RayIndexed:
    """Read documents into a memory of parts, on several processes and machines.

    Rows are parsed on CPU actors and encoded by `actors` others. Each loads the model once and
    writes a part of its own. A document is stored exactly once: it is known by its id (a file by
    its path, a URI by itself), and one that any part has is not read again. So a run that was
    killed is begun again in the same way, and goes on where it was; Ray starts actors again that
    die. All machines must see the memory's folder under the same path.

    Parameters
    ----------
    source : a Ray dataset whose rows have ``text``, and may have ``id``, ``title``, ``source`` and
        ``metadata`` (JSON); or files, folders, URIs that fsspec opens, and Parquet files with such
        rows
    memory : the folder of a memory of parts; a new one has a part for each actor
    address : of a Ray cluster; "auto" is the one of this machine, None or "local" starts one here,
        unless this process is connected already
    model, adapter, device, dtype, quantize : as in :meth:`SharedLLM.from_pretrained`
    keep, kv : as those of :class:`TreeMemory`; like the model, they have to be those of a memory
        that is there
    encoding : of texts, as :func:`read_file` takes it
    actors, parsers : processes that encode, and that parse
    num_cpus, num_gpus : of each process that encodes; GPUs may be fractions
    documents_at_once : rows that an actor gets at a time; it batches their chunks by tokens
    progress : called with what has been read so far

    Raises
    ------
    MissingExtraError
        If Ray is not installed (extra "ray").
    ConfigError
        If there is no cluster at `address`.
    InputError
        If `source` is neither, or a URI cannot be read.
    TreeMemoryError
        If the memory is not one of parts, or a part is away.
    TreeMemoryMismatchError
        If it was made with other settings.
    """
    for name, count in (("actors", actors), ("parsers", parsers)):
        require_int(name, count, least=1)
    require_int("documents_at_once", documents_at_once, least=1)
    require_number("num_cpus", num_cpus, least=0)
    require_number("num_gpus", num_gpus, least=0)
    ray = connected(address, "data")
    begun = time.monotonic()
    named = {"model": model, "adapter": adapter, "device": device, "dtype": dtype}
    named["quantize"] = quantize
    _prepare(Path(memory), actors, named, {"keep": keep, "kv": kv})
    out = RayIndexed()
    rows = _rows(ray, source, Path(memory), encoding, out)
    done = _pipeline(
        rows,
        {"memory": os.fspath(Path(memory).resolve()), "named": named},
        encoding=encoding,
        actors=actors,
        parsers=parsers,
        encoder={"num_cpus": num_cpus, "num_gpus": num_gpus, "batch_size": documents_at_once},
    )
    for row in done:
        _count(out, row, time.monotonic() - begun)
        if progress is not None:
            progress(out)
    _once(Path(memory))
    out.seconds = time.monotonic() - begun
    return out


def _prepare(
    folder: Path, actors: int, named: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Make the memory, or more parts of it, so that each actor has one of its own."""
    if not PartedMemory.is_at(folder):
        PartedMemory(folder, actors, llm=_encoder(named), **settings).close()
        return
    with PartedMemory(folder, **settings) as memory:
        held = {path.name for path in memory.parts}
        lacking = actors - len(held)
        names = (f"part-{number:03}" for number in range(actors + len(held)))
        new = [folder / name for name in names if name not in held][: max(0, lacking)]
        with TreeMemory(memory.parts[0], create=False) as first:
            for one in new:
                if not one.exists():
                    first.export(one, [])
        if new:
            memory.attach(new)


def _encoder(named: Mapping[str, Any]) -> Any:
    given = dict(named)
    return loaded_encoder(given.pop("model"), **given)


# -- the pipeline ----------------------------------------------------------------------------------


def _rows(
    ray: Any,
    source: Dataset | Sequence[str],
    folder: Path,
    encoding: str | None,
    out: RayIndexed,
) -> Sequence[Any]:
    """The datasets of what is to be read; files that did not change are counted and left out."""
    if hasattr(source, "map_batches"):
        return [source]
    if isinstance(source, str) or not isinstance(source, Sequence):
        raise InputError(
            f"source is {shown(source)}; give a Ray dataset, or a list of files, folders and URIs"
        )
    for path in source:
        problem = path_problem(path)
        if problem:
            raise InputError(f"a path of source is {shown(path)}; {problem}")
    search = Search()
    files, tables = found_in(map(str, source), search)
    out.failed |= search.failed
    with PartedMemory(folder) as memory:
        marks = {one.id: own_marks(one.metadata) for one in memory.list()}
    left = [
        path
        for path in files
        if marks.get(path, marks.get(id_of_file(path))) != _marks(path, encoding)
    ]
    out.unchanged += len(files) - len(left)
    parts = [ray.data.from_items([{"path": path} for path in left])] if left else []
    try:
        parts += [ray.data.read_parquet(path) for path in tables]
    except Exception as error:  # each kind of storage has errors of its own
        what = str(error).splitlines()[0]
        raise InputError(f"{', '.join(tables)} cannot be read as Parquet: {what}") from error
    return parts


def _marks(path: str, encoding: str | None) -> dict[str, Any]:
    """The state of a file, as its document holds it; nothing of a URI, which is read once."""
    return {} if "://" in path else marks_of_file(path, encoding)


def _pipeline(
    rows: Sequence[Any],
    where: dict[str, Any],
    *,
    encoding: str | None,
    actors: int,
    parsers: int,
    encoder: dict[str, Any],
) -> Iterator[Row]:
    """Parse and encode rows, and give a row for each that tells what was done."""
    from ray.data import ActorPoolStrategy

    for dataset in rows:
        made = dataset.map(
            Parser,
            fn_constructor_kwargs={"encoding": encoding},
            compute=ActorPoolStrategy(size=parsers),
            num_cpus=0.25,
        ).map_batches(
            Encoder,
            fn_constructor_kwargs=where,
            compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            **encoder,
        )
        made.context.enable_progress_bars = False  # `progress` tells the same in its own words
        yield from made.iter_rows()


class Parser:
    """An actor that reads files."""

    def __init__(self, encoding: str | None = None) -> None:
        self._encoding = encoding

    def __call__(self, row: Row) -> Row:
        return parsed(row, self._encoding)


class Encoder:
    """An actor that holds the model, and writes a part of a memory that no other writes.

    Parameters
    ----------
    memory : the folder of the memory of parts
    named : arguments of :func:`loaded_encoder`
    """

    def __init__(self, memory: str, named: Mapping[str, Any]) -> None:
        encoder = _encoder(named)
        self._whole = PartedMemory(memory, llm=encoder)
        folder, self._claim = _claimed(self._whole)
        self._part = TreeMemory(folder, llm=encoder, create=False)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        count = len(batch["name"])
        done = self._all([{name: str(batch[name][i]) for name in batch} for i in range(count)])
        columns = ("name", "outcome", "error", "tokens", "process")
        return {name: [row[name] for row in done] for name in columns}

    def _all(self, rows: Sequence[Row]) -> list[Row]:
        """Store documents: new ones in the own part, changed ones in the part that has them."""
        out = [_told(row, "failed", str(row["error"])) for row in rows if row["error"]]
        given = [(str(row["name"]), document_of(row)) for row in rows if not row["error"]]
        outcomes = [self._outcome(document) for _, document in given]
        failed: dict[int, str] = {}
        for kind, write in (("added", self._part.add), ("updated", self._whole.update)):
            own = [number for number, outcome in enumerate(outcomes) if outcome == kind]
            failed |= _written(write, {number: given[number][1] for number in own})
        tokens = self._tokens([document for _, document in given])
        for number, (name, document) in enumerate(given):
            outcome = "failed" if number in failed else outcomes[number]
            count = tokens.get(document.id, 0) if outcome in ("added", "updated") else 0
            out.append(_told({"name": name}, outcome, failed.get(number, ""), count))
        return out

    def _outcome(self, document: MemoryDocument) -> str:
        if document.id not in self._whole:
            return "added"
        return "unchanged" if self._whole.get(document.id) == document else "updated"

    def _tokens(self, documents: Sequence[MemoryDocument]) -> dict[str, int]:
        ids = [one.id for one in documents]
        return {one.id: one.tokens for one in self._whole.list({"id": ids})} if ids else {}


def _written(
    write: Callable[[list[MemoryDocument]], None], documents: Mapping[int, MemoryDocument]
) -> dict[int, str]:
    """Write documents together, or if one is refused each by itself; the reasons of those."""
    failed: dict[int, str] = {}
    try:
        if documents:
            write(list(documents.values()))
    except DocumentError:
        for number, document in documents.items():
            try:
                write([document])
            except DocumentError as error:
                failed[number] = str(error)
    return failed


def _told(row: Mapping[str, Any], outcome: str, error: str = "", tokens: int = 0) -> Row:
    told = {"name": str(row["name"]), "outcome": outcome, "error": error}
    return {**told, "tokens": tokens, "process": os.getpid()}


def _claimed(memory: PartedMemory) -> tuple[Path, sqlite3.Connection | None]:
    """The first part that no other process has claimed, and what holds the claim.

    The system gives a claim up when its process ends, however it ends. Where there are fewer parts
    than processes, which an actor that dies slowly may cause, two write to the first in turn.
    """
    for part in memory.parts:
        claim = locked(memory.path / f".{part.name}.claim", 0)
        if claim is not None:
            return part, claim
    return memory.parts[0], None


def _count(out: RayIndexed, row: Mapping[str, Any], seconds: float) -> None:
    """Add what a row tells to what has been read."""
    outcome = row["outcome"]
    if outcome == "failed":
        out.failed[row["name"]] = row["error"]
    else:
        setattr(out, outcome, getattr(out, outcome) + 1)
    out.tokens += int(row["tokens"])
    out.seconds = seconds


def _once(folder: Path) -> None:
    """Delete the second copy of what two actors stored at the same time under one id."""
    with PartedMemory(folder) as memory:
        seen = set[str]()
        for part in memory.parts:
            with TreeMemory(part, create=False) as own:
                ids = {one.id for one in own.list()}
                if ids & seen:
                    own.delete(sorted(ids & seen))
                seen |= ids
