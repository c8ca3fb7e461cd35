"""HTML -> the text that a browser shows, in time linear in the page's length.

Pages are cut into tags and text here, and not by a parser that builds the tree of the HTML
standard: such parsers walk over their open elements at every end tag, so that a small page with
many unclosed elements takes minutes. For text it is enough to know which element ends where; the
few elements that end without an end tag are listed in ENDED_BY.
"""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sharedllm.text.loaders.encodings import declared_encoding, decode
from sharedllm.text.loaders.flow import Flow
from sharedllm.text.loaders.source import Contents, Given
from sharedllm.text.loaders.stylesheets import (
    Claims,
    Element,
    Says,
    StyleSheets,
    shown_on_screen,
)
from sharedllm.text.outline import Heading

# White space of HTML is less than that of Python: a no-break space is part of a name or a value.
TAG = re.compile(r"<(?:(/?)([a-zA-Z][^ \t\n\f\r/>]*)|(!--)|([!?/]))")
ATTRIBUTE = re.compile(
    r"[ \t\n\f\r/]*(?:(>)|([^ \t\n\f\r/>][^ \t\n\f\r/>=]*)"
    r"(?:[ \t\n\f\r]*=[ \t\n\f\r]*(?:\"([^\"]*)\"|'([^']*)'|([^ \t\n\f\r>]*)))?)"
)
COMMENT_END = re.compile("--!?>")
SCRIPT_PART = re.compile(r"<!--|-->|<(/?)script(?=[ \t\n\f\r/>])", re.IGNORECASE)
STYLE = re.compile("<style", re.IGNORECASE)
CDATA = "<![CDATA["  # text in XHTML, SVG and MathML
XML_START = re.compile(r"\s*<\?xml\b|\s*<!DOCTYPE[^>]*XHTML", re.IGNORECASE)
DOCUMENT_TYPE = re.compile(r"\s*(?:<!--(?:(?!-->).){0,5000}-->\s*){0,9}<!doctype\s", re.I | re.S)
LINK_SIGN = re.compile(r"\s*(?:[#\u00b6\u00a7\U0001f517]|\[\s*edit[^\[\]]{0,20}\])\s*\Z")
LONG_NUMBER = re.compile(r"&#(?:\d{8,}|[xX][0-9a-fA-F]{8,});?")  # beyond every character

RAW = frozenset(("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"))
RAW |= {"noscript"}  # as in a browser that runs scripts
VOID = frozenset(
    "area base br col embed hr img input link meta param source track wbr frame".split()
)
NEVER_SHOWN = frozenset(
    "title script style noscript template object iframe noembed noframes video audio canvas".split()
    + "datalist desc metadata defs symbol annotation annotation-xml rp".split()
)
CLICKED_OPEN = frozenset(("dialog",))  # hidden until something opens them
LINES = frozenset(("dd", "dt", "li", "option"))
BLOCKS = frozenset(
    "address article aside blockquote dl div figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr main nav ol p pre section table ul details summary fieldset legend".split()
)
ENDED_BY = {
    "p": BLOCKS | LINES,
    "li": frozenset(("li",)),
    "dd": frozenset(("dd", "dt")),
    "dt": frozenset(("dd", "dt")),
    "option": frozenset(("option", "optgroup")),
    "td": frozenset("td th tr tbody thead tfoot".split()),
    "th": frozenset("td th tr tbody thead tfoot".split()),
    "tr": frozenset("tr tbody thead tfoot".split()),
    "head": frozenset(("body",)),
    **dict.fromkeys(("tbody", "thead", "tfoot"), frozenset(("tbody", "thead", "tfoot"))),
    "caption": frozenset("col colgroup tbody td tfoot th thead tr".split()),
    **{name: frozenset((name,)) for name in ("a", "nobr", "button")},
}
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))  # one directly in another ends it
# Drawings and formulas have the rules of XML: "<title/>" is a whole element, and a title is markup.
FOREIGN = frozenset(("svg", "math"))
HTML_IN_DRAWING = "foreignobject"
LEAVES_FOREIGN = frozenset(  # ends the drawing that it stands in
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li "
    "listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var"
    "".split()
)
ENDS = {
    by: [name for name, ends in ENDED_BY.items() if by in ends]
    for by in frozenset().union(*ENDED_BY.values())
}
# What is open outside of one of these is not ended by what stands inside of it.
FENCES = frozenset("table td th caption template svg math button object".split())
OF_TABLES = frozenset("td th tr tbody thead tfoot caption".split())
FENCED = OF_TABLES | {"button"}
ROWS = OF_TABLES | {"table"}
LISTS = {"ul": ("li",), "ol": ("li",), "menu": ("li",), "dl": ("dd", "dt")}
PRE = frozenset(("pre", "textarea", "listing", "xmp"))


