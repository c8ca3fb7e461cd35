"""Requests in, answers with a report out: what both frameworks do with a model and a memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sharedllm_integrations.answer_form import AnswerForm
from sharedllm_integrations.errors import AnswerTimeoutError, SetupError
from sharedllm_integrations.memories import holds_memory, open_given
from sharedllm_integrations.references import Cleaner
from sharedllm_integrations.report import PROVIDER, Report, Usage, details
from sharedllm_integrations.requests import (
    GivenText,
    Request,
    merged,
    question_in,
    sound_text,
    with_question_last,
)
from sharedllm_integrations.resolution import Resolver
from sharedllm_integrations.settings import AnswerFields, ModelFields
from sharedllm_integrations.structured_output import read_json
from sharedllm_integrations.tool_calling import Call

if TYPE_CHECKING:
    from sharedllm import Answer, Asked, Citation, Document, SharedLLM, TreeMemory

_queues: WeakKeyDictionary[SharedLLM, threading.Lock] = WeakKeyDictionary()
_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A request whose documents are found and built, ready to be answered.

    Attributes
    ----------
    request : Request
    form : AnswerForm
    asked : of the core
    question : what is asked of the documents
    context : memories that are read as a whole
    options : fields of SearchConfig and GenerationConfig
    report : Report
    deadline : by ``time.monotonic``
    """

    request: Request
    form: AnswerForm
    asked: Asked
    question: str
    context: tuple[Any, ...]
    options: dict[str, Any]
    report: Report
    deadline: float

    def require_wanted(self) -> None:
        """See :func:`require_wanted`."""
        require_wanted(self.request, self.deadline)


def require_wanted(request: Request, deadline: float) -> None:
    """Let a request go on that somebody waits for, and that has time.

    Raises
    ------
    CancelledRequest, AnswerTimeoutError
    """
    if request.cancelled.is_set():
        raise CancelledRequest
    if time.monotonic() > deadline:
        raise AnswerTimeoutError(
            f"the answer was not complete after {request.timeout:g} s; raise timeout, or ask for "
            "fewer tokens"
        )


class Run(Iterator[str]):
    """Pieces of an answer as they come; when they have all come, :attr:`answer`.

    Attributes
    ----------
    report : Report
    form : AnswerForm
    question : str
        What was asked of the documents.
    """

    def __init__(self, stream: Any, plan: Plan) -> None:
        self._stream, self._shown = stream, list[str]()
        self.form, self.question, self.report = plan.form, plan.question, plan.report
        # knows nothing of the run: dropping that ends the answer at once, not at a collection
        self._pieces = _cleaned(stream, plan, self._shown)

    @property
    def text(self) -> str:
        """The part that has come so far."""
        return "".join(self._shown)

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def answer(self) -> Answer:
        """The core's answer, of what the model wrote."""
        found: Answer = self._stream.answer
        return found

    @property
    def citations(self) -> Sequence[Citation]:
        """The evidence of what has come so far; all of it once text has, but of a whole reading."""
        found: Sequence[Citation] = self._stream.citations
        return found

    @property
    def finish_reason(self) -> str:
        """The end of the whole answer: "stop" or "length" (max_tokens)."""
        return self.answer.finish_reason

    @property
    def read(self) -> tuple[str, list[Call]]:
        """The text of the whole answer beside its calls, and the calls."""
        return self.form.read(self.text, self.finish_reason)

    @property
    def value(self) -> Any:
        """The JSON value that the whole answer is.

        Raises
        ------
        AnswerFormatError
            If it was cut, or is none.
        """
        return read_json(
            self.text, finish_reason=self.finish_reason, new_tokens=self.form.new_tokens
        )

    @property
    def usage(self) -> Usage:
        """Tokens that were read, written, reused and built."""
        return Usage.of(self.answer, self.report)

    @cached_property
    def details(self) -> dict[str, Any]:
        """A record of the documents, as plain values; the core's answer is kept for it."""
        return details(self.answer, self.report)

    def metadata(self, engine: Engine) -> dict[str, Any]:
        """The values that both frameworks tell beside an answer's text."""
        return {
            "model_name": engine.model_name,
            "model_provider": PROVIDER,
            "finish_reason": self.finish_reason,
            "max_tokens": self.form.new_tokens,
            PROVIDER: self.details,
        }


