"""TreeMemory: documents that were read once, kept on disk, searched and answered from."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sharedllm.config import whole
from sharedllm.errors import InputError
from sharedllm.memory import rows
from sharedllm.memory.database import Database
from sharedllm.memory.identity import Manifest, MemorySettings, manifest_of, seconds
from sharedllm.memory.records import Hit, MemoryDocument, Report, StoredDocument

if TYPE_CHECKING:
    from sharedllm.document import Document
    from sharedllm.memory.reading import MemoryReader
    from sharedllm.progress import Progress
    from sharedllm.shared_llm import SharedLLM

Documents = list[StoredDocument]
Hits = list[Hit]
CANDIDATES = 128
NODE_CACHE_BYTES = 64 << 20


class TreeMemory:
    """A folder of documents that were read by one model, with one set of settings.

    Any number of processes may read it while one writes. It may be used from several threads, and
    after a fork.

    Parameters
    ----------
    path : the folder; made when it is not there
    llm : SharedLLM or None
        Without one the model that the memory was made by is loaded when it is needed; a new memory
        takes the default model.
    keep : {"text", "coarse", "all"} or None
        What a new memory keeps beside text and search vectors: nothing, the KV of every chunk's
        root, or of every level. None is what the memory has, and "text" for a new one.
    kv : {"bf16", "int8", "int4", "exact"} or None
        How it stores KV; None is what the memory has, and "bf16" for a new one.
    embedder : for the prefilter: a function of a list of texts, LangChain's Embeddings,
        LlamaIndex's BaseEmbedding, "minilm" (needs the extra "embed"), or None for the model itself
    candidates : int
        Chunks that a question's exact search looks at; a memory with more is prefiltered.
    rebuild : encode all documents again where model or settings differ, rather than refuse
    create : make the memory where there is none
    busy_s : float
        Seconds to wait for another writer.

    Raises
    ------
    StoreFormatError
        If the folder holds something else.
    StoreMismatchError
        If the memory was made by another model or with other settings, and `rebuild` is false.
    StoreError, ConfigError
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        llm: SharedLLM | None = None,
        keep: str | None = None,
        kv: str | None = None,
        embedder: Any = None,
        candidates: int = CANDIDATES,
        rebuild: bool = False,
        create: bool = True,
        busy_s: float = 30.0,
    ) -> None:
        whole("candidates", candidates, least=1)
        self.path, self.candidates = Path(path), candidates
        self._embedder, self._llm = embedder, llm
        self._given = {"keep": keep, "kv": kv, "embedder": _embedder_name(embedder)}
        MemorySettings(**{k: v for k, v in self._given.items() if v is not None})
        self._loading = threading.RLock()
        self._database = Database(self.path, create=create, busy_s=seconds("busy_s", busy_s))
        try:
            self._open(llm, rebuild=rebuild)
        except BaseException:
            self._database.close()
            raise

    # -- documents -----------------------------------------------------------------------------

    def add(
        self,
        documents: MemoryDocument | Iterable[MemoryDocument],
        *,
        progress: Progress = None,
    ) -> None:
        """Read documents and keep them.

        What the memory holds already is not read again: the same document changes nothing, and
        chunks with the same content are kept once. Each document is committed whole; an error or
        a crash leaves those before it.

        Parameters
        ----------
        progress : True for a progress bar, or a function of (characters done, characters in all)

        Raises
        ------
        DocumentError
            If there is no text in one, or one is there under the same id with another content.
        StoreBusyError, StoreError
        """
        self._reader.writer.put(_several(documents), replace=False, progress=progress)

    def update(
        self,
        documents: MemoryDocument | Iterable[MemoryDocument],
        *,
        progress: Progress = None,
    ) -> None:
        """Replace documents by those given under the same ids; only new chunks are read.

        Raises
        ------
        DocumentError
            If one is not there, or has no text.
        StoreBusyError, StoreError
        """
        self._reader.writer.put(_several(documents), replace=True, progress=progress)

    def delete(self, ids: str | Iterable[str]) -> None:
        """Remove documents, all of them or (if one is not there) none.

        Their space in the shards is freed by :meth:`compact`.

        Raises
        ------
        DocumentError
            If one is not there.
        StoreBusyError, StoreError
        """
        given = [ids] if isinstance(ids, str) else list(ids)
        with self._database.write() as connection:
            rows.delete_documents(connection, given)

    def get(self, id: str) -> MemoryDocument:
        """The document called `id`, with its text.

        Raises
        ------
        DocumentError
            If it is not there.
        StoreDamagedError
            If its entry or its text is broken.
        """
        with self._database.read() as connection:
            return rows.memory_document(connection, id)

    def list(self, filter: Mapping[str, Any] | None = None) -> Documents:
        """What the memory holds, in the order of addition.

        Parameters
        ----------
        filter : as :meth:`search` takes it
        """
        from sharedllm.memory.filters import condition

        where, values = condition(filter)
        with self._database.read() as connection:
            found = connection.execute(
                f"{rows.INFO} WHERE {where} ORDER BY d.document", values
            ).fetchall()
        return [rows.stored_document(row) for row in found]

    def __len__(self) -> int:
        with self._database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])

    def __contains__(self, id: object) -> bool:
        with self._database.read() as connection:
            found = connection.execute("SELECT 1 FROM documents WHERE id = ?", (str(id),))
            return found.fetchone() is not None

    # -- searching -----------------------------------------------------------------------------

    def search(
        self,
        query: str,
        k: int = 4,
        filter: Mapping[str, Any] | None = None,
    ) -> Hits:
        """The `k` passages that match `query` best, best first.

        Parameters
        ----------
        filter : mapping of metadata fields to what they must be: a value, a list of values, or
            ``{"gt" | "gte" | "lt" | "lte" | "ne" | "in": ...}``; "id", "title" and "source" are
            fields as well

        Raises
        ------
        InputError, ConfigError, StoreDamagedError
        """
        whole("k", k, least=1)
        return self._reader.search(query, k, filter)

    def documents_for(
        self,
        query: str,
        llm: SharedLLM,
        filter: Mapping[str, Any] | None = None,
    ) -> Sequence[Document]:
        """What `llm` should search to answer `query`: ``llm.answer(query, memory)`` calls it.

        All documents of a small memory; of a large one, the parts that the prefilter finds.

        Raises
        ------
        StoreMismatchError
            If `llm` is not what the memory was made by.
        """
        with self._loading:
            if self._llm is None:  # the one that asks is as good as another of its kind
                self._manifest.require(manifest_of(llm, self._manifest.settings), str(self.path))
                self._llm = llm
        return self._reader.documents_for(query, llm, filter)

    # -- upkeep --------------------------------------------------------------------------------

    def verify(self, *, repair: bool = False) -> Report:
        """Read everything and compare it with its checksums.

        Parameters
        ----------
        repair : encode broken chunks again from the text
        """
        from sharedllm.memory.upkeep import verify

        return verify(self._database, self._reader if repair else None)

    def compact(self) -> None:
        """Write what is alive into new shards and give back the space of what was deleted.

        Raises
        ------
        StoreDamagedError
            If something is broken: ``verify(repair=True)`` first.
        StoreBusyError, StoreError
        """
        from sharedllm.memory.upkeep import compact

        compact(self._database)

    def close(self) -> None:
        """Let go of the files; documents that were given out stay usable."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- the model -----------------------------------------------------------------------------

    @property
    def llm(self) -> SharedLLM:
        """The model of this memory, loaded when it is first needed."""
        with self._loading:
            if self._llm is None:
                from sharedllm.memory.loading import load

                self._llm = load(self._manifest, self.path)
            return self._llm

    @cached_property
    def _reader(self) -> MemoryReader:
        from sharedllm.memory.reading import MemoryReader

        with self._loading:
            return MemoryReader(
                self._database,
                self._manifest,
                self.llm,
                self._embedder,
                self.candidates,
                NODE_CACHE_BYTES,
            )

    def _open(self, llm: SharedLLM | None, *, rebuild: bool) -> None:
        """Read the manifest, or write that of a new memory."""
        text = self._database.manifest()
        given = {name: value for name, value in self._given.items() if value is not None}
        if text is None:
            if llm is None:
                from sharedllm.registry import loaded

                llm = self._llm = loaded()
            own = manifest_of(llm, MemorySettings(**given))
            text = self._database.found(own.to_json())
        self._manifest = Manifest.from_json(text)
        settings = MemorySettings(
            keep=given.get("keep", self._manifest.settings.keep),
            kv=given.get("kv", self._manifest.settings.kv),
            embedder=given.get("embedder", self._manifest.settings.embedder),
        )
        wanted = Manifest(settings=settings, made_by=self._manifest.made_by, loads={})
        if llm is None and rebuild and settings != self._manifest.settings:
            llm = self.llm
        if llm is not None:
            wanted = manifest_of(llm, settings)
        if rebuild and wanted.digest != self._manifest.digest:
            from sharedllm.memory.rebuilding import rebuild as encode_all_again

            self._llm, self._manifest = llm, wanted
            encode_all_again(self._database, self._reader)
            text = wanted.to_json()
        self._manifest.require(wanted, str(self.path))
        self._database.expected = text


def _several(documents: MemoryDocument | Iterable[MemoryDocument]) -> list[MemoryDocument]:
    given = [documents] if isinstance(documents, MemoryDocument) else list(documents)
    for document in given:
        if not isinstance(document, MemoryDocument):
            raise InputError(
                f"{type(document).__name__} was given; give MemoryDocument(text=...), or several"
            )
    return given


def _embedder_name(given: Any) -> str | None:
    if given is None or isinstance(given, str):
        return given
    from sharedllm.memory.embedders import name_of

    return name_of(given)
