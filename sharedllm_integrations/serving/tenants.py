"""Tenants: their folders, memories and engines; and the thread that reads uploads into memories."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm import (
    MemoryDocument,
    PartedMemory,
    SharedLLMError,
    TreeMemory,
    open_memory,
    read_file,
)
from sharedllm_integrations.serving.catalog import (
    DATABASE,
    MAIN,
    UPLOADED,
    Catalog,
    Member,
    StoredFile,
)
from sharedllm_integrations.serving.faults import INTERNAL, ServingError

if TYPE_CHECKING:
    from sharedllm import SharedLLM

logger = logging.getLogger(__name__)
LookUp = Callable[[Sequence[Any]], Sequence[Any]]
DATA = "server"  # the folder beside a tenant's memory with its uploads and vector stores
STOP_S = 10.0  # seconds that the thread gets to end
LOOK_S = 0.5  # seconds until the catalogs are looked at again, which other processes write to, too
NOTE_S = 0.5  # seconds until the progress of a file is noted again
RETRY_S = 5.0  # seconds until a file is tried again whose end could not be noted


class _Stopped(Exception):  # noqa: N818  # no error: it was asked for
    """The server ends; what was to be read is read after the next start."""


@dataclass(slots=True)
class Reading:
    """The file that is being read, and the core's record of how far that is.

    Attributes
    ----------
    noted : when that was last noted in the catalog, by the monotonic clock
    """

    tenant: Tenant
    member: Member
    progress: Any
    noted: float = 0.0

    def note(self) -> None:
        """Note in the catalog how far it is, once in a while: it writes to disk."""
        now = time.monotonic()
        if now - self.noted > NOTE_S:
            self.noted = now
            read, tokens = self.progress.tokens_read, self.progress.tokens
            self.tenant.catalog.note_progress(self.member, read, tokens)


class Tenant:
    """The folder of one tenant, with its memories.

    Parameters
    ----------
    cleans : bool
        Finish the deletions that a crash cut off.
    look_up : as of :class:`Tenants`

    Attributes
    ----------
    name : str
        "" where the server has no keys.
    home : Path
        The tenant's own memory, as ``sharedllm index --memory`` reads and writes it, too.
    catalog : Catalog
    """

    def __init__(
        self,
        name: str,
        home: Path,
        llm: SharedLLM,
        *,
        cleans: bool,
        look_up: LookUp | None = None,
    ) -> None:
        self.name, self.home, self._llm, self._look_up = name, home, llm, look_up
        open_memory(home, llm=llm, create=True)  # before anything else lies in its folder
        data = home / DATA
        data.mkdir(exist_ok=True)
        self.catalog = Catalog(data)
        self.catalog.add_main(os.fsencode(home.name).decode("utf-8", "replace"))
        if cleans:
            self._finish_deletions()

    def _finish_deletions(self) -> None:
        """Remove what a crash left of deletions, whose rows go first.

        Rows are read last: those of what other processes add come before its files and documents.
        """
        folder = self.catalog.folder / "stores"
        there = list(folder.iterdir()) if folder.exists() else []
        known = self.catalog.stores()
        for path in there:
            if path.name not in {store.id for store in known}:
                shutil.rmtree(path)
        for store in known:
            if not self.folder(store.id).exists():
                continue
            memory = self.memory(store.id)
            held = [one.id for one in memory.list()]
            wanted = {member.file for member in self.catalog.members(store.id)}
            for id in held:
                if UPLOADED.match(id) and id not in wanted:  # other ids are an index's
                    memory.delete(id)

    def folder(self, store: str) -> Path:
        """The folder of a vector store's memory."""
        return self.home if store == MAIN else self.catalog.folder / "stores" / store

    def memory(self, store: str) -> TreeMemory:
        """The memory of a vector store.

        Raises
        ------
        ServingError
            With 404, if there is no such vector store.
        """
        self.catalog.store(store)
        memory = open_memory(self.folder(store), llm=self._llm, create=True)
        if self._look_up is not None and isinstance(memory, PartedMemory):
            memory.search_elsewhere(self._look_up)
        return memory

    def read(self, member: Member) -> bool:
        """Read a file into the memory that it is for; False if nobody wants it any more.

        The model is given up to questions before each of its passes.

        Raises
        ------
        SharedLLMError
            If it cannot be read.
        """
        file = self.catalog.file(member.file)
        memory = self.memory(member.store)
        document = self.document(file, member.attributes)
        if file.id not in memory:
            memory.add(document)
        elif memory.get(file.id) != document:
            memory.update(document)
        if self.catalog.settle(member, "completed"):
            return True
        self.drop(member.store, file.id)
        return False

    def document(self, file: StoredFile, attributes: dict[str, Any]) -> MemoryDocument:
        """An uploaded file as a document of a memory."""
        given = read_named(self.catalog.path(file), file.filename)
        name = Path(file.filename).stem.replace("_", " ")
        return MemoryDocument(
            id=file.id,
            text=given.text,
            title=name if given.title.startswith(file.id) else given.title,
            source=file.filename,
            metadata=attributes,
            outline=given.outline,
        )

    def set_attributes(self, store: str, id: str, attributes: dict[str, Any]) -> None:
        """Give a document of a vector store other attributes, by which it is filtered."""
        self.catalog.set_attributes(store, id, attributes)
        memory = self.memory(store)
        if id in memory:
            memory.update(replace(memory.get(id), metadata=attributes))

    def drop(self, store: str, document: str) -> bool:
        """Remove a document from a vector store's memory; False if it was not there."""
        memory = self.memory(store)
        if document not in memory:
            return False
        memory.delete(document)
        return True

    def remove_store(self, store: str) -> None:
        """Remove a vector store with its memory."""
        self.catalog.forget_store(store)
        folder = self.folder(store)
        if folder.exists():
            open_memory(folder, llm=self._llm).close()
            shutil.rmtree(folder)

    def close(self) -> None:
        """Let go of the files."""
        self.catalog.close()