class Token(NamedTuple):
    """A tag, or a text if `name` is empty."""

    name: str
    text: str = ""
    end: bool = False
    attributes: dict[str, str] = {}  # noqa: RUF012 (never changed)


class _Foreign:
    """The drawings and formulas that are open, and HTML in drawings.

    Attributes
    ----------
    in_xml : the rules of XML hold: ``<title/>`` is a whole element
    """

    def __init__(self, *, xml: bool) -> None:
        self._xml = self.in_xml = xml
        self._open: list[str] = []
        self._counted = Counter[str]()

    def take(self, name: str, *, end: bool) -> None:
        """Go on by one tag."""
        if name not in FOREIGN and name != HTML_IN_DRAWING:
            return
        if not end:
            self._open.append(name)
            self._counted[name] += 1
        elif self._counted[name]:
            while self._pop() != name:
                pass
        self._look()

    def leave(self) -> Iterator[str]:
        """Close the drawings and formulas in which no HTML is open; yield their names."""
        while self._open and self._open[-1] in FOREIGN and not self._xml:
            yield self._pop()
        self._look()

    def _pop(self) -> str:
        name = self._open.pop()
        self._counted[name] -= 1
        return name

    def _look(self) -> None:
        self.in_xml = self._xml or bool(self._open and self._open[-1] in FOREIGN)


def read_html(given: Given) -> Contents:
    """Return visible text and title of a page.

    Raises
    ------
    DocumentError
        If its encoding or its style rules cannot be followed.
    """
    text = decode(given, declared=declared_encoding(given))
    return visible(text, given.source)


def visible(page: str, source: str) -> Contents:
    """Return visible text and title of a page that is decoded."""
    xml = XML_START.match(page) is not None
    fold = not xml and not DOCUMENT_TYPE.match(page)
    reader = _Reader(source, StyleSheets(_sheets(page, xml=xml), source, fold=fold))
    for token in tokens(page, xml=xml):
        reader.take(token)
    shown = reader.flow.text().replace("\xa0", " ")
    return Contents(shown, reader.title, without_links(reader.flow.headings) or None)


def without_links(headings: Sequence[Heading]) -> list[Heading]:
    """Leave out of titles the signs that link to them ("#", "[edit]"), where most of a page do."""
    linked = sum(LINK_SIGN.search(one.title) is not None for one in headings)
    if linked < 3 or 4 * linked < 3 * len(headings):
        return list(headings)
    return [one._replace(title=LINK_SIGN.sub("", one.title)) for one in headings]


def tokens(page: str, *, xml: bool = False) -> Iterator[Token]:
    """Cut a page into tags and texts; comments and declarations are left out.

    Parameters
    ----------
    xml : ``<title/>`` is an element without content, not a beginning
    """
    at = 0
    foreign = _Foreign(xml=xml)
    while True:
        found = TAG.search(page, at)
        if found is None:
            yield Token("", html_text(page[at:]))
            return
        if found.start() > at:
            yield Token("", html_text(page[at : found.start()]))
        if found[3] or found[4]:
            at = _after_declaration(page, found)
            if foreign.in_xml and page.startswith(CDATA, found.start()):
                yield Token("", page[found.start() + len(CDATA) : at].removesuffix("]]>"))
            continue
        name, end = found[2].lower(), bool(found[1])
        attributes, at = _attributes(page, found.end())
        if not at:  # the page ends in the middle of a tag
            return
        if name in LEAVES_FOREIGN and not end:
            yield from (Token(left, end=True) for left in foreign.leave())
        markup = foreign.in_xml and not xml  # where a title or a style is no exception
        closed = foreign.in_xml and page.endswith("/>", found.start(), at)
        yield Token(name, end=end, attributes=attributes)
        if closed and name not in VOID:
            yield Token(name, end=True)
        if not closed:
            foreign.take(name, end=end)
        if end or closed or markup or name not in RAW:
            continue
        stop = _end_of_raw(page, name, at)
        inside = page[at:stop]
        yield Token("", html_text(inside) if name in ("title", "textarea") else inside)
        if stop == len(page):
            return
        at = stop


