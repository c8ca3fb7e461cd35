"""SharedLLM: remember documents, answer questions about them."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sharedllm import evidence
from sharedllm.answer import Answer, Citation, Timings, Usage
from sharedllm.attention.select import get_backend
from sharedllm.chunks import cut
from sharedllm.config import GenerationConfig, InjectionConfig, SearchConfig, TreeConfig
from sharedllm.document import Document, NodeCache, SearchStates, document_id
from sharedllm.errors import ConfigError, InputError, WindowError
from sharedllm.generation import Decoder, Row
from sharedllm.hf import cross
from sharedllm.hf.families import inspect
from sharedllm.hf.interface import activate
from sharedllm.hf.loading import load, resolve_device, resolve_dtype
from sharedllm.hf.rotation import Rotation
from sharedllm.injection import InjectedKV, NodeKV, gather
from sharedllm.layout import Prompt
from sharedllm.lower_model import LowerModel, NodeRequest
from sharedllm.policy import Embedder, Query, Scores, make_policy
from sharedllm.progress import Progress, reporter
from sharedllm.prompt import Conversation, Message, converse
from sharedllm.search import SelectedNode, Selection, select
from sharedllm.tokens import tokenize
from sharedllm.tree import grow
from sharedllm.upper_model import UpperModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Question = str | Sequence[Message]
Context = Document | Sequence[Document]
NODE_CACHE_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A question with its evidence in place, ready to be run."""

    prompt: Prompt
    citations: tuple[Citation, ...]
    context_tokens: int
    evidence_tokens: int
    selection: Selection | None
    remember_s: float
    search_s: float
    encode_s: float


