"""A JSON schema -> a grammar of the answers that it allows and that end in time.

A grammar holds less than a schema can say, and a small model fills whatever room it is given. So
the schema is rewritten: what no grammar holds is left out (the answer is checked afterwards,
:mod:`~sharedllm_integrations.structured_output`), references to itself end after a few levels, and
texts, lists and numbers without bounds get some. How much room one text has depends on how often
the lists around it repeat it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from sharedllm_integrations.errors import SetupError

LARGEST = 10**12  # of a number without bounds, which a small model might write for ever
SMALLEST = 1e-6  # step of such a number
CHARACTERS_A_TOKEN = 2.0  # of JSON, at least, for the usual tokenizers
KEY = 16  # characters of a key that the schema does not name
LEVELS = 12  # of a reference to itself, at most, before a schema counts as endless
MOST_MERGED = 32  # alternatives of one place
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
# tokens of a value of these types, in characters; numbers are mostly short
COSTS = {"integer": 8, "number": 10, "boolean": 5, "null": 4}

# characters of formats
FORMATS = {"date": 10, "time": 15, "date-time": 27, "uuid": 36, "ipv4": 15, "duration": 10}
WIDE = 40  # characters that a format or a pattern may need

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of what has none.

    Attributes
    ----------
    items : of a list, and keys of an object that names none
    inner, outer : characters of a text within such a list, and of one outside
    levels : of a reference to itself
    """

    items: int
    inner: int
    outer: int
    levels: int = 2

    def grown(self, factor: float) -> Bounds:
        """These bounds with longer texts."""
        return replace(self, inner=int(self.inner * factor), outer=int(self.outer * factor))


LADDER = (  # the first that fits is taken, with texts as long as they can be
    Bounds(16, 40, 200),
    Bounds(12, 32, 120),
    Bounds(8, 24, 80),
    Bounds(6, 24, 60),
    Bounds(5, 24, 48),
    Bounds(4, 24, 40),
    Bounds(3, 24, 32),
    Bounds(2, 24, 24),
    Bounds(1, 24, 24),
)


def schema_grammar(
    schema: Schema, new_tokens: int, characters_a_token: float = CHARACTERS_A_TOKEN
) -> str:
    """A grammar of the JSON texts that `schema` allows and that fit into `new_tokens`."""
    held = bounded(schema, new_tokens, characters_a_token)
    return json.dumps({"grammars": [{"json_schema": {**held, "x-guidance": ONE_LINE}}]})


def bounded(
    schema: Schema, new_tokens: int, characters_a_token: float = CHARACTERS_A_TOKEN
) -> dict[str, Any]:
    """The part of `schema` that a grammar holds, bounded so that an answer ends in `new_tokens`.

    An object has the properties that it lists and no others. Where even the shortest bounds do not
    fit, an answer can still be cut.

    Parameters
    ----------
    characters_a_token : of JSON, by the model's tokenizer

    Raises
    ------
    SetupError
        If nothing follows the schema, or it refers to something that it does not hold.
    """
    room = int(new_tokens * characters_a_token)
    held = None
    for bounds in LADDER:
        for levels in (3, 2):
            held = _Rewriting(schema, replace(bounds, levels=levels))
            if held.root is not None and held.cost <= room:
                return _longest(schema, held, room).whole
    for levels in range(1, LEVELS):
        held = _Rewriting(schema, replace(LADDER[-1], levels=levels))
        if held.root is not None:
            return held.whole
    raise SetupError(
        "no answer can follow the schema: something that it requires is forbidden, or holds itself "
        "without end; make that optional"
    )


def is_recursive(schema: Schema) -> bool:
    """Tell a schema that refers to itself."""
    return bool(_cyclic(schema))


def _longest(schema: Schema, held: _Rewriting, room: int) -> _Rewriting:
    """`held` with texts as long as `room` allows."""
    short, long = 1.0, 64.0
    while long - short > 0.1:
        middle = (short + long) / 2
        tried = _Rewriting(schema, held.bounds.grown(middle))
        if tried.cost <= room:
            short, held = middle, tried
        else:
            long = middle
    return held


