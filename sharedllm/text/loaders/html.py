"""HTML -> the text that a browser shows, in time linear in the page's length.

Pages are cut into tags and text here, and not by a parser that builds the tree of the HTML
standard: such parsers walk over their open elements at every end tag, so that a small page with
many unclosed elements takes minutes. For text it is enough to know which element ends where; the
few elements that end without an end tag are listed in ENDED_BY.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sharedllm.text.loaders.encodings import declared_encoding, decode
from sharedllm.text.loaders.flow import Flow
from sharedllm.text.loaders.source import Contents, Given
from sharedllm.text.loaders.stylesheets import Claims, Element, StyleSheets, shown_on_screen

TAG = re.compile(r"<(?:(/?)([a-zA-Z][^\s/>]*)|(!--)|([!?/]))")
ATTRIBUTE = re.compile(
    r"[\s/]*(?:(>)|([^\s/>][^\s/>=]*)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]*)))?)"
)
STYLE = re.compile("<style", re.IGNORECASE)
CDATA = "<![CDATA["  # text in XHTML, SVG and MathML
XML_START = re.compile(r"\s*<\?xml\b|\s*<!DOCTYPE[^>]*XHTML", re.IGNORECASE)
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
}
ENDS = {
    by: [name for name, ends in ENDED_BY.items() if by in ends]
    for by in frozenset().union(*ENDED_BY.values())
}
# What is open outside of one of these is not ended by what stands inside of it.
FENCES = frozenset("table td th caption template svg math button object".split())
ROWS = frozenset("table td th tr tbody thead tfoot caption".split())
LISTS = {"ul": ("li",), "ol": ("li",), "menu": ("li",), "dl": ("dd", "dt")}
PRE = frozenset(("pre", "textarea", "listing", "xmp"))


class Token(NamedTuple):
    """A tag, or a text if `name` is empty."""

    name: str
    text: str = ""
    end: bool = False
    attributes: dict[str, str] = {}  # noqa: RUF012 (never changed)


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
    reader = _Reader(source, StyleSheets(_sheets(page, xml=xml), source))
    for token in tokens(page, xml=xml):
        reader.take(token)
    return Contents(reader.flow.text().replace("\xa0", " "), reader.title)


def tokens(page: str, *, xml: bool = False) -> Iterator[Token]:
    """Cut a page into tags and texts; comments and declarations are left out.

    Parameters
    ----------
    xml : ``<title/>`` is an element without content, not a beginning
    """
    at = 0
    while True:
        found = TAG.search(page, at)
        if found is None:
            yield Token("", html_text(page[at:]))
            return
        if found.start() > at:
            yield Token("", html_text(page[at : found.start()]))
        if found[3] or found[4]:
            at = _after_declaration(page, found)
            if xml and page.startswith(CDATA, found.start()):
                yield Token("", page[found.start() + len(CDATA) : at].removesuffix("]]>"))
            continue
        name = found[2].lower()
        attributes, at = _attributes(page, found.end())
        closed = xml and page.endswith("/>", found.start(), at)
        if not at:  # the page ends in the middle of a tag
            return
        yield Token(name, end=bool(found[1]), attributes=attributes)
        if found[1] or name not in RAW:
            if closed and name not in VOID:
                yield Token(name, end=True)
            continue
        if closed:
            yield Token(name, end=True)
            continue
        stop = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(page, at)
        inside = page[at : stop.start() if stop else len(page)]
        yield Token("", html_text(inside) if name in ("title", "textarea") else inside)
        if stop is None:
            return
        at = stop.start()


def html_text(text: str) -> str:
    """Return `text` with its character references resolved."""
    return html.unescape(LONG_NUMBER.sub("\ufffd", text)) if "&" in text else text


def _after_declaration(page: str, found: re.Match[str]) -> int:
    """Return the place after a comment, declaration or odd end tag."""
    if found[3] and page.startswith((">", "->"), found.end()):
        return page.index(">", found.end()) + 1
    mark = "-->" if found[3] else ">"
    if page.startswith(CDATA, found.start()):
        mark = "]]>"
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
            media = token.attributes.get("media", "")
            inside = token.name == "style" and not token.end and shown_on_screen(media)
        elif inside:
            out.append(token.text)
    return out


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
        for ended in ENDS.get(name, ()):
            if self._names[-1][ended] > self._items[ended] or (
                ended in ("td", "th", "tr") and self._in_table(ended)
            ):
                self._close_to(ended)
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

    def _in_table(self, name: str) -> bool:
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
        if not attributes and not element.matched:  # nearly all elements
            self._shown = self._shown and name not in NEVER_SHOWN and name not in CLICKED_OPEN
            return
        claims = self._styles.claims(element, attributes.get("style", ""))
        hidden = attributes.get("hidden", "until-found").lower() != "until-found"
        hidden = hidden or (name in CLICKED_OPEN and "open" not in attributes)
        hidden = _held(claims, "display", hidden) or name in NEVER_SHOWN
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
        elif name in BLOCKS:
            self.flow.part()


def _held(claims: Claims, name: str, otherwise: bool) -> bool:
    """Return if the claim on a property hides, or `otherwise` without one."""
    return claims[name].hides if name in claims else otherwise


def _span(given: str | None) -> int:
    """Return a colspan or rowspan; 1 if it is not a number."""
    digits = (given or "").strip()
    return max(1, int(digits)) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 1
