"""Tenants: their folders, memories and engines; and the thread that reads uploads into memories."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm import MemoryDocument, SharedLLMError, TreeMemory, open_memory, read_file
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
DATA = "server"  # the folder beside a tenant's memory with its uploads and vector stores
Wanted = tuple["Tenant", Member]
STOP_S = 10.0  # seconds that the thread gets to end


class _Stopped(Exception):  # noqa: N818  # no error: it was asked for
    """The server ends; what was to be read is read after the next start."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The file that is being read, and the core's record of how far that is."""

    member: Member
    progress: Any


class Tenant:
    """The folder of one tenant, with its memories.

    Attributes
    ----------
    name : str
        "" where the server has no keys.
    home : Path
        The tenant's own memory, as ``sharedllm index --memory`` reads and writes it, too.
    catalog : Catalog
    reading : Reading or None
        What of its files is being read now.
    """

    def __init__(self, name: str, home: Path, llm: SharedLLM) -> None:
        self.name, self.home, self._llm = name, home, llm
        self.reading: Reading | None = None
        open_memory(home, llm=llm, create=True)  # before anything else lies in its folder
        data = home / DATA
        data.mkdir(exist_ok=True)
        self.catalog = Catalog(data)
        self.catalog.add_main(os.fsencode(home.name).decode("utf-8", "replace"))
        self._finish_deletions()

    def _finish_deletions(self) -> None:
        """Remove what a crash left of deletions, whose rows go first."""
        known, folder = self.catalog.stores(), self.catalog.folder / "stores"
        for path in folder.iterdir() if folder.exists() else ():
            if path.name not in {store.id for store in known}:
                shutil.rmtree(path)
        for store in known:
            if not self.folder(store.id).exists():
                continue
            wanted = {member.file for member in self.catalog.members(store.id)}
            memory = self.memory(store.id)
            for id in [one.id for one in memory.list()]:
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
        return open_memory(self.folder(store), llm=self._llm, create=True)

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

    def progress(self, store: str, file: str) -> tuple[int, int | None]:
        """The tokens of a file that are read, of all; None before they are counted."""
        now = self.reading
        if now is None or (now.member.store, now.member.file) != (store, file):
            return 0, None
        return now.progress.tokens_read, now.progress.tokens

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
    """The tenants of a server, opened when they are first asked for."""

    def __init__(self, root: Path, llm: SharedLLM, names: list[str] | None) -> None:
        self._root, self._llm, self._lock = root, llm, threading.Lock()
        self._open: dict[str, Tenant] = {}
        if names is None:
            self.get("")
        else:  # what a crash left to be read belongs to tenants that nobody has asked for yet
            for name in names:
                if (root / name / DATA / DATABASE).exists():
                    self.get(name)

    def get(self, name: str) -> Tenant:
        """The tenant of that name; "" is the only one of a server without keys."""
        with self._lock:
            if name not in self._open:
                home = self._root / name if name else self._root
                self._open[name] = Tenant(name, home, self._llm)
            return self._open[name]

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
    """The thread that reads uploads into memories, one after the other.

    What is to be read stands in the catalogs: after a crash or a stop it is read then.
    """

    def __init__(self, llm: SharedLLM, on_read: Callable[[str, float, int], None]) -> None:
        self._llm = llm
        self._wanted: queue.Queue[Wanted | None] = queue.Queue()
        self._stopping = threading.Event()
        self._on_read = on_read
        self._thread = threading.Thread(target=self._run, name="sharedllm-ingestion", daemon=True)
        self._reading: Reading | None = None

    def start(self, tenants: Tenants) -> None:
        """Begin, with what was left unread."""
        for tenant in tenants.opened:
            for member in tenant.catalog.unread():
                self.want(tenant, member)
        self._thread.start()

    def want(self, tenant: Tenant, member: Member) -> None:
        """Have a file read."""
        self._wanted.put((tenant, member))

    @property
    def waiting(self) -> int:
        """Files that wait to be read."""
        return self._wanted.qsize()

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
        self._wanted.put(None)
        self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None and not self._stopping.is_set():
            tenant, member = wanted
            with self._llm.encoder.reading(self._go_on, gives_way=True) as progress:
                self._reading = tenant.reading = Reading(member, progress)
                try:
                    self._on_read(_read(tenant, member), self.lag, progress.tokens_read)
                except _Stopped:
                    return
                finally:
                    self._reading = tenant.reading = None

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise _Stopped


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
    now = tenant.catalog.member(member.store, member.file)
    if now is None or now.status != "in_progress":
        return "cancelled"
    try:
        return "completed" if tenant.read(now) else "cancelled"
    except SharedLLMError as error:
        told = isinstance(error, ValueError | ServingError)  # the file's fault, not the server's
        if not told:
            logger.error("a file was not read", exc_info=error)
        code = "unsupported_file" if told else "server_error"
        message = str(error) if told else INTERNAL
        tenant.catalog.settle(now, "failed", code, message)
    except _Stopped:
        raise
    except Exception as error:  # the thread must outlive one bad file; the log has it
        logger.exception("a file was not read", exc_info=error)
        tenant.catalog.settle(now, "failed", "server_error", INTERNAL)
    return "failed"
