"""Trees of texts that no memory holds, kept for the process under a limit of bytes."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.references import Scope, text_hash

if TYPE_CHECKING:
    from sharedllm import Document, SharedLLM

DEFAULT_BYTES = 1 << 30
Key = tuple[object, ...]


class TreeCache:
    """Built documents by scope, text and model, the least recently used dropped beyond `limit`.

    Neither tenants nor memories share an entry, so that nobody learns from a hit what another has
    read; an entry has no title and no source. It may be used from several threads; two that want
    the same document build it once.

    Attributes
    ----------
    limit : int
        Bytes; a single document may be larger.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.limit = limit
        self._held: OrderedDict[Key, Document] = OrderedDict()
        self._lock = threading.Lock()
        self._building: dict[Key, tuple[threading.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes held, about."""
        with self._lock:
            return sum(map(_nbytes, self._held.values()))

    def build(
        self, llm: SharedLLM, scope: Scope, text: str, *, title: str, source: str
    ) -> tuple[Document, bool]:
        """The document of `text` under this title, and whether it was built for this call."""
        key = (scope, text_hash(text, scope.tenant), llm.identity, str(llm.encoder.model.device))
        with self._alone(key):
            held = self._find(key)
            document = llm.remember(text) if held is None else held
            if held is None:
                with self._lock:
                    self._held[key] = document
                    self._drop_beyond(self.limit)
        return dataclasses.replace(document, title=title, source=source), held is None

    def _find(self, key: Key) -> Document | None:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def resize(self, limit: int) -> None:
        """Change the limit, and drop what is beyond it.

        Raises
        ------
        SetupError
            If it is not a number of bytes.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise SetupError(f"the limit is {limit!r}; give a whole number of bytes")
        with self._lock:
            self.limit = limit
            self._drop_beyond(limit)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._held.clear()

    def _drop_beyond(self, limit: int) -> None:
        total = sum(map(_nbytes, self._held.values()))
        while total > limit and len(self._held) > 1:
            total -= _nbytes(self._held.popitem(last=False)[1])

    @contextmanager
    def _alone(self, key: Key) -> Iterator[None]:
        """Only one thread at a time for each key."""
        with self._lock:
            lock, waiting = self._building.get(key, (threading.Lock(), 0))
            self._building[key] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, waiting = self._building.pop(key)
                if waiting > 1:
                    self._building[key] = (lock, waiting - 1)


def _nbytes(document: Document) -> int:
    tokens = document.tokens
    arrays = document.vectors.nbytes + tokens.ids.nbytes + tokens.spans.nbytes
    return int(arrays + len(document.text) + document.nodes.nbytes)


_process = TreeCache()


def process_cache() -> TreeCache:
    """The cache of this process, which all adapters share."""
    return _process