def _end_of_raw(page: str, name: str, at: int) -> int:
    """Return where the end tag of an element without markup stands, or the page's end.

    A script that writes a script into a comment is ended by the second end tag.
    """
    if name == "script":
        commented = inner = False
        for found in SCRIPT_PART.finditer(page, at):
            mark = found[0]
            if mark == "-->":
                commented = inner = False
            elif mark == "<!--":
                commented = True
            elif not found[1]:
                inner = commented
            elif inner:
                inner = False
            else:
                return found.start()
        return len(page)
    stop = re.compile(rf"</{name}(?=[ \t\n\f\r/>])", re.IGNORECASE).search(page, at)
    return stop.start() if stop else len(page)


def html_text(text: str) -> str:
    """Return `text` with its character references resolved."""
    return html.unescape(LONG_NUMBER.sub("\ufffd", text)) if "&" in text else text


def _after_declaration(page: str, found: re.Match[str]) -> int:
    """Return the place after a comment, declaration or odd end tag."""
    if found[3] and page.startswith((">", "->"), found.end()):
        return page.index(">", found.end()) + 1
    if found[3]:
        closing = COMMENT_END.search(page, found.end())
        return closing.end() if closing else len(page)
    mark = "]]>" if page.startswith(CDATA, found.start()) else ">"
    end = page.find(mark, found.end())
    return len(page) if end < 0 else end + len(mark)


def _attributes(page: str, at: int) -> tuple[dict[str, str], int]:
    """Return attributes from `at` and the place after the tag; 0 if the page ends in it."""
    out: dict[str, str] = {}
    if page.startswith(">", at):
        return out, at + 1
    while True:
        found = ATTRIBUTE.match(page, at)
        if found is None:
            return out, 0
        at = found.end()
        if found[1]:
            return out, at
        value = next((v for v in found.group(3, 4, 5) if v is not None), "")
        out.setdefault(found[2].lower(), html_text(value))


def _sheets(page: str, *, xml: bool) -> list[str]:
    """Return the contents of the style elements that are for a screen."""
    out: list[str] = []
    if STYLE.search(page) is None:
        return out
    inside = False
    for token in tokens(page, xml=xml):
        if token.name:
            inside = token.name == "style" and not token.end and _is_css(token.attributes)
        elif inside:
            out.append(token.text)
    return out


def _is_css(attributes: dict[str, str]) -> bool:
    """True for the attributes of a style element that is in force on a screen."""
    kind = attributes.get("type", "").lower()
    return kind in ("", "text/css") and shown_on_screen(attributes.get("media", ""))


@dataclass(slots=True)
class _Open:
    """An open element, and the state outside of it."""

    name: str
    element: Element
    shown: bool
    visible: bool
    sized: bool
    pre: bool
    lists: dict[str, int] = field(default_factory=dict)


