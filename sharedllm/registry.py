"""Models loaded by this process, by name and settings, so that none is loaded twice."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from sharedllm.arguments import checked
from sharedllm.config import InjectionConfig, TreeConfig
from sharedllm.encoding.document_encoder import (
    DocumentEncoder,
    HasEncoder,
    forget_encoders,
    loaded_encoder,
)
from sharedllm.hf.loading import injectable
from sharedllm.hf.models import hub_name
from sharedllm.memory.tree_memory import TreeMemory
from sharedllm.readers.address import Endpoint
from sharedllm.readers.endpoint import EndpointReader
from sharedllm.readers.reader import require_no_window
from sharedllm.readers.stock import StockReader, require_stock
from sharedllm.shared_llm import SharedLLM

_models: dict[tuple[DocumentEncoder, object], SharedLLM] = {}
_lock = threading.RLock()


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
    reader: str | Endpoint | None = None,
    reader_model: str | None = None,
    reader_window: int | None = None,
    reader_timeout: float | None = None,
) -> SharedLLM:
    """Load a model once per process: later calls with the same arguments get the same object.

    Parameters
    ----------
    model, adapter, device, dtype, quantize, tree, injection, reader, reader_model, reader_window,
    reader_timeout : as in :meth:`SharedLLM.from_pretrained`

    Raises
    ------
    ModelNotFoundError, ModelTooLargeError, UnsupportedModelError, AdapterError, ConfigError
    MissingExtraError, ReaderError
        With `quantize` and `reader`.
    """
    endpoint = Endpoint.of(reader, reader_model, reader_window, reader_timeout)
    place = _Place(device, dtype, quantize)
    if endpoint is not None:
        endpoint.require_unused(injection)
    if endpoint is None and not injectable(model, {}):
        require_stock(model, "auto", adapter, injection)
        scout = loaded_encoder(adapter=adapter and "default", device=device, tree=tree)
        return _stock(scout, model, place, reader_window)
    if endpoint is None:
        require_no_window(reader_window)
    encoder = loaded_encoder(
        model, adapter=adapter, tree=tree, injection=injection, **place._asdict()
    )
    return _of(encoder, endpoint)


@checked()
def loaded_for(
    memory: TreeMemory,
    *,
    model: str | None = None,
    reader: str | Endpoint | None = None,
    reader_model: str | None = None,
    reader_window: int | None = None,
    reader_timeout: float | None = None,
    **changes: Any,
) -> SharedLLM:
    """Return the model that `memory` was made with, loaded once per process; or another reader.

    Parameters
    ----------
    model : the memory's own, which has to be named if it is not the embedded one, as a memory may
        come from a stranger. One of a family that KV cannot be injected into answers, and the
        memory's own searches
    reader, reader_model, reader_window, reader_timeout : as in :meth:`SharedLLM.from_pretrained`
    changes : ``adapter``, ``device``, ``dtype``, ``quantize``, ``tree`` or ``injection`` in place
        of the memory's

    Raises
    ------
    TreeMemoryMismatchError
        If the memory names no model, or another than the embedded one that is not named here, or
        the weights under its name have changed.
    ModelNotFoundError, AdapterError
    UnsupportedModelError, MissingExtraError, ReaderError
        For another reader.
    """
    endpoint = Endpoint.of(reader, reader_model, reader_window, reader_timeout)
    stock = endpoint is None and not injectable(model, {})
    form = {name: changes.pop(name, None) for name in ("dtype", "quantize")} if stock else {}
    if endpoint is not None:
        endpoint.require_unused(changes.get("injection"))
    if stock:
        require_stock(model, "auto", "default", changes.get("injection"))
    elif model is not None:
        changes["model"] = model
    if not stock and endpoint is None:
        require_no_window(reader_window)
    owner = memory.load_encoder(**changes) if changes else memory.encoder
    if stock:
        place = _Place(changes.get("device"), **form)
        return _stock(owner.encoder, model, place, reader_window)
    return _of(owner, endpoint)


def forget() -> None:
    """Drop all loaded models, so that their memory can be freed."""
    with _lock:
        _models.clear()
        forget_encoders()


def _of(owner: HasEncoder, endpoint: Endpoint | None = None) -> SharedLLM:
    """Return the one SharedLLM of an encoder and an endpoint; `owner` may be a SharedLLM."""
    encoder = owner.encoder
    with _lock:
        if (encoder, endpoint) not in _models:
            reader = None if endpoint is None else EndpointReader(endpoint, encoder.tokenizer)
            _models[encoder, endpoint] = SharedLLM(encoder, reader=reader)
        return _models[encoder, endpoint]


class _Place(NamedTuple):
    """The device and the form in which a model is loaded."""

    device: str | None
    dtype: str | None
    quantize: str | None


def _stock(
    scout: DocumentEncoder, model: str | None, place: _Place, window: int | None
) -> SharedLLM:
    """Return the one SharedLLM of a model that answers beside `scout`."""
    name = None if model is None else hub_name(model)
    key = (scout, (name, place, window))
    with _lock:
        if key not in _models:
            reader = StockReader.load(name, scout, window=window, **place._asdict())
            _models[key] = SharedLLM(scout, reader=reader)
        return _models[key]