class _Rewriting:
    """A schema rewritten within `bounds`.

    Attributes
    ----------
    root : the rewritten schema; None where no answer could follow it
    cost : characters of the longest answer
    """

    def __init__(self, schema: Schema, bounds: Bounds) -> None:
        self.bounds = bounds
        self._schema = schema
        self._cyclic = _cyclic(schema)
        self._names: dict[str, str] = {}
        self._definitions: dict[str, dict[str, Any] | None] = {}
        self._costs: dict[str, int] = {}
        entered = schema.get("$ref") in self._cyclic  # the first level is the answer itself
        self.root = self._place(schema, bounds.levels + entered, in_list=False)
        self.cost = 0 if self.root is None else self._cost(self.root)

    @property
    def whole(self) -> dict[str, Any]:
        """The schema with its definitions."""
        used = {name: one for name, one in self._definitions.items() if one is not None}
        return {**(self.root or {}), **({"$defs": used} if used else {})}

    # -- references and combinations ---------------------------------------------------------------

    def _place(self, schema: Any, levels: int, *, in_list: bool) -> dict[str, Any] | None:
        """The rewritten schema of one place; None if nothing can stand there.

        Parameters
        ----------
        levels : of references to themselves that may still be entered
        in_list : whether a list may repeat it
        """
        if isinstance(schema, Mapping) and "$ref" in schema and not _plain(schema, "$ref"):
            return self._reference(schema["$ref"], levels, in_list=in_list)
        flat, levels = self._flat(schema, levels)
        if flat is None:
            return None
        for key in ("anyOf", "oneOf"):
            if key in flat:
                rest = {name: value for name, value in flat.items() if name != key}
                return self._either(rest, flat[key], levels, in_list=in_list)
        return self._value(flat, levels, in_list=in_list)

    def _reference(self, pointer: str, levels: int, *, in_list: bool) -> dict[str, Any] | None:
        if pointer in self._cyclic:
            levels -= 1
        if levels < 0:
            return None
        number = self._names.setdefault(pointer, f"d{len(self._names)}")
        name = f"{number}_{levels}{'i' if in_list else ''}"
        if name not in self._definitions:
            target = _target(self._schema, pointer)
            self._definitions[name] = self._place(target, levels, in_list=in_list)
        return None if self._definitions[name] is None else {"$ref": f"#/$defs/{name}"}

    def _flat(self, schema: Any, levels: int) -> tuple[dict[str, Any] | None, int]:
        """`schema` with what it refers to and all of its ``allOf`` in one."""
        if isinstance(schema, bool):
            return ({} if schema else None), levels
        if not isinstance(schema, Mapping):
            raise SetupError(f"a schema holds {schema!r} where a schema should stand")
        flat: dict[str, Any] | None = _plain(schema, "$ref", "allOf")
        parts = list(schema.get("allOf", ()))
        if "$ref" in schema:
            levels -= schema["$ref"] in self._cyclic
            if levels < 0:
                return None, levels
            parts.insert(0, _target(self._schema, schema["$ref"]))
        for part in parts:
            other, levels = self._flat(part, levels)
            flat = None if flat is None or other is None else _merged(flat, other)
        return flat, levels

    def _either(
        self, rest: Schema, given: Sequence[Any], levels: int, *, in_list: bool
    ) -> dict[str, Any] | None:
        """One of several schemas; what stands beside them holds for each."""
        out: list[dict[str, Any]] = []
        loose: list[dict[str, Any]] = []
        for one in given[:MOST_MERGED]:
            alone: Any = one
            at = levels
            if rest:
                flat, at = self._flat(one, levels)
                alone = False if flat is None else _merged(rest, flat)
            found = self._place(alone, at, in_list=in_list)
            kept = loose if found is not None and _is_loose(alone, found) else out
            if found is not None and found not in kept:
                kept.append(found)
        if all(one == {"type": "null"} for one in out):
            out = loose + out
        if len(out) < 2:
            return out[0] if out else None
        return {"anyOf": out}

    # -- values ------------------------------------------------------------------------------------

    def _value(self, flat: Schema, levels: int, *, in_list: bool) -> dict[str, Any] | None:
        kinds = _kinds(flat)
        if "type" in flat and not kinds:
            return None
        if "enum" in flat:
            values = [one for one in flat["enum"] if _kind(one) & set(kinds or TYPES)]
            return {"enum": values} if values else None
        if not kinds:
            kinds = ["string", "number", "boolean", "null"]
            if levels > 0:  # what holds anything holds it to some depth
                kinds, levels = ["string", "number", "boolean", "null", "array", "object"], 0
        made = [self._typed(kind, flat, levels, in_list=in_list) for kind in kinds]
        out = [one for one in made if one is not None]
        if len(out) < 2:
            return out[0] if out else None
        return {"anyOf": out}

    def _typed(
        self, kind: str, flat: Schema, levels: int, *, in_list: bool
    ) -> dict[str, Any] | None:
        if kind == "object":
            return self._object(flat, levels, in_list=in_list)
        if kind == "array":
            return self._array(flat, levels, in_list=in_list)
        if kind == "string":
            return self._text(flat, self.bounds.inner if in_list else self.bounds.outer)
        if kind in ("integer", "number"):
            return _number(kind, flat)
        return {"type": kind}

    def _text(self, flat: Schema, room: int) -> dict[str, Any] | None:
        least = flat.get("minLength", 0)
        most = flat.get("maxLength", max(least, room))
        if least > most:
            return None
        out: dict[str, Any] = {"type": "string", "maxLength": max(least, min(most, room))}
        if least:
            out["minLength"] = least
        for key in ("format", "pattern"):  # of both, the grammar takes one
            if key in flat:
                wide = FORMATS.get(flat[key], WIDE) if key == "format" else max(room, WIDE)
                held = {**out, key: flat[key], "maxLength": min(most, max(least, wide))}
                if _holds(held):
                    return held
        return out

    def _array(self, flat: Schema, levels: int, *, in_list: bool) -> dict[str, Any] | None:
        first: Sequence[Any] = flat.get("prefixItems", ())
        rest: Any = flat.get("items", not first)
        if isinstance(rest, list):  # as older drafts spell a tuple
            first, rest = rest, flat.get("additionalItems", False)
        least = flat.get("minItems", 0)
        most = flat.get("maxItems", max(self.bounds.items, len(first), least))
        prefix: list[dict[str, Any]] = []
        for one in first[:most]:
            found = self._place(one, levels, in_list=in_list)
            if found is None:
                most = min(most, len(prefix))
                break
            prefix.append(found)
        items = self._place(rest, levels, in_list=True) if most > len(prefix) else None
        if items is None:
            most = min(most, len(prefix))
        elif flat.get("uniqueItems") and "enum" in items:
            most = min(most, len(prefix) + len(items["enum"]))
        if least > most:
            return None
        most = max(least, min(most, max(self.bounds.items, len(prefix))))
        out: dict[str, Any] = {"type": "array", "maxItems": most}
        if least:
            out["minItems"] = least
        if prefix:
            out["prefixItems"] = prefix
        return {**out, "items": False if items is None else items}

    def _object(self, flat: Schema, levels: int, *, in_list: bool) -> dict[str, Any] | None:
        given = dict(flat.get("properties", {}))
        required = list(dict.fromkeys(flat.get("required", ())))
        others = flat.get("additionalProperties", "properties" not in flat)
        for name in required:
            given.setdefault(name, flat.get("additionalProperties", True))
        names = _plain(self._flat(flat.get("propertyNames", True), levels)[0] or {})
        if not given and "enum" in names:
            given = {name: others for name in names["enum"] if isinstance(name, str)}
        if not given:
            return self._mapping({**flat, "additionalProperties": others}, names, levels)
        properties = {}
        for name, schema in given.items():
            found = self._place(schema, levels, in_list=in_list)
            if found is not None:
                properties[name] = found
            elif name in required:
                return None
        free = [name for name in properties if name not in required]
        least, most = flat.get("minProperties", 0), flat.get("maxProperties", len(properties))
        needed = max(0, least - len(required))
        if len(required) > most or needed > len(free):
            return None
        for name in free[max(needed, most - len(required)) :]:
            del properties[name]
        return {
            "type": "object",
            "properties": properties,
            "required": [*required, *free[:needed]],
            "additionalProperties": False,
        }

    def _mapping(self, flat: Schema, names: Schema, levels: int) -> dict[str, Any] | None:
        """An object with keys that the schema does not name."""
        values = {}
        for pattern, schema in flat.get("patternProperties", {}).items():
            values[_short(pattern)] = self._place(schema, levels, in_list=True)
        if not values:
            key = _short(names["pattern"]) if "pattern" in names else ""
            others = flat["additionalProperties"]
            values[key] = self._place(others, levels, in_list=True)
        anything = f'^[^"\\\\\\x00-\\x1f]{{1,{KEY}}}$'
        held = {
            pattern if pattern and _holds({"type": "string", "pattern": pattern}) else anything: one
            for pattern, one in values.items()
            if one is not None
        }
        least = flat.get("minProperties", 0)
        most = min(flat.get("maxProperties", self.bounds.items), self.bounds.items)
        if not held:
            empty = {"type": "object", "properties": {}, "additionalProperties": False}
            return None if least else empty
        return {
            "type": "object",
            "patternProperties": held,
            "additionalProperties": False,
            "minProperties": least,
            "maxProperties": max(least, most),
        }

    # -- the longest answer ------------------------------------------------------------------------

    def _cost(self, held: Schema) -> int:
        """The characters of the longest value of a rewritten schema."""
        if "$ref" in held:
            name = held["$ref"].rpartition("/")[2]
            if name not in self._costs:
                self._costs[name] = self._cost(self._definitions[name] or {})
            return self._costs[name]
        if "anyOf" in held:
            return max(map(self._cost, held["anyOf"]))
        if "enum" in held:
            return max(len(json.dumps(one, ensure_ascii=False)) for one in held["enum"])
        kind = held["type"]
        if kind == "string":  # each digit is a token, and most formats are full of them
            return 2 + int(held["maxLength"]) * (2 if held.get("format") in FORMATS else 1)
        if kind == "array":
            first = held.get("prefixItems", [])
            repeated = held["maxItems"] - len(first)
            each = 0 if held["items"] is False else repeated * (2 + self._cost(held["items"]))
            return 2 + sum(2 + self._cost(one) for one in first) + each
        if kind == "object":
            listed = held.get("properties", {}).items()
            named = sum(6 + len(name) + self._cost(one) for name, one in listed)
            free = [6 + KEY + self._cost(one) for one in held.get("patternProperties", {}).values()]
            return int(2 + named + held.get("maxProperties", 0) * max(free, default=0))
        return COSTS[kind]


