"""SharedLLM reads documents and answers questions about them; each stage is one call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sharedllm.answer import Answer, AnswerStream, answer_all
from sharedllm.arguments import checked, shown
from sharedllm.config import (
    SCORERS,
    GenerationConfig,
    InjectionConfig,
    SearchConfig,
    TreeConfig,
    require_int,
    with_options,
)
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import (
    NODE_CACHE_BYTES,
    DocumentEncoder,
    loaded_encoder,
)
from sharedllm.encoding.parts import in_sections
from sharedllm.errors import (
    ConfigError,
    DocumentError,
    InputError,
    SectionError,
    UnsupportedModelError,
)
from sharedllm.generation.assemble import Prepared, make_plan
from sharedllm.generation.decoding import Decoder
from sharedllm.generation.prompt import Asked, Conversation, Question, in_section, parse
from sharedllm.generation.tool_format import ToolFormat
from sharedllm.hf import lora_io
from sharedllm.hf.architectures import FAMILIES
from sharedllm.hf.loading import injectable
from sharedllm.hf.lora import Adapter
from sharedllm.injection.upper_model import UpperModel
from sharedllm.memory.hits import Hits, best_passages
from sharedllm.memory.resolve import (
    Context,
    leaves_out,
    per_question,
    require_some,
    resolve,
    resolve_whole,
)
from sharedllm.memory.retrieval import FoundDocuments
from sharedllm.progress import Progress
from sharedllm.readers.address import Endpoint
from sharedllm.readers.endpoint import EndpointReader
from sharedllm.readers.injecting import InjectingReader
from sharedllm.readers.reader import STILL, Reader, require_no_window
from sharedllm.readers.stock import StockReader, require_stock
from sharedllm.search.finding import Found, find, find_in_rounds, follow, rounds_of
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.scorers import Embedder, Scorer, require_scores, score
from sharedllm.search.selection import Selection
from sharedllm.text.outline import Section, absent_section
from sharedllm.whole.note_taking import NotesTaken, NoteTaking
from sharedllm.whole.scope import ONE_CHUNK, PASSAGES, WHOLE, Scope, decide_scope
from sharedllm.whole.sections import read_of
from sharedllm.whole.stream import WholeStream
from sharedllm.whole.whole import SUMMARY_TOKENS, Whole


class SharedLLM:
    """A language model that reads long documents once and answers questions about them.

    Make one with :meth:`from_pretrained`. It may be used from several threads.

    Parameters
    ----------
    encoder : the model, with the half of the work that reads documents
    search, generation : settings; None takes the adapter's, or else the defaults
    embedder : texts -> array (texts, dims), for the scorer "embedding"
    reader : answers from what was found; None is the encoder's own model

    Attributes
    ----------
    encoder : DocumentEncoder
        Model, tokenizer, adapter and the settings of trees and injection. It reads documents and
        searches them, whoever answers.
    reader : Reader
        See :mod:`sharedllm.readers`.
    search, generation : the settings
    """

    @checked("reader")
    def __init__(
        self,
        encoder: DocumentEncoder,
        *,
        search: SearchConfig | None = None,
        generation: GenerationConfig | None = None,
        embedder: Embedder | None = None,
        reader: Reader | None = None,
    ) -> None:
        if reader is not None and not callable(getattr(reader, "converse", None)):
            raise ConfigError(
                f"reader is {shown(reader)}; give a reader of sharedllm.readers, or the address of "
                "an endpoint to from_pretrained()"
            )
        self.encoder = encoder
        learned = encoder.search or SearchConfig()
        if reader is not None and not isinstance(reader, InjectingReader):
            learned = learned.replace(leaves="text", coarse="none")  # KV is for the own model
        self.search = search or learned
        self.generation = generation or GenerationConfig()
        self._embedder = embedder
        self.reader: Reader = InjectingReader(encoder) if reader is None else reader
        if isinstance(self.reader, InjectingReader) and encoder.adapter is not None:
            self.adapt(encoder.adapter)
        self.reader.settled(self.search, self.generation)

    @classmethod
    @checked()
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantize: str | None = None,
        adapter: str | os.PathLike[str] | None = "default",
        tree: TreeConfig | None = None,
        injection: InjectionConfig | None = None,
        search: SearchConfig | None = None,
        generation: GenerationConfig | None = None,
        attention: str = "auto",
        embedder: Embedder | None = None,
        node_cache_bytes: int = NODE_CACHE_BYTES,
        reader: str | Endpoint | None = None,
        reader_model: str | None = None,
        reader_window: int | None = None,
        reader_timeout: float | None = None,
        **options: Any,
    ) -> SharedLLM:
        """Load a model.

        A model of a family that KV can be injected into reads documents and answers. Any other
        causal language model answers from text, and the embedded default model reads and searches
        the documents; so it is with a `reader` elsewhere, for the model named here.

        Parameters
        ----------
        name_or_path : short name (``sharedllm models`` lists them), hub name, folder or .gguf
            file; None is the embedded SmolLM2-135M-Instruct
        device : "cpu", "cuda", "cuda:N" or None (CUDA if available)
        dtype : "float32", "bfloat16", "float16" or None (bfloat16 if the device multiplies it)
        quantize : "4bit" or "8bit" packs the weights of linear layers (extra ``quantize``); KV and
            all else stay in `dtype`
        adapter : "default", folder, hub name or None, the exact base
            "default" is the one shipped for the default model and joint injection.
        tree, injection, search, generation : settings; None takes the adapter's, or the defaults
        attention : "auto", or a backend (docs/speed.md names them)
        embedder : texts -> array (texts, dims), for scorer="embedding"
        node_cache_bytes : bytes of encoded nodes kept for each document, at most
        reader : address of an OpenAI-compatible API, such as "http://localhost:11434/v1", whose
            model answers. The key is the environment's SHAREDLLM_READER_KEY or OPENAI_API_KEY
        reader_model : its name there; None takes the only one that there is
        reader_window : tokens of prompt and answer; None is 4,096 elsewhere, and what the model was
            trained on here
        reader_timeout : seconds without a sign of life after which `reader` counts as down; None
            is 300
        options : passed to transformers (``revision``, ``quantization_config``, ...)

        Raises
        ------
        ModelNotFoundError, ModelTooLargeError, UnsupportedModelError, AdapterError, ConfigError
        MissingExtraError, ReaderError
            With `quantize` and `reader`.
        """
        endpoint = Endpoint.of(reader, reader_model, reader_window, reader_timeout)
        answers: Reader | None = None
        if endpoint is not None:
            endpoint.require_unused(injection)
        if endpoint is None and not injectable(name_or_path, options):
            require_stock(name_or_path, attention, adapter, injection)
            encoder = loaded_encoder(
                adapter=None if adapter is None else "default",
                device=None if device is None else str(device),
                tree=tree,
            )
            answers = StockReader.load(
                name_or_path,
                encoder,
                device=device,
                dtype=dtype,
                quantize=quantize,
                window=reader_window,
                **options,
            )
        else:
            if endpoint is None:
                require_no_window(reader_window)
            encoder = DocumentEncoder.load(
                name_or_path,
                device=device,
                dtype=dtype,
                quantize=quantize,
                adapter=adapter,
                tree=tree,
                injection=injection,
                attention=attention,
                node_cache_bytes=node_cache_bytes,
                **options,
            )
        if endpoint is not None:
            answers = EndpointReader(endpoint, encoder.tokenizer)
        return cls(encoder, search=search, generation=generation, embedder=embedder, reader=answers)

    @property
    def model(self) -> Any:
        """The transformers model that answers; where that is elsewhere, the one that reads."""
        return self.reader.model if isinstance(self.reader, StockReader) else self.encoder.model

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer of the reader; where that is elsewhere, the encoder's."""
        return self.reader.tokenizer

    @property
    def upper(self) -> UpperModel:
        """The encoder's own model, with injected KV.

        Raises
        ------
        UnsupportedModelError
            If another model answers.
        """
        return self.require_injecting("KV injection").upper

    @property
    def decoder(self) -> Decoder:
        """Its decoding loop; raises as :attr:`upper` does."""
        return self.require_injecting("our decoding").decoder

    def require_injecting(self, asked: str) -> InjectingReader:
        """Return the reader if it is the encoder's own model, which `asked` needs.

        Raises
        ------
        UnsupportedModelError
        """
        if isinstance(self.reader, InjectingReader):
            return self.reader
        raise UnsupportedModelError(
            f"{asked} needs the model that reads the documents, and {self.reader.name!r} answers "
            f"here: load a model of a supported family ({', '.join(FAMILIES)}) for it. {STILL}"
        )

    @property
    def adapter(self) -> Adapter | None:
        """The adapter of the two roles; None if the base plays both."""
        return self.encoder.adapter

    @property
    def tree(self) -> TreeConfig:
        """The settings of context trees."""
        return self.encoder.tree

    @property
    def injection(self) -> InjectionConfig:
        """The settings of injection."""
        return self.encoder.injection

    @property
    def identity(self) -> tuple[object, ...]:
        """Everything that a document's trees and states depend on besides its text."""
        return self.encoder.identity

    @property
    def window(self) -> int:
        """Tokens that prompt, memory and answer must fit: those that the reader was trained on."""
        return self.reader.window

    @property
    def tool_format(self) -> ToolFormat | None:
        """The form of the reader's calls of tools; None if its chat template shows no tools."""
        return self.reader.tool_format

    def adapt(self, adapter: Adapter) -> None:
        """Register `adapter`, which is on this model already. Documents read before are refused."""
        own = self.require_injecting("an adapter")
        self.encoder.adapt(adapter)
        own.adapt(adapter)

    @checked()
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
        merged : write one whole transformers model per role instead
        dtype : of the adapter's weights on disk; torch.int8 halves them, and PEFT cannot read it

        Raises
        ------
        AdapterError
            If the model has no adapter, or it cannot be merged.
        UnsupportedModelError
            If another model answers.
        ConfigError
            If the scorer is an object, which no file can name.
        """
        self.require_injecting("an adapter")
        if not isinstance(self.search.scorer, str):
            raise ConfigError(
                f"scorer is {self.search.scorer!r}, which cannot be saved; load the model with a "
                f"scorer that has a name ({', '.join(SCORERS)}) to save its adapter"
            )
        settings = {"tree": self.tree, "injection": self.injection, "search": asdict(self.search)}
        lora_io.save_pretrained(self, Path(folder), settings, merged=merged, dtype=dtype)

    # -- remembering ---------------------------------------------------------------------------

    @checked("text", error=DocumentError)
    def remember(
        self,
        text: str,
        *,
        title: str = "",
        source: str = "",
        outline: Sequence[Section] | None = None,
        progress: Progress = None,
    ) -> Document:
        """Read a text of any length so that questions can be asked about it.

        Cuts it into chunks, grows a context tree over each, and computes the search vectors (paper,
        section 3.1). KV is encoded when a question needs it. :meth:`encode` does so ahead of time;
        on a GPU this method does it too, with ``coarse="ready"``.

        Parameters
        ----------
        text : form feeds separate pages, which citations then name
        title : shown to the model when there are several documents
        source : origin of the text, such as a path; shown in citations
        outline : its sections, as :func:`read_file` gives them; None finds headings in the text
        progress : True for a progress bar, or a function of (done, total) tokens

        Raises
        ------
        DocumentError
            If the text is empty or only white space.
        """
        document = self.encoder.read(
            text, title=title, source=source, outline=outline, progress=progress
        )
        if self.search.coarse == "ready":
            self.encoder.encode_roots_at_once(document)
        return document

    @checked("document")
    def encode(
        self, document: Document, *, progress: Progress = None, background: bool = False
    ) -> Future[None]:
        """Encode the coarse level of `document`, for ``coarse="ready"`` and ``coarse="all"``.

        That is every chunk's root, at the tree's root ratio.

        Parameters
        ----------
        background : return at once and encode in a thread, between questions

        Raises
        ------
        InputError
            If `document` is of another type, or was read by another model.
        UnsupportedModelError
            If another model answers, which reads text only.
        """
        self.require_injecting("the coarse level")
        if not isinstance(document, Document):
            raise InputError(
                f"{type(document).__name__} was given; give a document returned by remember(). A "
                "TreeMemory encodes what it keeps when documents are added (keep=...)"
            )
        self.encoder.require_own(document)
        return self.encoder.encode_roots(document, progress, background=background)

    @checked("context")
    def take_notes(
        self,
        context: Context,
        *,
        section: str | None = None,
        max_seconds: float | None = None,
        progress: Progress = None,
        background: bool = False,
    ) -> Future[NotesTaken]:
        """Take a note of each chunk, so that the first summary reads them rather than the chunks.

        Notes that are there are not taken again. One that was taken stays, in a memory on disk,
        however the rest ends: by Ctrl-C, an exception of `progress`, or a crash.

        >>> llm.take_notes(memory).result()
        NotesTaken(taken=57, kept=0, left=0)

        Parameters
        ----------
        context : documents and memories
        section : takes those of the sections only that this names, as they are summarised alone
        max_seconds : after which no further batch is read; call again for the rest
        progress : True for a progress bar, or a function of (parts done, parts in all)
        background : return at once and take them in a thread, between questions; to cancel the
            future ends it

        Raises
        ------
        InputError, SectionError, ConfigError
        TreeMemoryError
            If a memory cannot keep them.
        """
        search = self.search.replace(
            section=section or self.search.section, max_seconds=max_seconds
        )
        documents: list[Document] = resolve_whole(context, self.encoder, None)
        require_some(documents)
        if search.section is not None:
            documents = in_sections(documents, search.section, self.tree)
        taking = NoteTaking(documents, self.reader, self.encoder, search, self.generation, progress)
        if background:
            return taking.later()
        done: Future[NotesTaken] = Future()
        done.set_result(taking.run())
        return done

    # -- answering -----------------------------------------------------------------------------

    @checked("question", "context")
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
            See :func:`sharedllm.generation.prompt.parse` for the form of messages.
        context : a document, a TreeMemory or the folder of one, or several of them
        progress : True for a bar while nodes are encoded, or a function of (done, total) tokens; of
            a reading of the whole, (done, total) parts
        options : fields of SearchConfig (scope, budget, scorer, selection, leaves, ...) and of
            GenerationConfig (max_new_tokens, temperature, stop, ...) for this question

        Raises
        ------
        InputError, WindowError, ConfigError, BudgetError
        """
        return self.stream(question, context, progress=progress, **options).answer

    @checked("question", "context")
    def stream(
        self,
        question: Question,
        context: Context = (),
        *,
        progress: Progress = None,
        **options: Any,
    ) -> AnswerStream:
        """Answer as :meth:`answer` does, as an iterator over parts of the text."""
        generation = self._settings(options)[1]
        asked = parse(question)
        scope = self.scope(asked, context, **options)
        if scope.is_whole:
            return self._read_whole(asked, context, scope, options, progress)
        given = {**options, "scope": PASSAGES}
        prepared = self.prepare(asked, context, progress=progress, **given)
        prepared = replace(prepared, scope_reason=scope.reason)
        return AnswerStream(self.reader, prepared, generation, self._load_s)

    @checked("question", "context")
    def scope(self, question: Question, context: Context = (), **options: Any) -> Scope:
        """Decide what :meth:`answer` reads for `question`: passages, or all of its documents.

        Raises
        ------
        InputError, ConfigError
        """
        search, generation = self._settings(options)
        asked = parse(question)
        return decide_scope(
            asked,
            search.scope,
            has_context=bool(per_question(context, 1)[0]),
            bound=bool(asked.tools or generation.grammar),
        )

    @checked("question", "context")
    def prepare(
        self,
        question: Question,
        context: Context = (),
        *,
        scores: Sequence[Scores] | None = None,
        progress: Progress = None,
        **options: Any,
    ) -> Prepared:
        """Search, encode missing nodes and assemble the prompt; :meth:`generate` runs it.

        Parameters
        ----------
        scores : one array per document, as :meth:`score` returns them; None computes them
        """
        started = time.perf_counter()
        search, generation = self._settings(options)
        new_tokens = generation.max_new_tokens
        if search.scope == WHOLE:
            raise ConfigError(
                "scope is 'whole', and prepare() makes one prompt of passages; ask answer() or "
                "stream(), which read the whole, or leave scope out"
            )

        asked = parse(question)
        asked, documents, known = self._documents(asked, context, search)
        conversation = self.reader.converse(asked, documents, generation)
        room = self.reader.room(conversation, new_tokens)
        found = conversation.documents  # those of the messages, too
        away = documents.away
        if scores is None and (list(found), conversation.query) == (documents, asked.sought):
            scores = known
        selection, larger = None, None
        if found:
            selection, larger = self._look(conversation, scores, search, room)
        searched = time.perf_counter()
        first = self.assemble(conversation, selection, new_tokens, progress)
        first = replace(first, search_s=searched - started, encode_s=time.perf_counter() - searched)
        first = replace(first, away=away)
        if larger is None:
            return first

        def again() -> Prepared:
            seen = self.assemble(conversation, larger(), new_tokens, progress)
            seen = replace(seen, search_s=first.search_s, encode_s=first.encode_s)
            return replace(seen, looks=2, away=away)

        return replace(first, again=again)

    def assemble(
        self,
        conversation: Conversation,
        selection: Selection | None,
        new_tokens: int,
        progress: Progress = None,
    ) -> Prepared:
        """Encode the selected nodes that are missing, and put text and KV into the prompt.

        Raises
        ------
        WindowError
            If prompt, injected KV and `new_tokens` together exceed the reader's window.
        """
        plan = make_plan(conversation, selection, self.encoder.tokenizer)
        return Prepared(
            prompt=self.reader.prompt(plan, new_tokens, progress),
            citations=plan.citations(),
            context_tokens=sum(map(len, conversation.documents)),
            evidence_tokens=sum(map(len, plan.pasted)),
            selection=selection,
            remember_s=sum(document.remember_s for document in conversation.documents),
            question=conversation.question,
        )

    @checked()
    def generate(self, prepared: Sequence[Prepared], **options: Any) -> list[Answer]:
        """Run prepared questions as one batch."""
        generation = self._settings(options)[1]
        return answer_all(self.reader, prepared, generation, self._load_s)

    def share_passes(self, answers: int = 16) -> int:
        """Decode up to `answers` answers that several threads ask for in one batch.

        Without this each thread's passes wait for the others' (continuous batching,
        :mod:`sharedllm.generation.shared_steps`). A reader elsewhere batches by itself.

        Returns
        -------
        int
            Answers that gain by running at once: `answers`, or 1 if another model of transformers
            answers, which decodes one at a time.

        Raises
        ------
        ConfigError
        """
        require_int("answers", answers, least=1)
        if isinstance(self.reader, InjectingReader):
            self.reader.decoder.share(answers)
        return answers if self.reader.shares else 1

    @property
    def _load_s(self) -> float:
        return self.encoder.load_s + self.reader.load_s

    @checked("questions", "context")
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
        questions : a str or chat messages each
        context : documents and memories for all questions, or one sequence of them per question
        """
        if isinstance(questions, str) or not isinstance(questions, Sequence) or not questions:
            raise InputError(f"questions is {shown(questions)}; give a list of questions")
        contexts = per_question(context, len(questions))
        pairs = list(zip(map(parse, questions), contexts, strict=True))
        scopes = [self.scope(*pair, **options) for pair in pairs]
        given = {**options, "scope": PASSAGES}
        prepared = [
            replace(
                self.prepare(question, documents, progress=progress, **given),
                scope_reason=scope.reason,
            )
            for (question, documents), scope in zip(pairs, scopes, strict=True)
            if not scope.is_whole
        ]
        rest = iter(self.generate(prepared, **given) if prepared else ())
        return [
            self.answer(question, documents, progress=progress, **options)
            if scope.is_whole
            else next(rest)
            for (question, documents), scope in zip(pairs, scopes, strict=True)
        ]

    def _read_whole(
        self,
        asked: Asked,
        context: Context,
        scope: Scope,
        options: dict[str, Any],
        progress: Progress,
    ) -> AnswerStream:
        """Resolve all documents, and begin to read them for `asked`."""
        started = time.perf_counter()
        search, generation = self._settings(options)
        found = resolve_whole(context, self.encoder, asked.sought)
        found += [d for d in asked.documents if d not in found]
        require_some(found)
        chosen = read_of(found, asked.query, search.section, self.tree)
        documents = chosen.documents
        if sum(len(document.forest.roots) for document in documents) == 1:
            given = {**options, "scope": PASSAGES}
            prepared = self.prepare(asked, context, progress=progress, **given)
            prepared = replace(prepared, scope_reason=ONE_CHUNK)
            return AnswerStream(self.reader, prepared, generation, self._load_s)

        def scored(query: str) -> Sequence[Scores]:
            return score(query, documents, self.encoder, search.scorer, self._embedder)

        named = "max_new_tokens" in options or self.generation != GenerationConfig()
        whole = Whole(
            asked.without_documents(),
            scope,
            documents,
            scored,
            titles=chosen.titles,
            remark=chosen.remark,
            reader=self.reader,
            encoder=self.encoder,
            search=search,
            generation=generation,
            new_tokens=generation.max_new_tokens if named else SUMMARY_TOKENS,
            progress=progress,
        )
        return WholeStream(
            whole,
            asked,
            scope,
            load_s=self._load_s,
            remember_s=sum(document.remember_s for document in documents),
            search_s=time.perf_counter() - started,
            away=found.away,
        )

    # -- searching -----------------------------------------------------------------------------

    @checked("context")
    def score(
        self, query: str, context: Context, *, scorer: str | Scorer | None = None
    ) -> list[Scores]:
        """Score every node for `query`.

        Returns
        -------
        list of float32 arrays (nodes,)
            One per document, in the order of its forest.
        """
        documents = resolve(context, self.encoder, query, (), self.search.section)
        require_some(documents)
        return score(query, documents, self.encoder, scorer or self.search.scorer, self._embedder)

    @checked("context", "k")
    def passages(
        self,
        query: str,
        context: Context,
        k: int = 4,
        *,
        scorer: str | Scorer | None = None,
        section: str | None = None,
    ) -> Hits:
        """Find the `k` passages of documents and memories that match `query` best, best first.

        Each is a place of some 128 tokens (a leaf of the tree) in whole sentences, with its score,
        page and best matching sentence: fit to be handed to any model. Metadata is what
        :meth:`TreeMemory.search` gives besides.

        >>> [hit] = llm.passages("Who buys Susan?", document, k=1)
        >>> document.text[hit.match_start : hit.match_end]

        Parameters
        ----------
        k : at least 1; fewer come back where there are no more
        section : searches only the sections that this names, by number ("chapter 3"), title or
            path ("Part II > Chapter 3")

        Raises
        ------
        InputError, SectionError, ConfigError
        """
        require_int("k", k, least=1)
        search = self.search.replace(
            scorer=scorer or self.search.scorer, section=section or self.search.section
        )
        documents, known = self._resolve(query, context, search)
        require_some(documents)
        scores = known or self.score(query, documents, scorer=search.scorer)
        names = [
            {"id": one.id, "title": one.title, "source": one.source, "metadata": {}}
            for one in documents
        ]
        followed = follow(query, documents, scores, search).followed
        hits = best_passages(query, k, documents, names, scores, followed)
        hits.away = documents.away
        return hits

    @checked("context")
    def select(
        self,
        query: str,
        context: Context,
        *,
        scores: Sequence[Scores] | None = None,
        **options: Any,
    ) -> Selection:
        """Select the nodes that match `query` best under the token budget.

        Nothing is read, so that ``budget="auto"`` cannot tell if a first look is enough: it takes
        the budget of a second one.

        Parameters
        ----------
        scores : one array per document, as :meth:`score` returns them; None computes them

        Raises
        ------
        InputError, ConfigError, BudgetError
        """
        search = self._settings(options)[0]
        documents, known = self._resolve(query, context, search)
        require_some(documents)
        scores = known if scores is None else scores
        found = self._find(query, documents, scores, search, self.window, asked=query)
        looks = found.looks
        return found.select(looks.second or looks.first, around_match=looks.several)

    def _documents(
        self, asked: Asked, context: Context, search: SearchConfig
    ) -> tuple[Asked, FoundDocuments, Sequence[Scores] | None]:
        """Find the documents of `context` to search, and what the messages hold of a section.

        Raises
        ------
        SectionError
            If no document has the section, of the messages or of `context`.
        """
        section = search.section
        if section is None:
            return (asked, *self._resolve(asked.sought, context, search))
        asked, own = in_section(asked, section, self.tree)
        try:
            documents, known = self._resolve(asked.sought, context, search)
        except SectionError:
            if not asked.documents:
                raise
            documents, known = FoundDocuments(), None
        if not (documents or asked.documents):
            raise absent_section(section, [(one.title, one.outline) for one in own])
        return asked, documents, known

    def _resolve(
        self, query: str, context: Context, search: SearchConfig
    ) -> tuple[FoundDocuments, Sequence[Scores] | None]:
        """Find the documents to search; of a large memory also what the best of them name.

        For that they have to be scored; without it there are no scores yet.
        """
        if rounds_of(search) < 2 or not leaves_out(context):
            return resolve(context, self.encoder, query, (), search.section), None

        def scored(names: Sequence[str]) -> tuple[FoundDocuments, list[Scores]]:
            documents = resolve(context, self.encoder, query, names, search.section)
            scorer = search.scorer
            return documents, score(query, documents, self.encoder, scorer, self._embedder)

        return find_in_rounds(
            scored, lambda found: follow(query, *found, search).unfound, search.rounds
        )

    def _look(
        self,
        conversation: Conversation,
        scores: Sequence[Scores] | None,
        search: SearchConfig,
        room: int,
    ) -> tuple[Selection, Callable[[], Selection] | None]:
        """Select for a first look; return that and what selects for a second, if there is more."""
        query, documents = conversation.query, conversation.documents
        found = self._find(query, documents, scores, search, room, asked=conversation.question)
        first = found.select(found.looks.first, around_match=found.looks.several)
        leaves = sum(len(document.forest.leaves) for document in documents)
        if found.looks.second is None or sum(node.fine for node in first.nodes) == leaves:
            return first, None
        return first, partial(found.select, found.looks.second, around_match=True)

    def _find(
        self,
        query: str,
        documents: Sequence[Document],
        scores: Sequence[Scores] | None,
        search: SearchConfig,
        room: int,
        *,
        asked: str,
    ) -> Found:
        """Score `documents`, unless `scores` are given, and decide what is to be shown of them."""
        for document in documents:
            self.encoder.require_own(document)
        if scores is None:
            scores = score(query, documents, self.encoder, search.scorer, self._embedder)
        else:
            require_scores(scores, documents, "scores has")
        return find(
            query,
            documents,
            scores,
            search,
            self.encoder,
            asked=asked,
            room=room,
            twice=self.reader.judges,
        )

    def _settings(self, options: dict[str, Any]) -> tuple[SearchConfig, GenerationConfig]:
        """Return the settings of one question: the model's, with `options` changed."""
        search, generation = with_options(self.search, self.generation, options)
        return self.reader.settled(search, generation), generation
