"""LangChain's schemas and tools -> JSON schemas, and answers -> objects of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, TypeAdapter
from typing_extensions import is_typeddict

from sharedllm_integrations.errors import AnswerFormatError, SetupError
from sharedllm_integrations.schema_grammar import bounded, is_recursive
from sharedllm_integrations.structured_output import (
    class_object,
    class_schema,
    read_json,
    require_schema,
    require_valid,
)

PLENTY = 4096  # tokens: a schema that nothing follows then, nothing follows at all


TOOL_KEYS = ("function", "name", "input_schema", "toolSpec")  # by which dicts of tools are known


def json_schema(schema: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic class, a TypedDict, a JSON schema or an OpenAI tool.

    Raises
    ------
    SetupError
        If it is none of these, or no answer can follow it.
    """
    if isinstance(schema, Mapping) and not any(key in schema for key in TOOL_KEYS):
        found = require_schema(schema)
    else:
        found = require_schema(_recursive(schema) or _converted(convert_to_json_schema, schema))
    bounded(found, PLENTY)
    return found


def openai_tool(tool: Any) -> dict[str, Any]:
    """A tool as OpenAI spells it, with the schema of its arguments.

    Raises
    ------
    SetupError
        If it cannot be one.
    """
    made: dict[str, Any] = _converted(convert_to_openai_tool, tool)
    own = _recursive(tool.tool_call_schema if isinstance(tool, BaseTool) else tool)
    if own is not None:
        kept = {key: value for key, value in own.items() if key not in ("title", "description")}
        made["function"]["parameters"] = kept
    return made


def _recursive(cls: Any) -> dict[str, Any] | None:
    """The schema of a class that refers to itself, which LangChain's own loses."""
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        return None
    schema = class_schema(cls)
    return schema if is_recursive(schema) else None


def _converted(convert: Callable[[Any], Any], given: Any) -> Any:
    """The schema that `convert` of LangChain makes of a class or function; else pydantic's."""
    try:
        return convert(given if not is_typeddict(given) else _plain_typeddict(convert, given))
    except Exception as error:  # of any type, by what is in the annotations
        raise SetupError(
            f"{given!r} cannot become a JSON schema: {error}; give a pydantic class, a TypedDict, "
            "a JSON schema or a function with type hints"
        ) from error


def _plain_typeddict(convert: Callable[[Any], Any], given: Any) -> Any:
    """A TypedDict, or its JSON schema where LangChain cannot read it (NotRequired, recursion)."""
    try:
        convert(given)
    except Exception:  # of any type, by what is in the annotations; pydantic's is raised
        schema = TypeAdapter(given).json_schema()
        return {"name": given.__name__, "description": given.__doc__ or "", "parameters": schema}
    return given


class StructuredOutputParser(JsonOutputParser):
    """Answers -> objects of a schema. What was cut is an error, and never an object.

    In a stream, dicts grow; objects of a class come whole.

    Attributes
    ----------
    answer_schema : that the answer follows
    cls : pydantic class of the objects; None gives dicts
    """

    answer_schema: dict[str, Any]
    cls: Any = None

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The object of an answer; of the beginning of one, None or the dict so far.

        Raises
        ------
        OutputParserException
            If a whole answer was cut, or does not follow the schema.
        """
        told = _told(result[0])
        if partial and "finish_reason" not in told:
            return None if self.cls is not None else super().parse_result(result, partial=True)
        text = result[0].text
        try:
            value = read_json(
                text,
                finish_reason=told.get("finish_reason", "stop"),
                new_tokens=told.get("max_tokens", 0),
            )
            return self._object(value)
        except AnswerFormatError as error:
            raise OutputParserException(str(error), llm_output=text) from error

    def _object(self, value: Any) -> Any:
        if self.cls is None:
            return require_valid(value, self.answer_schema)
        return class_object(self.cls, value)


def _told(generation: Generation) -> Mapping[str, Any]:
    if isinstance(generation, ChatGeneration):
        return generation.message.response_metadata
    return {}
