"""LlamaIndexSharedLLM: a LlamaIndex model that reads whole documents as trees."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from pydantic import PositiveInt, PrivateAttr, field_serializer

from sharedllm import SharedLLMError
from sharedllm.arguments import checked
from sharedllm_integrations.engine import Engine, Run
from sharedllm_integrations.errors import RequestError, SetupError
from sharedllm_integrations.llamaindex.messages import (
    Calls,
    announce,
    chat,
    collector,
    completion,
    raw_of,
    request_messages,
)
from sharedllm_integrations.references import Scope
from sharedllm_integrations.requests import Message, Request
from sharedllm_integrations.resolution import CAPACITY
from sharedllm_integrations.settings import DEFAULT_MODEL, MAX_TOKENS, AnswerFields
from sharedllm_integrations.worker import in_thread, iterated

if TYPE_CHECKING:
    from sharedllm import TreeMemory

Make = Callable[[str, str | None, dict[str, Any] | None], Any]
UNHEARD = (ValueError, TypeError)  # what LlamaIndex's synthesizers take for an unreadable answer


@contextmanager
def _heard() -> Iterator[None]:
    """Errors go on as such that LlamaIndex lets through."""
    try:
        yield
    except SharedLLMError as error:
        if isinstance(error, UNHEARD):
            raise RequestError(error) from error
        raise


class LlamaIndexSharedLLM(AnswerFields, CustomLLM):
    """A model on this machine that reads documents of any length in its prompts.

    Whole documents in a prompt reach the model as trees: those of a retriever over the same memory
    by their references, others as text that is known or as long text.
    ``additional_kwargs["sharedllm"]`` of a response says what happened to each, and which passages
    the model was given.

    >>> llm = LlamaIndexSharedLLM()
    >>> llm.complete("Who sells his wife?").text

    Parameters
    ----------
    grammar : every answer follows it, such as that of :func:`react_grammar`
    context_window : tokens that LlamaIndex may put into one prompt, documents included

    The others are those of :class:`~sharedllm_integrations.settings.AnswerFields` and
    :class:`~sharedllm_integrations.settings.ModelFields`.

    Raises
    ------
    RequestError
        If a request cannot be answered; its ``cause`` is a DocumentReferenceError, ContentError,
        CapacityError, WindowError, ConfigError, ... LlamaIndex's synthesizers take these, which
        are ValueErrors, for answers that they cannot parse, and say "Empty Response".
    AnswerTimeoutError
    SetupError
        If the fields do not go together.
    SharedLLMError
        Of the core: a model that is not there, a memory that cannot be read, ...
    """

    grammar: str = ""
    context_window: PositiveInt = CAPACITY

    _engine: Engine = PrivateAttr()

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._engine = Engine(self)

    def over(self, memory: TreeMemory) -> Self:
        """This model with `memory` as its requests' own."""
        if self.memory is not None and Scope.of(memory, "") == Scope.of(self._engine.memory, ""):
            return self
        made = self.model_copy(update={"memory": memory})
        made._engine = Engine(made)
        return made

    @field_serializer("memory")
    def _memory_as_path(self, memory: Any) -> str | None:
        return None if memory is None else str(getattr(memory, "path", memory))

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex's traces know it."""
        return "LlamaIndexSharedLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """LlamaIndex's questions about a model; the window is that of the trees."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=min(self.max_tokens or MAX_TOKENS, self.context_window // 4),
            is_chat_model=True,
            is_function_calling_model=False,
            model_name=self.model or DEFAULT_MODEL,
        )

    @property
    def engine(self) -> Engine:
        """Model and memory behind it, each opened when it is first needed."""
        return self._engine

    @checked(error=SetupError)
    def count(self, text: str) -> list[int]:
        """The token ids of `text`, by the model's own tokenizer."""
        return self._engine.count(text)

    # -- answering -------------------------------------------------------------------------------

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which is asked as one message of the user."""
        whole: CompletionResponse = self._whole(completion, self._asked(prompt, kwargs))
        return whole

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """:meth:`complete` without holding up the event loop."""
        request = self._asked(prompt, kwargs)
        whole: CompletionResponse = await self._awhole(completion, request)
        return whole

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """:meth:`complete` piece by piece; the last piece is empty and says what happened."""
        return self._pieces(completion, self._asked(prompt, kwargs), collector())

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """:meth:`stream_complete` without holding up the event loop."""
        return self._apieces(completion, self._asked(prompt, kwargs), collector())

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last message of a conversation."""
        whole: ChatResponse = self._whole(chat, self._asked(messages, kwargs))
        return whole

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """:meth:`chat` without holding up the event loop."""
        whole: ChatResponse = await self._awhole(chat, self._asked(messages, kwargs))
        return whole

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """:meth:`chat` piece by piece; the last piece is empty and says what happened."""
        return self._pieces(chat, self._asked(messages, kwargs), collector())

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """:meth:`stream_chat` without holding up the event loop."""
        return self._apieces(chat, self._asked(messages, kwargs), collector())

    # -- how ------------------------------------------------------------------------------------

    @_heard()
    def _whole(self, make: Make, request: Request) -> Any:
        return self._made(make, self._engine.complete(request))

    async def _awhole(self, make: Make, request: Request) -> Any:
        with _heard():
            run = await in_thread(lambda: self._engine.complete(request), request.cancelled)
        return self._made(make, run)

    def _made(self, make: Make, run: Run) -> Any:
        return make(run.text.strip(), None, self._raw(run, collector()))

    def _pieces(
        self, make: Make, request: Request, calls: Calls | None
    ) -> Generator[Any, None, None]:
        for text, piece, run in self._streamed(request):
            yield make(text, piece, None if run is None else self._raw(run, calls))

    async def _apieces(
        self, make: Make, request: Request, calls: Calls | None
    ) -> AsyncGenerator[Any, None]:
        pieces: AsyncIterator[tuple[str, str, Run | None]] = iterated(
            lambda: self._streamed(request), request.cancelled
        )
        async for text, piece, run in pieces:
            yield make(text, piece, None if run is None else self._raw(run, calls))

    def _streamed(self, request: Request) -> Iterator[tuple[str, str, Run | None]]:
        """The text so far and each piece; at the end, the whole run."""
        with _heard():
            run = self._engine.start(request)
            for piece in run:
                yield run.text, piece, None
            yield run.text, "", run

    def _raw(self, run: Run, calls: Calls | None) -> dict[str, Any]:
        announce(run, calls)
        return raw_of(run, self._engine)

    @_heard()
    def _asked(self, given: str | Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> Request:
        """One call: its own options, else those of the fields."""
        if isinstance(given, str):
            messages = [Message(role="user", parts=(given,))]
        else:
            messages = request_messages(given)
        return self._request(messages, kwargs, kwargs.get("grammar", self.grammar))
