"""Styles and lists of a Word document: which paragraphs are headings, and the numbers Word gives.

The text of a document does not hold these numbers: Word counts when it shows a paragraph, by the
list that the paragraph or its style belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sharedllm.errors import DocumentError
from sharedllm.text.loaders.packages import Ignoring, Package
from sharedllm.text.numerals import roman

HEADING = re.compile(r"(?:heading|\u00fcberschrift|titre|t\u00edtulo|titolo) ?([1-9])", re.I)
DEEPEST_STYLE = 20  # styles that are based on one another
LEVELS = 9
LONGEST_NUMBER = 40  # characters
MOST = 10_000  # of a number
PLACE = re.compile(r"%([1-9])")
NO_NUMBER = ("bullet", "none")


@dataclass(frozen=True, slots=True)
class _Style:
    """The meaning of a style: heading level (0: none), list, and level there; None: nothing."""

    heading: int | None = None
    list: str | None = None
    level: int | None = None

    def over(self, other: _Style) -> _Style:
        """This style, based on `other`."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return _Style(*(below if own is None else own for own, below in pairs))


@dataclass(slots=True)
class _Level:
    """A level of a list: how it counts, and how a number looks."""

    start: int = 1
    form: str = "decimal"
    text: str = ""


@dataclass(slots=True)
class _List:
    """A list's levels, the styles that stand for them, and the numbers so far."""

    levels: dict[int, _Level] = field(default_factory=dict)
    styles: dict[str, int] = field(default_factory=dict)
    counted: dict[int, int] = field(default_factory=dict)

    def next(self, level: int) -> str:
        """Count on at a level, and return the number as it is shown."""
        own = self.levels.get(level, _Level())
        if own.form in NO_NUMBER:
            return ""
        for above in range(level):
            self.counted.setdefault(above, self.levels.get(above, _Level()).start)
        self.counted[level] = self.counted.get(level, own.start - 1) + 1
        self.counted = {n: count for n, count in self.counted.items() if n <= level}
        return PLACE.sub(self._number, own.text)[:LONGEST_NUMBER].strip()

    def _number(self, place: re.Match[str]) -> str:
        level = int(place[1]) - 1
        form = self.levels.get(level, _Level()).form
        return _shown(self.counted.get(level, 1), form)


class _Used(NamedTuple):
    """A use of a list, which may begin levels anew."""

    list: str
    starts: dict[int, int]


class WordStyles:
    """The styles and lists of a document; empty where the parts that hold them are broken.

    Parameters
    ----------
    main : the document's main part
    """

    def __init__(self, package: Package, main: str) -> None:
        styles, lists = _Styles(), _Lists()
        for link in package.links(main).values():
            reader = {"styles": styles, "numbering": lists}.get(link.kind)
            if reader is not None and link.part in package:
                try:
                    package.parse(link.part, reader)
                except DocumentError:  # of that part alone, which the text does not need
                    continue
        self._styles, self._lists, self._used = styles.resolved(), lists.lists, lists.used

    def heading(self, style: str) -> int:
        """The level of headings in a style; 0 for other text."""
        return self._styles.get(style, _Style()).heading or 0

    def number(self, style: str, use: str | None, level: int | None) -> str:
        """The number of the next paragraph, which is counted; "" if it has none.

        Parameters
        ----------
        use, level : the list and the level that the paragraph itself names
        """
        own = _Style(list=use, level=level).over(self._styles.get(style, _Style()))
        used = self._used.get(own.list or "")
        found = self._lists.get(used.list) if used else None
        if used is None or found is None:
            return ""
        for begun, start in used.starts.items():  # once, where the use begins
            found.counted[begun] = start - 1
        used.starts.clear()
        depth = own.level if own.level is not None else found.styles.get(style, 0)
        return found.next(min(depth, LEVELS - 1))


class _Styles(Ignoring):
    """Collects the styles of paragraphs."""

    def __init__(self) -> None:
        self._name = ""
        self._own: dict[str, _Style] = {}
        self._based: dict[str, str] = {}

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        value = attributes.get("val", "")
        own = self._own.get(self._name, _Style())
        if name == "style":
            self._name = attributes.get("styleId", "")
        elif not self._name:
            return
        elif name == "basedOn":
            self._based[self._name] = value
        elif name == "outlineLvl" and own.heading is None:
            self._own[self._name] = replace(own, heading=outline_level(value))
        elif name == "name" and (found := HEADING.fullmatch(value)):
            self._own[self._name] = replace(own, heading=int(found[1]))
        elif name == "numId":
            self._own[self._name] = replace(own, list=value)
        elif name == "ilvl":
            self._own[self._name] = replace(own, level=number(value))

    def end(self, name: str) -> None:
        if name == "style":
            self._name = ""

    def resolved(self) -> dict[str, _Style]:
        """The styles by their ids, with what they have of those that they are based on."""
        out = {}
        for name in {*self._own, *self._based}:
            style, above = self._own.get(name, _Style()), name
            for _ in range(DEEPEST_STYLE):
                above = self._based.get(above, "")
                style = style.over(self._own.get(above, _Style()))
            out[name] = style
        return out


class _Lists(Ignoring):
    """Collects the lists, and their uses."""

    def __init__(self) -> None:
        self.lists: dict[str, _List] = {}
        self.used: dict[str, _Used] = {}
        self._list, self._level, self._use = _List(), -1, ""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        value = attributes.get("val", "")
        level = self._list.levels.get(self._level, _Level())
        if name == "abstractNum":
            self._list = self.lists[attributes.get("abstractNumId", "")] = _List()
        elif name == "num":
            self._use = attributes.get("numId", "")
        elif name == "abstractNumId":
            self.used[self._use] = _Used(value, {})
        elif name in ("lvl", "lvlOverride"):
            self._level = number(attributes.get("ilvl"))
            self._list.levels.setdefault(self._level, _Level())
        elif name == "startOverride" and self._use in self.used:
            self.used[self._use].starts[self._level] = number(value)
        elif name == "start":
            level.start = number(value)
        elif name == "numFmt":
            level.form = value
        elif name == "lvlText":
            level.text = value
        elif name == "pStyle":
            self._list.styles[value] = self._level

    def end(self, name: str) -> None:
        if name == "abstractNum":
            self._list = _List()  # what a use changes of a level is not followed
        elif name in ("lvl", "lvlOverride"):
            self._level = -1


def outline_level(given: str) -> int:
    """The level of a heading, from 1; 0 for plain text."""
    return int(given) + 1 if given.isascii() and given.isdigit() and int(given) < LEVELS else 0


def number(given: str | None) -> int:
    """A number in an attribute; 0 if it is none."""
    digits = given or ""
    return (
        min(int(digits), MOST) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 0
    )


def _shown(count: int, form: str) -> str:
    if form in ("upperRoman", "lowerRoman") and count > 0:
        return roman(count) if form == "upperRoman" else roman(count).lower()
    if form in ("upperLetter", "lowerLetter") and count > 0:
        letter = chr(ord("A") + (count - 1) % 26) * (1 + (count - 1) // 26 % 4)
        return letter if form == "upperLetter" else letter.lower()
    return str(count)
