"""Answers as JSON values of a schema: what the model is told, and what its answer is read as."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sharedllm_integrations.errors import AnswerFormatError, SetupError

SHOWN = 200  # characters of an answer in an error


def schema_of(response_format: Any) -> dict[str, Any] | None:
    """The JSON schema in a call's `response_format`: LangChain's, OpenAI's, bare or a class's.

    Raises
    ------
    SetupError
        If it is none of these, or no JSON schema.
    """
    if response_format is None or response_format == {"type": "text"}:
        return None
    if isinstance(response_format, type):
        return class_schema(response_format)
    if isinstance(response_format, Mapping):
        kind = response_format.get("type")
        inner = response_format.get("schema") or response_format.get("json_schema")
        if kind == "json_schema" and isinstance(inner, Mapping):
            return require_schema(inner.get("schema", inner))
        if kind == "json_object":
            return {"type": "object"}
        if kind == "object" or "properties" in response_format or "$defs" in response_format:
            return require_schema(response_format)
    raise SetupError(
        f"response_format is {response_format!r}; give {{'type': 'json_schema', 'schema': ...}}, "
        "{'type': 'json_object'}, a JSON schema of an object or a pydantic class"
    )


def require_schema(schema: Any) -> dict[str, Any]:
    """`schema`, if it is a JSON schema.

    Raises
    ------
    SetupError
        If it is not.
    """
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, Mapping):
        raise SetupError(f"the schema is {schema!r}; give a JSON schema, which is a dict")
    try:
        _validator(schema).check_schema(schema)
    except SchemaError as error:
        raise SetupError(
            f"this is no JSON schema: {error.message} (at {error.json_path}); correct it"
        ) from error
    except RecursionError as error:
        raise SetupError(
            "the schema is nested too deeply to be read; use $defs, or make it flatter"
        ) from error
    return dict(schema)


def schema_instruction(schema: Mapping[str, Any]) -> str:
    """The model's instruction about the form of its answer."""
    return "Answer with one JSON object of this JSON schema and nothing else:\n" + json.dumps(
        schema, ensure_ascii=False
    )


def read_json(text: str, *, finish_reason: str, new_tokens: int) -> Any:
    """The JSON value that an answer is; one that was cut is never a value.

    Parameters
    ----------
    finish_reason : "stop" or "length", of the answer
    new_tokens : that it might have

    Raises
    ------
    AnswerFormatError
        If it was cut, or is no JSON.
    """
    shown = text.strip()
    cut = finish_reason == "length"
    try:
        found = json.loads(shown)
    except ValueError as error:
        if cut:
            raise cut_error(shown, new_tokens) from error
        raise AnswerFormatError(
            f"the answer is no JSON value: {error}. It is {_beginning(shown)}; a stop text may "
            "have ended it, or the model was not held to a schema"
        ) from error
    if cut and not shown.endswith(("}", "]", '"')):
        raise cut_error(shown, new_tokens)  # of a number, digits may be missing
    return found


def require_valid(value: Any, schema: Mapping[str, Any]) -> Any:
    """`value`, if it follows all of `schema`, also what no grammar holds.

    Raises
    ------
    AnswerFormatError
        If it does not.
    """
    made = _validator(schema)
    try:
        found = sorted(
            made(schema, format_checker=made.FORMAT_CHECKER).iter_errors(value),
            key=lambda error: len(error.absolute_path),
        )
    except re.error as error:
        raise AnswerFormatError(
            f"the answer cannot be checked: the schema's pattern {error.pattern!r} is none of "
            f"Python's ({error}); change the pattern"
        ) from error
    if found:
        raise AnswerFormatError(
            f"the answer does not follow its schema: {found[0].message} (at {found[0].json_path}). "
            "A grammar held its form, but 'not', 'contains', 'if', uniqueItems and the like are "
            "only checked afterwards; ask again, or make the schema simpler"
        )
    return value


def class_schema(cls: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic class.

    Raises
    ------
    SetupError
        If it has none, or no answer can follow it.
    """
    try:
        schema = cls.model_json_schema() if hasattr(cls, "model_json_schema") else cls.schema()
    except Exception as error:  # of any type, by what is in the annotations
        raise SetupError(
            f"{cls!r} has no JSON schema: {error}; give a pydantic class of plain values"
        ) from error
    return require_schema(schema)


def class_object(cls: Any, value: Any) -> Any:
    """`value` as an object of a pydantic class.

    Raises
    ------
    AnswerFormatError
        If it is none.
    """
    try:
        if hasattr(cls, "model_validate_json"):
            return cls.model_validate_json(json.dumps(value))
        return cls.parse_obj(value)  # of pydantic's first version
    except ValueError as error:
        raise AnswerFormatError(
            f"the answer is no {cls.__name__}: {error}. A grammar held its form; validators and "
            "the like are only checked afterwards: ask again, or make the class simpler"
        ) from error


def cut_error(text: str, new_tokens: int) -> AnswerFormatError:
    """The error of an answer that ended before it was whole."""
    return AnswerFormatError(
        f"the answer was cut after {new_tokens} tokens, before it was whole: {_beginning(text)}; "
        "raise max_tokens, or ask for less (fewer fields, shorter lists)"
    )


def _beginning(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema.validators import Draft202012Validator, validator_for

    return validator_for(schema, default=Draft202012Validator)
