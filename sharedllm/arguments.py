"""Arguments of public functions, held to their annotations before anything is read or stored."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import os
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sharedllm.errors import ConfigError, InputError, SharedLLMError

P = ParamSpec("P")
R = TypeVar("R")
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, on every file system in common use
ITEM = "item"
UNICODE = (
    "is half of a surrogate pair; decode the text with its own encoding, or with errors='replace'"
)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def shown(value: object) -> str:
    """Show a value in a message: shortened, and by its type where it cannot be shown."""
    try:
        return _short.repr(value)
    except Exception:  # a repr of the user's may raise anything; so does that of a very large int
        return f"<{type(value).__name__}>"


def unicode_problem(text: str) -> str:
    """Say what is wrong with a text that cannot be encoded; empty if it can be."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"character {error.start} {UNICODE}"
    return ""


@dataclass(frozen=True, slots=True)
class Rule:
    """The values that an annotation allows.

    Attributes
    ----------
    allowed : str
        Describes them.
    problem : function of a value
        Says what is wrong with it; empty if nothing is.
    """

    allowed: str
    problem: Callable[[Any], str]


def checked(
    *apart: str, error: type[SharedLLMError] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse arguments that are not what their annotations say, before the function runs.

    Beyond types, a str must be valid Unicode, a number finite, a path one that can exist; ``True``
    is not a number.

    Parameters
    ----------
    apart : arguments that the function checks itself
    error : raised for a wrong argument; None is InputError, and ConfigError for what can be given
        by its name only, as options are
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.values()
        places = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

        @functools.cache  # the annotations are names, which may be defined below the function
        def rules() -> dict[str, Rule]:
            return _rules_of(function, {*places, *options} - set(apart))

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            known = rules()
            for given in (zip(places, args, strict=False), kwargs.items()):
                for name, value in given:
                    rule = known.get(name)
                    if rule is not None:
                        kind = error or (ConfigError if name in options else InputError)
                        _require(name, value, rule, kind)
            return function(*args, **kwargs)

        return call

    return decorate


def check_fields(value: Any, error: type[SharedLLMError]) -> None:
    """Hold the fields of a dataclass to their annotations; call it in ``__post_init__``.

    Parameters
    ----------
    error : raised for a wrong one
    """
    for name, rule in _rules_of_fields(value.__class__).items():
        _require(name, getattr(value, name), rule, error)


def _require(name: str, value: object, rule: Rule, error: type[SharedLLMError]) -> None:
    problem = rule.problem(value)
    if problem.startswith(ITEM):
        raise error(f"{name}: {problem}")
    if problem:
        raise error(f"{name} is {shown(value)}; {problem}")


def _rules_of(function: Callable[..., Any], names: set[str]) -> dict[str, Rule]:
    own = {name: text for name, text in function.__annotations__.items() if name in names}
    holder = types.SimpleNamespace(__annotations__=own)
    hints = typing.get_type_hints(holder, globalns=getattr(function, "__globals__", None))
    return {name: rule for name, hint in hints.items() if (rule := rule_of(hint)) is not None}


@functools.cache
def _rules_of_fields(kind: Any) -> dict[str, Rule]:
    hints = typing.get_type_hints(kind)
    return {name: rule for name, hint in hints.items() if (rule := rule_of(hint)) is not None}


def rule_of(hint: Any) -> Rule | None:
    """Return the rule of an annotation; None if it allows everything.

    Raises
    ------
    TypeError
        For an annotation that no rule is known for.
    """
    if hint is Any or hint is object:
        return None
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(origin, "__value__"):  # an alias with parameters, as NumPy 2.5 has for arrays
        return rule_of(origin.__value__)
    if origin in (typing.Union, types.UnionType):
        return _union(inner)
    if origin is typing.Literal:
        return _of("one of " + ", ".join(map(repr, inner)), lambda value: _is_one(value, inner))
    kind = origin or hint
    if kind is os.PathLike:
        return Rule(_PATH, path_problem)
    if kind is Path:
        return Rule("a pathlib.Path", _path_object_problem)
    if kind is collections.abc.Callable:
        return _of("a function", callable)
    if not isinstance(kind, type):
        raise TypeError(f"{hint!r}: no rule for this annotation")
    if issubclass(kind, collections.abc.Mapping):
        return _mapping(kind, inner)
    if issubclass(kind, collections.abc.Iterable) and inner and kind.__module__ != "numpy":
        return _several(kind, inner)
    return _of(_called(kind), lambda value: _is(value, kind))


def _of(allowed: str, fits: Callable[[Any], object]) -> Rule:
    return Rule(allowed, lambda value: "" if fits(value) else f"it must be {allowed}")


def _called(kind: type) -> str:
    """Name a class in a message, with its package where that is not ours."""
    package = kind.__module__.partition(".")[0]
    name = kind.__name__ if package in ("builtins", "sharedllm") else f"{package}.{kind.__name__}"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _is(value: object, kind: type) -> bool:  # for mypy, which would narrow `value` to an object
    return isinstance(value, kind)


def _is_one(value: object, allowed: tuple[object, ...]) -> bool:
    # by type first: an array compares with each of them, value by value
    return any(type(value) is type(one) and value == one for one in allowed)


def _str_problem(value: object) -> str:
    return unicode_problem(value) if isinstance(value, str) else "it must be a str"


def _float_problem(value: object) -> str:
    return "" if is_finite(value) else "it must be a finite number"


def is_finite(value: object) -> bool:
    """Return True for an int or float that is a finite number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the floats
        return False


def path_problem(value: object) -> str:
    """Say why no file can be called `value`; empty if one can."""
    given = value
    if isinstance(value, os.PathLike):
        given = os.fspath(value)
    if not isinstance(given, str):
        return f"it must be {_PATH}"
    try:
        os.fsencode(given)
    except UnicodeEncodeError as error:
        return f"character {error.start} is half of a surrogate pair, which no path can hold"
    if "\0" in given:
        return "it holds a NUL character, which no path can"
    longest = max((len(os.fsencode(part)) for part in Path(given).parts), default=0)
    if longest > LONGEST_NAME or len(os.fsencode(given)) > LONGEST_PATH:
        return (
            f"a name in it has {longest:,} bytes; the name of a file can have {LONGEST_NAME}, and "
            f"a path {LONGEST_PATH:,}"
        )
    return ""


def _path_object_problem(value: object) -> str:
    return path_problem(value) if isinstance(value, Path) else "it must be a pathlib.Path"


_PATH = "a path"
_PLAIN: dict[Any, Rule] = {
    str: Rule("a str", _str_problem),
    bool: _of("True or False", lambda value: isinstance(value, bool)),
    int: _of(
        "a whole number (int)", lambda value: isinstance(value, int) and not isinstance(value, bool)
    ),
    float: Rule("a finite number", _float_problem),
    None: _of("None", lambda value: value is None),
    type(None): _of("None", lambda value: value is None),
}


def _union(hints: tuple[Any, ...]) -> Rule | None:
    kinds = list(hints)
    if any(typing.get_origin(hint) is os.PathLike for hint in kinds):
        kinds = [hint for hint in kinds if hint is not str]  # that str is a path as well
    rules = [rule_of(hint) for hint in kinds]
    if None in rules:
        return None
    known = [rule for rule in rules if rule is not None]
    allowed = " or ".join(rule.allowed for rule in known)

    def problem(value: object) -> str:
        found = [rule.problem(value) for rule in known]
        if "" in found:
            return ""
        # of a str that is refused for its characters, and of a list for one of its items
        inner = [text for text in found if not text.startswith("it must be ")]
        return inner[0] if inner else f"it must be {allowed}"

    return Rule(allowed, problem)


def _several(kind: type, inner: tuple[Any, ...]) -> Rule:
    """A rule for lists, sets and other iterables; only what can be read twice is looked into."""
    if kind is tuple and Ellipsis not in inner:
        return _pair(inner)
    rule = rule_of(inner[0])
    name = "tuple" if kind is tuple else "list"
    allowed = f"a {name}" + (f" of {rule.allowed.removeprefix('a ')}" if rule else "")
    once = not issubclass(kind, collections.abc.Collection)

    def problem(value: Any) -> str:
        if isinstance(value, str | bytes | bytearray) or not _is(value, kind):
            return f"it must be {allowed}"
        if rule is None or (once and not isinstance(value, collections.abc.Collection)):
            return ""
        for index, item in enumerate(value):
            found = rule.problem(item)
            if found:
                return f"{ITEM} {index} is {shown(item)}; {found}"
        return ""

    return Rule(allowed, problem)


def _pair(inner: tuple[Any, ...]) -> Rule:
    """A rule for tuples of a fixed length."""
    rules = [rule_of(hint) for hint in inner]
    allowed = "a tuple of " + " and ".join(rule.allowed if rule else "anything" for rule in rules)

    def problem(value: Any) -> str:
        if not isinstance(value, tuple) or len(value) != len(rules):
            return f"it must be {allowed}"
        found = (rule.problem(item) for rule, item in zip(rules, value, strict=True) if rule)
        return next(filter(None, found), "")

    return Rule(allowed, problem)


def _mapping(kind: type, inner: tuple[Any, ...]) -> Rule:
    """A rule for mappings by str; what they hold is for their user to check."""

    def problem(value: Any) -> str:
        if not _is(value, kind):
            return "it must be a mapping"
        for key in value:
            found = _str_problem(key)
            if found:
                return f"its key {shown(key)} cannot be used; {found}"
        return ""

    return Rule("a mapping", problem)


OPTIONS = _mapping(collections.abc.Mapping, ())
