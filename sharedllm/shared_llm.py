"""SharedLLM: remember documents, answer questions about them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sharedllm.answer import Answer
from sharedllm.config import (
    GenerationConfig,
    InjectionConfig,
    SearchConfig,
    TreeConfig,
    changed,
)
from sharedllm.context import Context, contexts, found, one, owned
from sharedllm.display import pictures
from sharedllm.encoding import fingerprint
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_reader import DocumentReader
from sharedllm.encoding.model_lock import Turns
from sharedllm.encoding.node_encoder import NodeEncoder, request
from sharedllm.encoding.replicas import IngestDevices, further_devices, lower_model
from sharedllm.errors import InputError
from sharedllm.generation.assemble import Prepared, Preparer
from sharedllm.generation.decoding import Decoder
from sharedllm.generation.prompt import ABSENT, Question, asked, converse, part_ids
from sharedllm.generation.stream import AnswerStream, answer_all
from sharedllm.hf import cross, lora_io, pieces, sharing
from sharedllm.hf.architectures import inspect
from sharedllm.hf.attention_interface import activate
from sharedllm.hf.copies import first_layers
from sharedllm.hf.loading import end_ids, load, resolve_device, resolve_dtype
from sharedllm.hf.lora import Adapter
from sharedllm.hf.rope import Rotation
from sharedllm.injection.upper_model import UpperModel
from sharedllm.progress import Progress
from sharedllm.search import passages
from sharedllm.search.scorers import Embedder, Scores, looked_for, make_policy
from sharedllm.search.selection import Selection, select
from sharedllm.search.sentences import widened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NODE_CACHE_BYTES = 512 << 20


class SharedLLM:
    """A language model that reads long documents once and answers questions about them.

    Make one with :meth:`from_pretrained`. It may be used from several threads.

    Attributes
    ----------
    model : the transformers model
    tokenizer : the Hugging Face tokenizer
    adapter : the trained roles, or None: the base plays them
    tree, injection, search, generation : the settings
    loaded_from : names of model and adapter, where it was loaded by name
    """

    loaded_from: tuple[str | None, ...] | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        adapter: Path | None = None,
        tree: TreeConfig | None = None,
        injection: InjectionConfig | None = None,
        search: SearchConfig | None = None,
        generation: GenerationConfig | None = None,
        attention: str = "auto",
        embedder: Embedder | None = None,
        node_cache_bytes: int = NODE_CACHE_BYTES,
        ingest_devices: Sequence[torch.device] = (),
        compile_ingest: bool = False,
        load_s: float = 0.0,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.tree = tree or TreeConfig()
        self.injection = injection or InjectionConfig()
        self.search = search or SearchConfig()
        self.generation = generation or GenerationConfig()
        self.shape = inspect(model)
        layers = self.shape.injected(self.injection, self.tree)
        copies = [first_layers(model, layers, device) for device in ingest_devices]
        self._embedder, self._load_s = embedder, load_s
        rotation = Rotation(model.get_decoder().rotary_emb)
        backend = activate(model, attention)
        if self.injection.mode == "cross":
            cross.install(model, self.shape, rotation, layers, backend.attend)
        self.lower = lower_model(model, self.shape, rotation, layers, copies, backend.name)
        if compile_ingest:
            pieces.compile_ingest(model, *copies)
        self.upper = UpperModel(model, self.shape, rotation, self.injection)
        self.turns = Turns()
        self.decoder = Decoder(self.upper, tokenizer, end_ids(model, tokenizer), self.turns)
        self.adapter: Adapter | None = None
        self._adapted = ""
        if adapter is not None:
            self.adapt(lora_io.load(model, adapter))
        self.reader = DocumentReader(self.lower, tokenizer, self.tree, self.turns, node_cache_bytes)
        self.encoder = NodeEncoder(self.lower, self.tree, self.turns)
        self.preparer = Preparer(tokenizer, self.encoder, self.upper, self.shape.window)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        adapter: str | os.PathLike[str] | None = "default",
        tree: TreeConfig | None = None,
        injection: InjectionConfig | None = None,
        search: SearchConfig | None = None,
        generation: GenerationConfig | None = None,
        attention: str = "auto",
        embedder: Embedder | None = None,
        node_cache_bytes: int = NODE_CACHE_BYTES,
        ingest_devices: IngestDevices = None,
        compile_ingest: bool = False,
        **options: Any,
    ) -> SharedLLM:
        """Load a model.

        Parameters
        ----------
        name_or_path : hub name, folder or .gguf file; None is the embedded SmolLM2-135M-Instruct
        device : "cpu", "cuda", "cuda:N" or None (CUDA where there is one)
        dtype : "float32", "bfloat16", "float16" or None (bfloat16 where it is multiplied)
        adapter : "default", folder, hub name or None, the exact base
            "default" is shipped for the default model and joint injection; others have none.
        tree, injection, search, generation : settings; None takes the adapter's, or the defaults
        attention : "auto", or a backend (docs/speed.md names them)
        embedder : texts -> array (texts, dims), for policy="embedding"
        node_cache_bytes : most bytes of encoded nodes kept for each document
        ingest_devices : CUDA devices that read documents, too: ["cuda:1", "cuda:2"] or "all"
        compile_ingest : a tenth faster ingest on a CUDA device, for seconds of compiling here
        options : passed to transformers (``revision``, ``quantization_config``, ...)

        Raises
        ------
        ModelNotFoundError, UnsupportedModelError, AdapterError, ConfigError
        """
        started = time.perf_counter()
        where = resolve_device(device)
        further = further_devices(ingest_devices, where)
        if compile_ingest:
            pieces.require_compiling(where)
        folder = lora_io.find(adapter, name_or_path, injection)
        tree, injection, search = lora_io.settings(folder, tree, injection, search)
        dtype = resolve_dtype(dtype, where)
        model, tokenizer = load(name_or_path, device=where, dtype=dtype, **options)
        llm = cls(
            model,
            tokenizer,
            adapter=folder,
            tree=tree,
            injection=injection,
            search=search,
            generation=generation,
            attention=attention,
            embedder=embedder,
            node_cache_bytes=node_cache_bytes,
            ingest_devices=further,
            compile_ingest=compile_ingest,
            load_s=time.perf_counter() - started,
        )
        llm.loaded_from = tuple(n if n is None else os.fspath(n) for n in (name_or_path, folder))
        return llm

    def adapt(self, adapter: Adapter) -> None:
        """Take note of `adapter`, which is on this model; documents read before are refused."""
        self.adapter, self._adapted = adapter, adapter.fingerprint()
        self.lower.adapt(adapter)
        self.decoder.refusal_id = part_ids(ABSENT, self.tokenizer)[0]

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        merged: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Write the adapter, for ``from_pretrained(adapter=folder)``.

        Parameters
        ----------
        merged : write one whole transformers model a role instead
        dtype : of the adapter's weights on disk

        Raises
        ------
        AdapterError
            If there is none, or it cannot be merged.
        """
        settings = {"tree": self.tree, "injection": self.injection, "search": asdict(self.search)}
        sharing.save(self, Path(folder), settings, merged=merged, dtype=dtype)

    def push_to_hub(self, repo: str, *, merged: bool = False, **options: Any) -> str:
        """Upload what :meth:`save_pretrained` writes to the hub, and return its address.

        `options` are ``token``, ``private`` and those of ``HfApi.upload_folder``.
        """
        return sharing.push(repo, lambda to: self.save_pretrained(to, merged=merged), options)

    # -- remembering ---------------------------------------------------------------------------

    def remember(
        self, text: str, *, title: str = "", source: str = "", progress: Progress = None
    ) -> Document:
        """Read a text of any length so that questions can be asked about it.

        Cuts it into chunks, grows a context tree over each, and computes what search compares.
        KV is encoded when a question needs it; :meth:`encode` does it ahead, and so does a GPU for
        the coarse level that ``rest="ready"`` waits for.

        Parameters
        ----------
        text : a form feed in it ends a page, which citations then name
        title : shown to the model when there are several documents
        source : where it came from, shown in citations
        progress : True for a progress bar, or a function of (tokens done, tokens in all)

        Raises
        ------
        DocumentError
            If there is no text.
        """
        document = self.reader.read(
            text, title=title, source=source, identity=self.identity, progress=progress
        )
        if self.search.rest == "ready":
            self.encoder.encode_roots_at_once(document)
        return document

    @property
    def identity(self) -> tuple[object, ...]:
        """What decides a document's trees and states, besides its text."""
        base, tree = fingerprint.of(self.model, self.tokenizer), dataclasses.astuple(self.tree)
        return (*base, str(self.model.dtype), self.lower.layers, tree, self._adapted)

    def encode(
        self, document: Document, *, progress: Progress = None, background: bool = False
    ) -> Future[None]:
        """Encode the coarse level of `document`, for ``rest="ready"`` and ``rest="all"``.

        That is every chunk's root, at the tree's root ratio.

        Parameters
        ----------
        background : return at once and go on in a thread, between questions
        """
        return self.encoder.encode_roots(one(document, self), progress, background=background)

    # -- answering -----------------------------------------------------------------------------

    def answer(
        self,
        question: Question,
        context: Context = (),
        *,
        progress: Progress = None,
        **options: Any,
    ) -> Answer:
        """Answer `question` from `context`.

        Parameters
        ----------
        question : str or chat messages
            See :func:`sharedllm.generation.prompt.converse` for the form of messages.
        context : a document, a TreeMemory or the folder of one, or several of them
        progress : True for a bar on long encoding, or a function of (tokens done, tokens in all)
        options : fields of SearchConfig (budget, policy, search, finest, rest, ...) and of
            GenerationConfig (max_new_tokens, temperature, stop, ...) for this question

        Raises
        ------
        InputError, WindowError, ConfigError, BudgetError
        """
        stream = self.stream(question, context, progress=progress, **options)
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self,
        question: Question,
        context: Context = (),
        *,
        progress: Progress = None,
        **options: Any,
    ) -> AnswerStream:
        """Like :meth:`answer`, as an iterator over pieces of text; ``.answer`` holds the rest."""
        prepared = self.prepare(question, context, progress=progress, **options)
        return AnswerStream(self.decoder, prepared, self._settings(options)[1], self._load_s)

    def answer_batch(
        self,
        questions: Sequence[Question],
        context: Context | Sequence[Context] = (),
        *,
        progress: Progress = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions at once.

        Parameters
        ----------
        questions : str or messages each
        context : documents and memories for all questions, or one sequence of them a question
        """
        if isinstance(questions, str) or not isinstance(questions, Sequence) or not questions:
            raise InputError(f"questions is {questions!r}; give a list of questions")
        prepared = [
            self.prepare(question, documents, progress=progress, **options)
            for question, documents in zip(
                questions, contexts(context, len(questions)), strict=True
            )
        ]
        return self.generate(prepared, **options)

    def score(self, query: str, context: Context, *, policy: str | None = None) -> list[Scores]:
        """The policy's score of every node; one array a document, in the order of its forest."""
        documents = owned(context, self, query)
        with self.turns.question(), self.turns.model:
            sought = looked_for(query, self.tokenizer, self.lower)
            chosen = make_policy(policy or self.search.policy, self.lower, self._embedder)
            return chosen.score(sought, documents)

    def select(
        self,
        query: str,
        context: Context,
        *,
        scores: Sequence[Scores] | None = None,
        **options: Any,
    ) -> Selection:
        """The nodes that answer `query` best under the budget; `scores` as :meth:`score` gives."""
        documents = owned(context, self, query)
        search = self._settings(options)[0]
        given = scores or self.score(query, documents, policy=search.policy)

        def ready(document: int, node: int, ratio: float) -> bool:
            return request(documents[document], node, ratio) in documents[document].nodes

        selection = select(
            [d.forest for d in documents],
            given,
            search,
            self.tree,
            overhead=passages.overheads(documents, self.tokenizer),
            ready=ready,
            widen=lambda d, node: widened(documents[d], node, search.sentences),
        )
        return pictures.illustrated(selection, documents, given)

    def prepare(
        self,
        question: Question,
        context: Context = (),
        *,
        scores: Sequence[Scores] | None = None,
        progress: Progress = None,
        **options: Any,
    ) -> Prepared:
        """Search, encode what is missing and lay out the prompt; :meth:`generate` runs it."""
        started = time.perf_counter()
        new_tokens = self._settings(options)[1].max_new_tokens
        conversation = converse(question, found(context, self, asked(question)), self.tokenizer)
        self.preparer.require_window(conversation, new_tokens)
        selection = None
        if conversation.documents:
            query, documents = conversation.query, conversation.documents
            selection = self.select(query, documents, scores=scores, **options)
        searched = time.perf_counter()
        prepared = self.preparer.prepare(conversation, selection, new_tokens, progress)
        return dataclasses.replace(
            prepared, search_s=searched - started, encode_s=time.perf_counter() - searched
        )

    def generate(self, prepared: Sequence[Prepared], **options: Any) -> list[Answer]:
        """Run prepared questions as one batch."""
        return answer_all(self.decoder, prepared, self._settings(options)[1], self._load_s)

    def _settings(self, options: dict[str, Any]) -> tuple[SearchConfig, GenerationConfig]:
        """This question's settings: the model's, with `options` changed."""
        return changed(self.search, self.generation, options)
