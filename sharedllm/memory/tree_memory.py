"""TreeMemory: documents that were read once, kept on disk, searched and answered from."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from sharedllm.arguments import checked, shown, unicode_problem
from sharedllm.config import require_int, require_number, require_section
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder, HasEncoder, loaded_encoder
from sharedllm.errors import ConfigError, InputError, TreeMemoryError
from sharedllm.memory import maintenance, outlines, records, tables
from sharedllm.memory.database import Database
from sharedllm.memory.documents import MemoryDocument, Report, StoredDocument
from sharedllm.memory.filters import condition
from sharedllm.memory.hits import Hits
from sharedllm.memory.ingest import Ingest
from sharedllm.memory.manifest import Manifest, MemorySettings
from sharedllm.memory.parts_list import part_folders
from sharedllm.memory.prefilter import is_large
from sharedllm.memory.retrieval import Part, Retrieval, codec_of
from sharedllm.memory.word_index import Opened
from sharedllm.progress import Progress
from sharedllm.text.outline import Outline

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # of the extra "plot"

Documents = list[StoredDocument]
CANDIDATES = 128


@runtime_checkable
class TakesNotes(HasEncoder, Protocol):
    """Something that writes notes, as a SharedLLM does."""

    def take_notes(self, context: Sequence[Document], *, progress: Progress = None) -> Future[Any]:
        """Take the notes that documents lack."""
        ...


Notes = bool | TakesNotes


@dataclass(frozen=True, slots=True)
class _Working:
    """A memory in the hands of its model."""

    ingest: Ingest
    part: Part
    retrieval: Retrieval


class TreeMemory:
    """A folder of documents that were read by one model, with one set of settings.

    Any number of processes may read it while one writes. It may be used from several threads, and
    after a fork of the process.

    Parameters
    ----------
    path : the folder; made when it is not there
    llm : SharedLLM, DocumentEncoder or None
        Without one the embedded model is loaded when it is needed; a memory that was made by
        another one needs it here, or a name for :meth:`load_encoder`.
    keep : {"text", "leaves", "coarse", "all"} or None
        What a new memory keeps beside text and search vectors: nothing, the KV of every leaf, of
        every chunk's root, or of every compressed node (docs/memory.md has their sizes). None is
        what the memory has, and "text" for a new one.
    kv : {"bf16", "int8", "int4", "exact"} or None
        How it stores KV; None is what the memory has, and for a new one "int8" with leaves, else
        "bf16".
    vectors : {"compact", "exact"} or None
        How it stores search vectors: in 64 bytes a token, or as they are (2 bytes a number). None
        is what the memory has, and "compact" for a new one.
    candidates : int
        Chunks that a question's exact search looks at; a memory with more is prefiltered.
    rebuild : encode all documents again where model or settings differ, rather than refuse
    create : make the memory where there is none
    busy_s : float
        Seconds to wait for another writer.

    Raises
    ------
    TreeMemoryFormatError
        If the folder holds something else.
    TreeMemoryMismatchError
        If the memory was made by another model or with other settings, and `rebuild` is false.
    TreeMemoryError, ConfigError
    """

    @checked()
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        llm: HasEncoder | None = None,
        keep: str | None = None,
        kv: str | None = None,
        vectors: str | None = None,
        candidates: int = CANDIDATES,
        rebuild: bool = False,
        create: bool = True,
        busy_s: float = 30.0,
    ) -> None:
        self.path = Path(path)
        self._encoder = None if llm is None else llm.encoder
        self._writer = llm if isinstance(llm, TakesNotes) else None
        require_int("candidates", candidates, least=1)
        self._candidates = candidates
        named = {"keep": keep, "kv": kv, "vectors": vectors}
        given = {name: value for name, value in named.items() if value is not None}
        MemorySettings.of(given)  # refuses wrong values before a folder is made
        self._busy_s = seconds("busy_s", busy_s)
        self._lock = threading.RLock()
        self._held: _Working | None = None
        self._seen: tuple[int, str] = (-1, "")  # a generation and the revision then
        self._database = Database(self.path, create=create, busy_s=self._busy_s)
        try:
            self._manifest = self._first_manifest(given)
            self._agree(given, rebuild=rebuild)
        except BaseException:
            self._database.close()
            raise

    # -- documents -----------------------------------------------------------------------------

    @checked("documents", "notes")
    def add(
        self,
        documents: MemoryDocument | Iterable[MemoryDocument],
        *,
        notes: Notes = False,
        progress: Progress = None,
    ) -> None:
        """Read documents and keep them.

        What the memory holds already is not read again: the same document changes nothing, and
        chunks with the same content are kept once. Each document is committed whole. Where one is
        refused, those before it are stored, and the error names it; a crash may leave fewer, as
        documents are committed some at a time.

        Parameters
        ----------
        notes : once they are stored, take a note of each of their chunks that has none, for
            summaries (:meth:`SharedLLM.take_notes` does so later). True has the memory's own
            ``llm`` write them, which has to be a SharedLLM; or give one
        progress : True for a progress bar, or a function of (characters done, characters in all),
            and then of (notes done, notes in all)

        Raises
        ------
        DocumentError
            If there is no text in one, or one is there under the same id with another content.
        ConfigError
            If there is nobody to write notes; nothing is read then.
        TreeMemoryBusyError, TreeMemoryError
        """
        self._put(documents, notes, progress, replace=False)

    @checked("documents", "notes")
    def update(
        self,
        documents: MemoryDocument | Iterable[MemoryDocument],
        *,
        notes: Notes = False,
        progress: Progress = None,
    ) -> None:
        """Replace documents by those given under the same ids; only new chunks are read.

        Parameters
        ----------
        notes, progress : as in :meth:`add`

        Raises
        ------
        DocumentError
            If one is not there, or has no text.
        ConfigError
            If there is nobody to write notes; nothing is read then.
        TreeMemoryBusyError, TreeMemoryError
        """
        self._put(documents, notes, progress, replace=True)

    def _put(
        self,
        documents: MemoryDocument | Iterable[MemoryDocument],
        notes: Notes,
        progress: Progress,
        *,
        replace: bool,
    ) -> None:
        """Store documents, then take their notes."""
        given, writer = several(documents), self._noted_by(notes)
        self._write(given, progress, replace=replace)
        if writer is None:
            return
        found: list[Document] = []
        for some in records.batches(document.id for document in given):
            found += self.whole_documents(writer, {"id": some})
        if found:
            writer.take_notes(found, progress=progress).result()

    def _write(
        self, documents: Sequence[MemoryDocument], progress: Progress, *, replace: bool
    ) -> None:
        self._working.ingest.put(documents, replace=replace, progress=progress)

    def _noted_by(self, notes: Notes) -> TakesNotes | None:
        """Give what takes notes; None where none are wanted.

        Raises
        ------
        ConfigError
        """
        if notes is False or isinstance(notes, TakesNotes):
            return notes or None
        if notes is not True:
            raise ConfigError(f"notes is {shown(notes)}; give True, False, or the SharedLLM")
        if self._writer is None:
            raise ConfigError(
                "notes is True, and this memory was opened without a model that writes: open it "
                "with TreeMemory(path, llm=SharedLLM.from_pretrained()), or give notes=llm. "
                "Nothing was changed"
            )
        return self._writer

    @checked()
    def delete(self, ids: str | Iterable[str]) -> None:
        """Remove documents, all of them or (if one is not there) none.

        New documents take their space in the file; :meth:`compact` gives it back to the disk.

        Raises
        ------
        DocumentError
            If one is not there.
        TreeMemoryBusyError, TreeMemoryError
        """
        given = [ids] if isinstance(ids, str) else list(ids)
        with self._database.write() as connection:
            tables.delete_documents(connection, given)

    @checked()
    def get(self, id: str) -> MemoryDocument:
        """The document called `id`, with its text.

        Raises
        ------
        DocumentError
            If it is not there.
        TreeMemoryDamagedError
            If its entry or its text is broken.
        """
        with self._database.read() as connection:
            return outlines.memory_document(connection, id)

    @checked()
    def outline(self, id: str) -> Outline:
        """The sections of the document called `id`, in its order.

        Raises
        ------
        DocumentError
            If it is not there.
        TreeMemoryDamagedError
            If its outline is broken.
        """
        with self._database.read() as connection:
            text = tables.document_row(connection, id)[4]
            return outlines.outline_of(connection, id, tables.text_length(connection, text)) or ()

    @checked("filter")
    def list(self, filter: Mapping[str, Any] | None = None) -> Documents:
        """The documents of the memory, in the order of addition.

        Parameters
        ----------
        filter : as :meth:`search` takes it
        """
        where, values = condition(filter)
        with self._database.read() as connection:
            return tables.stored_documents(connection, where, values)

    def __len__(self) -> int:
        with self._database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])

    def __contains__(self, id: object) -> bool:
        if not isinstance(id, str) or unicode_problem(id):
            return False
        with self._database.read() as connection:
            found = connection.execute("SELECT 1 FROM documents WHERE id = ?", (id,))
            return found.fetchone() is not None

    def plot(self) -> Figure:
        """A figure of the documents by their length in tokens, the longest on top.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed (extra "plot").
        """
        from sharedllm.display import plot

        return plot.memory(self.list())

    @property
    def away(self) -> tuple[str, ...]:
        """The parts that cannot be used now, each with the reason; a memory of one has none."""
        return ()

    @property
    def revision(self) -> str:
        """A name that changes with every addition, update and deletion, by any process.

        Keep it beside an answer, to know later whether the answer is out of date.
        """
        with self._database.read() as connection:
            now = records.generation(connection)
            if self._seen[0] != now:
                digest = hashlib.sha256()
                for row in connection.execute(
                    "SELECT d.id, d.title, d.source, d.metadata, t.hash FROM documents d "
                    "LEFT JOIN texts t ON t.text = d.text ORDER BY d.document"
                ):
                    digest.update(repr(row).encode())
                for one in outlines.outline_checks(connection):
                    digest.update(repr(one).encode())
                self._seen = (now, digest.hexdigest()[:32])
            return self._seen[1]

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
        """The `k` passages that match `query` best, best first.

        Each is a place of some 128 tokens (a leaf of the tree) in whole sentences, with its score,
        page and best matching sentence: fit to be handed to any model.

        >>> [hit] = memory.search("Who buys Susan?", k=1)
        >>> hit.id, hit.page, hit.char_start, hit.score
        >>> whole = memory.get(hit.id).text  # the sentence that matches best:
        >>> whole[hit.match_start : hit.match_end]

        Parameters
        ----------
        k : at least 1; fewer come back where there are no more
        filter : mapping of metadata fields to what they must be: a value, a list of values, or
            ``{"gt" | "gte" | "lt" | "lte" | "ne" | "in" | "nin" | "contains" | "empty": ...}``;
            "id", "title" and "source" are fields as well. ``{"$or": [filter, ...]}``, "$and", and
            ``{"$not": filter}`` join filters
        section : searches only the sections that this names, by number ("chapter 3"), title or
            path ("Part II > Chapter 3"); documents without one are left out

        Raises
        ------
        InputError, SectionError, ConfigError, TreeMemoryDamagedError
        """
        require_int("k", k, least=1)
        require_section(section)
        self.require_documents()
        return self._working.retrieval.search(query, k, self.encoder, filter, section)

    @checked("filter")
    def documents_for(
        self,
        query: str,
        llm: HasEncoder,
        filter: Mapping[str, Any] | None = None,
        *,
        names: Sequence[str] = (),
        section: str | None = None,
    ) -> Sequence[Document]:
        """Find what to search to answer `query`: ``llm.answer(query, memory)`` calls it.

        All documents of a small memory; of a large one, the parts that the prefilter finds.

        Parameters
        ----------
        filter : as that of :meth:`search`
        names : what a later round of search searches for: in a large memory, parts that hold all
            words of one of these are found, too, where there are few
        section : as that of :meth:`search`

        Raises
        ------
        SectionError
            If no document has such a section.
        TreeMemoryMismatchError
            If `llm` is not what the memory was made by.
        """
        self._take(llm.encoder)
        return self._working.retrieval.documents_for(query, llm.encoder, filter, names, section)

    @checked("filter")
    def whole_documents(
        self, llm: HasEncoder, filter: Mapping[str, Any] | None = None
    ) -> Sequence[Document]:
        """Return all documents, each of them whole, for questions about all of them.

        Parameters
        ----------
        filter : as that of :meth:`search`

        Raises
        ------
        TreeMemoryMismatchError
            If `llm` is not what the memory was made by.
        InputError
            If there is none.
        """
        self._take(llm.encoder)
        return self._working.retrieval.whole_documents(llm.encoder, filter)

    def leaves_out(self, filter: Mapping[str, Any] | None = None) -> bool:
        """Return True where a search looks at a part of the documents only."""
        with self._database.read() as connection:
            return is_large(Opened([connection]), filter, self._candidates)

    def _take(self, encoder: DocumentEncoder) -> None:
        """Take `encoder` for the memory's own, where it has none yet and holds documents."""
        self.require_documents()
        self._use(encoder)

    def _use(self, encoder: DocumentEncoder) -> None:
        with self._lock:
            if self._encoder is None:
                own = Manifest.of(encoder, self._manifest.settings)
                self._manifest.require(own, self.path)
                self._encoder = encoder

    def require_documents(self) -> None:
        """Refuse to search a memory of nothing, before a model is loaded for it.

        Raises
        ------
        InputError
        """
        if not len(self):
            raise InputError(
                f"the memory holds no document: {str(self.path)!r} is empty; add() some, or name "
                "the folder of another memory"
            )

    # -- upkeep --------------------------------------------------------------------------------

    @checked()
    def verify(self, *, repair: bool = False) -> Report:
        """Read everything and compare it with its checksums.

        Parameters
        ----------
        repair : make broken rows anew where they follow from the texts

        Raises
        ------
        TreeMemoryBusyError, TreeMemoryError
        """
        if not repair:
            return maintenance.verify(self._database, self._manifest)
        with self._lock:
            self._held = None
            return maintenance.repair(
                self._database, self._manifest, lambda: self.encoder, lambda: self._working.ingest
            )

    def compact(self) -> None:
        """Give the space of what was deleted back to the disk.

        Raises
        ------
        TreeMemoryDamagedError
            If the file is broken: ``verify(repair=True)`` first.
        TreeMemoryBusyError, TreeMemoryError
        """
        maintenance.compact(self._database)

    @checked()
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
        DocumentError, TreeMemoryFormatError, TreeMemoryDamagedError, TreeMemoryError
        """
        chosen = [d.id for d in self.list()] if ids is None else list(ids)
        maintenance.export(self._database, self._manifest, Path(path), chosen)

    @checked()
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
        TreeMemoryError, TreeMemoryFormatError, TreeMemoryDamagedError
        """
        left = None if ids is None else dict.fromkeys(ids)
        folders = part_folders(Path(path))
        for number, folder in enumerate(folders, start=1):
            with TreeMemory(folder, create=False, busy_s=self._busy_s) as other:
                chosen = [d.id for d in other.list()]
                if left is not None:
                    last = number == len(folders)  # where one that is nowhere is refused
                    chosen = [one for one in left if last or one in other]
                    left = {one: None for one in left if one not in chosen}
                same = other._manifest.digest == self._manifest.digest
                if same and maintenance.shares_codecs(other._database, self._database):
                    maintenance.copy(other._database, self._database, chosen)
                else:
                    self.add((other.get(one) for one in chosen), progress=progress)

    @property
    def encoder(self) -> DocumentEncoder:
        """The model of this memory, loaded when it is first needed.

        Raises
        ------
        TreeMemoryMismatchError
            If the memory was not made by the embedded model and its adapter: name it yourself, by
            ``llm=`` or :meth:`load_encoder`.
        """
        with self._lock:
            if self._encoder is None:
                self._encoder = self._manifest.load(self.path)
            return self._encoder

    @property
    def needs_names(self) -> dict[str, str]:
        """Model and adapter that have to be named to :meth:`load_encoder`, as they were given."""
        return self._manifest.needs_names

    def load_encoder(self, **changes: Any) -> DocumentEncoder:
        """Load the model of this memory in another way, such as ``device="cuda"``.

        Parameters
        ----------
        changes : ``model``, ``adapter``, ``device``, ``dtype``, ``tree`` and ``injection``, as
            :meth:`SharedLLM.from_pretrained` takes them; model and adapter have to be named if they
            are not the embedded ones

        Raises
        ------
        TreeMemoryMismatchError, ModelNotFoundError, AdapterError
        """
        return self._manifest.load(self.path, **changes)

    def is_current(self) -> bool:
        """True while it can be used as it was opened: not closed, not rebuilt by others since."""
        try:
            with self._database.read():
                return True
        except TreeMemoryError:
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

    # -- opening -------------------------------------------------------------------------------

    def _first_manifest(self, given: Mapping[str, str]) -> Manifest:
        """The manifest that stands in the file, which a new memory is given here."""
        text = self._database.manifest()
        if text is None:
            if self._encoder is None:
                self._encoder = loaded_encoder()
            own = Manifest.of(self._encoder, MemorySettings.of(given))
            text = self._database.found(own.to_json())
        self._database.expected = text
        return Manifest.from_json(text)

    def _agree(self, given: Mapping[str, str], *, rebuild: bool) -> None:
        """Refuse a model or settings that are not the memory's, or let the memory follow them."""
        settings = MemorySettings.of(given, self._manifest.settings)
        if self._encoder is None and rebuild and settings != self._manifest.settings:
            self._encoder = self.encoder
        wanted = replace(self._manifest, settings=settings)
        if self._encoder is not None:
            wanted = Manifest.of(self._encoder, settings)
        if rebuild and wanted.digest != self._manifest.digest:
            self._manifest = wanted
            self._working.ingest.rebuild()
            self._database.expected = wanted.to_json()
        self._manifest.require(wanted, self.path)

    @property
    def _working(self) -> _Working:
        """The parts that need the model, which is loaded for them."""
        with self._lock:
            if self._held is None:
                codec = codec_of(self._database, self._manifest, self.encoder)
                part = Part(self._database, self._manifest, codec)
                self._held = _Working(
                    ingest=Ingest(self._database, self._manifest, self.encoder, codec),
                    part=part,
                    retrieval=Retrieval([part], self._candidates),
                )
            return self._held


def several(documents: MemoryDocument | Iterable[MemoryDocument]) -> list[MemoryDocument]:
    if not isinstance(documents, MemoryDocument | Iterable):
        raise InputError(
            f"documents is {shown(documents)}; give MemoryDocument(text=...), or several"
        )
    given = [documents] if isinstance(documents, MemoryDocument) else list(documents)
    for number, document in enumerate(given, start=1):
        if not isinstance(document, MemoryDocument):
            raise InputError(
                f"number {number} of {len(given)} documents is a {type(document).__name__}; give "
                "MemoryDocument(text=...), or several. Nothing was changed"
            )
    return given


def seconds(name: str, value: object) -> float:
    """`value`, checked to be a length of time.

    Raises
    ------
    ConfigError
    """
    require_number(name, value, least=0)
    if not isinstance(value, int | float):
        raise ConfigError(f"{name} is {value!r}; it must be a number of seconds")
    return float(value)
