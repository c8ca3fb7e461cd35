"""SharedLLMCompletion: text in, text out, for chains that are built on LangChain's LLMs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict

from sharedllm_integrations.details import DEFAULT_MODEL, PROVIDER, details, model_name
from sharedllm_integrations.engine import Engine, Request, Run, usage
from sharedllm_integrations.langchain.fields import SharedFields
from sharedllm_integrations.turns import Turn
from sharedllm_integrations.worker import in_thread, iterated


class SharedLLMCompletion(SharedFields, BaseLLM):
    """A model on this machine that takes a prompt as text and reads the documents in it as trees.

    The prompt is asked as one user message. ``generation_info["sharedllm"]`` says what happened to
    its documents. Parameters and errors are those of
    :class:`~sharedllm_integrations.langchain.chat.ChatSharedLLM`.
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
            runs.append(await in_thread(_completing(engine, request), request.cancelled))
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
        yield GenerationChunk(text="", generation_info=self._info(engine, run))

    def _asked(self, prompt: str, stop: list[str] | None, given: Mapping[str, Any]) -> Request:
        return self._request([Turn(role="user", parts=(prompt,))], stop, given, set())

    def _result(self, engine: Engine, runs: list[Run]) -> LLMResult:
        counted = [usage(run) for run in runs]
        read, written = sum(one[0] for one in counted), sum(one[1] for one in counted)
        return LLMResult(
            generations=[
                [Generation(text=run.text.strip(), generation_info=self._info(engine, run))]
                for run in runs
            ],
            llm_output={
                "model_name": model_name(engine),
                "token_usage": {
                    "prompt_tokens": read,
                    "completion_tokens": written,
                    "total_tokens": read + written,
                },
            },
        )

    def _info(self, engine: Engine, run: Run) -> dict[str, Any]:
        return {
            "model_name": model_name(engine),
            "finish_reason": run.answer.finish_reason,
            PROVIDER: details(run),
        }

    @property
    def _llm_type(self) -> str:
        return "sharedllm-completion"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._identity({})

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "sharedllm"
        params.setdefault("ls_model_name", DEFAULT_MODEL)
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """The token ids of `text`, by the model's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._own_engine.count(text)


def _completing(engine: Engine, request: Request) -> Any:
    return lambda: engine.complete(request)
