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
from typing import TYPE_CHECKING, Any, Self, TypeVar

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
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools.types import BaseTool
from pydantic import BaseModel, PositiveInt, PrivateAttr, field_serializer

from sharedllm import SharedLLMError
from sharedllm.arguments import checked
from sharedllm_integrations.engine import Engine, Run
from sharedllm_integrations.errors import AnswerFormatError, RequestError, SetupError
from sharedllm_integrations.llamaindex.messages import (
    Calls,
    announce,
    chat,
    collector,
    completion,
    dispatcher,
    first_call,
    raw_of,
    request_messages,
    tool_calls,
)
from sharedllm_integrations.references import Scope
from sharedllm_integrations.requests import Message, Request
from sharedllm_integrations.resolution import CAPACITY
from sharedllm_integrations.settings import MAX_TOKENS, AnswerFields
from sharedllm_integrations.structured_output import class_object, class_schema, read_json
from sharedllm_integrations.tool_calling import Call
from sharedllm_integrations.worker import in_thread, iterated

if TYPE_CHECKING:
    from sharedllm import TreeMemory

Model = TypeVar("Model", bound=BaseModel)
Make = Callable[..., Any]
UNHEARD = (ValueError, TypeError)  # what LlamaIndex's synthesizers take for an unreadable answer


TOOL_OPTIONS = ("tool_required", "tool_choice", "allow_parallel_tool_calls", "parallel_tool_calls")


@contextmanager
def _heard() -> Iterator[None]:
    """Errors go on as such that LlamaIndex lets through."""
    try:
        yield
    except SharedLLMError as error:
        if isinstance(error, UNHEARD):
            raise RequestError(error) from error
        raise


def require_calls(run: Run) -> tuple[str, Sequence[Call]]:
    """The text of a whole answer, and its calls, which LlamaIndex has no way to call invalid.

    Raises
    ------
    AnswerFormatError
        If a call was cut, or names no tool that there is.
    """
    text, calls = run.read
    for call in calls:
        if call.arguments is None:
            raise AnswerFormatError(f"the answer holds a call that cannot be made: {call.error}")
    return text, calls


class LlamaIndexSharedLLM(AnswerFields, FunctionCallingLLM):
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
            is_function_calling_model=True,
            model_name=self._named,
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

    # -- tools -----------------------------------------------------------------------------------

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of :meth:`chat` for a call with tools.

        `allow_parallel_tool_calls`, which agents set unasked, allows several calls in an answer to
        models whose chat template has tools; others repeat theirs.
        """
        asked = (
            ChatMessage(role="user", content=user_msg) if isinstance(user_msg, str) else user_msg
        )
        return {
            "messages": [*(chat_history or ()), *(() if asked is None else (asked,))],
            "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools],
            "tool_choice": tool_choice or ("any" if tool_required else None),
            "parallel_tool_calls": None if allow_parallel_tool_calls else False,
            **kwargs,
        }

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """`response` with its first call alone, where only one is allowed."""
        if not allow_parallel_tool_calls:
            response.message.blocks = first_call(response.message.blocks)
        return response

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of tools in a response.

        Raises
        ------
        RequestError
            If there is none, with `error_on_no_tool_call`.
        """
        found = tool_calls(response)
        if error_on_no_tool_call and not found:
            raise RequestError(
                AnswerFormatError(
                    f"the model called no tool; it says {response.message.content!r}. Ask with "
                    "tool_required=True, or a larger model"
                )
            )
        return found

    # -- objects of a class ----------------------------------------------------------------------

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An object of `output_cls`, which a grammar holds the answer to.

        Raises
        ------
        RequestError
            If the answer was cut, or is no such object.
        """
        messages, options = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        return self._object(output_cls, self.chat(messages, **options))

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """:meth:`structured_predict` without holding up the event loop."""
        messages, options = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        return self._object(output_cls, await self.achat(messages, **options))

    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model, None, None]:
        """:meth:`structured_predict` as a stream of one object: half of one would be none."""
        yield self.structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model, None]:
        """:meth:`stream_structured_predict` without holding up the event loop."""

        async def found() -> AsyncGenerator[Model, None]:
            yield await self.astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

        return found()

    @_heard()
    def _structured(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: Mapping[str, Any] | None,
        prompt_args: Mapping[str, Any],
    ) -> tuple[Sequence[ChatMessage], dict[str, Any]]:
        """The messages and options of a call for an object of `output_cls`."""
        dispatcher.event(
            LLMStructuredPredictStartEvent(
                output_cls=output_cls, template=prompt, template_args=dict(prompt_args)
            )
        )
        schema = class_schema(output_cls)
        given = {k: v for k, v in (llm_kwargs or {}).items() if k not in TOOL_OPTIONS}
        form = {"type": "json_schema", "schema": schema}
        return self._get_messages(prompt, **prompt_args), {**given, "response_format": form}

    @_heard()
    def _object(self, output_cls: type[Model], response: ChatResponse) -> Model:
        raw: Any = response.raw
        value = read_json(
            response.message.content or "",
            finish_reason=raw["finish_reason"],
            new_tokens=raw["max_tokens"],
        )
        made: Model = class_object(output_cls, value)
        dispatcher.event(LLMStructuredPredictEndEvent(output=made))
        return made

    # -- how ------------------------------------------------------------------------------------

    @_heard()
    def _whole(self, make: Make, request: Request) -> Any:
        return self._made(make, self._engine.complete(request))

    async def _awhole(self, make: Make, request: Request) -> Any:
        with _heard():
            run = await in_thread(lambda: self._engine.complete(request), request.cancelled)
        return self._made(make, run)

    @_heard()
    def _made(self, make: Make, run: Run) -> Any:
        text, calls = require_calls(run)
        raw = self._raw(run, collector())
        return make(text, None, raw, calls) if calls else make(text, None, raw)

    def _pieces(
        self, make: Make, request: Request, calls: Calls | None
    ) -> Generator[Any, None, None]:
        for text, piece, run in self._streamed(request):
            yield self._piece(make, text, piece, run, calls)

    @_heard()
    def _piece(
        self, make: Make, text: str, piece: str, run: Run | None, calls: Calls | None
    ) -> Any:
        """A piece of a stream; with the last one come the calls and what is told of the answer."""
        if run is None:
            return make(text, piece, None)
        told, called = self._raw(run, calls), require_calls(run)[1]
        return make(text, piece, told, called) if called else make(text, piece, told)

    async def _apieces(
        self, make: Make, request: Request, calls: Calls | None
    ) -> AsyncGenerator[Any, None]:
        pieces: AsyncIterator[tuple[str, str, Run | None]] = iterated(
            lambda: self._streamed(request), request.cancelled
        )
        async for text, piece, run in pieces:
            yield self._piece(make, text, piece, run, calls)

    def _streamed(self, request: Request) -> Iterator[tuple[str, str, Run | None]]:
        """The text so far and each piece, without calls of tools; at the end, the whole run."""
        with _heard():
            run, text = self._engine.start(request), ""
            held = run.form.held_calls()
            for piece in run:
                new = held.feed(piece)
                text += new
                if new:
                    yield text, new, None
            rest = run.form.read(held.text, run.finish_reason)[0] if held.text else ""
            yield text + rest, rest, run

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
