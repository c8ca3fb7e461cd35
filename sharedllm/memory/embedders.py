"""What embeds chunks and queries for the prefilter: a function, LangChain's or LlamaIndex's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.errors import ConfigError

STATES, MINILM = "states", "minilm"


class Embedder:
    """Any embedder behind one face.

    Parameters
    ----------
    given : a function of a list of texts, an object with ``embed_documents`` and ``embed_query``
        (LangChain's Embeddings), or with ``get_text_embedding_batch`` and ``get_query_embedding``
        (LlamaIndex's BaseEmbedding)

    Raises
    ------
    ConfigError
        If it is none of these.
    """

    def __init__(self, given: Any) -> None:
        if hasattr(given, "embed_documents") and hasattr(given, "embed_query"):
            self._texts, self._query = given.embed_documents, given.embed_query
        elif hasattr(given, "get_text_embedding_batch") and hasattr(given, "get_query_embedding"):
            self._texts, self._query = given.get_text_embedding_batch, given.get_query_embedding
        elif callable(given):
            self._texts, self._query = given, lambda text: given([text])[0]
        else:
            raise ConfigError(
                f"embedder is {given!r}; allowed: a function of a list of texts, LangChain's "
                "Embeddings, LlamaIndex's BaseEmbedding, 'minilm' or None"
            )
        self.name = name_of(given)

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Rows of unit length; (texts, dims)."""
        return _units(self._texts(list(texts)), len(texts), self.name)

    def query(self, text: str) -> NDArray[np.float32]:
        """One row of unit length; (dims,)."""
        row: NDArray[np.float32] = _units([self._query(text)], 1, self.name)[0]
        return row


def embedder(given: Any) -> Embedder | None:
    """The embedder that the user named or gave; None for the model's own states.

    Raises
    ------
    ConfigError, MissingExtraError
    """
    if given is None or given == STATES:
        return None
    if given == MINILM:
        from sharedllm.hf.minilm import MiniLM

        return Embedder(MiniLM())
    return Embedder(given)


def name_of(given: Any) -> str:
    """What the manifest calls an embedder: its kind and, where it has one, its model's name."""
    if isinstance(given, str):
        return given
    kind = type(given)
    own = getattr(given, "__qualname__", None) or f"{kind.__module__}.{kind.__qualname__}"
    model = getattr(given, "model_name", None) or getattr(given, "model", None)
    return f"{own}:{model}" if isinstance(model, str) else str(own)


def _units(rows: Any, count: int, name: str) -> NDArray[np.float32]:
    array = np.asarray(rows, np.float32)
    if array.ndim != 2 or len(array) != count or not np.isfinite(array).all():
        raise ConfigError(
            f"the embedder {name} returned an array of shape {array.shape}; it must return "
            f"{count} rows of finite numbers, one a text"
        )
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return np.asarray(array / np.maximum(lengths, 1e-12), np.float32)
