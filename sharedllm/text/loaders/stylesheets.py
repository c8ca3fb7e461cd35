"""Style sheets: which elements of a page a browser does not show.

Inline styles and the rules of ``<style>`` are read, where a rule names elements by tag, class and
id, also within others (``.menu > li a``). Rules with other selectors, style sheets in other files,
and media queries on anything but the kind of medium and a least width are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sharedllm.errors import DocumentError

MOST_CSS = 4 << 20  # characters of style rules, which take some 2 seconds a million
MOST_STEPS = 5_000_000  # comparisons of elements with selectors
KEPT_STYLES = 10_000  # inline styles that are remembered
# A style without any of these words (which an escape could spell otherwise) says nothing here.
MATTERS = re.compile(r"display|visib|opacity|font|\\", re.IGNORECASE)
PROPERTIES = ("display", "visibility", "content-visibility", "opacity", "font-size", "font")
SHOWN_MEDIA = ("all", "screen")


class Claim(NamedTuple):
    """A declaration's say on one property; the greatest one of an element holds."""

    important: bool
    weight: tuple[int, int, int, int]  # inline, ids, classes, tags
    order: int
    hides: bool


Claims = dict[str, Claim]


class Compound(NamedTuple):
    """Tag, classes and id that one element must have; `child` if it must be inside directly."""

    tag: str
    classes: frozenset[str]
    ids: frozenset[str]
    child: bool

    def key(self) -> str:
        """The name under which an element finds it."""
        if self.ids:
            return f"#{min(self.ids)}"
        return f".{min(self.classes)}" if self.classes else self.tag


@dataclass(slots=True)
class Element:
    """An open element of the page: what selectors compare, and the selectors' parts it matches."""

    tag: str
    classes: frozenset[str]
    ids: frozenset[str]
    matched: set[tuple[int, int]] = field(default_factory=set)


class StyleSheets:
    """The rules of a page that hide or show.

    Parameters
    ----------
    sheets : the contents of its ``<style>`` elements, in order
    source : named in errors

    Raises
    ------
    DocumentError
        If they are too long, or too many for the page, to be applied in bounded time.
    """

    def __init__(self, sheets: Sequence[str], source: str) -> None:
        self._source, self._steps, self._order = source, 0, 0
        self._selectors: list[tuple[tuple[Compound, ...], Claims]] = []
        self._places: dict[str, list[tuple[int, int]]] = {}  # key -> (selector, position)
        self._above: Counter[tuple[int, int]] = Counter()  # parts that open elements match
        self._inline: dict[str, Claims] = {}
        wanted = [sheet for sheet in sheets if MATTERS.search(sheet)]
        if sum(map(len, wanted)) > MOST_CSS:
            raise DocumentError(
                f"{source} has style rules of more than {MOST_CSS:,} characters, so that it is "
                "not known what they hide; save the page as text, or without its styles"
            )
        for sheet in wanted:
            self._read(sheet)

    def inline(self, style: str) -> Claims:
        """The claims of an element's own style."""
        if not MATTERS.search(style):
            return {}
        if style not in self._inline:
            if len(self._inline) >= KEPT_STYLES:
                self._inline.clear()
            if len(style) > MOST_CSS:
                raise DocumentError(f"{self._source} has a style of {len(style):,} characters")
            self._inline[style] = _claims(_declarations(style), (1, 0, 0, 0), 0)
        return self._inline[style]

    def open(self, tag: str, attributes: Mapping[str, str], parent: Element | None) -> Element:
        """Enter an element; :meth:`close` leaves it."""
        element = Element(
            tag,
            frozenset(attributes.get("class", "").split()),
            frozenset([attributes["id"]] if attributes.get("id") else ()),
        )
        if self._selectors:
            keys = [tag, "*", *(f".{c}" for c in element.classes), *(f"#{i}" for i in element.ids)]
            for key in keys:
                self._match(self._places.get(key, ()), element, parent)
            self._above.update(element.matched)
        return element

    def close(self, element: Element) -> None:
        """Leave the innermost open element."""
        for place in element.matched:
            self._above[place] -= 1

    def claims(self, element: Element, style: str) -> Claims:
        """The claims that hold for an open element, by property."""
        out = dict(self.inline(style)) if style else {}
        for selector, position in element.matched:
            compounds, claims = self._selectors[selector]
            if position == len(compounds) - 1:
                for name, claim in claims.items():
                    out[name] = max(out.get(name, claim), claim)
        return out

    def _match(
        self, places: Sequence[tuple[int, int]], element: Element, parent: Element | None
    ) -> None:
        self._steps += len(places)
        if self._steps > MOST_STEPS:
            raise DocumentError(
                f"{self._source} has too many style rules for its length, so that it is not known "
                "what they hide; save the page as text, or without its styles"
            )
        for selector, position in places:
            one = self._selectors[selector][0][position]
            before = (selector, position - 1)
            inside = not position or (
                parent is not None and before in parent.matched
                if one.child
                else self._above[before] > 0
            )
            fits = one.tag in ("*", element.tag) and one.classes <= element.classes
            if inside and fits and one.ids <= element.ids:
                element.matched.add((selector, position))

    # -- reading rules -------------------------------------------------------------------------

    def _read(self, sheet: str) -> None:
        import tinycss2

        options = {"skip_comments": True, "skip_whitespace": True}
        waiting = [iter(tinycss2.parse_stylesheet(sheet, **options))]
        while waiting:
            rule = next(waiting[-1], None)
            if rule is None:
                waiting.pop()
            elif rule.type == "qualified-rule":
                self._add(rule)
            elif rule.type == "at-rule" and rule.content and _applies(rule):
                waiting.append(iter(tinycss2.parse_rule_list(rule.content, **options)))

    def _add(self, rule: Any) -> None:
        declared = _declarations(rule.content)
        if not declared:
            return
        self._order += 1
        for compounds in _selectors(rule.prelude):
            weight = (
                0,
                sum(len(c.ids) for c in compounds),
                sum(len(c.classes) for c in compounds),
                sum(c.tag != "*" for c in compounds),
            )
            number = len(self._selectors)
            self._selectors.append((compounds, _claims(declared, weight, self._order)))
            for position, compound in enumerate(compounds):
                self._places.setdefault(compound.key(), []).append((number, position))


