"""The fields by which an adapter's user chooses model, memory, and how prompts are answered.

They are pydantic's, which both frameworks bring and build their own classes of.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from sharedllm.arguments import path_problem, shown
from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.long_text import LONG_TEXT
from sharedllm_integrations.memories import portable
from sharedllm_integrations.requests import Message, Request
from sharedllm_integrations.structured_output import schema_of
from sharedllm_integrations.tool_calling import chosen_tools

Reads = Literal["prompt", "memory"]
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
MAX_TOKENS = 256
SHARED = ("llm", "memory", "callback_manager")  # fields that a deep copy has in common
LONGEST_S = 1e9  # seconds; locks take no longer timeouts
GENERATION = {  # the frameworks' names -> the core's
    "temperature": "temperature",
    "max_tokens": "max_new_tokens",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
}


def _is_memory(given: Any) -> Any:
    """Refuse what neither is a memory nor names one, before it is needed."""
    if isinstance(given, str | os.PathLike):
        problem = path_problem(given)
        if problem:
            raise ValueError(problem)
    elif given is not None and not callable(getattr(given, "documents_for", None)):
        raise ValueError("give a TreeMemory, the path of one, or None")
    return given


def _is_model(given: Any) -> Any:
    """Refuse what is no SharedLLM, before it is needed."""
    if given is not None and not hasattr(given, "encoder"):
        raise ValueError("give a SharedLLM (SharedLLM.from_pretrained(...)), or None")
    return given


MemoryField = Annotated[Any, BeforeValidator(_is_memory)]
ModelField = Annotated[Any, BeforeValidator(_is_model)]
SectionName = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]


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
        """Hold what was given; see the class.

        Raises
        ------
        SetupError
            If a loaded model is among it.
        """
        given = self._given()
        if given.pop("llm", None) is not None:
            raise SetupError(
                f"this {type(self).__name__} was given llm=, a model that is loaded in this "
                "process; to pickle it, give model= (and adapter=, device=, ...) in its place"
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
    model : short name, Hugging Face name, folder or .gguf file; None is the embedded one. The model
        that made a memory is not loaded because the memory says so: name it here
    memory : TreeMemory, or the path of one; None keeps what is built in a cache of the process
    llm : a SharedLLM that is loaded already, in place of `model`
    adapter, device, dtype, quantize : as ``SharedLLM.from_pretrained`` takes them
    tenant : document references and cached documents are apart for each tenant
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    model: str | None = None
    memory: MemoryField = None
    llm: ModelField = Field(default=None, exclude=True, repr=False)
    adapter: str | None = "default"
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    tenant: str = ""


class SelectionFields(ModelFields):
    """A model, a memory, and what is selected from texts.

    Attributes
    ----------
    budget : tokens of all passages together, or "auto"; None is the model's
    section : names the sections that passages are taken from, by number ("chapter 3"), title or
        path ("Part II > Chapter 3"); None is all of the text
    search : other fields of SearchConfig
    """

    budget: int | Literal["auto"] | None = None
    section: SectionName | None = None
    search: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def _selection(self) -> dict[str, Any]:
        """Fields of SearchConfig."""
        own = {"budget": self.budget, "section": self.section}
        return {**self.search, **{name: v for name, v in own.items() if v is not None}}


class AnswerFields(ModelFields):
    """A model, a memory, and choices of how the prompt is read and the answer made.

    Attributes
    ----------
    reader : address of an OpenAI-compatible API whose model answers, while `model` reads and
        searches the documents; its key is the environment's SHAREDLLM_READER_KEY or OPENAI_API_KEY
    reader_model, reader_window, reader_timeout : its name there, the tokens that it takes, and the
        seconds without a sign of life after which it counts as down
    filter : which documents of the memory may be read, as ``TreeMemory.search`` takes it
    section : names the sections of documents that are searched, by number ("chapter 3"), title or
        path ("Part II > Chapter 3"); None is all of the text
    keep : add documents that the memory does not hold to it
    reads : "prompt" (the documents in the prompt) or "memory" (all of the memory, too)
    long_text : characters from which text without references becomes documents; None is never
    repeat_question : repeat a question behind its documents that stands only in front of them
    search : fields of SearchConfig for every answer, such as ``{"budget": 1024}``
    scope : "passages", "whole" (summaries, lists, counts, comparisons over all of the documents) or
        "auto", by the question; None is the model's
    temperature, top_p, top_k, repetition_penalty, seed, max_tokens, stop : of the answer
    timeout : seconds an answer may take, the reading of its documents included
    """

    reader: str | None = None
    reader_model: str | None = None
    reader_window: PositiveInt | None = None
    reader_timeout: Seconds | None = None
    filter: Mapping[str, Any] | None = None
    section: SectionName | None = None
    keep: bool = False
    reads: Reads = "prompt"
    long_text: PositiveInt | None = LONG_TEXT
    repeat_question: bool = True
    search: Mapping[str, Any] = Field(default_factory=dict)
    scope: Literal["auto", "passages", "whole"] | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: PositiveInt | None = MAX_TOKENS
    stop: str | Sequence[str] | None = None
    timeout: Seconds | None = None

    HANDLED: ClassVar[frozenset[str]] = frozenset(
        {*GENERATION, "stop", "filter", "section", "timeout"}
    ) | {
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
    }

    @property
    def _named(self) -> str:
        """The name of the model that answers, so far as it is known without loading it."""
        if self.reader is not None:
            return self.reader_model or self.reader
        return self.model or DEFAULT_MODEL

    @property
    def _reading_of_documents(self) -> dict[str, Any]:
        """Fields of SearchConfig for every answer."""
        return {**self.search, **({} if self.scope is None else {"scope": self.scope})}

    @property
    def _reading(self) -> dict[str, Any]:
        """The options of a reader elsewhere that were given."""
        names = ("reader", "reader_model", "reader_window", "reader_timeout")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _request(
        self, messages: Sequence[Message], given: Mapping[str, Any], grammar: str = ""
    ) -> Request:
        """One call: its own options, else those of the fields.

        Raises
        ------
        SetupError
            If its tools, their choice or the form of its answer cannot be used.
        """
        require_options(given)
        chosen_tools(given.get("tools") or (), given.get("tool_choice"))
        parallel = given.get("parallel_tool_calls")
        options = {core: given.get(name, getattr(self, name)) for name, core in GENERATION.items()}
        options |= {name: value for name, value in given.items() if name not in self.HANDLED}
        stop = given.get("stop")
        stop = self.stop if stop is None else stop
        options["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
        options["section"] = given.get("section")
        if grammar:
            options["grammar"] = grammar
        return Request(
            messages=messages,
            filter=given.get("filter"),
            options={name: value for name, value in options.items() if value is not None},
            tools=given.get("tools") or (),
            tool_choice=given.get("tool_choice"),
            parallel=None if parallel is None else bool(parallel),
            schema=schema_of(given.get("response_format")),
            timeout=given.get("timeout", self.timeout),
        )


def require_options(given: Mapping[str, Any]) -> None:
    """Hold the options of one call to the fields of the same names; None is the field's own.

    Raises
    ------
    SetupError
    """
    for name in (AnswerFields.HANDLED | {"model"}) & AnswerFields.model_fields.keys():
        value = given.get(name)
        if value is None:
            continue
        try:
            _rule(name).validate_python(value, strict=True)
        except ValidationError as error:
            wrong = "; or ".join(dict.fromkeys(item["msg"] for item in error.errors()))
            raise SetupError(f"{name} is {shown(value)}: {wrong}") from error


@functools.cache
def _rule(name: str) -> TypeAdapter[Any]:
    field = AnswerFields.model_fields[name]
    hint: Any = field.annotation
    for limit in field.metadata:
        hint = Annotated[hint, limit]
    return TypeAdapter(hint)
