"""PartedMemory: several memories that are searched, filled and answered from as one."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from sharedllm.arguments import checked
from sharedllm.config import require_int, require_section
from sharedllm.encoding.document_encoder import HasEncoder
from sharedllm.errors import (
    ConfigError,
    DocumentError,
    InputError,
    TreeMemoryError,
    TreeMemoryMismatchError,
)
from sharedllm.memory import PARTS_FILE, maintenance, tables
from sharedllm.memory.database import read_all
from sharedllm.memory.documents import MemoryDocument, Problem, Report
from sharedllm.memory.elsewhere import Send
from sharedllm.memory.folder import file_of
from sharedllm.memory.hits import Hits
from sharedllm.memory.manifest import Manifest, MemorySettings
from sharedllm.memory.owners import (
    Present,
    number_after_all,
    owners_of,
    smallest,
    stretches,
)
from sharedllm.memory.parts_fit import codec_hash, doubled, make_parts, require_alike, require_once
from sharedllm.memory.parts_list import (
    MOST_PARTS,
    PartsList,
    changing,
    is_parted,
    part_name,
    part_paths,
    state_of_list,
)
from sharedllm.memory.prefilter import is_large
from sharedllm.memory.retrieval import FoundDocuments, Retrieval
from sharedllm.memory.tree_memory import (
    CANDIDATES,
    Documents,
    TakesNotes,
    TreeMemory,
    seconds,
)
from sharedllm.memory.word_index import Opened
from sharedllm.progress import Progress, Reporter, reporter
from sharedllm.text.outline import Outline

T = TypeVar("T")
LEAST_SHARE = 1024  # characters of new documents that are not divided among parts


class PartedMemory(TreeMemory):
    """Several memories, made by one model with the same settings, that are used as one.

    A folder with a list of them (``parts.json``), rather than a list of paths in each call: so the
    folder can be named wherever a memory can (a context, ``--memory``, the adapters, a pickle), and
    a part that is away is known to be.

    A question looks at the same chunks, with the same scores, as if all documents were in one
    memory: words are counted over all parts, and every part has the same codec of search vectors.
    A part that is away (its folder is missing, or cannot be read) is left out and named:
    :attr:`Answer.away`, :attr:`Hits.away`, :attr:`away`. As it may hold any document, nothing is
    added or updated until it is back, or is taken off the list (:meth:`detach`). New documents go
    to the smallest part. Parts are memories of their own; one process may write to each.

    Parameters
    ----------
    path : the folder with the list; made where `parts` are given
    parts : int, sequence of paths, or None
        The number of new, empty parts to be made in the folder, or memories that are there and
        are the parts from now on. None opens the list that is there.
    llm, keep, kv, vectors, candidates, busy_s
        As those of :class:`TreeMemory`; `keep`, `kv` and `vectors` are of new parts, and those
        that are there must have them.

    Raises
    ------
    InputError
        If a part is given twice, or two parts hold a document under the same id.
    TreeMemoryMismatchError
        If parts were made by other models, with other settings or other codecs.
    TreeMemoryError, TreeMemoryFormatError
        If there is no list, there is one already, or no part can be used.
    """

    @checked("parts")
    def __init__(
        self,
        path: str | os.PathLike[str],
        parts: int | Sequence[str | os.PathLike[str]] | None = None,
        *,
        llm: HasEncoder | None = None,
        keep: str | None = None,
        kv: str | None = None,
        vectors: str | None = None,
        candidates: int = CANDIDATES,
        busy_s: float = 30.0,
    ) -> None:
        require_int("candidates", candidates, least=1)
        self.path = Path(path)
        self._encoder = None if llm is None else llm.encoder
        self._writer = llm if isinstance(llm, TakesNotes) else None
        self._candidates, self._busy_s = candidates, seconds("busy_s", busy_s)
        self._lock = threading.RLock()
        self._closed = False
        self._send: Send | None = None
        named = {"keep": keep, "kv": kv, "vectors": vectors}
        settings = {name: value for name, value in named.items() if value is not None}
        self._open: dict[str, tuple[tuple[int, int], TreeMemory]] = {}
        if parts is not None:
            self._make(parts, settings)
        elif not is_parted(self.path):
            raise TreeMemoryError(
                f"there is no memory of parts in {str(self.path)!r}: it has no {PARTS_FILE}; make "
                "one with PartedMemory(path, parts=[...])"
            )
        self._read_list()
        self._manifest = self._some()[0][0].memory._manifest
        wanted = MemorySettings.of(settings, self._manifest.settings)
        own = replace(self._manifest, settings=wanted)
        if self._encoder is not None:
            own = Manifest.of(self._encoder, wanted)
        self._manifest.require(own, self.path)

    @staticmethod
    def is_at(path: str | os.PathLike[str]) -> bool:
        """Return True where a memory of parts stands."""
        return is_parted(Path(path))

    # -- parts ---------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[Path, ...]:
        """The folders of all parts, also of those that are away."""
        self._follow_list()
        return tuple(self._list.folders(self.path))

    @property
    def away(self) -> tuple[str, ...]:
        """The parts that cannot be used now, each with the reason."""
        return self._present()[1]

    @checked("parts")
    def attach(self, parts: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> None:
        """Add memories to the list; an empty one takes the others' codec.

        Raises
        ------
        InputError, TreeMemoryMismatchError, TreeMemoryError
            As when the memory is made; the list stays as it is.
        """
        given = part_paths([parts] if isinstance(parts, str | os.PathLike) else parts)
        with self._lock, changing(self.path, self._busy_s):
            self._read_list()
            there = self._all("add parts to it")
            new = [TreeMemory(one, create=False, busy_s=self._busy_s) for one in given]
            try:
                require_alike([*(one.memory for one in there), *new])
            finally:
                for memory in new:
                    memory.close()
            names = (*self._list.parts, *(part_name(one, self.path) for one in given))
            replace(self._list, parts=names).write(self.path)
            self._read_list()

    @checked()
    def detach(self, part: str | os.PathLike[str]) -> None:
        """Take a part off the list; its folder and its documents stay as they are.

        Raises
        ------
        InputError
            If it is not on the list, or is the only part.
        """
        with self._lock, changing(self.path, self._busy_s):
            self._read_list()
            wanted = {os.path.realpath(part), os.path.realpath(self.path / part)}
            left = [
                name
                for name, folder in zip(self._list.parts, self.parts, strict=True)
                if os.path.realpath(folder) not in wanted
            ]
            if len(left) == len(self._list.parts):
                raise InputError(
                    f"{os.fspath(part)!r} is no part of the memory in {str(self.path)!r}; its "
                    f"parts are {', '.join(map(repr, self._list.parts))}"
                )
            if not left:
                raise InputError(
                    f"{os.fspath(part)!r} is the only part of the memory in {str(self.path)!r}, "
                    "which needs one"
                )
            replace(self._list, parts=tuple(left)).write(self.path)
            self._read_list()

    def _make(
        self, parts: int | Sequence[str | os.PathLike[str]], settings: Mapping[str, str]
    ) -> None:
        """Write the list of a new memory of parts, whose parts are made here or are there."""
        self._require_free()
        if isinstance(parts, int):
            require_int("parts", parts, least=1)
            if parts > MOST_PARTS:
                raise ConfigError(f"parts is {parts}; allowed are at most {MOST_PARTS:,}")
            folders = make_parts(
                self.path, [f"part-{number:03}" for number in range(parts)], self._encoder, settings
            )
        elif settings:
            raise ConfigError(
                f"{', '.join(settings)} cannot be given with parts that are there: each has the "
                "settings that it was made with"
            )
        else:
            folders = part_paths(parts)
        opened = [TreeMemory(one, create=False, busy_s=self._busy_s) for one in folders]
        try:
            codec = require_alike(opened, self._encoder)
            made_by = opened[0]._manifest.digest.hex()
        finally:
            for memory in opened:
                memory.close()
        self.path.mkdir(parents=True, exist_ok=True)
        names = tuple(part_name(one, self.path) for one in folders)
        with changing(self.path, self._busy_s):
            self._require_free()
            PartsList(made_by=made_by, codec=codec, parts=names).write(self.path)

    def _require_free(self) -> None:
        if file_of(self.path) != (0, 0):
            raise TreeMemoryError(
                f"there is a memory in {str(self.path)!r} already; open it without parts, or name "
                "another folder"
            )

    def _follow_list(self) -> None:
        """Read the list where another has changed it."""
        if state_of_list(self.path) != self._file:
            self._read_list()

    def _read_list(self) -> None:
        """Read the list, and note which file it was."""
        file, listed = state_of_list(self.path), PartsList.read(self.path)
        folders = [os.path.realpath(folder) for folder in listed.folders(self.path)]
        require_once(folders)
        self._file, self._list = file, listed
        self._open = {name: held for name, held in self._open.items() if name in folders}

    def _present(self) -> tuple[Sequence[Present], tuple[str, ...]]:
        """The parts that can be used now, and the others with the reasons.

        Raises
        ------
        TreeMemoryMismatchError
            If a part is not what the others are.
        TreeMemoryError
            If the memory was closed, or its list is gone.
        """
        # without a lock, which a fork could leave taken: two threads may both open a part
        if self._closed:
            raise TreeMemoryError(f"the memory in {str(self.path)!r} was closed; open it again")
        self._follow_list()
        names, there, away = self._list.parts, [], []
        for number, folder in enumerate(self._list.folders(self.path)):
            try:
                there.append(Present(number, self._opened(folder)))
            except TreeMemoryMismatchError:
                raise
            except TreeMemoryError as error:
                away.append(f"part {names[number]!r} is away: {error}")
        return there, tuple(away)

    def _opened(self, folder: Path) -> TreeMemory:
        """The open memory in `folder`, opened again where another one stands there now."""
        name = os.path.realpath(folder)
        held, now = self._open.get(name), file_of(folder)
        if held is not None and held[0] == now and held[1].is_current():
            return held[1]
        memory = TreeMemory(folder, create=False, candidates=self._candidates, busy_s=self._busy_s)
        try:
            made_by, codec = memory._manifest.digest.hex(), codec_hash(memory)
            if (made_by, codec) != (self._list.made_by, self._list.codec):
                what = "model or settings" if made_by != self._list.made_by else "codec"
                raise TreeMemoryMismatchError(
                    f"the part in {str(folder)!r} was made with another {what} than the memory in "
                    f"{str(self.path)!r}; restore it from a copy, or detach() it and add its "
                    "documents again"
                )
        except BaseException:
            memory.close()
            raise
        self._open[name] = (now, memory)
        return memory

    def _some(self) -> tuple[Sequence[Present], tuple[str, ...]]:
        """As :meth:`_present`, where there is at least one.

        Raises
        ------
        TreeMemoryError
        """
        there, away = self._present()
        if not there:
            raise TreeMemoryError(
                f"no part of the memory in {str(self.path)!r} can be used: {'; '.join(away)}"
            )
        return there, away

    def _all(self, what: str) -> Sequence[Present]:
        """All parts.

        Raises
        ------
        TreeMemoryError
            If one is away.
        """
        there, away = self._present()
        if away:
            raise TreeMemoryError(
                f"{'; '.join(away)}. All parts must be there to {what}: bring it back, or take it "
                "off the list with detach() (sharedllm parts --detach)"
            )
        return there

    # -- documents -----------------------------------------------------------------------------

    def _write(
        self, documents: Sequence[MemoryDocument], progress: Progress, *, replace: bool
    ) -> None:
        """Put documents that are there into their parts, and new ones into the smallest.

        Many new ones are divided among the parts, in their order.
        """
        there = self._all("update documents" if replace else "add documents")
        owners = owners_of(there, [one.id for one in documents])
        total = sum(len(one.text) for one in documents)
        share = max(LEAST_SHARE, -(-total // len(there)))
        with reporter(progress, total, "adding to the memory", "characters") as report:
            done = 0
            for owner, some in stretches(documents, owners, share):
                target = smallest(there) if owner is None else there[owner]
                if owner is None:
                    number_after_all(target, there)
                    owners |= dict.fromkeys((one.id for one in some), there.index(target))
                self._ready(target)._working.ingest.put(
                    some,
                    replace=replace,
                    progress=_passed_on(report),
                    first=done + 1,
                    count=len(documents),
                )
                done += len(some)

    def _ready(self, part: Present) -> TreeMemory:
        """The memory of a part, with the encoder of all."""
        part.memory._use(self.encoder)
        return part.memory

    @checked()
    def delete(self, ids: str | Iterable[str]) -> None:
        """Remove documents from the parts that hold them, or (if one is not there) none.

        Each part removes its own in one transaction.

        Raises
        ------
        DocumentError
            If one is not there.
        TreeMemoryBusyError, TreeMemoryError
        """
        given = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))
        there, away = self._present()
        owners = owners_of(there, given)
        for one in given:
            if one not in owners:
                raise _absent(one, away)
        for number, part in enumerate(there):
            own = [one for one in given if owners[one] == number]
            if own:
                part.memory.delete(own)

    @checked()
    def get(self, id: str) -> MemoryDocument:
        """As :meth:`TreeMemory.get`."""
        return self._owner(id).get(id)

    @checked()
    def outline(self, id: str) -> Outline:
        """As :meth:`TreeMemory.outline`."""
        return self._owner(id).outline(id)

    def _owner(self, id: str) -> TreeMemory:
        there, away = self._present()
        for part in there:
            if id in part.memory:
                return part.memory
        raise _absent(id, away)

    @checked("filter")
    def list(self, filter: Mapping[str, Any] | None = None) -> Documents:
        """The documents of the parts that are there, in the order of addition."""
        found = []
        for part in self._present()[0]:
            documents = part.memory.list(filter)
            with part.memory._database.read() as connection:
                rows = tables.places_of_documents(connection)
            found += [(rows.get(one.id, 0), part.number, one) for one in documents]
        return [one for *_, one in sorted(found, key=lambda one: one[:2])]

    def __len__(self) -> int:
        return sum(len(part.memory) for part in self._present()[0])

    def __contains__(self, id: object) -> bool:
        return any(id in part.memory for part in self._present()[0])

    @property
    def revision(self) -> str:
        """A name that changes with every change of a part, and when one goes away or comes back."""
        there, away = self._present()
        digest = hashlib.sha256(repr((self._list.parts, away)).encode())
        for part in there:
            digest.update(repr((part.number, part.memory.revision)).encode())
        return digest.hexdigest()[:32]

    # -- searching -----------------------------------------------------------------------------

    @checked("k", "filter")
    def search(
        self,
        query: str,
        k: int = 4,
        filter: Mapping[str, Any] | None = None,
        *,
        section: str | None = None,
    ) -> Hits:
        """As :meth:`TreeMemory.search`, over all parts; :attr:`Hits.away` names those left out."""
        require_int("k", k, least=1)
        require_section(section)
        self.require_documents()
        hits, away = self._ask(
            lambda there: self._retrieval(there).search(query, k, self.encoder, filter, section)
        )
        hits.away = away
        return hits

    @checked("filter")
    def documents_for(
        self,
        query: str,
        llm: HasEncoder,
        filter: Mapping[str, Any] | None = None,
        *,
        names: Sequence[str] = (),
        section: str | None = None,
    ) -> FoundDocuments:
        """As :meth:`TreeMemory.documents_for`, over all parts."""
        self._take(llm.encoder)
        own = (query, llm.encoder, filter, names, section)
        found, away = self._ask(lambda there: self._retrieval(there).documents_for(*own))
        found.away = away
        return found

    @checked("filter")
    def whole_documents(
        self, llm: HasEncoder, filter: Mapping[str, Any] | None = None
    ) -> FoundDocuments:
        """As :meth:`TreeMemory.whole_documents`, of all parts."""
        self._take(llm.encoder)
        found, away = self._ask(
            lambda there: self._retrieval(there).whole_documents(llm.encoder, filter)
        )
        found.away = away
        return found

    def leaves_out(self, filter: Mapping[str, Any] | None = None) -> bool:
        """Return True where a search looks at a part of the documents only."""
        found, _ = self._ask(lambda there: _is_large(there, filter, self._candidates))
        return found

    def require_documents(self) -> None:
        """Refuse to search a memory of nothing, or of parts that are all away.

        Raises
        ------
        InputError, TreeMemoryError
        """
        self._some()
        super().require_documents()

    def search_elsewhere(self, send: Send | None) -> None:
        """Have words looked up by other processes, which keep parts of the memory open.

        Answers stay the same. A process that cannot be reached is asked once more; then words are
        looked up here.

        Parameters
        ----------
        send : gives the answers of :meth:`PartSearcher.answer` to lookups, in their order; None
            looks words up here
        """
        self._send = send

    def _retrieval(self, there: Sequence[Present]) -> Retrieval:
        parts = [self._ready(part)._working.part for part in there]
        return Retrieval(parts, self._candidates, self._send)

    def _ask(self, ask: Callable[[Sequence[Present]], T]) -> tuple[T, tuple[str, ...]]:
        """Ask the parts that are there, without one that goes away meanwhile; name those away."""
        while True:
            there, away = self._some()
            try:
                return ask(there), away
            except TreeMemoryError:
                if self._present()[1] == away:
                    raise

    # -- upkeep --------------------------------------------------------------------------------

    @checked()
    def verify(self, *, repair: bool = False) -> Report:
        """As :meth:`TreeMemory.verify`, of each part; one that is away is a problem."""
        there, away = self._present()
        if repair and self._encoder is not None:
            for part in there:
                part.memory._use(self._encoder)
        reports = [part.memory.verify(repair=repair) for part in there]
        problems = [Problem(what=one, table=PARTS_FILE) for one in away]
        for part, report in zip(there, reports, strict=True):
            name = self._list.parts[part.number]
            problems += [replace(one, what=f"part {name!r}: {one.what}") for one in report.problems]
        problems += [
            Problem(what=what, table=PARTS_FILE, documents=(id,))
            for id, what in doubled([part.memory for part in there])
        ]
        return Report(
            documents=sum(one.documents for one in reports),
            chunks=sum(one.chunks for one in reports),
            bytes=sum(one.bytes for one in reports),
            problems=tuple(problems),
            repaired=sum(one.repaired for one in reports),
        )

    def compact(self) -> None:
        """As :meth:`TreeMemory.compact`, of each part.

        Raises
        ------
        TreeMemoryError
            If a part is away.
        """
        for part in self._all("compact it"):
            part.memory.compact()

    @checked()
    def export(self, path: str | os.PathLike[str], ids: Iterable[str] | None = None) -> None:
        """Write documents of all parts into one new memory at `path`: this merges parts.

        Raises
        ------
        DocumentError, TreeMemoryFormatError, TreeMemoryDamagedError
        TreeMemoryError
            If a part is away.
        """
        there = self._all("export it")
        chosen = [d.id for d in self.list()] if ids is None else list(dict.fromkeys(ids))
        owners = owners_of(there, chosen)
        for one in chosen:
            if one not in owners:
                raise _absent(one, ())
        there[0].memory.export(path, [])
        with TreeMemory(path, create=False, busy_s=self._busy_s) as target:
            for number, own in groupby(chosen, key=lambda one: owners[one]):
                source = there[number].memory._database
                maintenance.copy(source, target._database, list(own))

    @checked()
    def import_from(
        self,
        path: str | os.PathLike[str],
        ids: Iterable[str] | None = None,
        *,
        progress: Progress = None,
    ) -> None:
        """As :meth:`TreeMemory.import_from`, into the smallest part."""
        there = self._all("import documents")
        with open_at(path) as other:
            chosen = [d.id for d in other.list()] if ids is None else list(dict.fromkeys(ids))
        owners = owners_of(there, chosen)
        target = smallest(there)
        number_after_all(target, there)
        for number, part in enumerate(there):
            known = [one for one in chosen if owners.get(one) == number]
            if part is target:
                known = [one for one in chosen if owners.get(one, number) == number]
            if known:
                self._ready(part).import_from(path, known, progress=progress)

    def is_current(self) -> bool:
        """True while it can be used as it was opened."""
        return not self._closed and file_of(self.path) != (0, 0)

    def close(self) -> None:
        """Let go of the files; documents that were given out stay usable."""
        self._closed = True
        for _, memory in self._open.values():
            memory.close()
        self._open = {}


def open_at(path: str | os.PathLike[str], *, llm: HasEncoder | None = None) -> TreeMemory:
    """Open the memory in a folder, of whichever kind it is.

    Raises
    ------
    TreeMemoryError
        If there is none, or it cannot be used.
    """
    if PartedMemory.is_at(path):
        return PartedMemory(path, llm=llm)
    return TreeMemory(path, llm=llm, create=False)


def _is_large(there: Sequence[Present], given: Mapping[str, Any] | None, candidates: int) -> bool:
    with read_all([one.memory._database for one in there]) as connections:
        return is_large(Opened(connections), given, candidates)


def _passed_on(report: Reporter) -> Callable[[int, int], None]:
    """A progress function of a step, which reports to the progress of all."""
    before = 0

    def passed_on(done: int, total: int) -> None:
        nonlocal before
        report(done - before)
        before = done

    return passed_on


def _absent(id: str, away: Sequence[str]) -> DocumentError:
    more = "".join(f"; {one} (it may be there)" for one in away)
    return DocumentError(f"the memory holds no document {id!r}; list() names those it holds{more}")
