"""LangChain's own integration suite for chat models, unmodified, on the embedded default model.

Expected failures are what a model of 135M parameters does not do; docs/integrations.md lists them,
and benchmarks/langchain_conformance.py runs the suite with any other model.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests

from sharedllm import loaded
from sharedllm_integrations.langchain import ChatSharedLLM
from tests.integrations.prompts import enclosed
from tests.texts import FERRY

MODEL = os.environ.get("SHAREDLLM_CONFORMANCE_MODEL")  # None is the embedded default
DEVICE = os.environ.get("SHAREDLLM_CONFORMANCE_DEVICE", "cpu")
Detail = Literal[
    "audio_input", "audio_output", "reasoning_output", "cache_read_input", "cache_creation_input"
]


class TestChat(ChatModelIntegrationTests):
    """What takes longer than a few seconds is marked slow in conftest.py."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSharedLLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "device": DEVICE}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        """The default's own weights, by the name of their folder."""
        return MODEL or str(loaded(device=DEVICE).model.config._name_or_path)

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[Literal["invoke", "stream"], list[Detail]]:
        both: list[Detail] = ["cache_read_input", "cache_creation_input"]
        return {"invoke": both, "stream": both}

    @pytest.mark.xfail(reason="135M parameters, free to choose, answer in words and call no tool")
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    def invoke_with_cache_creation_input(self, *, stream: bool = False) -> AIMessage:
        return self._asked_about_a_document(stream=stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        self._asked_about_a_document(stream=False)
        again = self._asked_about_a_document(stream=stream)
        assert (again.usage_metadata or {})["input_token_details"]["cache_read"] > 0
        return again

    def _asked_about_a_document(self, *, stream: bool) -> AIMessage:
        model = ChatSharedLLM(max_tokens=10, **self.chat_model_params)
        prompt = f"{enclosed(FERRY)}\n\nWhen does the ferry leave?"
        if not stream:
            return model.invoke(prompt)
        full: Any = None
        for chunk in model.stream(prompt):
            full = chunk if full is None else full + chunk
        assert isinstance(full, AIMessage)
        return full
