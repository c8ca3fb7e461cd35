"""Metadata filters -> a condition of SQL, in which everything given is a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sharedllm.arguments import shown
from sharedllm.errors import ConfigError

OWN = ("id", "title", "source")
COMPARE = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPERATORS = (*COMPARE, "ne", "in", "nin", "contains", "empty")
JOINED = {"$and": " AND ", "$or": " OR "}  # filters in place of fields
NOT = "$not"
DEEPEST = 16  # filters within filters; SQLite's parser has a limit of its own
INTEGERS = range(-(1 << 63), 1 << 63)  # what SQLite holds
# not json_extract, which compares names as they are escaped in the JSON
FIELD = "(SELECT e.value FROM json_each(d.metadata) e WHERE e.key = ?)"
CONTAINS = (
    "EXISTS (SELECT 1 FROM json_each(d.metadata) e WHERE e.key = ? AND CASE e.type "
    "WHEN 'array' THEN EXISTS (SELECT 1 FROM json_each(e.value) v WHERE v.value = ?) "
    "WHEN 'text' THEN instr(e.value, ?) > 0 ELSE 0 END)"
)
EMPTY = (
    "NOT EXISTS (SELECT 1 FROM json_each(d.metadata) e WHERE e.key = ? AND e.type <> 'null' "
    "AND NOT (e.type IN ('array', 'text') AND e.value IN ('', '[]')))"
)
Condition = tuple[str, list[Any]]


def condition(given: Mapping[str, Any] | None, depth: int = 0) -> Condition:
    """A condition on the table `documents` under the name d, and its values.

    Parameters
    ----------
    given : fields to what they must be; all must hold. A field is one of the document's metadata,
        or "id", "title" or "source". What it must be is a value, a list of values (any of them), or
        a mapping of operators to values. "$or" and "$and" take a list of filters, "$not" one.

    Raises
    ------
    ConfigError
        If it is not of this form.
    """
    if given is None:
        return "1", []
    if not isinstance(given, Mapping):
        raise ConfigError(f"filter is {shown(given)}; give a mapping, such as {{'year': 1902}}")
    if depth > DEEPEST:
        raise ConfigError(f"filter holds filters in more than {DEEPEST} levels; allowed are fewer")
    parts, values = ["1"], list[Any]()
    for field, wanted in given.items():
        for part, own in _conditions(field, wanted, depth):
            parts.append(part)
            values += own
    return " AND ".join(parts), values


def _conditions(field: object, wanted: Any, depth: int) -> list[Condition]:
    """The conditions that one entry of a filter sets."""
    if not isinstance(field, str):
        raise ConfigError(f"filter names the field {shown(field)}; a field is a str")
    if field == NOT:
        part, values = condition(wanted, depth + 1)
        return [(f"({part}) IS NOT 1", values)]  # not NOT: a field may be missing
    if field in JOINED:
        return [_joined(field, wanted, depth)]
    operators = wanted if isinstance(wanted, Mapping) else {"in": _several(wanted)}
    return [_part(_text("name", field), operator, value) for operator, value in operators.items()]


def _joined(how: str, filters: Any, depth: int) -> Condition:
    if not isinstance(filters, list | tuple) or not filters:
        raise ConfigError(f"filter has {how!r} with {shown(filters)}; give it a list of filters")
    parts = [condition(one, depth + 1) for one in filters]
    joined = JOINED[how].join(f"({part})" for part, _ in parts)
    return f"({joined})", [value for _, own in parts for value in own]


def _part(field: str, operator: object, value: Any) -> Condition:
    column, names = (f"d.{field}", []) if field in OWN else (FIELD, [field])
    if operator in ("in", "nin"):
        several = [_plain(field, one) for one in _several(value)]
        part = f"{column} IN ({', '.join('?' * len(several))})"
        # a document without the field has none of the values
        return (part if operator == "in" else f"({part}) IS NOT 1"), names + several
    if operator == "ne":
        return f"{column} IS NOT ?", [*names, _plain(field, value)]
    if operator == "contains":
        plain = _plain(field, value)
        if field in OWN:
            return f"instr({column}, ?) > 0", [plain]
        return CONTAINS, [field, plain, plain]
    if operator == "empty":
        if not isinstance(value, bool):
            raise ConfigError(
                f"filter has {shown(field)} 'empty' with {shown(value)}; give True or False"
            )
        part, own = (f"{column} = ''", []) if field in OWN else (EMPTY, names)
        return (part if value else f"NOT ({part})"), own
    if operator in COMPARE:
        return _compared(column, names, str(operator), field, value)
    raise ConfigError(
        f"filter has the operator {shown(operator)} for {shown(field)}; "
        f"allowed: {', '.join(OPERATORS)}"
    )


def _compared(column: str, names: list[Any], operator: str, field: str, value: Any) -> Condition:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number and not isinstance(value, str):
        raise ConfigError(
            f"filter compares {shown(field)} with {shown(value)}; compare with a number or a str"
        )
    # numbers and texts do not compare: SQLite would call every text the larger one
    kind = "IN ('integer', 'real')" if number else "= 'text'"
    part = f"(typeof({column}) {kind} AND {column} {COMPARE[operator]} ?)"
    return part, [*names, *names, _plain(field, value)]


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _plain(field: str, value: Any) -> Any:
    """`value`, if SQLite can hold it."""
    if isinstance(value, str):
        return _text(field, value)
    too_large = isinstance(value, int) and value not in INTEGERS
    if not isinstance(value, int | float) or too_large or not math.isfinite(value):
        raise ConfigError(
            f"filter wants {shown(field)} to be {shown(value)}; allowed are str, booleans, finite "
            "numbers, and integers of 64 bits"
        )
    return value


def _text(field: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"filter has {shown(value)} for {shown(field)}: character {error.start} is half of a "
            "surrogate pair; give valid Unicode"
        ) from error
    return value
