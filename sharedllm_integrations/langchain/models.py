"""ChatSharedLLM and SharedLLMCompletion: LangChain's models that read whole documents as trees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from operator import itemgetter
from typing import Any, ClassVar, Literal, get_args

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import (
    ChatGenerationChunk,
    ChatResult,
    Generation,
    GenerationChunk,
    LLMResult,
)
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from sharedllm.arguments import checked
from sharedllm_integrations.engine import Engine, Run
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.langchain.messages import (
    chat_result,
    last_chunks,
    request_messages,
    text_chunk,
)
from sharedllm_integrations.langchain.structure import (
    StructuredOutputParser,
    json_schema,
    openai_tool,
)
from sharedllm_integrations.report import PROVIDER
from sharedllm_integrations.requests import Message, Request
from sharedllm_integrations.resolution import CAPACITY
from sharedllm_integrations.settings import (
    GENERATION,
    MAX_TOKENS,
    AnswerFields,
    require_options,
)
from sharedllm_integrations.tool_calling import chosen_tools
from sharedllm_integrations.worker import in_thread, iterated

Method = Literal["json_schema", "function_calling", "json_mode"]


class SharedFields(AnswerFields):
    """The fields that both models have besides, and the engine behind them.

    Attributes
    ----------
    max_retries, api_key : taken for the sake of programs that give them, and not used; the key of a
        reader elsewhere is the environment's
    """

    HANDLED: ClassVar[frozenset[str]] = AnswerFields.HANDLED | {
        "model",
        "strict",
        "stream",
    }

    max_retries: int = 0
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)

    _others: dict[str, Engine] = PrivateAttr(default_factory=dict)

    @cached_property
    def _own_engine(self) -> Engine:
        return Engine(self)

    def _engine(self, given: Mapping[str, Any]) -> Engine:
        """The engine for a call, which may name another model."""
        require_options(given)
        model, field = given.get("model"), "model" if self.reader is None else "reader_model"
        if model is None or model == getattr(self, field):
            return self._own_engine
        if model not in self._others:
            self._others[model] = Engine(self, llm=None, **{field: model})
        return self._others[model]

    def _identity(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that decides an answer, for keys of caches; it changes with the memory."""
        own = {name: getattr(self, name) for name in GENERATION}
        return {**self._engine(given).identity(), **own, "stop": self.stop}

    @property
    def _stops(self) -> list[str] | None:
        """`stop` as LangSmith takes it."""
        if self.stop is None or isinstance(self.stop, str):
            return None if self.stop is None else [self.stop]
        return list(self.stop)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._identity({})

    def _traced(self, params: LangSmithParams) -> LangSmithParams:
        """Tell LangSmith of the model, without loading it."""
        params["ls_provider"] = PROVIDER
        params.setdefault("ls_model_name", self._named)
        return params


