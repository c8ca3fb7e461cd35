"""Bodies of requests as clients of OpenAI's API send them, and what of them is not supported.

A field that would change the answer and is not supported is refused, one that would not is taken
and left alone; a field that is unknown is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from sharedllm_integrations.serving.faults import ServingError

FILE_SEARCH = "file_search"
MOST_ATTRIBUTES = 16
MOST_STORES = 32  # of one question
EXACT = 1 << 53  # whole numbers that JSON's readers agree on
# a text with bounds is valid Unicode, too: pydantic lets halves of surrogate pairs through else
Short = Annotated[str, StringConstraints(max_length=512)]
Long = Annotated[str, StringConstraints(max_length=1 << 20)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Whole = Annotated[int, Field(ge=-EXACT, le=EXACT)]
Attributes = Annotated[dict[Key, Short | bool | Whole | float], Field(max_length=MOST_ATTRIBUTES)]
Metadata = Annotated[dict[Key, Short], Field(max_length=MOST_ATTRIBUTES)]


class Body(BaseModel):
    """A body whose fields are all known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _require_numbers(cls, given: Any) -> Any:
        """Refuse NaN and infinities, which are no JSON, also where anything may stand."""
        left = [given]
        while left:
            one = left.pop()
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"it holds {one}, which is no JSON; give a number or null")
            if isinstance(one, Mapping):
                left += one.values()
            elif isinstance(one, list):
                left += one
        return given


class StreamOptions(Body):
    """Things that a stream tells beside the text."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
    "section",
    "scope",
    "max_seconds",
    "stop",
)


class Asking(Body):
    """The fields that all bodies which ask have in common.

    Attributes
    ----------
    top_k, repetition_penalty, seed, stop : beyond OpenAI's in some, as vLLM names them
    section : searches only the sections that this names, as ``SearchConfig`` takes it
    scope : "passages", "whole" or "auto", by the question (the default): what is read of documents
    max_seconds : after which a reading of the whole reads no further; its answer is then partial
    """

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    section: Annotated[str, Field(min_length=1)] | None = None
    scope: Literal["auto", "passages", "whole"] | None = None
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    user: str | None = None  # changes no answer


def require_length(name: str, longest: int | None, most: int) -> None:
    """Refuse an answer that may be longer than the server allows.

    Raises
    ------
    ServingError
    """
    if longest is not None and longest > most:
        raise ServingError(
            f"{name} is {longest:,}; this server allows at most {most:,}", param=name
        )


class AnswerBody(Asking):
    """The fields that chat completions and completions have in common."""

    max_tokens: PositiveInt | None = None
    # one value of these is supported
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def options(self, most: int) -> dict[str, Any]:
        """The options of one call, as the adapters' fields name them.

        Raises
        ------
        ServingError
            If the answer may be longer than the server allows.
        """
        longest = self.longest
        require_length("max_tokens", longest, most)
        given = {name: getattr(self, name) for name in OPTIONS}
        return {k: v for k, v in {**given, "max_tokens": longest}.items() if v is not None}

    @property
    def longest(self) -> int | None:
        """Tokens that the answer may have."""
        return self.max_tokens

    @property
    def tells_usage(self) -> bool:
        """True if the stream is to end with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatMessage(BaseModel):
    """One message; what an earlier answer brought along is taken as it was."""

    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class ChatBody(AnswerBody):
    """The body of /v1/chat/completions.

    Attributes
    ----------
    tools : functions; and one of type "file_search" with ``vector_store_ids`` and ``filters``,
        spelled as in /v1/responses, names the vector store that is read
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: PositiveInt | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    modalities: list[Literal["text"]] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    @property
    def longest(self) -> int | None:
        """Tokens that the answer may have."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The tools that the client runs."""
        return [one for one in self.tools or [] if one.get("type") != FILE_SEARCH]

    @property
    def search(self) -> FileSearch | None:
        """The search of vector stores that is asked for, if one is.

        Raises
        ------
        ServingError
            If several are, or it is of another form.
        """
        found = [one for one in self.tools or [] if one.get("type") == FILE_SEARCH]
        if len(found) > 1:
            raise ServingError("tools holds file_search more than once; give one", param="tools")
        try:
            return FileSearch.model_validate(found[0]) if found else None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ServingError(
                f"the tool file_search: {place}: {first['msg']}", param="tools"
            ) from error


class CompletionBody(AnswerBody):
    """The body of /v1/completions: the prompt is asked as one message of a user."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=16)]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str]:
        """The prompts, which are answered one after the other."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class Ranking(Body):
    """The ranking of passages: it is the memory's own."""

    ranker: Literal["auto", "default-2024-11-15"] | None = None
    score_threshold: float | None = None
    hybrid_search: None = None

    @field_validator("score_threshold")
    @classmethod
    def _require_none(cls, given: float | None) -> float | None:
        if given:
            raise ValueError(
                "scores are no shares of 1: they compare within one question only, so that no "
                "threshold can be given; leave it out, and bound max_num_results"
            )
        return given