def _applies(rule: Any) -> bool:
    """True for at-rules whose content is in force on a screen."""
    import tinycss2

    if rule.lower_at_keyword in ("supports", "layer"):
        return True
    if rule.lower_at_keyword != "media":
        return False
    return shown_on_screen(tinycss2.serialize(rule.prelude))


def shown_on_screen(media: str) -> bool:
    """True for media queries that a wide screen fulfils."""

    def holds(query: str) -> bool:
        parts = [part.strip() for part in query.strip().removeprefix("only ").split(" and ")]
        return all(p in SHOWN_MEDIA or p.startswith("(min-width") for p in parts)

    return not media.strip() or any(map(holds, media.lower().split(",")))


def _selectors(prelude: Sequence[Any]) -> Iterator[tuple[Compound, ...]]:
    """Yield the selectors of a rule that are understood."""
    waiting: list[list[Any]] = [[]]
    for token in prelude:
        if token == ",":
            waiting.append([])
        elif token.type != "comment":
            waiting[-1].append(token)
    for tokens in waiting:
        found = _selector(tokens)
        if found:
            yield found


def _selector(tokens: Sequence[Any]) -> tuple[Compound, ...] | None:
    """Read one selector; None if it has other parts than tags, classes, ids and their nesting."""
    out: list[Compound] = []
    tag, classes, ids = "", set[str](), set[str]()
    child, dot = False, False

    def end() -> None:
        nonlocal tag, classes, ids, child
        if tag or classes or ids:
            out.append(Compound(tag or "*", frozenset(classes), frozenset(ids), child))
            tag, classes, ids, child = "", set(), set(), False

    for token in tokens:
        if token.type == "whitespace":
            end()
        elif token.type == "hash" and not dot:
            ids.add(token.value)
        elif token.type == "ident" and dot:
            classes.add(token.value)
            dot = False
        elif token.type == "ident" and not (tag or classes or ids):
            tag = token.lower_value
        elif token == "." and not dot:
            dot = True
        elif token == "*" and not (tag or classes or ids):
            tag = "*"
        elif token == ">" and not dot:
            end()
            child = True
        else:
            return None
    end()
    return tuple(out) if out and not child and not dot else None


# -- declarations ----------------------------------------------------------------------------------


def _declarations(content: Any) -> list[tuple[str, bool, bool]]:
    """Return (property, important, hides) of the declarations in a style."""
    import tinycss2

    out = []
    for one in tinycss2.parse_blocks_contents(content, skip_comments=True, skip_whitespace=True):
        if one.type != "declaration" or one.lower_name not in PROPERTIES:
            continue
        value = [t for t in one.value if t.type not in ("whitespace", "comment")]
        hides = _hides(one.lower_name, value)
        if hides is not None:
            name = "font-size" if one.lower_name == "font" else one.lower_name
            out.append((name, one.important, hides))
    return out


def _hides(name: str, value: Sequence[Any]) -> bool | None:
    """True or False if the value hides or shows; None if it says nothing, or is not valid."""
    if name == "font":
        sizes = [
            t
            for t in value
            if t.type in ("dimension", "percentage") or (t.type == "number" and not t.value)
        ]
        return sizes[0].value == 0 if sizes else None
    if len(value) != 1:
        return None
    (token,) = value
    if name in ("opacity", "font-size"):
        if token.type in ("number", "percentage", "dimension"):
            return bool(token.value <= 0)
        return None if token.type != "ident" or token.lower_value == "inherit" else False
    if token.type != "ident" or token.lower_value in ("inherit", "unset", "revert"):
        return None
    hidden = {"display": ("none",), "visibility": ("hidden", "collapse")}.get(name, ("hidden",))
    return token.lower_value in hidden


def _claims(
    declared: Sequence[tuple[str, bool, bool]], weight: tuple[int, int, int, int], order: int
) -> Claims:
    out: Claims = {}
    for at, (name, important, hides) in enumerate(declared):
        claim = Claim(important, weight, order * 1_000 + min(at, 999), hides)
        out[name] = max(out.get(name, claim), claim)
    return out
