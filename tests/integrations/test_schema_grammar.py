"""Schemas of every kind: a random model's answers follow them, end in time, and are checked."""

from __future__ import annotations

import json
from datetime import date, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel, create_model

from sharedllm import SharedLLM
from sharedllm_integrations.errors import AnswerFormatError, SetupError
from sharedllm_integrations.schema_grammar import bounded, is_recursive, schema_grammar
from sharedllm_integrations.structured_output import (
    class_object,
    class_schema,
    read_json,
    require_schema,
    require_valid,
    schema_of,
)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Job(BaseModel):
    company: str
    title: str


class Team(BaseModel):
    name: str
    jobs: list[Job]
    skills: list[str]


class Tree(BaseModel):
    name: str
    kids: list[Tree] = []


class Chain(BaseModel):
    value: int
    rest: Chain | None = None


class Sum(BaseModel):
    sign: Literal["+", "*"]
    left: Sum | int
    right: Sum | int


class Staff(BaseModel):
    name: str
    reports: dict[str, Staff] = {}


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int


class Exact(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    day: date
    pair: tuple[int, str]


class Endless(BaseModel):
    inner: Endless


def made(**fields: Any) -> type[BaseModel]:
    return create_model("Made", **{name: (kind, ...) for name, kind in fields.items()})  # type: ignore[call-overload,no-any-return]


CLASSES: dict[str, Any] = {
    "nested lists": Team,
    "a tree": Tree,
    "a chain": Chain,
    "a sum": Sum,
    "a dict of itself": Staff,
    "enums": made(color=Color, colors=list[Color], known=dict[Color, int]),
    "unions": made(a=int | str | bool, b=float | None),
    "discriminated": made(pets=list[Annotated[Cat | Dog, Field(discriminator="kind")]]),
    "dicts": made(counts=dict[str, int], lists=dict[str, list[str]]),
    "dates": made(day=date, id=UUID),
    "constrained": made(
        code=Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{1,4}$")],
        few=Annotated[list[int], Field(min_length=2, max_length=3)],
        share=Annotated[float, Field(gt=0, le=1)],
        step=Annotated[int, Field(multiple_of=5, ge=0, le=100)],
        price=Annotated[Decimal, Field(ge=0)] | None,
    ),
    "sets and tuples": made(a=set[int], b=frozenset[Color], c=tuple[int, str], d=tuple[int, ...]),
    "anything": made(a=Any, b=dict[str, Any], c=JsonValue),
    "a list": RootModel[list[Job]],
    "open": Open,
    "exact": Exact,
    "empty": made(),
    "unusual names": create_model("Odd", **{"größe": (int, ...), 'a"b\\c': (int, 1)}),  # type: ignore[call-overload]
    "long lists": made(a=Annotated[list[int], Field(min_length=30)]),
}
PLAIN: dict[str, Any] = {
    "all of": {
        "$defs": {"Base": {"type": "object", "properties": {"id": {"type": "integer"}}}},
        "allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"x": {"type": "boolean"}}}],
        "required": ["id", "x"],
    },
    "any of beside properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "the root in itself": {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["v", "kids"],
    },
    "patterns of names": {
        "type": "object",
        "patternProperties": {"^x_": {"type": "integer"}},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "names": {
        "type": "object",
        "propertyNames": {"enum": ["a", "b"]},
        "additionalProperties": {"type": "boolean"},
        "minProperties": 2,
    },
    "fewest properties": {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in "abc"},
        "minProperties": 2,
    },
    "an old draft": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "object",
        "properties": {
            "x": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            "y": {"type": "array", "items": [{"type": "integer"}, {"type": "boolean"}]},
        },
        "required": ["x", "y"],
    },
    "escaped references": {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/a~1b%20c"}},
        "$defs": {"a/b c": {"enum": ['a"b', "\n", None, {"c": [1]}]}},
        "required": ["x"],
    },
    "small numbers": {
        "type": "object",
        "properties": {"x": {"type": "number", "minimum": 1e-9, "maximum": 1e-8}},
        "required": ["x"],
    },
    "no types": {"properties": {"a": {}}, "required": ["a", "b"]},
}


