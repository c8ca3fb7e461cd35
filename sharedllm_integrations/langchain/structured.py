"""Answers as objects of a schema: a grammar keeps the model to it, a parser reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, get_args

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from sharedllm_integrations.errors import SetupError

if TYPE_CHECKING:
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.language_models.chat_models import BaseChatModel

Method = Literal["json_schema", "function_calling", "json_mode"]


def bound(
    model: BaseChatModel,
    schema: dict[str, Any] | type,
    method: str,
    *,
    include_raw: bool,
    more: Mapping[str, Any],
) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
    """`model` answering with objects of `schema`.

    Raises
    ------
    SetupError
        If `method` is unknown, or `more` is given.
    """
    if method not in get_args(Method):
        raise SetupError(f"method is {method!r}; allowed: {', '.join(get_args(Method))}")
    if more:
        raise SetupError(f"unknown arguments {', '.join(more)}; see with_structured_output")
    llm = model.bind(
        response_format={"type": "json_schema", "schema": convert_to_json_schema(schema)},
        ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
    )
    parser: Runnable[Any, Any] = JsonOutputParser()
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = PydanticOutputParser(pydantic_object=schema)
    if not include_raw:
        return llm | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def schema_of(response_format: Any) -> dict[str, Any] | None:
    """The JSON schema of a call's `response_format`: LangChain's, OpenAI's or a bare schema.

    Raises
    ------
    SetupError
        If it is none of these.
    """
    if response_format is None:
        return None
    if isinstance(response_format, Mapping):
        kind = response_format.get("type")
        inner = response_format.get("schema") or response_format.get("json_schema")
        if kind == "json_schema" and isinstance(inner, Mapping):
            return dict(inner.get("schema", inner) if "schema" in inner else inner)
        if kind == "json_object":
            return {"type": "object"}
        if kind == "object" or "properties" in response_format:
            return dict(response_format)
    raise SetupError(
        f"response_format is {response_format!r}; give {{'type': 'json_schema', 'schema': ...}}, "
        "{'type': 'json_object'} or a JSON schema of an object"
    )


def described(schema: Mapping[str, Any]) -> str:
    """What the model is told about the form of its answer."""
    return "Answer with one JSON object of this JSON schema and nothing else:\n" + json.dumps(
        schema, ensure_ascii=False
    )