# -- parts of schemas ------------------------------------------------------------------------------

HELD = (
    *("type", "enum", "anyOf", "oneOf", "properties", "required", "additionalProperties"),
    *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
    *("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),
    *("minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
)
OF_KIND = {  # keywords that only say something of one type
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties"),
        *("propertyNames", "minProperties", "maxProperties"),
    ),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def _plain(schema: Schema, *but: str) -> dict[str, Any]:
    """The keywords of `schema` that a grammar holds, and ``allOf``, without those of `but`."""
    out = {key: schema[key] for key in (*HELD, "$ref", "allOf") if key in schema}
    if "const" in schema:
        out["enum"] = [schema["const"]]
    return {key: value for key, value in out.items() if key not in but}


def _kinds(flat: Schema) -> list[str]:
    """The types that a schema allows, or speaks of; empty for any."""
    given = flat.get("type")
    if given is not None:
        return list(dict.fromkeys([given] if isinstance(given, str) else given))
    return [kind for kind, keys in OF_KIND.items() if any(key in flat for key in keys)]


def _kind(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number", "integer"} if value.is_integer() else {"number"}
    return {
        "string" if isinstance(value, str) else "object" if isinstance(value, dict) else "array"
    }


def _merged(one: Schema, other: Schema) -> dict[str, Any]:
    """A schema of what both allow."""
    out = {**one, **other}
    for key in one.keys() & other.keys():
        out[key] = _both(key, one[key], other[key])
    return out


def _both(key: str, one: Any, other: Any) -> Any:
    if key in ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum"):
        return max(one, other)
    if key in ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum"):
        return min(one, other)
    if key == "required":
        return [*one, *other]
    if key == "enum":
        return [value for value in one if value in other]
    if key in ("properties", "patternProperties"):
        shared = {name: {"allOf": [one[name], other[name]]} for name in one.keys() & other.keys()}
        return {**one, **other, **shared}
    if key == "type":
        return sorted(_wide(one) & _wide(other), key=TYPES.index)
    if key in ("anyOf", "oneOf"):
        pairs = [{"allOf": [a, b]} for a in one for b in other]
        return pairs[:MOST_MERGED]
    if key in ("items", "additionalProperties") and not isinstance(one, list):
        return {"allOf": [one, other]} if one is not False and other is not False else False
    return other  # the grammar takes one; the answer is checked for both


def _is_loose(given: Any, held: Schema) -> bool:
    """Tell a text whose pattern or format the grammar does not hold; others are surer to be right.

    So pydantic's Decimal is written as a number and not as any text.
    """
    wanted = isinstance(given, Mapping) and ("pattern" in given or "format" in given)
    return wanted and held.get("type") == "string" and not ("pattern" in held or "format" in held)


def _wide(given: Any) -> set[str]:
    kinds = {given} if isinstance(given, str) else set(given)
    return kinds | {"integer"} if "number" in kinds else kinds


def _number(kind: str, flat: Schema) -> dict[str, Any] | None:
    out: dict[str, Any] = {"type": kind}
    out |= {key: flat[key] for key in OF_KIND["number"] if key in flat}
    for key, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(out.get(key), bool) and out.pop(key) and plain in out:  # of draft 4
            out[key] = out.pop(plain)
    least = max((out[k] for k in ("minimum", "exclusiveMinimum") if k in out), default=None)
    most = min((out[k] for k in ("maximum", "exclusiveMaximum") if k in out), default=None)
    if least is None:
        least = out["minimum"] = min(-LARGEST, 0 if most is None else most * 2)
    if most is None:
        most = out["maximum"] = max(LARGEST, least * 2)
    if kind == "number" and "multipleOf" not in out and most - least > 1000 * SMALLEST:
        out["multipleOf"] = SMALLEST  # else digits behind the point without end
    if _holds(out):
        return out
    out.pop("multipleOf", None)
    return out if _holds(out) else None


def _short(pattern: str) -> str:
    """`pattern` of a key with at most some characters for each of its repetitions."""
    out, at, in_class = "", 0, False
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            out, at = out + pattern[at : at + 2], at + 2
            continue
        in_class = sign == "[" or (in_class and sign != "]")
        if not in_class and sign in "*+":
            sign = f"{{{int(sign == '+')},{KEY}}}"
        out, at = out + sign, at + 1
    out = re.sub(r"\{(\d+),\}", lambda m: f"{{{m[1]},{int(m[1]) + KEY}}}", out)
    more = f'[^"\\\\\\x00-\\x1f]{{0,{KEY}}}'
    start = "" if out.startswith("^") else f"^{more}"
    end = "" if out.endswith("$") and not out.endswith("\\$") else f"{more}$"
    return f"{start}{out}{end}"


@lru_cache(maxsize=1024)
def _compiles(schema: str) -> bool:
    from llguidance import LLMatcher

    grammar = json.dumps({"grammars": [{"json_schema": json.loads(schema)}]})
    failed, _ = LLMatcher.validate_grammar_with_warnings(grammar)
    return not failed


def _holds(schema: Schema) -> bool:
    """Tell a schema of one value that a grammar holds."""
    return _compiles(json.dumps(schema))


# -- references ------------------------------------------------------------------------------------


def _target(schema: Schema, pointer: Any) -> Any:
    """The part of `schema` that `pointer` refers to.

    Raises
    ------
    SetupError
        If `schema` does not hold it.
    """
    found: Any = schema
    steps = unquote(str(pointer)).split("/")
    if steps[0] == "#":
        for step in steps[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            else:
                break
        else:
            return found
    raise SetupError(
        f"the schema refers to {pointer!r}, which it does not hold; put that into its $defs and "
        "refer to it as '#/$defs/NAME'"
    )


def _references(schema: Any) -> Iterator[str]:
    """All that a schema refers to, within itself."""
    if isinstance(schema, list):
        for one in schema:
            yield from _references(one)
    if not isinstance(schema, Mapping):
        return
    if "$ref" in schema:
        yield schema["$ref"]
    for key, value in schema.items():
        if key in ("properties", "patternProperties") and isinstance(value, Mapping):
            yield from _references(list(value.values()))
        elif key in HELD or key == "allOf":
            yield from _references(value)


def _cyclic(schema: Schema) -> set[str]:
    """The references that lead to themselves."""
    leads: dict[str, set[str]] = {}
    waiting = list(_references(schema))
    while waiting:
        pointer = waiting.pop()
        if pointer not in leads:
            leads[pointer] = set(_references(_target(schema, pointer)))
            waiting += leads[pointer]
    return {pointer for pointer in leads if pointer in _reached(leads, pointer)}


def _reached(leads: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = leads[waiting.pop()] - found
        found |= new
        waiting += new
    return found
