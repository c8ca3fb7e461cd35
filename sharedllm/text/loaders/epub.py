"""EPUB -> text: the chapters of a book in their order, each as a browser shows it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

from sharedllm.errors import DocumentError
from sharedllm.text.loaders.encodings import decode
from sharedllm.text.loaders.flow import Measured
from sharedllm.text.loaders.html import read_html, tokens
from sharedllm.text.loaders.packages import Ignoring, Package, Title, resolved
from sharedllm.text.loaders.source import Contents, Given
from sharedllm.text.outline import Heading

CONTAINER = "META-INF/container.xml"
PROTECTION = "META-INF/encryption.xml"
CONTENTS = "application/x-dtbncx+xml"
PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read_epub(given: Given) -> Contents:
    """Return text and title of a book.

    Raises
    ------
    DocumentError
        If it is damaged or copy-protected.
    """
    package = Package(given.data, given.source)
    container = _Container()
    if CONTAINER not in package:
        raise package.broken(f"it has no {CONTAINER}")
    package.parse(CONTAINER, container)
    if container.path not in package:
        raise package.broken("it has no list of chapters")
    book, title = _Book(), Title()
    package.parse(container.path, book)
    package.parse(container.path, title)
    folder = posixpath.dirname(container.path)
    chapters = [resolved(folder, book.files[c]) for c in book.spine if c in book.files]
    _require_open(package, chapters)
    named = _contents(package, folder, book)
    measured, texts = Measured(given.source), list[str]()
    headings, at = list[Heading](), 0
    for chapter in chapters:
        if chapter not in package:
            raise package.broken(f"the chapter {chapter} is missing")
        page = Given(data=package.read(chapter), source=f"{given.source}, {chapter}")
        if not page.data.strip():
            continue
        text, _, own = read_html(page)
        if not text.strip():
            continue
        measured.add(len(text) + 2)
        texts.append(text)
        own = own or [Heading(0, level, words) for level, words in named.get(chapter, ())[:1]]
        headings += [one._replace(start=at + one.start) for one in own]
        at += len(text) + 2
    return Contents("\n\n".join(texts), title.text, headings or None)


def _contents(package: Package, folder: str, book: _Book) -> dict[str, list[tuple[int, str]]]:
    """Level and title of what the table of contents names, by the page that it leads to.

    A table that is missing or broken names nothing: the headings of the pages are enough.
    """
    out: dict[str, list[tuple[int, str]]] = {}
    for name, read in ((book.contents, _nav), (book.old_contents, _ncx)):
        part = resolved(folder, name) if name else ""
        if part not in package or out:
            continue
        try:
            entries = list(read(package, part))
        except DocumentError:  # of the table alone, which the text does not need
            continue
        for target, level, title in entries:
            place = resolved(posixpath.dirname(part), target.partition("#")[0])
            out.setdefault(place, []).append((level, title))
    return out


def _nav(package: Package, part: str) -> Iterator[tuple[str, int, str]]:
    """Yield target, level and title of each entry in a navigation page (EPUB 3)."""
    page = Given(data=package.read(part), source=f"{package.source}, {part}")
    navs, level, target, words = 0, 0, "", list[str]()
    for token in tokens(decode(page), xml=True):
        if token.name == "nav":
            toc = token.attributes.get("epub:type", "toc") == "toc"
            navs = int(not token.end and toc)
        elif token.name == "ol" and navs:
            level += -1 if token.end else 1
        elif token.name == "a" and navs and not token.end:
            target, words = token.attributes.get("href", ""), []
        elif token.name == "a" and target:
            yield target, max(level, 1), "".join(words)
            target = ""
        elif not token.name and target:
            words.append(token.text)


def _ncx(package: Package, part: str) -> Iterator[tuple[str, int, str]]:
    """Yield the same of the entries in a table of EPUB 2."""
    table = _Ncx()
    package.parse(part, table)
    yield from table.entries


def _require_open(package: Package, chapters: list[str]) -> None:
    if PROTECTION not in package:
        return
    locked = _Locked()
    package.parse(PROTECTION, locked)
    if locked.parts.intersection(chapters):  # else only fonts
        raise DocumentError(f"{package.source} is copy-protected; give a copy without protection")


class _Container(Ignoring):
    """Finds the list of chapters."""

    path = ""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "rootfile" and not self.path:
            self.path = resolved("", attributes.get("full-path", ""))


class _Book(Ignoring):
    """Collects the pages of a book, and their order."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.spine: list[str] = []
        self.contents = self.old_contents = ""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "item" and attributes.get("media-type") == CONTENTS:
            self.old_contents = attributes.get("href", "")
        elif name == "item" and attributes.get("media-type", PAGES[0]) in PAGES:
            if "nav" in attributes.get("properties", "").split():  # the table of contents
                self.contents = attributes.get("href", "")
            else:
                self.files[attributes.get("id", "")] = attributes.get("href", "")
        elif name == "itemref":
            self.spine.append(attributes.get("idref", ""))


class _Ncx(Ignoring):
    """Collects the entries of a table of contents."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int, str]] = []
        self._level, self._in_text = 0, False
        self._words: list[str] = []

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "navPoint":
            self._level += 1
            self._words = []
        elif name == "text" and self._level:
            self._in_text = True
        elif name == "content" and self._level:
            self.entries.append((attributes.get("src", ""), self._level, "".join(self._words)))

    def end(self, name: str) -> None:
        if name == "navPoint":
            self._level -= 1
        elif name == "text":
            self._in_text = False

    def data(self, text: str) -> None:
        if self._in_text:
            self._words.append(text)


class _Locked(Ignoring):
    """Collects the parts that are encrypted."""

    def __init__(self) -> None:
        self.parts: set[str] = set()

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "CipherReference":
            self.parts.add(resolved("", attributes.get("URI", "")))
