"""The fields by which an adapter's user chooses model, memory, and how prompts are answered.

They are pydantic's, which both frameworks bring and build their own classes of.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.long_text import LONG_TEXT
from sharedllm_integrations.memories import portable
from sharedllm_integrations.requests import Message, Request

Reads = Literal["prompt", "memory"]
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
MAX_TOKENS = 256
SHARED = ("llm", "memory", "callback_manager")  # fields that a deep copy has in common
GENERATION = {  # the frameworks' names -> the core's
    "temperature": "temperature",
    "max_tokens": "max_new_tokens",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
}


class Reopened(BaseModel):
    """Fields that are copied and pickled; what was opened for them is opened again when needed.

    A deep copy shares the memory and the loaded model. A pickle holds the folder of a memory, and
    refuses a model that was given loaded, which no other process has.
    """

    def _given(self) -> dict[str, Any]:
        """The fields that were given."""
        names = type(self).model_fields
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}

    def __getstate__(self) -> dict[Any, Any]:
        """What was given; see the class.

        Raises
        ------
        SetupError
            If a loaded model is among it.
        """
        given = self._given()
        if given.pop("llm", None) is not None:
            raise SetupError(
                f"this {type(self).__name__} was given llm=, a model that is loaded in this "
                "process; to pickle it, give model= (and adapter=, device=, dtype=) in its place"
            )
        given.pop("callback_manager", None)  # LlamaIndex's, of this process
        if "memory" in given:
            given["memory"] = portable(given["memory"])
        return {"given": given}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.__init__(**state["given"])  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        held = {} if memo is None else memo
        given = {
            name: value if name in SHARED else copy.deepcopy(value, held)
            for name, value in self._given().items()
        }
        made = type(self)(**given)
        held[id(self)] = made
        return made

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed, which opens what they name."""
        made = super().model_copy(update=update, deep=deep)
        for name in [name for name in made.__dict__ if name not in type(self).model_fields]:
            del made.__dict__[name]  # what was opened for the fields as they were
        return made


class ModelFields(Reopened):
    """A model and a memory.

    Attributes
    ----------
    model : Hugging Face name, folder or .gguf file; None is the memory's model, or the default
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
