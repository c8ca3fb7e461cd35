"""Arguments are held to their annotations, and a wrong one is named with what is allowed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pytest
from typing_extensions import TypeAliasType

from sharedllm.arguments import check_fields, checked, path_problem, rule_of, shown
from sharedllm.errors import ConfigError, DocumentError, InputError


@checked("own")
def take(
    text: str = "",
    count: int = 0,
    path: str | os.PathLike[str] | None = None,
    items: Sequence[str] = (),
    own: str = "",
    *,
    share: float = 0.0,
    on: bool = False,
    kind: Literal["a", "b"] = "a",
    work: Callable[[int], int] | None = None,
    values: Mapping[str, Any] | None = None,
    pair: tuple[int, str] = (0, ""),
    given: Iterable[str] = (),
    **more: Any,
) -> tuple[Any, ...]:
    return (text, count, path, items)


@pytest.mark.parametrize(
    "given",
    [
        {"text": "\U0001f4a5", "count": 2**70, "path": Path("a"), "items": ["b"]},
        {"path": "a/b", "items": ("b",), "share": 1, "kind": "b", "values": {"a": object()}},
        {"own": 5, "more": b"x", "work": len, "pair": (1, "x"), "given": (one for one in "ab")},
        {"path": None, "on": True, "share": np.float64(0.5)},
    ],
)
def test_what_is_allowed_arrives_unchanged(given: dict[str, Any]) -> None:
    found = take(**given)
    assert found == tuple(
        given.get(name, default)
        for name, default in (("text", ""), ("count", 0), ("path", None), ("items", ()))
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("text", 5, "text is 5; it must be a str"),
        ("text", b"x", "text is b'x'; it must be a str"),
        ("text", "a\ud800b", "character 1 is half of a surrogate pair"),
        ("count", True, "count is True; it must be a whole number"),
        ("count", 1.0, "count is 1.0; it must be a whole number"),
        ("count", np.int64(3), "it must be a whole number"),
        ("path", 5, "path is 5; it must be a path or None"),
        ("path", b"a", "it must be a path or None"),
        ("path", "a\0b", "a NUL character"),
        ("path", "a\ud800", "half of a surrogate pair, which no path can hold"),
        ("path", "x" * 256, "a name in it has 256 bytes; the name of a file can have 255"),
        ("items", "text", "items is 'text'; it must be a list of str"),
        ("items", ["a", 2], "items: item 1 is 2; it must be a str"),
        ("items", (one for one in "ab"), "it must be a list of str"),
    ],
)
def test_a_wrong_argument_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        take(**{name: value})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("share", float("nan"), "share is nan; it must be a finite number"),
        ("share", 10**400, "it must be a finite number"),
        ("on", 1, "on is 1; it must be True or False"),
        ("kind", "c", "kind is 'c'; it must be one of 'a', 'b'"),
        ("kind", np.array(["a", "b"]), "it must be one of 'a', 'b'"),
        ("work", "len", "work is 'len'; it must be a function or None"),
        ("values", [1], "values is [1]; it must be a mapping or None"),
        ("values", {1: 2}, "its key 1 cannot be used; it must be a str"),
        ("pair", (1, 2), "it must be a str"),
        ("pair", (1,), "it must be a tuple of a whole number (int) and a str"),
        ("given", "text", "it must be a list of str"),
    ],
)
def test_a_wrong_option_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        take(**{name: value})
    assert message in str(error.value)


def test_what_is_left_out_is_the_functions_own_and_names_are_pythons() -> None:
    assert take("x", own=5, anything=object())[0] == "x"  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="multiple values"):
        take("x", text="y")  # type: ignore[misc]


def test_the_error_can_be_chosen() -> None:
    @checked(error=DocumentError)
    def read(*, text: str) -> str:
        return text

    with pytest.raises(DocumentError, match="text is 5; it must be a str"):
        read(text=5)  # type: ignore[arg-type]


def test_an_annotation_without_a_rule_is_no_silent_pass() -> None:
    with pytest.raises(TypeError, match="no rule for this annotation"):
        rule_of(TypeVar("T"))


def test_an_alias_with_parameters_is_what_it_stands_for() -> None:
    kind = TypeVar("kind")
    array = TypeAliasType("array", np.ndarray, type_params=(kind,))  # as NumPy 2.5 has NDArray
    rule = rule_of(array[np.float32])
    assert rule is not None
    assert not rule.problem(np.zeros(3, np.float32))
    assert "ndarray" in rule.problem([0.0])


@dataclass
class Fields:
    name: str = ""
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)


def test_fields_are_held_as_arguments_are() -> None:
    assert Fields("a", (1, 2)).sizes == (1, 2)
    with pytest.raises(ConfigError, match="name is None; it must be a str"):
        Fields(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sizes: item 0 is 'a'; it must be a whole number"):
        Fields("a", ("a",))  # type: ignore[arg-type]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_value_is_shown_briefly_whatever_it_is() -> None:
    assert shown(10**5000) == "<int>"
    assert shown(Unprintable()).startswith("<Unprintable")
    assert len(shown("x" * 10_000)) < 100
    assert "\ud800" not in shown("a\ud800")


def test_paths_of_other_encodings_can_be_named() -> None:
    assert path_problem("a\udcff") == ""  # a file whose name is not UTF-8, as Python spells it
    assert path_problem(Path("a/" + "x" * 255)) == ""
    assert "can have 255" in path_problem(Path("a") / ("\u20ac" * 86) / "b")
    assert "a path 4,095" in path_problem("a/" * 3000)
