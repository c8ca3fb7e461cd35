"""Ingestion: texts -> documents with search vectors, and their nodes -> KV.

Documents in RAM and documents on disk are both read by a :class:`DocumentEncoder`, which holds the
model. :class:`ModelLock` lets questions pre-empt background encoding.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.arguments import checked
from sharedllm.config import InjectionConfig, SearchConfig, TreeConfig
from sharedllm.encoding.document import Document, NodeCache, document_id
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import LowerModel, NodeRequest
from sharedllm.encoding.near_words import NearWords
from sharedllm.errors import DocumentError, InputError
from sharedllm.hf import cross, lora_io
from sharedllm.hf.architectures import inspect
from sharedllm.hf.attention_interface import activate
from sharedllm.hf.loading import load, resolve_device, resolve_dtype
from sharedllm.hf.lora import Adapter
from sharedllm.hf.models import hub_name
from sharedllm.hf.rope import Rotation
from sharedllm.progress import Progress, reporter
from sharedllm.text.headings import find_outline
from sharedllm.text.outline import Section, require_outline
from sharedllm.text.pages import page_starts
from sharedllm.text.tokens import Tokenizer, Tokens, tokenize
from sharedllm.text.tree import Chunk, cut, grow_trees

NODE_CACHE_BYTES = 512 << 20
PATIENCE_S = 0.5  # that a pass in the background waits for questions: some 20 to 60 ms of work
WEIGHT_SAMPLES = 256  # values of each weight matrix that go into the fingerprint


def _nothing() -> None:
    pass


@dataclass
class Reading:
    """A reading of one thread, and how far it is.

    Attributes
    ----------
    before : called before each pass of the model and before a wait for it; it ends the reading by
        raising
    gives_way : questions go first
    tokens : int or None
        Of the texts so far, once they are cut.
    tokens_read : int
    """

    before: Callable[[], None] = _nothing
    gives_way: bool = False
    tokens: int | None = None
    tokens_read: int = 0


_reading: ContextVar[Reading | None] = ContextVar("reading", default=None)


class ModelLock:
    """One forward pass at a time; background encoding waits while a question is open.

    Attributes
    ----------
    forward : threading.RLock
        Held during a forward pass.
    """

    def __init__(self) -> None:
        self.forward = threading.RLock()
        self._idle = threading.Condition()
        self._questions = 0

    @contextmanager
    def question(self) -> Iterator[None]:
        """Let background work wait until the end of the block."""
        with self._idle:
            self._questions += 1
        try:
            yield
        finally:
            with self._idle:
                self._questions -= 1
                self._idle.notify_all()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the model for one pass, as :meth:`DocumentEncoder.reading` says."""
        own = _reading.get()
        if own is not None:
            own.before()
            if own.gives_way:
                self.wait_for_idle(PATIENCE_S)
                own.before()  # the wait may have been long
        with self.forward:
            yield

    def wait_for_idle(self, timeout: float | None = None) -> None:
        """Return once no question is open, or after `timeout` seconds."""
        with self._idle:
            self._idle.wait_for(lambda: not self._questions, timeout)


@runtime_checkable
class HasEncoder(Protocol):
    """An object with a document encoder: a SharedLLM, or an encoder itself."""

    @property
    def encoder(self) -> DocumentEncoder:
        """The encoder."""
        ...