def filled(llm: SharedLLM, schema: dict[str, Any], seed: int) -> Any:
    """What a random model writes under the grammar: the wildest answer that it allows."""
    grammar = schema_grammar(schema, 256, 0.5)
    options: Any = {"max_new_tokens": 1500, "temperature": 1.5, "seed": seed}
    answer = llm.answer("?", grammar=grammar, **options)
    return read_json(answer.text, finish_reason=answer.finish_reason, new_tokens=1500)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_random_model_gives_objects_of_any_class(llm: SharedLLM, kind: str) -> None:
    cls = CLASSES[kind]
    assert isinstance(class_object(cls, filled(llm, class_schema(cls), seed=1)), cls)


def test_a_value_that_the_grammar_allows_and_the_class_does_not_is_an_error(llm: SharedLLM) -> None:
    value = filled(llm, class_schema(made(hour=time)), seed=1)
    with pytest.raises(AnswerFormatError, match=r"(?s)no Made.*only checked afterwards"):
        class_object(made(hour=Annotated[time, Field(lt=time(0, 0))]), value)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_random_model_follows_any_schema(llm: SharedLLM, kind: str) -> None:
    require_valid(filled(llm, PLAIN[kind], seed=2), require_schema(PLAIN[kind]))


# -- bounds ----------------------------------------------------------------------------------------


def longest(held: dict[str, Any], whole: dict[str, Any]) -> int:
    """The characters of the longest JSON text of a rewritten schema, of plain parts."""
    if "$ref" in held:
        return longest(whole["$defs"][held["$ref"].rpartition("/")[2]], whole)
    if held["type"] == "string":
        return int(held["maxLength"]) + 2
    if held["type"] == "array":
        return 2 + int(held["maxItems"]) * (2 + longest(held["items"] or {"type": "null"}, whole))
    inner = held.get("properties", {}).items()
    return 2 + sum(len(name) + 6 + longest(one, whole) for name, one in inner)


@pytest.mark.parametrize("cls", [Team, Tree])
@pytest.mark.parametrize("tokens", [128, 256, 1000])
def test_bounds_count_repetitions(cls: type[BaseModel], tokens: int) -> None:
    held = bounded(class_schema(cls), tokens)
    assert tokens < longest(held, held) <= 2 * tokens


def test_texts_outside_lists_get_more_room() -> None:
    schema = class_schema(made(summary=str, tags=list[str]))
    held = bounded(schema, 256)["properties"]
    assert held["summary"]["maxLength"] > 100
    assert held["tags"]["items"]["maxLength"] >= 24
    assert held["tags"]["maxItems"] >= 5


def test_recursion_is_seen_and_ends() -> None:
    assert is_recursive(class_schema(Tree))
    assert not is_recursive(class_schema(Team))
    with pytest.raises(SetupError, match="holds itself without end"):
        bounded(class_schema(Endless), 256)
    with pytest.raises(SetupError, match=r"refers to '#/nowhere'"):
        bounded({"properties": {"a": {"$ref": "#/nowhere"}}}, 256)


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    schema = {
        "type": "object",
        "properties": {"$ref": {"type": "boolean"}, "enum": {"type": "null"}},
    }
    assert set(bounded(schema, 100)["properties"]) == {"$ref", "enum"}


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"a": 1', '[{"a": 1}', '"abc', "12", "tru", ""])
def test_what_was_cut_is_no_value(text: str) -> None:
    with pytest.raises(AnswerFormatError, match=r"cut after 9 tokens.*raise max_tokens"):
        read_json(text, finish_reason="length", new_tokens=9)


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", '"abc"'])
def test_what_ends_with_the_last_token_is_whole(text: str) -> None:
    assert read_json(text, finish_reason="length", new_tokens=9) == json.loads(text)


@pytest.mark.parametrize(
    "given", [3, "json", dict, {"type": "nonsense"}, {"type": "json_schema", "schema": {"type": 3}}]
)
def test_what_is_no_schema_is_refused(given: Any) -> None:
    with pytest.raises(SetupError):
        schema_of(given)


def test_forms_of_an_answer() -> None:
    assert schema_of({"type": "text"}) is None
    assert schema_of({"type": "json_object"}) == {"type": "object"}
    assert schema_of(Team) == class_schema(Team)
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(500):
        deep = {"type": "object", "properties": {"a": deep}}
    with pytest.raises(SetupError, match="too deeply"):
        schema_of(deep)


def test_a_pattern_that_python_cannot_read_is_named() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^\p{Lu}"}}}
    with pytest.raises(AnswerFormatError, match="change the pattern"):
        require_valid({"a": "X"}, schema)
