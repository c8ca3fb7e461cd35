"""The fields by which users say what model, memory and answers they want, in both frameworks.

The one shared file that needs pydantic, which both frameworks bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sharedllm_integrations.engine import Reads, Settings
from sharedllm_integrations.finding import LONG_TEXT


class ModelFields(BaseModel):
    """A model and a memory.

    Attributes
    ----------
    model : Hugging Face name, folder or .gguf file; None is the memory's model, or the default
    memory : TreeMemory, or the path of one; None keeps what is built in a cache of the process
    llm : a SharedLLM that is loaded already, in place of `model`
    adapter, device, dtype : as ``SharedLLM.from_pretrained`` takes them
    tenant : handles and cached documents are apart for each tenant
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = None
    memory: Any = None
    llm: Any = Field(default=None, exclude=True, repr=False)
    adapter: str | None = "default"
    device: str | None = None
    dtype: str | None = None
    tenant: str = ""

    def _settings(self, **changed: Any) -> Settings:
        """What an engine is made with, some of it `changed`."""
        own = {name: getattr(self, name) for name in ModelFields.model_fields}
        return Settings(**{**own, **changed})


class AnswerFields(ModelFields):
    """How the prompt is read and the answer made.

    Attributes
    ----------
    keep : add documents that the memory does not hold to it
    reads : "prompt" (the documents in the prompt) or "memory" (all of the memory, too)
    long_text : characters from which text without marks becomes documents; None is never
    repeat_question : repeat a question behind its documents that stands only in front of them
    search : fields of SearchConfig, such as ``{"budget": 1024}``
    temperature, top_p, top_k, repetition_penalty, seed : of the answer
    timeout : seconds an answer may take; reading a document is not interrupted
    """

    keep: bool = False
    reads: Reads = "prompt"
    long_text: int | None = LONG_TEXT
    repeat_question: bool = True
    search: Mapping[str, Any] = Field(default_factory=dict)
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    timeout: float | None = None

    def _settings(self, **changed: Any) -> Settings:
        names = ("keep", "reads", "long_text", "repeat_question")
        own = {name: getattr(self, name) for name in names}
        return super()._settings(**{**own, "options": dict(self.search), **changed})
