"""Answers as objects of a JSON schema: a grammar that the answer follows, with bounds."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from sharedllm_integrations.errors import SetupError

LARGEST = 10**12  # of a number without bounds, which a small model might write for ever
MOST_ITEMS = 16  # of a list without bounds
LEAST_CHARACTERS = 24  # of a text without bounds, whatever room there is
CHARACTERS_A_TOKEN = 2
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def schema_of(response_format: Any) -> dict[str, Any] | None:
    """The JSON schema in a call's `response_format`: LangChain's, OpenAI's or a bare schema.

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


def schema_instruction(schema: Mapping[str, Any]) -> str:
    """The model's instruction about the form of its answer."""
    return "Answer with one JSON object of this JSON schema and nothing else:\n" + json.dumps(
        schema, ensure_ascii=False
    )


def schema_grammar(schema: Mapping[str, Any], new_tokens: int) -> str:
    """A grammar of the JSON texts that `schema` allows and that fit into `new_tokens`."""
    bounded_schema = {**bounded(schema, new_tokens), "x-guidance": ONE_LINE}
    return json.dumps({"grammars": [{"json_schema": bounded_schema}]})


def bounded(schema: Mapping[str, Any], new_tokens: int) -> dict[str, Any]:
    """`schema` with bounds where it has none, so that an answer ends in `new_tokens`.

    Texts get a `maxLength` by their number, lists a `maxItems`, numbers a `minimum` and a
    `maximum`; an object lists its properties and no others.
    """
    out = copy.deepcopy(dict(schema))
    nodes = list(_nodes(out))
    texts = [node for node in nodes if _is(node, "string") and _is_open(node)]
    names = len(json.dumps(out.get("properties", {}))) // 8  # the keys take room as well
    room = CHARACTERS_A_TOKEN * max(0, new_tokens - names // 4) // max(1, len(texts))
    for node in nodes:
        if _is(node, "string") and _is_open(node):
            node["maxLength"] = max(LEAST_CHARACTERS, room)
        if _is(node, "array"):
            node.setdefault("maxItems", max(MOST_ITEMS, node.get("minItems", 0)))
        if _is(node, "integer") or _is(node, "number"):
            _bound_number(node)
        if _is(node, "object") and "properties" in node:
            node.setdefault("additionalProperties", False)
    return out


def _is_open(node: Mapping[str, Any]) -> bool:
    """Tell a text that may be of any length."""
    return not any(key in node for key in ("maxLength", "enum", "const", "pattern", "format"))


def _bound_number(node: dict[str, Any]) -> None:
    if "enum" in node or "const" in node:
        return
    if "minimum" not in node and "exclusiveMinimum" not in node:
        node["minimum"] = min(-LARGEST, node.get("maximum", node.get("exclusiveMaximum", 0)))
    if "maximum" not in node and "exclusiveMaximum" not in node:
        node["maximum"] = max(LARGEST, node.get("minimum", node.get("exclusiveMinimum", 0)))


def _is(node: Mapping[str, Any], kind: str) -> bool:
    given = node.get("type")
    return given == kind or (isinstance(given, list) and kind in given)


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema within `schema`, itself first."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key in ("properties", "$defs", "definitions", "patternProperties"):
                for inner in value.values() if isinstance(value, dict) else ():
                    yield from _nodes(inner)
            elif key not in ("enum", "const", "default", "examples"):
                yield from _nodes(value)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _nodes(inner)