class FileSearch(Body):
    """The tool that searches vector stores.

    Attributes
    ----------
    max_num_results : passages that are read, at most; neighbouring ones are told as one
    """

    type: Literal["file_search"]
    vector_store_ids: Annotated[list[Short], Field(min_length=1, max_length=MOST_STORES)]
    filters: dict[str, Any] | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    ranking_options: Ranking | None = None

    @property
    def stores(self) -> list[str]:
        """The vector stores, each once."""
        return list(dict.fromkeys(self.vector_store_ids))

    def options(self, scope: str | None) -> dict[str, Any]:
        """The options of a question that reads what this finds.

        Raises
        ------
        ServingError
            If it bounds the passages of a question that reads the whole.
        """
        if self.max_num_results is None:
            return {}
        if scope == "whole":
            raise ServingError(
                "max_num_results bounds passages, and scope is 'whole', which reads all; leave one "
                "of them out",
                param="tools",
            )
        return {"max_leaves": self.max_num_results, "scope": "passages"}


COMPARED = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin")
JOINED = ("and", "or")


def filter_of(given: Mapping[str, Any] | None, depth: int = 0) -> dict[str, Any] | None:
    """A filter of attributes in OpenAI's spelling, as ``TreeMemory.search`` takes it.

    Raises
    ------
    ServingError
        If it is none.
    """
    if given is None:
        return None
    kind, name = given.get("type"), given.get("key")
    if kind in JOINED and isinstance(given.get("filters"), list) and given["filters"]:
        if depth > 8:
            raise ServingError("filters are nested too deeply; make them flatter", param="filters")
        if all(isinstance(one, Mapping) for one in given["filters"]):
            return {f"${kind}": [filter_of(one, depth + 1) for one in given["filters"]]}
    if kind in COMPARED and isinstance(name, str) and "value" in given:
        value = given["value"]
        if isinstance(value, list) == (kind in ("in", "nin")):
            return {name: {"in": [value]} if kind == "eq" else {kind: value}}
    raise ServingError(
        f"a filter is {dict(given)!r}; give {{'type': {'|'.join(COMPARED)}, 'key', 'value'}}, with "
        f"a list for in and nin, or {{'type': 'and'|'or', 'filters': [...]}}",
        param="filters",
    )


class Chunking(Body):
    """The division of files: it is the memory's own."""

    type: str

    @field_validator("type")
    @classmethod
    def _require_auto(cls, given: str) -> str:
        if given != "auto":
            raise ValueError("documents are kept whole and divided by the memory; give 'auto'")
        return given


def _refuse_expiry(given: Any) -> None:
    if given is not None:
        raise ValueError("nothing expires here; leave it out, and delete what is not needed")


Never = Annotated[None, BeforeValidator(_refuse_expiry)]


class StoreChange(Body):
    """The body that changes a vector store."""

    name: Short | None = None
    description: Short | None = None
    metadata: Metadata | None = None
    expires_after: Never = None


class StoreBody(StoreChange):
    """The body that makes a vector store."""

    file_ids: Annotated[list[Short], Field(max_length=500)] = Field(default_factory=list)
    chunking_strategy: Chunking | None = None


class SearchBody(Body):
    """The body of a search."""

    query: Long | Annotated[list[Long], Field(min_length=1, max_length=1)]
    filters: dict[str, Any] | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10
    rewrite_query: Literal[False] | None = None
    ranking_options: Ranking | None = None

    @property
    def text(self) -> str:
        """The query."""
        return self.query if isinstance(self.query, str) else self.query[0]


class MemberBody(Body):
    """The body that adds a file to a vector store."""

    file_id: Short
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None


class MemberChange(Body):
    """The body that changes a file's attributes."""

    attributes: Attributes | None


class BatchBody(Body):
    """The body that adds files to a vector store."""

    file_ids: Annotated[list[Short], Field(min_length=1, max_length=500)] | None = None
    files: Annotated[list[MemberBody], Field(min_length=1, max_length=500)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None

    @property
    def wanted(self) -> list[tuple[str, dict[str, Any]]]:
        """The files with their attributes.

        Raises
        ------
        ServingError
            Unless either `files` or `file_ids` is given.
        """
        if (self.files is None) == (self.file_ids is None):
            raise ServingError("give either files or file_ids", param="file_ids")
        if self.files is not None:
            return [(one.file_id, one.attributes or {}) for one in self.files]
        return [(id, self.attributes or {}) for id in self.file_ids or []]
