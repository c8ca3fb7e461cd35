"""The fields by which an adapter's user chooses model, memory, and how prompts are answered.

They are pydantic's, which both frameworks bring and build their own classes of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from sharedllm_integrations.long_text import LONG_TEXT
from sharedllm_integrations.requests import Message, Request

Reads = Literal["prompt", "memory"]
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
MAX_TOKENS = 256
GENERATION = {  # the frameworks' names -> the core's
    "temperature": "temperature",
    "max_tokens": "max_new_tokens",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
}


class ModelFields(BaseModel):
    """A model and a memory.

    Attributes
    ----------
    model : Hugging Face name, folder or .gguf file; None is the embedded one. The model that made a
        memory is not loaded because the memory says so: name it here
    memory : TreeMemory, or the path of one; None keeps what is built in a cache of the process
    llm : a SharedLLM that is loaded already, in place of `model`
    adapter, device, dtype : as ``SharedLLM.from_pretrained`` takes them
    tenant : document references and cached documents are apart for each tenant
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str | None = None
    memory: Any = None
    llm: Any = Field(default=None, exclude=True, repr=False)
    adapter: str | None = "default"
    device: str | None = None
    dtype: str | None = None
    tenant: str = ""


class SelectionFields(ModelFields):
    """A model, a memory, and what is selected from texts.

    Attributes
    ----------
    budget : tokens of all passages together; None is the model's
    search : other fields of SearchConfig
    """

    budget: int | None = None
    search: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def _selection(self) -> dict[str, Any]:
        """Fields of SearchConfig."""
        return {**self.search, **({} if self.budget is None else {"budget": self.budget})}


class AnswerFields(ModelFields):
    """A model, a memory, and choices of how the prompt is read and the answer made.

    Attributes
    ----------
    filter : which documents of the memory may be read, as ``TreeMemory.search`` takes it
    keep : add documents that the memory does not hold to it
    reads : "prompt" (the documents in the prompt) or "memory" (all of the memory, too)
    long_text : characters from which text without references becomes documents; None is never
    repeat_question : repeat a question behind its documents that stands only in front of them
    search : fields of SearchConfig for every answer, such as ``{"budget": 1024}``
    temperature, top_p, top_k, repetition_penalty, seed, max_tokens, stop : of the answer
    timeout : seconds an answer may take; reading a document is not interrupted
    """

    filter: Mapping[str, Any] | None = None
    keep: bool = False
    reads: Reads = "prompt"
    long_text: PositiveInt | None = LONG_TEXT
    repeat_question: bool = True
    search: Mapping[str, Any] = Field(default_factory=dict)
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: PositiveInt | None = MAX_TOKENS
    stop: Sequence[str] | None = None
    timeout: float | None = None

    HANDLED: ClassVar[frozenset[str]] = frozenset({*GENERATION, "stop", "filter", "timeout"})

    def _request(
        self, messages: Sequence[Message], given: Mapping[str, Any], grammar: str = ""
    ) -> Request:
        """One call: its own options, else those of the fields."""
        options = {core: given.get(name, getattr(self, name)) for name, core in GENERATION.items()}
        options |= {name: value for name, value in given.items() if name not in self.HANDLED}
        stop = given.get("stop")
        stop = self.stop if stop is None else stop
        options["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
        if grammar:
            options["grammar"] = grammar
        return Request(
            messages=messages,
            filter=given.get("filter"),
            options={name: value for name, value in options.items() if value is not None},
            timeout=given.get("timeout", self.timeout),
        )
