"""Reads the short form of our docstrings, `name : what it is`, as a description, not a type."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Any

import griffe

ITEM = re.compile(r"(?P<names>\w[\w, ]*) : (?P<rest>.+)")
TYPE = re.compile(
    r"(str|int|float|bool|tuple|list|mapping|callable|sequence|\{|[A-Z]\w+)([ ,|}\[\"\w.]|$)*"
)

ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(?P<name>\w+)`")  # Sphinx's way to name things


def described(text: str) -> str:
    """`text` with every item's words on a line of their own where they are no type."""
    lines, out, inside = text.split("\n"), [], False
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if re.fullmatch("-+", following.strip() or " "):
            inside = line.strip() in ("Parameters", "Attributes")
        item = ITEM.fullmatch(line) if inside else None
        if item is None or _is_type(item["rest"], following):
            out.append(line)
        else:
            more = list(takewhile(lambda one: one.startswith("    "), lines[number + 1 :]))
            *names, last = item["names"].split(", ")
            for name in names:  # one by one: names in one item would all get the first one's type
                out += [name, f"    {item['rest']}", *more]
            out += [last, f"    {item['rest']}"]
    return "\n".join(out)


def _is_type(rest: str, following: str) -> bool:
    """Whether words behind a name are its type, with the description indented below."""
    indented = following.startswith("    ") and following.strip()[:1]
    if not indented:
        return rest in ("str", "int", "float", "bool")
    return not rest.endswith(",") and (following.strip()[0].isupper() or bool(TYPE.fullmatch(rest)))


class ShortForm(griffe.Extension):
    """What mkdocstrings loads."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of what has just been read."""
        if obj.docstring is not None:
            plain = ROLE.sub(lambda m: f"`{m['name']}`", obj.docstring.value)
            obj.docstring.value = described(plain)
