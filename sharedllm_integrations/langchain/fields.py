"""The fields that chat model and completion model share, and the engine behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import Field, PrivateAttr, SecretStr

from sharedllm_integrations.details import GENERATION, MAX_TOKENS
from sharedllm_integrations.engine import Engine, Request
from sharedllm_integrations.fields import AnswerFields
from sharedllm_integrations.langchain.messages import handles_in
from sharedllm_integrations.turns import Turn


class SharedFields(AnswerFields):
    """What :class:`ChatSharedLLM` and :class:`SharedLLMCompletion` are made with besides.

    Attributes
    ----------
    grants : handles that may stand in a prompt without their text, for every request
    max_tokens, stop : of the answer
    max_retries, api_key : taken for the sake of programs that give them; nothing is sent anywhere
    """

    grants: Sequence[Any] = ()
    max_tokens: int | None = MAX_TOKENS
    stop: list[str] | None = None
    max_retries: int = 0
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)

    _others: dict[str, Engine] = PrivateAttr(default_factory=dict)

    @cached_property
    def _own_engine(self) -> Engine:
        return Engine(self._settings())

    def _engine(self, given: Mapping[str, Any]) -> Engine:
        """The engine for a call, which may name another model."""
        model = given.get("model")
        if model is None or model == self.model:
            return self._own_engine
        if model not in self._others:
            self._others[model] = Engine(self._settings(model=model, llm=None))
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