class DocumentEncoder:
    """A model that reads texts into documents and encodes their nodes.

    It may be used from several threads.

    Parameters
    ----------
    model : the transformers causal LM
    tokenizer : its fast tokenizer
    adapter : folder of the adapter; None runs the base
    tree, injection : settings; None takes the defaults
    search : search settings that its adapter was trained for; None if it has none
    attention : "auto", or the name of a backend (docs/speed.md)
    node_cache_bytes : bytes of encoded nodes kept for each document, at most
    loaded_from : names of model and adapter as they were given, if they were loaded by name
    quantize : how its weights were packed while they were loaded; None if they were not
    load_s : seconds that loading took

    Attributes
    ----------
    lower : LowerModel
    lock : ModelLock
        Held while the model runs.
    adapter : Adapter or None

    Raises
    ------
    UnsupportedModelError, AdapterError, ConfigError
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        adapter: Path | None = None,
        tree: TreeConfig | None = None,
        injection: InjectionConfig | None = None,
        search: SearchConfig | None = None,
        attention: str = "auto",
        node_cache_bytes: int = NODE_CACHE_BYTES,
        loaded_from: tuple[str | None, str | None] | None = None,
        quantize: str | None = None,
        load_s: float = 0.0,
    ) -> None:
        self.model, self.tokenizer, self.quantize = model, tokenizer, quantize
        self.tree = tree or TreeConfig()
        self.injection = injection or InjectionConfig()
        self.search, self.loaded_from, self.load_s = search, loaded_from, load_s
        self.shape = inspect(model)
        self.rotation = Rotation(model.get_decoder().rotary_emb, self.shape.rotations)
        self.lock = ModelLock()
        layers = self.shape.injected(self.injection, self.tree)
        backend = activate(model, attention, self.shape.family.softmax)
        if self.injection.mode == "cross":
            cross.install(model, self.shape, self.rotation, layers, backend.attend)
        self.lower = LowerModel(model, self.shape, self.rotation, layers)
        self._node_cache_bytes = node_cache_bytes
        self.adapter: Adapter | None = None
        self._adapted = ""
        if getattr(model, "is_quantized", False):
            # now: the first pass may lay packed weights out anew, as it suits the processor
            fingerprint(model, tokenizer)
        if adapter is not None:
            self.adapt(lora_io.load(model, adapter))

    @classmethod
    @checked()
    def load(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantize: str | None = None,
        adapter: str | os.PathLike[str] | None = "default",
        tree: TreeConfig | None = None,
        injection: InjectionConfig | None = None,
        attention: str = "auto",
        node_cache_bytes: int = NODE_CACHE_BYTES,
        **options: Any,
    ) -> Self:
        """Load a model; the parameters are those of :meth:`sharedllm.SharedLLM.from_pretrained`.

        Raises
        ------
        ModelNotFoundError, ModelTooLargeError, UnsupportedModelError, AdapterError, ConfigError
        MissingExtraError
        """
        started = time.perf_counter()
        where = resolve_device(device)
        folder = lora_io.find(adapter, name_or_path, injection)
        tree, injection, search = lora_io.settings(folder, tree, injection)
        kind = resolve_dtype(dtype, where)
        name = None if name_or_path is None else hub_name(os.fspath(name_or_path))
        model, tokenizer = load(name, device=where, dtype=kind, quantize=quantize, **options)
        return cls(
            model,
            tokenizer,
            adapter=folder,
            tree=tree,
            injection=injection,
            search=search,
            attention=attention,
            node_cache_bytes=node_cache_bytes,
            loaded_from=(name, _text(adapter if folder else None)),
            quantize=quantize,
            load_s=time.perf_counter() - started,
        )

    @property
    def encoder(self) -> DocumentEncoder:
        """The encoder itself, so that it can stand in for a SharedLLM."""
        return self

    @cached_property
    def near_words(self) -> NearWords:
        """Words near each other in the model's vocabulary; made when they are first needed."""
        return NearWords(self.model.get_input_embeddings().weight, self.tokenizer)

    def adapt(self, adapter: Adapter) -> None:
        """Register `adapter`, which is on this model already. Documents read before are refused."""
        self.adapter, self._adapted = adapter, adapter.fingerprint()
        self.lower.adapt(adapter)

    @property
    def identity(self) -> tuple[object, ...]:
        """Everything that a document's trees and states depend on besides its text."""
        base, tree = fingerprint(self.model, self.tokenizer), dataclasses.astuple(self.tree)
        return (*base, str(self.model.dtype), self.lower.layers, tree, self._adapted)

    def require_own(self, document: Document) -> None:
        """Refuse a document that was read by another model or with other settings.

        Raises
        ------
        InputError
        """
        if document.made_by != self.identity:
            raise InputError(
                f"the document {document.title!r} was read by another model, or with another "
                "adapter or other tree settings; read it again with this one's remember()"
            )

    # -- texts ---------------------------------------------------------------------------------

    @checked("text", error=DocumentError)
    def read(
        self,
        text: str,
        *,
        title: str = "",
        source: str = "",
        outline: Sequence[Section] | None = None,
        progress: Progress = None,
    ) -> Document:
        """Cut `text` into chunks, grow a tree over each, and compute the search vectors.

        Parameters
        ----------
        outline : its sections; None finds them

        Raises
        ------
        DocumentError
            If the text is empty or only white space.
        """
        started = time.perf_counter()
        tokens, chunks = self.cut(text)
        spans = [(chunk.start, chunk.end) for chunk in chunks]
        with reporter(progress, len(tokens), f"reading {title or 'document'}") as report:
            vectors = self.vectors(tokens.ids, spans, done=report)
        identity = self.identity
        return Document(
            id=document_id(text, identity),
            title=title or source or "document",
            source=source,
            text=text,
            tokens=tokens,
            forest=grow_trees(chunks, self.tree),
            vectors=vectors,
            nodes=NodeCache(self._node_cache_bytes),
            made_by=identity,
            pages=page_starts(text),
            outline=find_outline(text) if outline is None else require_outline(outline, text),
            remember_s=time.perf_counter() - started,
        )

    def cut(self, text: str) -> tuple[Tokens, tuple[Chunk, ...]]:
        """Tokenise `text` and cut it into chunks.

        Raises
        ------
        DocumentError
            If the text is empty or only white space.
        """
        tokens, watched = tokenize(text, self.tokenizer), _reading.get()
        if watched is not None:
            watched.tokens = (watched.tokens or 0) + len(tokens)
        return tokens, cut(len(tokens), self.tree.chunk)

    def vectors(
        self,
        ids: NDArray[np.int32],
        spans: Sequence[tuple[int, int]],
        *,
        done: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Compute the search vectors of chunks, which may be those of several texts.

        Parameters
        ----------
        spans : the chunks in `ids`; each is read alone
        done : called with the number of tokens just read
        """
        watched = _reading.get()

        def read(tokens: int) -> None:
            if watched is not None:
                watched.tokens_read += tokens
            if done is not None:
                done(tokens)

        return self.lower.vectors(ids, spans, done=read, turn=self.lock.turn)

    @contextmanager
    def reading(
        self, before: Callable[[], None] = _nothing, *, gives_way: bool = False
    ) -> Iterator[Reading]:
        """Watch what this thread reads within the block; it may be ended, or give way to questions.

        A memory keeps the chunks that it has when a reading ends: the same addition goes on there.

        Parameters
        ----------
        before : called before each pass of the model and before a wait for it; it ends the reading
            by raising
        gives_way : before each pass the thread waits until no question is open, for PATIENCE_S at
            most: under questions without end the text would never be read
        """
        own = Reading(before, gives_way)
        token = _reading.set(own)
        try:
            yield own
        finally:
            _reading.reset(token)

    # -- nodes ---------------------------------------------------------------------------------

    def encode(
        self, document: Document, requests: Sequence[NodeRequest], progress: Progress = None
    ) -> dict[NodeRequest, NodeKV]:
        """Return the KV of all `requests`, from the document's cache or encoded now."""
        wanted = list(dict.fromkeys(requests))
        out = document.nodes.get_all(wanted)
        missing: list[NodeRequest] = []
        for one in wanted:
            kv = out.get(one) or self.from_finer(document, one)
            if kv is None:
                missing.append(one)
            else:
                out[one] = kv
        tokens = sum(r.end - r.start for r in missing)
        with reporter(progress, tokens, f"encoding {document.title}") as report:
            for request, kv in self.node_kv(document.tokens.ids, missing, done=report):
                out[request] = kv
                document.nodes.put(request, kv)
        return out

    def node_kv(
        self,
        ids: NDArray[np.int32],
        requests: Sequence[NodeRequest],
        *,
        done: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[NodeRequest, NodeKV]]:
        """Encode nodes of `ids`, giving up the model between passes.

        Parameters
        ----------
        done : called with the number of tokens just encoded
        """
        encoded = self.lower.encode(ids, requests, done=done, turn=self.lock.turn)
        while True:
            with torch.inference_mode():
                pair = next(encoded, None)
            if pair is None:
                return
            yield pair

    def from_finer(self, document: Document, wanted: NodeRequest) -> NodeKV | None:
        """Derive a coarser root from the cached one by keeping every second, fourth ... entry.

        Returns None if `wanted` is not such a root, or the finer one is not cached.
        """
        own = float(self.tree.root_ratio)
        steps = wanted.ratio / own
        if steps <= 1 or not float(steps).is_integer():
            return None
        finer = document.nodes.get(dataclasses.replace(wanted, ratio=own))
        if finer is None:
            return None
        return finer.every(int(steps))

    def encode_roots(
        self, document: Document, progress: Progress = None, *, background: bool = False
    ) -> Future[None]:
        """Encode the coarse level: every chunk's root at the tree's root ratio."""
        if background:
            return self._later(document, progress)
        self.encode(document, self._roots(document), progress)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def encode_roots_at_once(self, document: Document) -> None:
        """Encode the roots now if on a GPU, where it is quick, and if the node cache holds them."""
        if self.lower.device.type != "cuda":
            return
        roots = self._roots(document)
        first = self.encode(document, roots[:1])[roots[0]]
        if first.nbytes * len(roots) < document.nodes.limit:
            self.encode(document, roots)

    def _roots(self, document: Document) -> list[NodeRequest]:
        ratio = self.tree.root_ratio
        return [document.request(int(root), ratio) for root in document.forest.roots]

    def _later(self, document: Document, progress: Progress) -> Future[None]:
        """Encode the roots in a daemon thread.

        The thread pauses while a question is open; a new question waits for a few chunks at most.
        """
        done: Future[None] = Future()
        roots = self._roots(document)
        step = max(1, self.lower.batch_tokens // (4 * self.tree.chunk))

        def work() -> None:
            try:
                with reporter(progress, len(document), f"encoding {document.title}") as report:
                    for at in range(0, len(roots), step):
                        self.lock.wait_for_idle()
                        self.encode(document, roots[at : at + step])
                        report(sum(r.end - r.start for r in roots[at : at + step]))
            except BaseException as error:  # re-raised in the caller by Future.result
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=work, name="sharedllm-encode", daemon=True).start()
        return done


# -- loaded encoders -------------------------------------------------------------------------------

_loaded: dict[tuple[Any, ...], DocumentEncoder] = {}
_loading = threading.Lock()


@checked()
def loaded_encoder(
    model: str | None = None,
    *,
    adapter: str | None = "default",
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    tree: TreeConfig | None = None,
    injection: InjectionConfig | None = None,
) -> DocumentEncoder:
    """Load a model once per process: later calls with the same arguments get the same encoder.

    Parameters
    ----------
    model, adapter, device, dtype, quantize, tree, injection : as in
        :meth:`sharedllm.SharedLLM.from_pretrained`

    Raises
    ------
    ModelNotFoundError, ModelTooLargeError, UnsupportedModelError, AdapterError, ConfigError
    MissingExtraError
    """
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    name = None if model is None else hub_name(model)
    key = (name, adapter, where, kind, quantize, tree, injection)
    with _loading:
        if key not in _loaded:
            _loaded[key] = DocumentEncoder.load(
                name,
                adapter=adapter,
                device=where,
                dtype=kind,
                quantize=quantize,
                tree=tree,
                injection=injection,
            )
        return _loaded[key]


def forget_encoders() -> None:
    """Drop all loaded encoders, so that their memory can be freed."""
    with _loading:
        _loaded.clear()


# -- fingerprints ----------------------------------------------------------------------------------

_fingerprints: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()


def fingerprint(model: Any, tokenizer: Any) -> tuple[str, str]:
    """Return digests of the base's weights and of its tokenizer; computed once per model."""
    if model not in _fingerprints:
        text = tokenizer.backend_tokenizer.to_str()
        _fingerprints[model] = (_weights(model), hashlib.sha256(text.encode()).hexdigest()[:16])
    return _fingerprints[model]


def _weights(model: Any) -> str:
    """Return a digest of names, shapes and evenly spaced values of all weights."""
    digest = hashlib.sha256(str(getattr(model.config, "model_type", "")).encode())
    for name, weights in sorted(model.named_parameters()):
        if "low_rank" in name or "cross_injection" in name:
            continue  # the adapter has a fingerprint of its own
        flat = weights.detach().reshape(-1)
        values = flat[:: max(1, len(flat) // WEIGHT_SAMPLES)].float().cpu().numpy()
        digest.update(f"{name}{tuple(weights.shape)}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def _text(name: str | os.PathLike[str] | None) -> str | None:
    return None if name is None else os.fspath(name)
