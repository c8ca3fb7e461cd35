"""EPUB -> text: the chapters of a book in their order, each as a browser shows it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from sharedllm.errors import DocumentError
from sharedllm.text.loaders.flow import Measured
from sharedllm.text.loaders.html import read_html
from sharedllm.text.loaders.packages import Ignoring, Package, Title, resolved
from sharedllm.text.loaders.source import Contents, Given

CONTAINER = "META-INF/container.xml"
PROTECTION = "META-INF/encryption.xml"
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
    measured, texts = Measured(given.source), []
    for chapter in chapters:
        if chapter not in package:
            raise package.broken(f"the chapter {chapter} is missing")
        page = Given(data=package.read(chapter), source=f"{given.source}, {chapter}")
        text = read_html(page).text if page.data.strip() else ""
        measured.add(len(text) + 2)
        texts.append(text)
    return Contents("\n\n".join(text for text in texts if text.strip()), title.text)


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

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "item" and attributes.get("media-type", PAGES[0]) in PAGES:
            if "nav" not in attributes.get("properties", "").split():  # the table of contents
                self.files[attributes.get("id", "")] = attributes.get("href", "")
        elif name == "itemref":
            self.spine.append(attributes.get("idref", ""))


class _Locked(Ignoring):
    """Collects the parts that are encrypted."""

    def __init__(self) -> None:
        self.parts: set[str] = set()

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "CipherReference":
            self.parts.add(resolved("", attributes.get("URI", "")))