class SharedLLM:
    """A language model that reads long documents once and answers questions about them.

    Make one with :meth:`from_pretrained`. It may be used from several threads.

    Attributes
    ----------
    model : the transformers model
    tokenizer : the Hugging Face tokenizer
    tree, injection, search, generation : the settings
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tree: TreeConfig | None = None,
        injection: InjectionConfig | None = None,
        search: SearchConfig | None = None,
        generation: GenerationConfig | None = None,
        attention: str = "auto",
        embedder: Embedder | None = None,
        node_cache_bytes: int = NODE_CACHE_BYTES,
        load_s: float = 0.0,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.tree = tree or TreeConfig()
        self.injection = injection or InjectionConfig()
        self.search = search or SearchConfig()
        self.generation = generation or GenerationConfig()
        self.shape = inspect(model)
        layers = self.injection.layers or self.shape.layers
        if layers > self.shape.layers:
            raise ConfigError(
                f"injection.layers is {layers}; this model has {self.shape.layers} layers"
            )
        if self.tree.chunk > self.shape.window:
            raise ConfigError(
                f"tree.chunk is {self.tree.chunk}; this model was trained on {self.shape.window} "
                "positions, and a chunk is read at once: make it smaller"
            )
        self._embedder, self._node_cache_bytes, self._load_s = embedder, node_cache_bytes, load_s
        rotation = Rotation(model.get_decoder().rotary_emb)
        if self.injection.mode == "cross":
            cross.install(model, self.shape, rotation, layers, get_backend(attention))
        activate(model, attention)
        self.lower = LowerModel(model, self.shape, rotation, layers)
        self.upper = UpperModel(model, self.shape, rotation, self.injection)
        self._lock = threading.RLock()
        self._decoder = Decoder(self.upper, tokenizer, self._end_ids(), self._lock)
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sharedllm-encode")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        adapter: str | None = "default",
        tree: TreeConfig | None = None,
        injection: InjectionConfig | None = None,
        search: SearchConfig | None = None,
        generation: GenerationConfig | None = None,
        attention: str = "auto",
        embedder: Embedder | None = None,
        node_cache_bytes: int = NODE_CACHE_BYTES,
        **options: Any,
    ) -> SharedLLM:
        """Load a model.

        Parameters
        ----------
        name_or_path : str, path or None
            Hub name, folder or .gguf file of a Llama, Mistral, Qwen2, Qwen3, Phi-3 or SmolLM2
            model; None is the embedded default, SmolLM2-135M-Instruct.
        device : "cpu", "cuda", "cuda:N" or None (CUDA where there is one)
        dtype : "float32", "bfloat16", "float16" or None (bfloat16 on CUDA, float32 on the CPU)
        adapter : "default" or None
            "default" uses the adapter shipped for the model where there is one (none is shipped
            yet); None is the exact base model.
        tree, injection, search, generation : settings; None takes the defaults
        attention : "auto", "sdpa" or "reference"
        embedder : texts -> array (texts, dims), for policy="embedding"
        node_cache_bytes : most bytes of encoded nodes kept for each document
        options : passed to transformers (``revision``, ``quantization_config``, ...)

        Raises
        ------
        ModelNotFoundError, UnsupportedModelError, ConfigError
        """
        started = time.perf_counter()
        if adapter not in ("default", None):
            raise ConfigError(
                f"adapter is {adapter!r}; allowed: 'default' and None (no adapter can be loaded yet)"
            )
        where = resolve_device(device)
        model, tokenizer = load(
            name_or_path, device=where, dtype=resolve_dtype(dtype, where), **options
        )
        return cls(
            model,
            tokenizer,
            tree=tree,
            injection=injection,
            search=search,
            generation=generation,
            attention=attention,
            embedder=embedder,
            node_cache_bytes=node_cache_bytes,
            load_s=time.perf_counter() - started,
        )

    # -- remembering ---------------------------------------------------------------------------

    def remember(
        self,
        text: str,
        *,
        title: str = "",
        source: str = "",
        progress: Progress = None,
    ) -> Document:
        """Read a text of any length so that questions can be asked about it.

        Cuts it into chunks, grows a context tree over each, and computes what search compares.
        KV is encoded when a question needs it; :meth:`encode` does it ahead.

        Parameters
        ----------
        title : shown to the model when there are several documents
        source : where it came from, shown in citations
        progress : True for a progress bar, or a function of (tokens done, tokens in all)

        Raises
        ------
        DocumentError
            If there is no text.
        """
        started = time.perf_counter()
        tokens = tokenize(text, self.tokenizer)
        chunks = cut(len(tokens), self.tree.chunk)
        spans = [(chunk.start, chunk.end) for chunk in chunks]
        with (
            reporter(progress, len(tokens), f"reading {title or 'document'}") as report,
            self._lock,
        ):
            states = self.lower.states(tokens.ids, spans, done=report)
            pieces = ((slice(*spans[index]), piece) for index, piece in states)
            search = SearchStates.of(pieces, len(tokens), self.shape.hidden)
        return Document(
            id=document_id(text, self.identity),
            title=title or source or "document",
            source=source,
            text=text,
            tokens=tokens,
            forest=grow(chunks, self.tree.height),
            search=search,
            nodes=NodeCache(self._node_cache_bytes),
            made_by=self.identity,
            remember_s=time.perf_counter() - started,
        )

    @property
    def identity(self) -> tuple[object, ...]:
        """What decides a document's trees and states, besides its text."""
        name = getattr(self.model.config, "_name_or_path", "")
        return (name, str(self.model.dtype), self.lower.layers, dataclasses.astuple(self.tree))

    def encode(
        self, document: Document, *, progress: Progress = None, background: bool = False
    ) -> Future[None]:
        """Encode the coarse level of `document`: every chunk's root, for ``rest="ready"`` and "all".

        Parameters
        ----------
        background : return at once and go on in a thread, between questions
        """
        forest = self._own(document)[0].forest
        requests = [
            self._request(document, int(root), self.tree.root_ratio) for root in forest.roots
        ]

        def encode() -> None:
            self._encode_missing(document, requests, progress)

        work = self._background.submit(encode)
        if not background:
            work.result()
        return work

    def _request(self, document: Document, node: int, ratio: float) -> NodeRequest:
        forest = document.forest
        return NodeRequest(
            start=int(forest.start[node]), end=int(forest.end[node]), ratio=float(ratio)
        )

    def _encode_missing(
        self, document: Document, requests: Sequence[NodeRequest], progress: Progress = None
    ) -> dict[NodeRequest, NodeKV]:
        """The KV of `requests`, from the cache or encoded now."""
        out: dict[NodeRequest, NodeKV] = {}
        missing: list[NodeRequest] = []
        for request in dict.fromkeys(requests):
            kv = document.nodes.get(request) or self._from_finer(document, request)
            if kv is None:
                missing.append(request)
            else:
                out[request] = kv
        tokens = sum(r.end - r.start for r in missing)
        with reporter(progress, tokens, f"encoding {document.title}") as report:
            encoded = self.lower.encode(document.tokens.ids, missing, done=report)
            while True:
                with self._lock:  # given up between batches, so that questions get their turn
                    pair = next(encoded, None)
                if pair is None:
                    return out
                out[pair[0]] = pair[1]
                document.nodes.put(*pair)

    def _from_finer(self, document: Document, request: NodeRequest) -> NodeKV | None:
        """Coarser roots are every second, fourth ... entry of the tree's own."""
        steps = request.ratio / self.tree.root_ratio
        if steps <= 1 or not float(steps).is_integer():
            return None
        finer = document.nodes.get(dataclasses.replace(request, ratio=float(self.tree.root_ratio)))
        if finer is None:
            return None
        step, length = int(steps), len(finer)
        kept = np.minimum(np.arange(1, -(-length // step) + 1) * step, length) - 1
        index = torch.from_numpy(kept).to(finer.keys.device)
        return NodeKV(keys=finer.keys[:, :, index], values=finer.values[:, :, index])

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
            See :func:`sharedllm.prompt.converse` for the form of messages.
        context : a document, or several
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
        return AnswerStream(self, prepared, self._settings(options)[1])

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
        context : documents shared by all questions, or one sequence of documents a question
        """
        if isinstance(questions, str) or not isinstance(questions, Sequence) or not questions:
            raise InputError(f"questions is {questions!r}; give a list of questions")
        contexts = _contexts(context, len(questions))
        prepared = [
            self.prepare(question, documents, progress=progress, **options)
            for question, documents in zip(questions, contexts, strict=True)
        ]
        return self.generate(prepared, **options)

    def score(self, query: str, context: Context, *, policy: str | None = None) -> list[Scores]:
        """The policy's score of every node; one array a document, in the order of its forest."""
        documents = self._own(context)
        with self._lock:
            ids = tokenize(query, self.tokenizer).ids
            states = next(self.lower.states(ids, [(0, len(ids))]))[1].float()
            chosen = make_policy(policy or self.search.policy, self.lower, self._embedder)
            return chosen.score(Query(text=query, ids=ids, states=states), documents)

    def select(
        self,
        query: str,
        context: Context,
        *,
        scores: Sequence[Scores] | None = None,
        **options: Any,
    ) -> Selection:
        """The nodes that answer `query` best under the budget; `scores` as :meth:`score` gives."""
        documents = self._own(context)
        search = self._settings(options)[0]
        labels = [evidence.label(i, d, len(documents)) for i, d in enumerate(documents)]

        def ready(document: int, node: int, ratio: float) -> bool:
            return self._request(documents[document], node, ratio) in documents[document].nodes

        return select(
            [d.forest for d in documents],
            scores or self.score(query, documents, policy=search.policy),
            search,
            self.tree,
            overhead=[evidence.overhead(text, self.tokenizer) for text in labels],
            ready=ready,
        )

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
        generation = self._settings(options)[1]
        conversation = converse(question, _contexts(context, 1)[0], self.tokenizer)
        documents = conversation.documents
        self._require_window(conversation, generation)
        selection = None
        if documents:
            selection = self.select(conversation.query, documents, scores=scores, **options)
        searched = time.perf_counter()
        chosen: list[list[SelectedNode]] = [[] for _ in documents]
        for node in selection.nodes if selection else ():
            chosen[node.document].append(node)
        found = [list(evidence.windows(d, n)) for d, n in zip(documents, chosen, strict=True)]
        memory = [
            self._memory(d, nodes, progress) for d, nodes in zip(documents, chosen, strict=True)
        ]
        pasted = [
            evidence.pasted(d, w, evidence.label(i, d, len(documents)), self.tokenizer)
            for i, (d, w) in enumerate(zip(documents, found, strict=True))
        ]
        prompt = self._prompt(conversation, pasted, memory)
        self.upper.require_room(prompt, generation.max_new_tokens)
        citations = [c for d, w in zip(documents, found, strict=True) for c in evidence.cite(d, w)]
        return Prepared(
            prompt=prompt,
            citations=tuple(sorted(citations, key=lambda c: -c.score)),
            context_tokens=sum(map(len, documents)),
            evidence_tokens=sum(map(len, pasted)),
            selection=selection,
            remember_s=sum(d.remember_s for d in documents),
            search_s=searched - started,
            encode_s=time.perf_counter() - searched,
        )

    def generate(self, prepared: Sequence[Prepared], **options: Any) -> list[Answer]:
        """Run prepared questions as one batch."""
        generation = self._settings(options)[1]
        rows = [Row() for _ in prepared]
        watch = _Stopwatch()
        for row, _ in self._decoder.run([p.prompt for p in prepared], generation, rows):
            if row < 0:
                watch.split()
        watch.split()
        return [self._answer(p, row, watch) for p, row in zip(prepared, rows, strict=True)]

    def _own(self, context: Context) -> Sequence[Document]:
        """The documents of `context`, refused where they are none of ours."""
        documents = _contexts(context, 1)[0]
        if not documents:
            raise InputError("there is no document to search; give what remember() returned")
        for document in documents:
            if document.made_by != self.identity:
                raise InputError(
                    f"the document {document.title!r} was read by another model, or with other "
                    "tree settings; read it again with this one's remember()"
                )
        return documents

    def _settings(self, options: dict[str, Any]) -> tuple[SearchConfig, GenerationConfig]:
        """This question's settings: the model's, with `options` changed."""
        for_search = {f.name for f in dataclasses.fields(SearchConfig)}
        for_generation = {f.name for f in dataclasses.fields(GenerationConfig)}
        unknown = sorted(set(options) - for_search - for_generation)
        if unknown:
            allowed = ", ".join(sorted(for_search | for_generation))
            raise ConfigError(f"unknown option {', '.join(unknown)}; allowed: {allowed}")
        return (
            self.search.replace(**{k: v for k, v in options.items() if k in for_search}),
            self.generation.replace(**{k: v for k, v in options.items() if k in for_generation}),
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _require_window(self, conversation: Conversation, generation: GenerationConfig) -> None:
        """Refuse a question that leaves no room for any evidence, before searching for it."""
        own = sum(len(self._ids(p)) for p in conversation.parts if isinstance(p, str))
        room = self.shape.window - own - generation.max_new_tokens
        if room < 1:
            raise WindowError(
                f"the question and instructions take {own} tokens and the answer up to "
                f"{generation.max_new_tokens}; the model was trained on {self.shape.window}: "
                "shorten the question, or pass long text as context"
            )

    def _memory(
        self, document: Document, nodes: Sequence[SelectedNode], progress: Progress
    ) -> InjectedKV | None:
        """The injected KV of one document."""
        injected = [node for node in nodes if not node.as_text]
        if not injected:
            return None
        requests = [self._request(document, node.node, node.ratio) for node in injected]
        encoded = self._encode_missing(document, requests, progress)
        chunks = [int(document.forest.tree[node.node]) for node in injected]
        return gather([encoded[r] for r in requests], chunks, len(document.forest.roots))

    def _prompt(
        self,
        conversation: Conversation,
        pasted: Sequence[Sequence[int]],
        memory: Sequence[InjectedKV | None],
    ) -> Prompt:
        """Stretches of text with each document's memory, then its pasted leaves, at its place."""
        text: list[list[int]] = [[]]
        places: list[InjectedKV | None] = []
        index = 0
        for part in conversation.parts:
            if isinstance(part, str):
                text[-1] += self._ids(part)
                continue
            if memory[index] is not None:
                places.append(memory[index])
                text.append([])
            text[-1] += [*pasted[index], *self._ids("\n\n")] if pasted[index] else []
            index += 1
        return Prompt(text=tuple(map(tuple, text)), memory=tuple(places))

    def _answer(self, prepared: Prepared, row: Row, watch: _Stopwatch) -> Answer:
        prefill_s, decode_s = watch.splits[0], watch.splits[1]
        selection = prepared.selection
        return Answer(
            text=row.text.strip(),
            citations=prepared.citations,
            usage=Usage(
                context_tokens=prepared.context_tokens,
                injected_tokens=prepared.prompt.injected_tokens,
                evidence_tokens=prepared.evidence_tokens,
                prompt_tokens=prepared.prompt.running_tokens,
                new_tokens=len(row.ids),
                coarse_ratio=selection.root_ratio if selection else None,
                left_out_chunks=selection.left_out if selection else 0,
            ),
            timings=Timings(
                load_s=self._load_s,
                remember_s=prepared.remember_s,
                search_s=prepared.search_s,
                prefill_s=prepared.encode_s + prefill_s,
                decode_s=decode_s,
            ),
            finish_reason=row.finish_reason or "length",
        )

    def _end_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        given = getattr(self.model.generation_config, "eos_token_id", None)
        ids = [*given] if isinstance(given, list | tuple) else [given]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)


class AnswerStream(Iterator[str]):
    """Pieces of an answer as they come; :attr:`answer` when they have all come.

    Iterating runs the model; leaving off stops it.
    """

    def __init__(self, llm: SharedLLM, prepared: Prepared, generation: GenerationConfig) -> None:
        self._llm, self._prepared = llm, prepared
        self._row = Row()
        self._watch = _Stopwatch()
        self._pieces = llm._decoder.run([prepared.prompt], generation, [self._row])

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The selected evidence, known before the first piece."""
        return self._prepared.citations

    def __next__(self) -> str:
        for row, piece in self._pieces:
            if row < 0:
                self._watch.split()
                continue
            return piece
        if len(self._watch.splits) < 2:
            self._watch.split()
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The whole answer; reads what has not been read yet."""
        for _ in self:
            pass
        return self._llm._answer(self._prepared, self._row, self._watch)


class _Stopwatch:
    """Seconds between splits."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.splits: list[float] = []

    def split(self) -> None:
        now = time.perf_counter()
        self.splits.append(now - self._last)
        self._last = now


def _contexts(context: Context | Sequence[Context], questions: int) -> list[Sequence[Document]]:
    """One sequence of documents a question."""
    if isinstance(context, Document):
        return [[context]] * questions
    if not isinstance(context, Iterable):
        raise InputError(f"context is {context!r}; give documents returned by remember()")
    given: list[Any] = list(context)
    if all(isinstance(document, Document) for document in given):
        shared: dict[str, Document] = {d.id: d for d in given}  # the same document once
        return [list(shared.values())] * questions
    if len(given) != questions or any(isinstance(c, str) for c in given):
        raise InputError(
            f"context is {type(context).__name__} of {len(given)}; give documents returned by "
            f"remember(), or one list of documents for each of the {questions} questions"
        )
    return [_contexts(entry, 1)[0] for entry in given]
