"""Models loaded by this process, by name and settings, so that none is loaded twice."""

from __future__ import annotations

import threading
from typing import Any

from sharedllm.arguments import checked
from sharedllm.config import InjectionConfig, TreeConfig
from sharedllm.encoding.document_encoder import (
    DocumentEncoder,
    HasEncoder,
    forget_encoders,
    loaded_encoder,
)
from sharedllm.memory.tree_memory import TreeMemory
from sharedllm.shared_llm import SharedLLM

_models: dict[DocumentEncoder, SharedLLM] = {}
_lock = threading.Lock()


@checked()
def loaded(
    model: str | None = None,
    *,
    adapter: str | None = "default",
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    tree: TreeConfig | None = None,
    injection: InjectionConfig | None = None,
) -> SharedLLM:
    """Load a model once per process: later calls with the same arguments get the same object.

    Parameters
    ----------
    model, adapter, device, dtype, quantize, tree, injection : as in
        :meth:`SharedLLM.from_pretrained`

    Raises
    ------
    ModelNotFoundError, ModelTooLargeError, UnsupportedModelError, AdapterError, ConfigError
    MissingExtraError
    """
    place: dict[str, Any] = {"device": device, "dtype": dtype, "quantize": quantize}
    return _of(loaded_encoder(model, adapter=adapter, tree=tree, injection=injection, **place))


@checked()
def loaded_for(memory: TreeMemory, **changes: Any) -> SharedLLM:
    """Return the model that `memory` was made with, loaded once per process.

    Parameters
    ----------
    changes : ``model``, ``adapter``, ``device``, ``dtype``, ``quantize``, ``tree`` or
        ``injection`` in place of the memory's own; model and adapter have to be named if they are
        not the embedded ones, as a memory may come from a stranger

    Raises
    ------
    TreeMemoryMismatchError
        If the memory names no model, or another than the embedded one that is not named here, or
        the weights under its name have changed.
    ModelNotFoundError, AdapterError
    """
    return _of(memory.load_encoder(**changes) if changes else memory.encoder)


def forget() -> None:
    """Drop all loaded models, so that their memory can be freed."""
    with _lock:
        _models.clear()
        forget_encoders()


def _of(owner: HasEncoder) -> SharedLLM:
    """Return the one SharedLLM of an encoder; `owner` may be a SharedLLM already."""
    encoder = owner.encoder
    with _lock:
        if encoder not in _models:
            _models[encoder] = SharedLLM(encoder)
        return _models[encoder]