class Tenants:
    """The tenants of a server, opened when they are first asked for.

    Parameters
    ----------
    names : of tenants with keys; None has one tenant without
    cleans : as of :class:`Tenant`
    look_up : has words of memories of parts looked up by others, as
        :meth:`PartedMemory.search_elsewhere` takes it
    """

    def __init__(
        self,
        root: Path,
        llm: SharedLLM,
        names: list[str] | None,
        *,
        cleans: bool,
        look_up: LookUp | None = None,
    ) -> None:
        self._root, self._lock, self._names = root, threading.Lock(), names
        self._made = partial(Tenant, llm=llm, cleans=cleans, look_up=look_up)
        self._open: dict[str, Tenant] = {}
        if names is None:
            self.get("")

    def get(self, name: str) -> Tenant:
        """The tenant of that name; "" is the only one of a server without keys."""
        with self._lock:
            if name not in self._open:
                home = self._root / name if name else self._root
                self._open[name] = self._made(name, home)
            return self._open[name]

    def with_uploads(self) -> list[Tenant]:
        """The tenants that have uploaded anything, also to other processes."""
        for name in self._names or ():
            if name not in self._open and (self._root / name / DATA / DATABASE).exists():
                self.get(name)
        return self.opened

    @property
    def opened(self) -> list[Tenant]:
        """The tenants that are open."""
        with self._lock:
            return list(self._open.values())

    def close(self) -> None:
        """Let go of all files."""
        for tenant in self.opened:
            tenant.close()


class Ingestion:
    """The thread that reads uploads into memories, one after the other, the oldest first.

    What is to be read stands in the catalogs: so it is read also if another process took the
    upload, and after a crash or a stop.

    Parameters
    ----------
    on_read : called with the status, the seconds since it was asked for, and the tokens of a file
    """

    def __init__(
        self, llm: SharedLLM, tenants: Tenants, on_read: Callable[[str, float, int], None]
    ) -> None:
        self._llm, self._tenants, self._on_read = llm, tenants, on_read
        self._stopping, self._told = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="sharedllm-ingestion", daemon=True)
        self._reading: Reading | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def tell(self) -> None:
        """Tell that there is something to be read."""
        self._told.set()

    @property
    def waiting(self) -> int:
        """Files that wait to be read."""
        unread = sum(tenant.catalog.count_unread() for tenant in self._tenants.opened)
        return max(0, unread - (self._reading is not None))

    @property
    def lag(self) -> float:
        """Seconds since the file was asked for that is being read now; 0 if none is."""
        now = self._reading
        return 0.0 if now is None else max(0.0, time.time() - now.member.created_at)

    def stop(self) -> bool:
        """End before the next pass of the model; what is unread is read after the next start.

        False if the thread goes on: nothing stops it in a file whose text is still being found.
        """
        self._stopping.set()
        self._told.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._read_oldest():
                    continue
                self._told.wait(LOOK_S)
                self._told.clear()
            except _Stopped:
                return
            except Exception as error:  # the thread must outlive a full disk; the log has it
                logger.exception("what is to be read cannot be found out", exc_info=error)
                self._stopping.wait(RETRY_S)

    def _read_oldest(self) -> bool:
        """Read one file; False if none waits."""
        wanted = [(tenant, tenant.catalog.next_unread()) for tenant in self._tenants.with_uploads()]
        found = [(member.created_at, tenant, member) for tenant, member in wanted if member]
        if not found:
            return False
        _, tenant, member = min(found, key=lambda one: one[0])
        with self._llm.encoder.reading(self._before_pass, gives_way=True) as progress:
            self._reading = Reading(tenant, member, progress)
            try:
                self._on_read(_read(tenant, member), self.lag, progress.tokens_read)
            finally:
                self._reading = None
        return True

    def _before_pass(self) -> None:
        if self._stopping.is_set():
            raise _Stopped
        if self._reading is not None:
            self._reading.note()


def read_named(path: Path, name: str) -> Any:
    """The text of a file as ``read_file`` gives it; errors tell its name, not where it is kept.

    Raises
    ------
    ServingError
    """
    try:
        return read_file(str(path))
    except SharedLLMError as error:
        message = str(error).replace(str(path), name or "the file")
        raise ServingError(message, code="unsupported_file") from error


def _read(tenant: Tenant, member: Member) -> str:
    """Read one file, note how that ended, and give the status."""
    try:
        return "completed" if tenant.read(member) else "cancelled"
    except SharedLLMError as error:
        told = isinstance(error, ValueError | ServingError)  # the file's fault, not the server's
        if not told:
            logger.error("a file was not read", exc_info=error)
        code = "unsupported_file" if told else "server_error"
        message = str(error) if told else INTERNAL
        wanted = tenant.catalog.settle(member, "failed", code, message)
    except _Stopped:
        raise
    except Exception as error:  # the thread must outlive one bad file; the log has it
        logger.exception("a file was not read", exc_info=error)
        wanted = tenant.catalog.settle(member, "failed", "server_error", INTERNAL)
    return "failed" if wanted else "cancelled"