class _Reader:
    """Follows the tags of a page and collects what is shown."""

    def __init__(self, source: str, styles: StyleSheets) -> None:
        self.flow = Flow(source)
        self._styles = styles
        self._open: list[_Open] = []
        self._names: list[defaultdict[str, int]] = [defaultdict(int)]  # open elements, by fence
        self._all: defaultdict[str, int] = defaultdict(int)
        self._items: defaultdict[str, int] = defaultdict(int)  # li, dd, dt outside of the list
        self._shown = self._visible = self._sized = True
        self._pre = False
        self.title = ""

    def take(self, token: Token) -> None:
        """Go on by one token."""
        if not token.name:
            self._text(token.text)
        elif token.end:
            self._end(token.name)
        else:
            self._start(token.name, token.attributes)

    def _text(self, text: str) -> None:
        if self._all["title"] and not self._all["svg"]:  # a drawing has titles of its own
            self.title = self.title or text
        if not (self._shown and self._visible and self._sized):
            return
        if self._pre:
            self.flow.exact(text)
        else:
            self.flow.words(text)

    # -- where elements begin and end ----------------------------------------------------------

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name in OF_TABLES and not self._all["table"]:  # means nothing there, nor do its styles
            self._break(name, attributes)
            return
        for ended in ENDS.get(name, ()):
            if self._names[-1][ended] > self._items[ended] or (
                ended in FENCED and self._is_innermost(ended)
            ):
                self._close_to(ended)
        if name in HEADINGS and self._open and self._open[-1].name in HEADINGS:
            self._close_to(self._open[-1].name)
        if name in VOID:
            if self._shown:
                self._break(name)
            return
        parent = self._open[-1].element if self._open else None
        element = self._styles.open(name, attributes, parent)
        state = (self._shown, self._visible, self._sized, self._pre)
        frame = _Open(name, element, *state)
        for item in LISTS.get(name, ()):
            frame.lists[item] = self._items[item]
            self._items[item] = self._names[-1][item]
        self._open.append(frame)
        self._all[name] += 1
        self._names[-1][name] += 1
        if name in FENCES:
            self._names.append(defaultdict(int))
        self._apply(name, attributes, element)
        self._break(name, attributes)

    def _is_innermost(self, name: str) -> bool:
        """True if `name` is open and belongs to the innermost open table."""
        for frame in reversed(self._open[-200:]):
            if frame.name == name:
                return True
            if frame.name == "table":
                return False
        return False

    def _end(self, name: str) -> None:
        open_here = self._all if name in ROWS else self._names[-1]
        if name in FENCES and name not in ROWS:
            open_here = self._all
        if open_here[name]:
            self._close_to(name)
        elif name == "p" and self._shown:
            self.flow.part()
        elif name in OF_TABLES and self._shown and not self._all["table"]:
            self.flow.part(1)

    def _close_to(self, name: str) -> None:
        """Close the innermost open element `name` and what is open in it."""
        while True:
            frame = self._open.pop()
            if frame.name in FENCES:
                self._names.pop()
            self._names[-1][frame.name] -= 1
            self._all[frame.name] -= 1
            for item, held in frame.lists.items():
                self._items[item] = held
            if self._shown:
                self._leave(frame.name)
            self._styles.close(frame.element)
            self._shown, self._visible = frame.shown, frame.visible
            self._sized, self._pre = frame.sized, frame.pre
            if frame.name == name:
                return

    # -- what they show ------------------------------------------------------------------------

    def _apply(self, name: str, attributes: dict[str, str], element: Element) -> None:
        """Change the state to that inside of an element."""
        self._pre = self._pre or name in PRE
        never = name in NEVER_SHOWN and "shadowrootmode" not in attributes
        if not attributes and not element.matched:  # nearly all elements
            self._shown = self._shown and not never and name not in CLICKED_OPEN
            return
        claims = self._styles.claims(element, attributes.get("style", ""))
        hidden = attributes.get("hidden", "until-found").lower() != "until-found"
        hidden = hidden or (name in CLICKED_OPEN and "open" not in attributes)
        hidden = _held(claims, "display", hidden or "popover" in attributes) or never
        hidden = hidden or _held(claims, "content-visibility", False)
        self._shown = self._shown and not (hidden or _held(claims, "opacity", False))
        self._visible = not _held(claims, "visibility", not self._visible)
        self._sized = not _held(claims, "font-size", not self._sized)

    def _break(self, name: str, attributes: dict[str, str] | None = None) -> None:
        """Tell the flow that an element begins."""
        if not self._shown:
            return
        if name == "br":
            self.flow.line()
        elif name == "table":
            self.flow.open_table()
        elif name in ("td", "th"):
            given = attributes or {}
            self.flow.open_cell(_span(given.get("colspan")), _span(given.get("rowspan")))
        elif name in LINES:
            self.flow.part(1)
        elif name in HEADINGS:
            self.flow.open_heading(int(name[1]))
        elif name in BLOCKS:
            self.flow.part()

    def _leave(self, name: str) -> None:
        """Tell the flow that an element has ended."""
        if name == "table":
            self.flow.close_table()
        elif name in ("td", "th"):
            self.flow.close_cell()
        elif name == "tr":
            self.flow.close_row()
        elif name in HEADINGS:
            self.flow.close_heading()
        elif name in BLOCKS:
            self.flow.part()


def _held(claims: Claims, name: str, otherwise: bool) -> bool:
    """Return if the claim on a property hides, or `otherwise` without one."""
    says = claims[name].says if name in claims else Says.AS_AROUND
    return otherwise if says is Says.AS_AROUND else says is Says.HIDES


def _span(given: str | None) -> int:
    """Return a colspan or rowspan; 1 if it is not a number."""
    digits = (given or "").strip()
    return max(1, int(digits)) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 1
