"""What an adapter does with a model: turns in, an answer with a report out."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from sharedllm_integrations.errors import AnswerTimeoutError, SetupError
from sharedllm_integrations.finding import LONG_TEXT, Finder
from sharedllm_integrations.memories import opened
from sharedllm_integrations.origins import KnownText, known_texts
from sharedllm_integrations.output import Cleaner
from sharedllm_integrations.placing import with_question_last
from sharedllm_integrations.report import DocumentReport, Report
from sharedllm_integrations.resolving import Resolver
from sharedllm_integrations.trees import process_cache
from sharedllm_integrations.turns import Turn, merged

if TYPE_CHECKING:
    from sharedllm import Answer, SharedLLM, TreeMemory

Reads = Literal["prompt", "memory"]
_queues: WeakKeyDictionary[SharedLLM, threading.Lock] = WeakKeyDictionary()
_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an adapter's user chose.

    Parameters
    ----------
    model, adapter, device, dtype : as :func:`sharedllm.loaded` takes them
    llm : SharedLLM or None
        A loaded model, in place of these names.
    memory : TreeMemory, path or None
        Where documents are known from; without `model` and `llm` its model answers.
    tenant : str
        Handles and what is kept for the process are apart for each.
    keep : add new documents to the memory
    reads : {"prompt", "memory"}
        Whether the documents in the prompt are read, or the whole memory as well.
    long_text : int or None
        Characters up to which text without marks stays running text.
    repeat_question : bool
        Whether a question that stands only in front of its documents is repeated behind them.
    options : fields of SearchConfig and GenerationConfig for every answer
    """

    model: str | None = None
    adapter: str | None = "default"
    device: str | None = None
    dtype: str | None = None
    llm: SharedLLM | None = None
    memory: Any = None
    tenant: str = ""
    keep: bool = False
    reads: Reads = "prompt"
    long_text: int | None = LONG_TEXT
    repeat_question: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reads not in ("prompt", "memory"):
            raise SetupError(f"reads is {self.reads!r}; allowed: 'prompt', 'memory'")
        if self.memory is None and (self.keep or self.reads == "memory"):
            wanted = "keep=True" if self.keep else "reads='memory'"
            raise SetupError(f"{wanted} needs a memory; give memory=, a TreeMemory or its path")
        if self.long_text is not None and (
            isinstance(self.long_text, bool)
            or not isinstance(self.long_text, int)
            or self.long_text < 1
        ):
            raise SetupError(
                f"long_text is {self.long_text!r}; give a number of characters, or None"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question.

    Parameters
    ----------
    turns : sequence of Turn
    grants : handles that may stand in the prompt without their texts
    options : fields of SearchConfig and GenerationConfig for this answer
    timeout : seconds, or None
    cancelled : set by whoever no longer wants the answer
    """

    turns: Sequence[Turn]
    grants: Collection[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class Run(Iterator[str]):
    """Pieces of an answer as they come; when they have all come, :attr:`answer`.

    Attributes
    ----------
    report : Report
    text : str
        What has come so far.
    """

    def __init__(self, stream: Any, report: Report, request: Request, deadline: float) -> None:
        self._stream, self._request, self._deadline = stream, request, deadline
        self._pieces = self._cleaned()
        self.report, self.text = report, ""

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def answer(self) -> Answer:
        """The core's answer, of what the model wrote."""
        found: Answer = self._stream.answer
        return found

    def _cleaned(self) -> Iterator[str]:
        cleaner = Cleaner()
        for piece in self._stream:
            self._require_wanted()
            shown = cleaner.feed(piece)
            self.text += shown
            if shown:
                yield shown
        rest = cleaner.rest()
        self.text += rest
        if rest:
            yield rest

    def _require_wanted(self) -> None:
        if self._request.cancelled.is_set():
            raise CancelledRequest
        if time.monotonic() > self._deadline:
            raise AnswerTimeoutError(
                f"the answer was not complete after {self._request.timeout:g} s; raise timeout, "
                "or ask for fewer tokens"
            )


class CancelledRequest(Exception):  # noqa: N818  # not an error: nobody waits for the answer
    """The request was cancelled while it ran."""


class Engine:
    """Answers requests with one model and one memory. It may be used from several threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def memory(self) -> TreeMemory | None:
        """The memory, opened when it is first needed."""
        given = self.settings.memory
        return None if given is None else opened(given)

    @cached_property
    def llm(self) -> SharedLLM:
        """The model, loaded when it is first needed, once a process."""
        own = self.settings
        if own.llm is not None:
            return own.llm
        if own.model is None and self.memory is not None:
            from sharedllm import loaded_for

            return loaded_for(self.memory)
        from sharedllm import loaded

        return loaded(own.model, adapter=own.adapter, device=own.device, dtype=own.dtype)

    def start(self, request: Request, *, since: float | None = None) -> Run:
        """Find the documents, build what is missing, and begin the answer.

        Parameters
        ----------
        since : when the request's time began to run, by ``time.monotonic``; None is now

        Raises
        ------
        HandleError, CapacityError, SetupError
        InputError, WindowError, ConfigError, BudgetError, TreeMemoryError
            Of the core.
        """
        own = self.settings
        deadline = (since or time.monotonic()) + (request.timeout or float("inf"))
        finder = Finder(
            tenant=own.tenant,
            grants=request.grants,
            long_text=own.long_text,
            known=self._known,
        )
        turns, refused = finder.find(merged(list(request.turns)))
        resolver = Resolver(
            llm=self.llm,
            cache=process_cache(),
            memory=self.memory,
            tenant=own.tenant,
            keep=own.keep,
        )
        repeated = False
        if own.repeat_question:
            turns, repeated = with_question_last(turns)
        messages, documents = resolver.messages(turns)
        whole = [self.memory] if own.reads == "memory" and self.memory is not None else []
        options = {**own.options, **request.options}
        stream = self.llm.stream(messages, whole, **options)
        report = Report(
            documents=tuple(documents), refused=tuple(refused), question_repeated=repeated
        )
        return Run(stream, report, request, deadline)

    def complete(self, request: Request) -> Run:
        """Like :meth:`start`, to the end; requests of one model wait for each other in line.

        Raises
        ------
        AnswerTimeoutError
            If it takes longer than the request allows, the time in line included.
        """
        since, queue = time.monotonic(), _queue(self.llm)
        if not queue.acquire(timeout=request.timeout or -1):
            raise AnswerTimeoutError(
                f"other requests kept the model busy for {request.timeout:g} s; raise timeout, "
                "or ask for fewer answers at a time"
            )
        try:
            run = self.start(request, since=since)
            for _ in run:
                pass
        finally:
            queue.release()
        return run

    def count(self, text: str) -> list[int]:
        """The token ids of `text`, special tokens left out."""
        return list(self.llm.tokenizer(text, add_special_tokens=False)["input_ids"])

    def identity(self) -> dict[str, Any]:
        """What decides an answer besides the prompt, as plain values: for keys of caches."""
        own, llm = self.settings, self.llm
        return {
            "model": repr(llm.identity),
            "injection": repr(llm.injection),
            "search": repr(llm.search),
            "generation": repr(llm.generation),
            "options": repr(sorted(own.options.items())),
            "tenant": own.tenant,
            "reads": own.reads,
            "keep": own.keep,
            "long_text": own.long_text,
            "repeat_question": own.repeat_question,
            "memory": None if self.memory is None else self.memory.revision,
        }

    def _known(self) -> Sequence[KnownText]:
        return [] if self.memory is None else known_texts(self.memory, self.settings.tenant)


def _queue(llm: SharedLLM) -> threading.Lock:
    with _lock:
        return _queues.setdefault(llm, threading.Lock())


def usage(run: Run) -> tuple[int, int, int, int]:
    """Tokens read (documents included), written, found in trees that were there, and built."""
    used, report = run.answer.usage, run.report
    read = used.prompt_tokens - used.evidence_tokens + used.context_tokens
    built = report.tokens_built
    return read, used.new_tokens, used.context_tokens - built, built


__all__ = ["CancelledRequest", "DocumentReport", "Engine", "Request", "Run", "Settings", "usage"]
