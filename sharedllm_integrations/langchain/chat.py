"""ChatSharedLLM: a LangChain chat model that reads whole documents as trees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ConfigDict

from sharedllm_integrations import schemas, toolcalls
from sharedllm_integrations.details import DEFAULT_MODEL, MAX_TOKENS, model_name
from sharedllm_integrations.engine import Engine, Request, Run
from sharedllm_integrations.langchain import outputs, structured
from sharedllm_integrations.langchain.fields import SharedFields
from sharedllm_integrations.langchain.messages import grants_of, turns_of
from sharedllm_integrations.resolving import CAPACITY
from sharedllm_integrations.turns import Turn
from sharedllm_integrations.worker import in_thread, iterated


class ChatSharedLLM(SharedFields, BaseChatModel):
    """A chat model on this machine that reads documents of any length in its prompts.

    Whole documents in a prompt reach the model as trees: those of a retriever of this package by
    their marks, others as text that is known or as long text. ``response_metadata["sharedllm"]``
    says what happened to each, and which passages the model was given.

    >>> llm = ChatSharedLLM(memory="library/")
    >>> llm.invoke("Who sells his wife?").content

    Parameters
    ----------
    streaming : stream in :meth:`invoke` too, for callbacks that want tokens

    The others are those of :class:`~sharedllm_integrations.langchain.fields.SharedFields`, and of
    LangChain's chat models (``cache``, ``callbacks``, ``rate_limiter``, ...).

    Raises
    ------
    SetupError, HandleError, ContentError, CapacityError, AnswerTimeoutError
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
        return self._result(engine, engine.complete(request), kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        engine, request = self._asked(messages, stop, kwargs)
        run = await in_thread(lambda: engine.complete(request), request.cancelled)
        return self._result(engine, run, kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        engine, request = self._asked(messages, stop, kwargs)
        yield from self._chunks(engine, request, kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        engine, request = self._asked(messages, stop, kwargs)

        def make() -> Iterator[ChatGenerationChunk]:
            return self._chunks(engine, request, kwargs)

        async for chunk in iterated(make, request.cancelled):
            yield chunk

    def _chunks(
        self, engine: Engine, request: Request, given: Mapping[str, Any]
    ) -> Iterator[ChatGenerationChunk]:
        run = engine.start(request)
        held = outputs.Held(enabled=bool(given.get("tools")))
        for piece in run:
            shown = held.feed(piece)
            if shown:
                yield outputs.chunk(shown)
        yield from outputs.last_chunks(run, held, model_name(engine))

    def _result(self, engine: Engine, run: Run, given: Mapping[str, Any]) -> ChatResult:
        with_tools = bool(given.get("tools"))
        return outputs.result(run, model_name(engine), with_tools=with_tools)

    def _asked(
        self, messages: list[BaseMessage], stop: list[str] | None, given: Mapping[str, Any]
    ) -> tuple[Engine, Request]:
        """The engine and the request of a call: its turns, what is said of tools, its grammar."""
        turns, grammar = turns_of(messages), ""
        new_tokens = given.get("max_tokens", self.max_tokens) or MAX_TOKENS
        tools, required = toolcalls.chosen(given.get("tools") or [], given.get("tool_choice"))
        schema = structured.schema_of(given.get("response_format"))
        if schema is not None:
            turns = [_instruction(structured.described(schema)), *turns]
            grammar = schemas.grammar_of(schema, new_tokens)
        elif tools:
            turns = [_instruction(toolcalls.described(tools, required=required)), *turns]
            grammar = toolcalls.grammar(tools, new_tokens, required=required)
        request = self._request(turns, stop, given, grants_of(messages), grammar)
        return self._engine(given), request

    # -- tools and structure ---------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools: they are described in the prompt, and calls are parsed.

        A grammar keeps every call within the tool's schema.

        Parameters
        ----------
        tools : functions, pydantic classes, LangChain tools or JSON schemas
        tool_choice : "auto", "any", "none" or a tool's name; None is "auto"

        Raises
        ------
        SetupError
            If `tool_choice` is none of these.
        """
        given = [convert_to_openai_tool(tool) for tool in tools]
        toolcalls.chosen(given, tool_choice)
        return self.bind(tools=given, tool_choice=tool_choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: structured.Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """This model answering with objects of `schema`, which a grammar keeps it to.

        Parameters
        ----------
        schema : pydantic class, TypedDict, JSON schema or OpenAI tool
        method : all three constrain the answer to the schema; they differ in what is traced
        include_raw : give ``{"raw", "parsed", "parsing_error"}``
        strict : taken for the sake of programs that give it; the schema always holds

        Raises
        ------
        SetupError
            If `method` is unknown, or more is given.
        """
        return structured.bound(self, schema, method, include_raw=include_raw, more=kwargs)

    # -- what LangChain asks about a model -------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "sharedllm-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._identity({})

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The key of response caches: an answer holds for one state of model and memory."""
        own = {"_type": self._llm_type, **self._identity(kwargs), "call_stop": stop}
        return str(sorted({**own, **{f"call_{k}": repr(v) for k, v in kwargs.items()}}.items()))

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # not `_identifying_params`, which would load the model before its first answer
        own = {"_type": self._llm_type, "model": self.model or DEFAULT_MODEL, "stop": stop}
        return {**own, "temperature": self.temperature, "max_tokens": self.max_tokens, **kwargs}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "sharedllm"
        params.setdefault("ls_model_name", DEFAULT_MODEL)
        return params

    def _resolve_model_profile(self) -> ModelProfile:
        return ModelProfile(
            name=self.model or DEFAULT_MODEL,
            open_weights=True,
            max_input_tokens=CAPACITY,
            max_output_tokens=self.max_tokens or MAX_TOKENS,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            reasoning_output=False,
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
        )

    def get_token_ids(self, text: str) -> list[int]:
        """The token ids of `text`, by the model's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._own_engine.count(text)


def _instruction(text: str) -> Turn:
    return Turn(role="system", parts=(text,))
