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
from enum import IntEnum
from typing import Any, NamedTuple

from sharedllm.errors import DocumentError

MOST_CSS = 4 << 20  # characters of style rules, which take some 2 seconds a million
MOST_STEPS = 5_000_000  # comparisons of elements with selectors
KEPT_STYLES = 10_000  # inline styles that are remembered
# A style without any of these words (which an escape could spell otherwise) says nothing here.
MATTERS = re.compile(r"display|visib|opacity|font|\\", re.IGNORECASE)
PROPERTIES = ("display", "visibility", "content-visibility", "opacity", "font-size", "font")
SHOWN_MEDIA = ("all", "screen")
LEAST_WIDTH = re.compile(r"\(\s*(min-width\s*:|width\s*>)")
# A declaration with another word is not valid: a browser passes it over.
KEYWORDS = {
    "display": frozenset(
        "none block inline inline-block flex inline-flex grid inline-grid table inline-table "
        "table-row table-cell table-row-group table-header-group table-footer-group table-column "
        "table-column-group table-caption list-item contents flow flow-root run-in ruby ruby-base "
        "ruby-text ruby-base-container ruby-text-container math -webkit-box -webkit-inline-box "
        "-webkit-flex -webkit-inline-flex".split()
    ),
    "visibility": frozenset(("visible", "hidden", "collapse")),
    "content-visibility": frozenset(("visible", "hidden", "auto")),
    "opacity": frozenset[str](),
    "font-size": frozenset(
        "xx-small x-small small medium large x-large xx-large xxx-large math".split()
    ),
}
HIDING = frozenset(("none", "hidden", "collapse"))
AROUND = frozenset(("inherit", "unset", "revert", "revert-layer"))  # visibility and font-size
RELATIVE = frozenset(("em", "ex", "ch", "cap", "ic", "lh"))


class Says(IntEnum):
    """A value's effect."""

    SHOWS = 0
    HIDES = 1
    AS_AROUND = 2  # as the element around it, or as without a style


class Claim(NamedTuple):
    """A declaration's say on one property; the greatest one of an element holds."""

    important: bool
    weight: tuple[int, int, int, int]  # inline, ids, classes, tags
    order: int
    says: Says


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
    fold : True if names of classes and ids are compared without regard to case, as in pages
        without a document type

    Raises
    ------
    DocumentError
        If they are too long, or too many for the page, to be applied in bounded time.
    """

    def __init__(self, sheets: Sequence[str], source: str, *, fold: bool = False) -> None:
        self._source, self._steps, self._order, self._fold = source, 0, 0, fold
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
        classes, own = attributes.get("class", ""), attributes.get("id", "")
        if self._fold:
            classes, own = classes.lower(), own.lower()
        element = Element(tag, frozenset(classes.split()), frozenset([own] if own else ()))
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
        for compounds in _selectors(rule.prelude, fold=self._fold):
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

    prelude = tinycss2.serialize(rule.prelude)
    if rule.lower_at_keyword in ("supports", "layer"):
        return not prelude.strip().lower().startswith("not")
    return rule.lower_at_keyword == "media" and shown_on_screen(prelude)


def shown_on_screen(media: str) -> bool:
    """True for media queries that a wide screen fulfils."""

    def holds(query: str) -> bool:
        parts = [part.strip() for part in query.strip().removeprefix("only ").split(" and ")]
        return all(p in SHOWN_MEDIA or LEAST_WIDTH.match(p) for p in parts)

    return not media.strip() or any(map(holds, media.lower().split(",")))


def _selectors(prelude: Sequence[Any], *, fold: bool) -> Iterator[tuple[Compound, ...]]:
    """Yield the selectors of a rule that are understood."""
    waiting: list[list[Any]] = [[]]
    for token in prelude:
        if token == ",":
            waiting.append([])
        elif token.type != "comment":
            waiting[-1].append(token)
    for tokens in waiting:
        found = _selector(tokens, fold=fold)
        if found:
            yield found


def _selector(tokens: Sequence[Any], *, fold: bool) -> tuple[Compound, ...] | None:
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
            ids.add(token.value.lower() if fold else token.value)
        elif token.type == "ident" and dot:
            classes.add(token.lower_value if fold else token.value)
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


def _declarations(content: Any) -> list[tuple[str, bool, Says]]:
    """Return (property, important, effect) of the declarations in a style."""
    import tinycss2

    out = []
    for one in tinycss2.parse_blocks_contents(content, skip_comments=True, skip_whitespace=True):
        if one.type != "declaration" or one.lower_name not in PROPERTIES:
            continue
        value = [t for t in one.value if t.type not in ("whitespace", "comment")]
        says = _says(one.lower_name, value)
        if says is not None:
            name = "font-size" if one.lower_name == "font" else one.lower_name
            out.append((name, one.important, says))
    return out


def _says(name: str, value: Sequence[Any]) -> Says | None:
    """Return the effect of a value; None if it is not valid, or not understood."""
    if name == "font":
        if len(value) > 1:
            value = [t for t in value if _is_size(t)][:1]
        name = "font-size"
    words = [t.lower_value for t in value if t.type == "ident"]
    if len(words) < len(value):
        (token, *more) = value
        if more or name not in ("opacity", "font-size") or not _is_number(token):
            return None
        if token.value <= 0:
            return Says.HIDES
        relative = token.type == "percentage" or getattr(token, "lower_unit", "") in RELATIVE
        return Says.AS_AROUND if name == "font-size" and relative else Says.SHOWS
    if len(words) == 1 and words[0] in AROUND | {"initial", "smaller", "larger"}:
        inherited = name in ("visibility", "font-size") or words[0].startswith("revert")
        return Says.AS_AROUND if inherited and words[0] != "initial" else Says.SHOWS
    if not words or any(word not in KEYWORDS[name] for word in words):
        return None
    if len(words) > 1:  # "inline flex"
        return Says.SHOWS if name == "display" and "none" not in words else None
    return Says.HIDES if words[0] in HIDING else Says.SHOWS


def _is_number(token: Any) -> bool:
    return token.type in ("number", "percentage", "dimension")


def _is_size(token: Any) -> bool:
    """True for what is a size in the shorthand of fonts; other numbers there are weights."""
    if token.type == "ident":
        return token.lower_value in KEYWORDS["font-size"]
    return token.type in ("dimension", "percentage") or (token.type == "number" and not token.value)


def _claims(
    declared: Sequence[tuple[str, bool, Says]], weight: tuple[int, int, int, int], order: int
) -> Claims:
    out: Claims = {}
    for at, (name, important, says) in enumerate(declared):
        claim = Claim(important, weight, order * 1_000 + min(at, 999), says)
        out[name] = max(out.get(name, claim), claim)
    return out
