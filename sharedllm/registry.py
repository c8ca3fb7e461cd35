"""Loaded models of this process, by what they were loaded from, so that nobody loads one twice."""

from __future__ import annotations

import threading
from typing import Any

from sharedllm.config import InjectionConfig, TreeConfig
from sharedllm.encoding.replicas import IngestDevices, further_devices
from sharedllm.hf.loading import resolve_device, resolve_dtype
from sharedllm.hf.pieces import require_compiling
from sharedllm.shared_llm import SharedLLM

_models: dict[tuple[Any, ...], SharedLLM] = {}
_lock = threading.Lock()


def loaded(
    model: str | None = None,
    *,
    adapter: str | None = "default",
    device: str | None = None,
    dtype: str | None = None,
    tree: TreeConfig | None = None,
    injection: InjectionConfig | None = None,
    ingest_devices: IngestDevices = None,
    compile_ingest: bool = False,
) -> SharedLLM:
    """The model loaded with these settings: the first call loads it, others get the same one.

    Parameters
    ----------
    model, adapter, device, dtype, tree, injection, ingest_devices, compile_ingest : as in
        :meth:`SharedLLM.from_pretrained`

    Raises
    ------
    ModelNotFoundError, UnsupportedModelError, AdapterError, ConfigError
    """
    where = resolve_device(device)
    further = further_devices(ingest_devices, where)
    if compile_ingest:
        require_compiling(where)
    kind = resolve_dtype(dtype, where)
    key = (model, adapter, where, kind, tree, injection, further, compile_ingest)
    with _lock:
        if key not in _models:
            _models[key] = SharedLLM.from_pretrained(
                model,
                adapter=adapter,
                device=where,
                dtype=kind,
                tree=tree,
                injection=injection,
                ingest_devices=further,
                compile_ingest=compile_ingest,
            )
        return _models[key]


def forget() -> None:
    """Let go of all models, so that their memory can be used for others."""
    with _lock:
        _models.clear()
