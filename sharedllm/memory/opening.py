"""An open memory: its file, its manifest, and its model, which is loaded when it is needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm.config import one_of, whole
from sharedllm.encoding.document_encoder import loaded_encoder
from sharedllm.errors import ConfigError, StoreMismatchError
from sharedllm.memory.database import Database
from sharedllm.memory.identity import Manifest, MemorySettings, manifest_of, seconds

if TYPE_CHECKING:
    from sharedllm.encoding.document_encoder import DocumentEncoder
    from sharedllm.memory.reading import MemoryReader

NAMED_EMBEDDERS = ("states", "minilm")
PREFILTERS = ("words", "hybrid", "dense")
NODE_CACHE_BYTES = 64 << 20  # of each document's encoded nodes


@dataclass(frozen=True, kw_only=True, slots=True)
class Searching:
    """How this process searches a memory; nothing of it is stored.

    Parameters
    ----------
    embedder : what the user gave
    prefilter, candidates : see :class:`sharedllm.memory.tree_memory.TreeMemory`
    """

    embedder: Any
    prefilter: str | None
    candidates: int

    def __post_init__(self) -> None:
        if self.prefilter is not None:
            one_of("prefilter", self.prefilter, PREFILTERS)
        whole("candidates", self.candidates, least=1)

    def kind(self, settings: MemorySettings) -> str:
        """The prefilter of a memory with these `settings`.

        A mean of the model's own states finds next to nothing (docs/experiments.md).
        """
        return self.prefilter or ("words" if settings.embedder == "states" else "hybrid")


class OpenMemory:
    """What :class:`TreeMemory` works on.

    Parameters
    ----------
    given : settings that the user named
    rebuild : encode all documents again where model or settings differ

    Raises
    ------
    StoreFormatError, StoreMismatchError, StoreError, ConfigError
    """

    def __init__(
        self,
        folder: Path,
        llm: DocumentEncoder | None,
        given: Mapping[str, str | None],
        searching: Searching,
        *,
        rebuild: bool,
        create: bool,
        busy_s: float,
    ) -> None:
        self.folder, self._llm, self._searching = folder, llm, searching
        self._given = {name: value for name, value in given.items() if value is not None}
        MemorySettings(**self._given)  # what is wrong is said before a folder is made
        self.busy_s = seconds("busy_s", busy_s)
        self._loading = threading.RLock()
        self.database = Database(folder, create=create, busy_s=self.busy_s)
        try:
            self.manifest = self._first_manifest()
            self._agree(rebuild=rebuild)
        except BaseException:
            self.database.close()
            raise

    @property
    def llm(self) -> DocumentEncoder:
        """The model of this memory."""
        with self._loading:
            if self._llm is None:
                from sharedllm.memory.loading import load

                self._llm = load(self.manifest, self.folder)
            return self._llm

    def serve(self, llm: DocumentEncoder) -> None:
        """Take `llm` for this memory's model if it has none yet.

        Raises
        ------
        StoreMismatchError
            If it is not what the memory was made by.
        """
        with self._loading:
            if self._llm is None:
                self.manifest.require(manifest_of(llm, self.manifest.settings), str(self.folder))
                self._llm = llm

    @cached_property
    def reader(self) -> MemoryReader:
        """The memory in the hands of its model."""
        from sharedllm.memory.embedders import embedder
        from sharedllm.memory.reading import MemoryReader

        with self._loading:
            return MemoryReader(
                self.database,
                self.manifest,
                self.llm,
                embedder(self._embedder()),
                self._searching.kind(self.manifest.settings),
                self._searching.candidates,
                NODE_CACHE_BYTES,
            )

    def _embedder(self) -> Any:
        """The embedder that was given, or the one of the memory if it has a name that we know."""
        name = self.manifest.settings.embedder
        if self._searching.embedder is not None or name in NAMED_EMBEDDERS:
            return self._searching.embedder or name
        raise StoreMismatchError(
            f"the memory in {str(self.folder)!r} was made with the embedder {name}; open it with "
            "TreeMemory(path, embedder=...)"
        )

    def _first_manifest(self) -> Manifest:
        """The manifest that stands in the file, which a new memory is given here."""
        text = self.database.manifest()
        if text is None:
            if self._llm is None:
                self._llm = loaded_encoder()
            own = manifest_of(self._llm, MemorySettings(**self._given))
            text = self.database.found(own.to_json())
        self.database.expected = text
        return Manifest.from_json(text)

    def _agree(self, *, rebuild: bool) -> None:
        """Refuse a model or settings that are not the memory's, or let them be."""
        settings = replace(self.manifest.settings, **self._given)
        if self._llm is None and rebuild and settings != self.manifest.settings:
            self._llm = self.llm
        wanted = replace(self.manifest, settings=settings)
        if self._llm is not None:
            wanted = manifest_of(self._llm, settings)
        if rebuild and wanted.digest != self.manifest.digest:
            from sharedllm.memory.rebuilding import rebuild as encode_all_again

            self.manifest = wanted
            encode_all_again(self.database, self.reader)
            self.database.expected = wanted.to_json()
        self.manifest.require(wanted, str(self.folder))


def embedder_name(given: Any) -> str | None:
    """What the manifest calls the embedder that the user gave.

    Raises
    ------
    ConfigError
        If it is none.
    """
    if given is None or given in NAMED_EMBEDDERS:
        return None if given is None else str(given)
    if isinstance(given, str):
        raise ConfigError(
            f"embedder is {given!r}; allowed are 'states', 'minilm', a function of a list of "
            "texts, LangChain's Embeddings and LlamaIndex's BaseEmbedding"
        )
    from sharedllm.memory.embedders import Embedder

    return Embedder(given).name
