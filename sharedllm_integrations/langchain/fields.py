"""The fields that chat model and completion model share, and the engine behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from sharedllm_integrations.details import GENERATION, MAX_TOKENS
from sharedllm_integrations.engine import Engine, Reads, Request, Settings
from sharedllm_integrations.finding import LONG_TEXT
from sharedllm_integrations.langchain.messages import handles_in
from sharedllm_integrations.turns import Turn


class SharedFields(BaseModel):
    """What :class:`ChatSharedLLM` and :class:`SharedLLMCompletion` are made with.

    Attributes
    ----------
    model : Hugging Face name, folder or .gguf file; None is the memory's model, or the default
    memory : TreeMemory, or the path of one; None keeps what is built in a cache of the process
    llm : a SharedLLM that is loaded already, in place of `model`
    adapter, device, dtype : as ``SharedLLM.from_pretrained`` takes them
    tenant : handles and cached documents are apart for each tenant
    keep : add documents that the memory does not hold to it
    reads : "prompt" (the documents in the prompt) or "memory" (all of the memory, too)
    grants : handles that may stand in a prompt without their text, for every request
    long_text : characters from which text without marks becomes documents; None is never
    search : fields of SearchConfig, such as ``{"budget": 1024}``
    temperature, top_p, top_k, repetition_penalty, seed, max_tokens, stop : of the answer
    timeout : seconds an answer may take; reading a document is not interrupted
    max_retries, api_key : taken for the sake of programs that give them; nothing is sent anywhere
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = None
    memory: Any = None
    llm: Any = Field(default=None, exclude=True, repr=False)
    adapter: str | None = "default"
    device: str | None = None
    dtype: str | None = None
    tenant: str = ""
    keep: bool = False
    reads: Reads = "prompt"
    grants: Sequence[Any] = ()
    long_text: int | None = LONG_TEXT
    search: Mapping[str, Any] = Field(default_factory=dict)
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = MAX_TOKENS
    stop: list[str] | None = None
    timeout: float | None = None
    max_retries: int = 0
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)

    _others: dict[str, Engine] = PrivateAttr(default_factory=dict)

    @cached_property
    def _own_engine(self) -> Engine:
        return Engine(self._settings(self.model))

    def _settings(self, model: str | None) -> Settings:
        return Settings(
            model=model,
            adapter=self.adapter,
            device=self.device,
            dtype=self.dtype,
            llm=self.llm if model == self.model else None,
            memory=self.memory,
            tenant=self.tenant,
            keep=self.keep,
            reads=self.reads,
            long_text=self.long_text,
            options=dict(self.search),
        )

    def _engine(self, given: Mapping[str, Any]) -> Engine:
        """The engine for a call, which may name another model."""
        model = given.get("model")
        if model is None or model == self.model:
            return self._own_engine
        if model not in self._others:
            self._others[model] = Engine(self._settings(model))
        return self._others[model]

    def _request(
        self,
        turns: Sequence[Turn],
        stop: Sequence[str] | None,
        given: Mapping[str, Any],
        granted: set[str],
        grammar: str = "",
    ) -> Request:
        """One call: its own options, else those of the fields."""
        options = {core: given.get(name, getattr(self, name)) for name, core in GENERATION.items()}
        options |= {name: value for name, value in given.items() if name not in HANDLED}
        options["stop"] = tuple(stop if stop is not None else self.stop or ())
        if grammar:
            options["grammar"] = grammar
        own = {*handles_in(self.grants), *handles_in(given.get("grants", ()))}
        return Request(
            turns=turns,
            grants=frozenset(own | granted),
            options={name: value for name, value in options.items() if value is not None},
            timeout=given.get("timeout", self.timeout),
        )

    def _identity(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What decides an answer, for keys of response caches; it changes with the memory."""
        own = {name: getattr(self, name) for name in GENERATION}
        grants = sorted({*handles_in(self.grants)})
        return {**self._engine(given).identity(), **own, "stop": self.stop, "grants": grants}


HANDLED = frozenset(
    {
        *GENERATION,
        "model",
        "grants",
        "timeout",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "strict",
        "response_format",
        "stream",
    }
)