def _cleaned(stream: Iterator[str], plan: Plan, shown: list[str]) -> Iterator[str]:
    """Yield what is shown of `stream`, and append it to `shown`.

    Raises
    ------
    CancelledRequest, AnswerTimeoutError
    """
    cleaner = Cleaner()
    for piece in stream:
        plan.require_wanted()
        shown.append(cleaner.feed(piece))
        if shown[-1]:
            yield shown[-1]
    shown.append(cleaner.rest())
    if shown[-1]:
        yield shown[-1]


class CancelledRequest(Exception):  # noqa: N818  # no error: nobody waits for the answer
    """The request was cancelled while it ran."""


def memory_to_fill(settings: ModelFields) -> TreeMemory:
    """The memory that an adapter's fields name, opened with their model; a new one is made by it.

    Raises
    ------
    SharedLLMError
    """
    memory: Any = getattr(settings, "memory", None)
    if settings.llm is None and settings.model is None:
        return open_given(memory, create=True)
    is_new = isinstance(memory, str | os.PathLike) and not holds_memory(memory)
    engine = Engine(settings, memory=None) if is_new else Engine(settings)
    return open_given(memory, create=True, llm=engine.llm)


class Engine:
    """Answers requests with one model and one memory. It may be used from several threads.

    Parameters
    ----------
    settings : fields of an adapter, as they are now
    also : memories that ``reads="memory"`` reads besides that of the settings
    changed : some of the settings in place of these

    Raises
    ------
    SetupError
        If they do not go together.
    """

    def __init__(
        self, settings: ModelFields, *, also: Sequence[TreeMemory] = (), **changed: Any
    ) -> None:
        self.also = tuple(also)
        names = AnswerFields.model_fields
        own = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
        self.settings = AnswerFields.model_construct(**{**own, **changed})
        if self.settings.llm is not None and self.settings.reader is not None:
            raise SetupError(
                "llm and reader are given both; load the model with its reader, "
                "SharedLLM.from_pretrained(reader=...), and give it as llm alone"
            )
        if self.settings.memory is None and (self.settings.keep or self.settings.reads == "memory"):
            wanted = "keep=True" if self.settings.keep else "reads='memory'"
            raise SetupError(f"{wanted} needs a memory; give memory=, a TreeMemory or its path")

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: copies and pickles open model and memory again."""
        return {"settings": self.settings, "also": self.also}

    @cached_property
    def memory(self) -> TreeMemory | None:
        """The memory, opened when it is first needed."""
        given = self.settings.memory
        return None if given is None else open_given(given)

    @cached_property
    def llm(self) -> SharedLLM:
        """The model, loaded when it is first needed, once a process."""
        from sharedllm import loaded, loaded_for

        own = self.settings
        if own.llm is not None:
            llm: SharedLLM = own.llm
            return llm
        if self.memory is not None:  # its settings, and what of them is named here
            names = ("model", "device", "dtype", "quantize")
            given = {name: getattr(own, name) for name in names}
            changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
            if own.adapter != "default":
                changes["adapter"] = own.adapter
            return loaded_for(self.memory, **changes, **own._reading)
        place: dict[str, Any] = {"device": own.device, "dtype": own.dtype, "quantize": own.quantize}
        return loaded(own.model, adapter=own.adapter, **place, **own._reading)

    @property
    def model_name(self) -> str:
        """The name of the model that answers, which is loaded for it."""
        own = self.settings
        named = own.reader_model if own.reader is not None else own.model
        return named or self.llm.reader.name

    def resolver(
        self, filter: Mapping[str, Any] | None = None, section: str | None = None
    ) -> Resolver:
        """The finder of a request's documents."""
        own = self.settings
        return Resolver(
            llm=self.llm,
            memory=self.memory,
            tenant=own.tenant,
            filter=filter,
            section=section,
            keep=own.keep,
            long_text=own.long_text,
        )

    def start(self, request: Request, *, since: float | None = None) -> Run:
        """Find the documents, build what is missing, and begin the answer.

        Parameters
        ----------
        since : when the request's time began to run, by ``time.monotonic``; None is now

        Raises
        ------
        DocumentReferenceError, CapacityError, SetupError
        InputError, WindowError, ConfigError, BudgetError, TreeMemoryError
            Of the core.
        """
        return self.begin(self.plan(request, since=since))

    def plan(self, request: Request, *, since: float | None = None) -> Plan:
        """The first half of :meth:`start`: find the documents and build what is missing."""
        own = self.settings
        deadline = (since or time.monotonic()) + float(request.timeout or "inf")
        filter = own.filter if request.filter is None else request.filter
        named = {} if own.section is None else {"section": own.section}
        options = {**own._reading_of_documents, **named, **request.options}
        resolver = self.resolver(filter, options.get("section"))
        form = AnswerForm.of(request, self.llm)
        found, refused = resolver.find_documents(merged(form.ask(request.messages)))
        question, repeated = question_in(found), False
        if own.repeat_question:
            found, repeated = with_question_last(found, question)
        with self.llm.encoder.reading(lambda: require_wanted(request, deadline)):
            asked, documents = resolver.build_question(found, question)
        if not documents:
            self._require_documents()
        whole = self._whole_memories(filter)
        if own.reads == "memory" and not (documents or whole):
            self._refuse_to_read_nothing(filter)
        if not documents and not whole:  # an agent's first turn: nothing is searched yet
            options.pop("section", None)
        if form.grammar:
            options["grammar"] = form.grammar
        asked = replace(asked, tools=form.shown_tools, tool_required=form.required)
        report = Report(
            documents=tuple(documents), refused=tuple(refused), question_repeated=repeated
        )
        return Plan(
            request=request,
            form=form,
            asked=asked,
            question=question,
            context=tuple(whole),
            options=options,
            report=report,
            deadline=deadline,
        )

    def begin(self, plan: Plan) -> Run:
        """The second half of :meth:`start`: begin the answer."""
        stream = self.llm.stream(plan.asked, list(plan.context), **plan.options)
        return Run(stream, plan)

    def reads_whole(self, plan: Plan) -> bool:
        """True if the answer reads all of its documents, and not passages of them."""
        return self.llm.scope(plan.asked, list(plan.context), **plan.options).is_whole

    def _whole_memories(self, filter: Mapping[str, Any] | None) -> list[Any]:
        """The memories that are read as a whole, those without a document left out."""
        if self.settings.reads != "memory" or self.memory is None:
            return []
        memories = [self.memory, *self.also]
        holding = [one for one in memories if (len(one) if filter is None else one.list(filter))]
        return holding if filter is None else [_Filtered(one, filter) for one in holding]

    def _refuse_to_read_nothing(self, filter: Mapping[str, Any] | None) -> None:
        """Refuse to answer from the weights where a memory was to be read.

        Raises
        ------
        SetupError
        """
        let = "" if filter is None else f" that the filter {dict(filter)!r} lets through"
        memories = [self.memory, *self.also] if self.memory is not None else self.also
        where = ", ".join(repr(str(one.path)) for one in memories)
        raise SetupError(
            f"reads is 'memory', and the memory in {where} has no document{let}; add documents, "
            "check its path, or leave reads out to be answered without documents"
        )

    def _require_documents(self) -> None:
        """Refuse to answer without a document where the memory was to give some.

        A memory that is empty, because its path is mistyped say, would go unnoticed: the model
        would answer from its weights.

        Raises
        ------
        SetupError
        """
        if self.memory is not None and not self.settings.keep and not len(self.memory):
            raise SetupError(
                f"the memory in {str(self.memory.path)!r} holds no document, and the prompt brings "
                "none: the answer would come from the model's weights. Add documents, name another "
                "memory, or leave memory= out to ask the model alone"
            )

    def complete(self, request: Request) -> Run:
        """Like :meth:`start`, to the end; requests of one model wait for each other in line.

        Raises
        ------
        AnswerTimeoutError
            If it takes longer than the request allows, the time in line included.
        """
        since, queue = time.monotonic(), _queue(self.llm)
        if self.llm.reader.shares:  # elsewhere, several answers at once do not wait for each other
            return self._whole(request, since)
        if not queue.acquire(timeout=float(request.timeout or -1)):
            raise AnswerTimeoutError(
                f"other requests kept the model busy for {request.timeout:g} s; raise timeout, "
                "or ask for fewer answers at a time"
            )
        try:
            return self._whole(request, since)
        finally:
            queue.release()

    def _whole(self, request: Request, since: float) -> Run:
        run = self.start(request, since=since)
        for _ in run:
            pass
        return run

    def select(
        self, texts: Sequence[GivenText], query: str, options: Mapping[str, Any]
    ) -> list[tuple[Citation, int]]:
        """The passages of `texts` that answer `query`, best first, each with its text's index.

        Texts that are empty are left out; equal texts count once. A text between the marks of a
        reference is the memory's document, if the reference resolves.

        Parameters
        ----------
        options : fields of SearchConfig
        """
        resolver, first = self.resolver(section=options.get("section")), dict[str, int]()
        trees: list[Document] = []
        for index, given in enumerate(texts):
            if not given.text.strip():
                continue
            found = resolver.accept_retrieved(given)
            if found.id in first:
                continue
            for tree in resolver.read(found, query)[0]:
                trees.append(tree)
                first[tree.id] = index
            first[found.id] = index
        if not trees:
            return []
        prepared = self.llm.prepare(query, trees, max_new_tokens=1, **options)
        if prepared.again is not None:  # nothing is read here that could tell if more is needed
            prepared = prepared.again()
        return [(citation, first[citation.document]) for citation in prepared.citations]

    def count(self, text: str) -> list[int]:
        """The token ids of `text`, special tokens left out."""
        given = sound_text(text)
        return list(self.llm.tokenizer(given, add_special_tokens=False, verbose=False)["input_ids"])

    def identity(self) -> dict[str, Any]:
        """Plain values that decide an answer besides the prompt, for keys of caches."""
        own, llm = self.settings, self.llm
        return {
            "model": repr(llm.identity),
            "reader": repr(llm.reader.identity),
            "injection": repr(llm.injection),
            "search": repr(llm.search),
            "generation": repr(llm.generation),
            "options": repr(sorted(own._reading_of_documents.items())),
            "tenant": own.tenant,
            "filter": repr(own.filter),
            "section": own.section,
            "reads": own.reads,
            "keep": own.keep,
            "long_text": own.long_text,
            "repeat_question": own.repeat_question,
            "memory": None if self.memory is None else self.memory.revision,
            "also": [one.revision for one in self.also],
        }


@dataclass(frozen=True, slots=True)
class _Filtered:
    """A memory as a context of the core, of which a request may read a part."""

    memory: TreeMemory
    filter: Mapping[str, Any]

    def documents_for(
        self,
        query: str,
        llm: SharedLLM,
        *,
        names: Sequence[str] = (),
        section: str | None = None,
    ) -> Sequence[Document]:
        """The documents that `llm` should search for `query`, and some that hold one of `names`."""
        return self.memory.documents_for(query, llm, self.filter, names=names, section=section)

    def whole_documents(self, llm: SharedLLM) -> Sequence[Document]:
        """All documents that the filter lets through, to be read as a whole."""
        return self.memory.whole_documents(llm, self.filter)

    def leaves_out(self) -> bool:
        return self.memory.leaves_out(self.filter)


def _queue(llm: SharedLLM) -> threading.Lock:
    with _lock:
        return _queues.setdefault(llm, threading.Lock())