class ChatSharedLLM(SharedFields, BaseChatModel):
    """A chat model on this machine that reads documents of any length in its prompts.

    Whole documents in a prompt reach the model as trees: those of a retriever over the same memory
    by their references, others as text that is known or as long text.
    ``response_metadata["sharedllm"]`` says what happened to each, and which passages the model was
    given.

    >>> llm = ChatSharedLLM(memory="memory")
    >>> llm.invoke("Who sells his wife?").content

    Parameters
    ----------
    streaming : stream in :meth:`invoke` too, for callbacks that want tokens

    The others are those of :class:`SharedFields`, :class:`AnswerFields` and of LangChain's chat
    models (``cache``, ``callbacks``, ``rate_limiter``, ...).

    Raises
    ------
    SetupError, DocumentReferenceError, ContentError, CapacityError, AnswerTimeoutError
    SharedLLMError
        Of the core: a prompt without room (WindowError), a memory that cannot be read, ...
    """

    model_config = ConfigDict(extra="forbid")  # LangChain ignores what it does not know

    streaming: bool = False

    # -- answering -------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        engine, request = self._asked(messages, stop, kwargs)
        return chat_result(engine.complete(request), engine)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        engine, request = self._asked(messages, stop, kwargs)
        run = await in_thread(lambda: engine.complete(request), request.cancelled)
        return chat_result(run, engine)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        engine, request = self._asked(messages, stop, kwargs)
        yield from self._chunks(engine, request)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        engine, request = self._asked(messages, stop, kwargs)

        def make() -> Iterator[ChatGenerationChunk]:
            return self._chunks(engine, request)

        async for chunk in iterated(make, request.cancelled):
            yield chunk

    def _chunks(self, engine: Engine, request: Request) -> Iterator[ChatGenerationChunk]:
        run = engine.start(request)
        held = run.form.held_calls()
        for piece in run:
            shown = held.feed(piece)
            if shown:
                yield text_chunk(shown)
        yield from last_chunks(run, engine, held.text)

    def _asked(
        self, messages: list[BaseMessage], stop: list[str] | None, given: Mapping[str, Any]
    ) -> tuple[Engine, Request]:
        """The engine and the request of a call."""
        tools = [openai_tool(tool) for tool in given.get("tools") or ()]
        own = {**given, "stop": stop, "tools": tools}
        return self._engine(given), self._request(request_messages(messages), own)

    # -- tools and structure ---------------------------------------------------------------------

    @checked(error=SetupError)
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools, which its chat template or the prompt shows; calls are parsed.

        A grammar keeps every call within the tool's schema.

        Parameters
        ----------
        tools : functions, pydantic classes, LangChain tools or JSON schemas
        tool_choice : "auto", "any", "none" or a tool's name; None is "auto"
        kwargs : options of a call, such as ``parallel_tool_calls`` (several calls in one answer;
            by default only for models whose chat template has tools) and ``response_format`` (a
            schema for answers that call no tool)

        Raises
        ------
        SetupError
            If `tool_choice` is none of these, or a tool cannot be used.
        """
        given = [openai_tool(tool) for tool in tools]
        chosen_tools(given, tool_choice)
        return self.bind(tools=given, tool_choice=tool_choice, **kwargs)

    @checked(error=SetupError)
    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """This model answering with objects of `schema`, which a grammar keeps it to.

        Parameters
        ----------
        schema : pydantic class, TypedDict, JSON schema or OpenAI tool; what no grammar holds
            (``not``, ``contains``, ``if``, unusual formats) is checked afterwards
        method : all three constrain the answer to the schema; they differ in what is traced
        include_raw : give ``{"raw", "parsed", "parsing_error"}``
        strict : taken for the sake of programs that give it; the schema always holds

        Raises
        ------
        SetupError
            If `method` is unknown, more is given, or `schema` cannot be followed.
        OutputParserException
            When it is invoked: if an answer was cut, or does not follow the schema.
        """
        if method not in get_args(Method):
            raise SetupError(f"method is {method!r}; allowed: {', '.join(get_args(Method))}")
        if kwargs:
            raise SetupError(f"unknown arguments {', '.join(kwargs)}; see with_structured_output")
        wanted = json_schema(schema)
        llm = self.bind(
            response_format={"type": "json_schema", "schema": wanted},
            ls_structured_output_format={"kwargs": {"method": method}, "schema": wanted},
        )
        cls = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
        parser = StructuredOutputParser(answer_schema=wanted, cls=cls)
        if not include_raw:
            return llm | parser
        parsed = RunnablePassthrough.assign(
            parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
        )
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")

    # -- what LangChain asks about a model -------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "sharedllm-chat"

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The key of response caches: an answer holds for one state of model and memory."""
        own = {"_type": self._llm_type, **self._identity(kwargs), "call_stop": stop}
        return str(sorted({**own, **{f"call_{k}": repr(v) for k, v in kwargs.items()}}.items()))

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # not `_identifying_params`, which would load the model before its first answer
        own = {"_type": self._llm_type, "model": self._named, "stop": stop}
        return {**own, "temperature": self.temperature, "max_tokens": self.max_tokens, **kwargs}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        require_options({"stop": stop})  # before LangChain asks if it is empty
        return self._traced(
            super()._get_ls_params(stop=self._stops if stop is None else stop, **kwargs)
        )

    def _resolve_model_profile(self) -> ModelProfile:
        return ModelProfile(
            name=self._named,
            open_weights=self.reader is None,
            max_input_tokens=CAPACITY,
            max_output_tokens=self.max_tokens or MAX_TOKENS,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            reasoning_output=True,
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
        )

    @checked(error=SetupError)
    def get_token_ids(self, text: str) -> list[int]:
        """The token ids of `text`, by the model's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._own_engine.count(text)


class SharedLLMCompletion(SharedFields, BaseLLM):
    """A model on this machine that takes a prompt as text and reads the documents in it as trees.

    The prompt is asked as one user message. ``generation_info["sharedllm"]`` says what happened to
    its documents. Parameters and errors are those of :class:`ChatSharedLLM`.
    """

    model_config = ConfigDict(extra="forbid")  # LangChain ignores what it does not know

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        engine = self._engine(kwargs)
        runs = [engine.complete(self._asked(prompt, stop, kwargs)) for prompt in prompts]
        return self._result(engine, runs)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        engine, runs = self._engine(kwargs), []
        for prompt in prompts:
            request = self._asked(prompt, stop, kwargs)
            runs.append(await in_thread(partial(engine.complete, request), request.cancelled))
        return self._result(engine, runs)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for chunk in self._chunks(self._engine(kwargs), self._asked(prompt, stop, kwargs)):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        engine, request = self._engine(kwargs), self._asked(prompt, stop, kwargs)

        def make() -> Iterator[GenerationChunk]:
            return self._chunks(engine, request)

        async for chunk in iterated(make, request.cancelled):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _chunks(self, engine: Engine, request: Request) -> Iterator[GenerationChunk]:
        run = engine.start(request)
        for piece in run:
            yield GenerationChunk(text=piece)
        yield GenerationChunk(text="", generation_info=run.metadata(engine))

    def _asked(self, prompt: str, stop: list[str] | None, given: Mapping[str, Any]) -> Request:
        return self._request([Message(role="user", parts=(prompt,))], {**given, "stop": stop})

    def _result(self, engine: Engine, runs: list[Run]) -> LLMResult:
        read = sum(run.usage.read for run in runs)
        written = sum(run.usage.written for run in runs)
        return LLMResult(
            generations=[
                [Generation(text=run.text.strip(), generation_info=run.metadata(engine))]
                for run in runs
            ],
            llm_output={
                "model_name": engine.model_name,
                "token_usage": {
                    "prompt_tokens": read,
                    "completion_tokens": written,
                    "total_tokens": read + written,
                },
            },
        )

    @property
    def _llm_type(self) -> str:
        return "sharedllm-completion"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        require_options({"stop": stop})
        return self._traced(
            super()._get_ls_params(stop=self._stops if stop is None else stop, **kwargs)
        )

    @checked(error=SetupError)
    def get_token_ids(self, text: str) -> list[int]:
        """The token ids of `text`, by the model's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._own_engine.count(text)
