"""Document: a text as one model has read it, with search vectors and the nodes encoded so far."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.text.document_text import DocumentText

T = TypeVar("T")
MOST_NOTES = 1 << 14  # of a document's parts


class NodeCache:
    """Encoded nodes of one document, the least recently used dropped beyond `limit` bytes.

    Attributes
    ----------
    keeps_leaves : bool
        The KV of every leaf is stored, so that it is read rather than encoded.
    """

    keeps_leaves = False

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._notes: dict[bytes, OrderedDict[bytes, str]] = {}  # by the kind of their key
        self._nodes: OrderedDict[NodeRequest, NodeKV] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[NodeCache], tuple[int]]:
        return NodeCache, (self.limit,)  # pickled without nodes: another process encodes its own

    def __contains__(self, request: NodeRequest) -> bool:
        return request in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, request: NodeRequest) -> NodeKV | None:
        with self._lock:
            found = self._nodes.get(request)
            if found is not None:
                self._nodes.move_to_end(request)
            return found

    def get_all(self, requests: Sequence[NodeRequest]) -> dict[NodeRequest, NodeKV]:
        """Return those of `requests` that need not be encoded."""
        found = {request: self.get(request) for request in requests}
        return {request: kv for request, kv in found.items() if kv is not None}

    def put(self, request: NodeRequest, kv: NodeKV) -> None:
        with self._lock:
            old = self._nodes.pop(request, None)
            self.nbytes += kv.nbytes - (old.nbytes if old else 0)
            self._nodes[request] = kv
            while self.nbytes > self.limit and len(self._nodes) > 1:
                self.nbytes -= self._nodes.popitem(last=False)[1].nbytes

    def note(self, key: bytes, start: int) -> str | None:
        """Return what a reader said of a part of the document; None if that is not kept.

        Parameters
        ----------
        key : names reader, question and text of the part; its first byte is a kind
        start : its first token
        """
        with self._lock:
            return self._notes.get(key[:1], OrderedDict()).get(key)

    def keep_notes(self, notes: Mapping[tuple[bytes, int], str], *, required: bool = False) -> None:
        """Keep what a reader said of parts, by key and start, the oldest dropped beyond a number.

        The key alone says all that it depends on. Each kind has a number of its own.

        Parameters
        ----------
        required : raise, rather than go on, where they can be kept in this process only
        """
        with self._lock:
            for (key, _), said in notes.items():
                own = self._notes.setdefault(key[:1], OrderedDict())
                own[key] = said
                if len(own) > MOST_NOTES:
                    own.popitem(last=False)


class CompactVectors(Protocol):
    """Search vectors in fewer bytes than float16, with the operations that scorers need."""

    @property
    def shape(self) -> tuple[int, int]:
        """(T, hidden)"""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def __len__(self) -> int: ...

    def joined(self, others: Sequence[SearchVectors]) -> CompactVectors | None:
        """Return these and all `others` as one; None if they are not of one kind."""
        ...

    def part(self, start: int, end: int) -> CompactVectors:
        """Return those of the tokens [start, end)."""
        ...

    def similarities(self, query: Tensor) -> Tensor:
        """Return the cosine of each of `query` (Q, hidden) with every token's; float32 (Q, T)."""
        ...

    def float(self) -> Tensor:
        """Return all of them unpacked; float32 (T, hidden)."""
        ...


SearchVectors = Tensor | CompactVectors


@dataclass(frozen=True, kw_only=True, eq=False)
class Document(DocumentText):
    """A remembered document, made by :meth:`sharedllm.SharedLLM.remember`.

    A notebook and rich's console show its chunks, its beginning and its first trees.

    Attributes
    ----------
    id, title, source, text, tokens, forest, offset, whole_characters, pages, outline
        See :class:`sharedllm.text.document_text.DocumentText`.
    vectors : float16 tensor (T, hidden), or the same in a compact form
        Search vectors: see :meth:`sharedllm.encoding.lower_model.LowerModel.vectors`.
    nodes : NodeCache
        KV encoded so far.
    made_by : tuple
        Identity of the model and the tree settings that read it.
    remember_s : float
        Seconds it took to read.
    """

    vectors: SearchVectors = field(repr=False)
    nodes: NodeCache = field(repr=False)
    made_by: tuple[object, ...] = field(default=(), repr=False)
    remember_s: float = field(default=0.0, repr=False)
    _derived: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def without_states(self) -> DocumentText:
        """Return the text with its tokens and trees, which are shared, not copied."""
        return DocumentText(**{f.name: getattr(self, f.name) for f in fields(DocumentText)})

    def derived(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return a value that a scorer computes from this document once; `make` computes it."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]  # type: ignore[no-any-return]

    @staticmethod
    def derived_of_all(
        documents: Sequence[Document], key: Hashable, make: Callable[[list[Document]], list[T]]
    ) -> list[T]:
        """Return such a value of each document; `make` computes those that are missing together."""
        new = [document for document in documents if key not in document._derived]
        for document, value in zip(new, make(new) if new else [], strict=True):
            document._derived[key] = value
        return [document._derived[key] for document in documents]

    def request(self, node: int, ratio: float) -> NodeRequest:
        """Return the request to encode `node` at `ratio` tokens per KV entry."""
        return NodeRequest(
            start=int(self.forest.start[node]),
            end=int(self.forest.end[node]),
            ratio=float(ratio),
            context=self.forest.before(node),
        )

    @cached_property
    def leaf_of_token(self) -> NDArray[np.int32]:
        """The rank of each token's leaf among the leaves; shape (T,)."""
        starts = self.forest.start[self.forest.leaves]
        ranks = np.searchsorted(starts, np.arange(len(self)), side="right") - 1
        return ranks.astype(np.int32)


def document_id(text: str, *settings: object) -> str:
    """Return 32 hex digits of SHA-256 over the text and the `settings` that its trees depend on."""
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(b"\0")
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
