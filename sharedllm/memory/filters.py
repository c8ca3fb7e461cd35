"""Metadata filters -> a condition of SQL, in which everything given is a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharedllm.errors import ConfigError

OWN = ("id", "title", "source")
COMPARE = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPERATORS = (*COMPARE, "ne", "in")


def condition(given: Mapping[str, Any] | None) -> tuple[str, list[Any]]:
    """A condition on the table `documents` under the name d, and its values.

    Parameters
    ----------
    given : fields to what they must be; all must hold. A field is one of the document's metadata,
        or "id", "title" or "source". What it must be is a value, a list of values (any of them), or
        a mapping of operators to values.

    Raises
    ------
    ConfigError
        If it is not of this form.
    """
    if given is None:
        return "1", []
    if not isinstance(given, Mapping):
        raise ConfigError(f"filter is {given!r}; give a mapping, such as {{'year': 1902}}")
    parts, values = ["1"], []
    for field, wanted in given.items():
        column, names = _column(field)
        operators = wanted if isinstance(wanted, Mapping) else {"in": _several(wanted)}
        for operator, value in operators.items():
            part, own = _part(column, str(field), operator, value)
            parts.append(part)
            values += names * part.count(column) + own
    return " AND ".join(parts), values


def _column(field: object) -> tuple[str, list[str]]:
    if not isinstance(field, str):
        raise ConfigError(f"filter names the field {field!r}; a field is a str")
    if field in OWN:
        return f"d.{field}", []
    # not json_extract, which compares names as they are escaped in the JSON
    return "(SELECT e.value FROM json_each(d.metadata) e WHERE e.key = ?)", [field]


def _part(column: str, field: str, operator: object, value: Any) -> tuple[str, list[Any]]:
    if operator == "in":
        several = _several(value)
        marks = ", ".join("?" * len(several))
        return f"{column} IN ({marks})", [_plain(field, v) for v in several]
    if operator == "ne":
        return f"{column} IS NOT ?", [_plain(field, value)]
    if operator in COMPARE:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not isinstance(value, str):
            raise ConfigError(
                f"filter compares {field!r} with {value!r}; compare with a number or a str"
            )
        # numbers and texts do not compare: SQLite would call every text the larger one
        kind = "IN ('integer', 'real')" if number else "= 'text'"
        part = f"(typeof({column}) {kind} AND {column} {COMPARE[str(operator)]} ?)"
        return part, [value]
    raise ConfigError(
        f"filter has the operator {operator!r} for {field!r}; allowed: {', '.join(OPERATORS)}"
    )


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _plain(field: str, value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise ConfigError(
            f"filter wants {field!r} to be {value!r}; allowed are str, numbers and booleans"
        )
    return value
