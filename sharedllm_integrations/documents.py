"""Documents as readers of both frameworks make them: their names, and files out of pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

T = TypeVar("T")
TITLE = 60  # characters of a title that is the beginning of a text
TITLES = ("title", "file_name")  # fields of metadata, as readers of both frameworks name them
SOURCES = ("source", "file_path", "url")
PAGED = ("page", "page_label")  # fields of metadata that say that a document is one page
_ENDS_AS_A_FILE = re.compile(r"[/\\][^/\\]*\.\w{1,8}\Z")


def name_of(metadata: Mapping[str, Any], text: str) -> str:
    """A document's title, else the name of its file, else how it begins."""
    named = first_text(metadata, TITLES) or file_name(first_text(metadata, SOURCES))
    return named or beginning(text)


def first_text(metadata: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these fields that holds text, or ""."""
    found = (metadata[name] for name in names if isinstance(metadata.get(name), str))
    return next((text for text in found if text.strip()), "")


def page_label(page: int | None) -> dict[str, str]:
    """The page of a passage under the name that readers of both frameworks give it."""
    return {} if page is None else {"page_label": str(page)}


def file_name(source: str) -> str:
    """The last part of a path or an address; anything else stays as it is."""
    if "://" in source:
        address = urlsplit(source)
        path = unquote(address.path).rstrip("/")
        return path.rpartition("/")[2] or address.netloc or source
    if source.startswith(("/", "./", "../", "~/")) or _ENDS_AS_A_FILE.search(source):
        return re.split(r"[/\\]", source.rstrip("/\\"))[-1] or source
    return source


def beginning(text: str) -> str:
    """The first words of a text, in one line."""
    first = " ".join(text[: 4 * TITLE].split())
    return first if len(first) <= TITLE else first[: TITLE - 3].rsplit(" ", 1)[0] + "..."


# -- pages that a reader made a document each ------------------------------------------------------


def whole_files(
    documents: Iterable[T],
    metadata_of: Callable[[T], Mapping[str, Any]],
    page_of: Callable[[T], tuple[str, object]],
) -> Iterator[tuple[T, dict[str, Any], str | None]]:
    """For each file its first page, its metadata and its text; None is a document that stays.

    Parameters
    ----------
    page_of : gives a page's text, and its number from 0 where it is known
    """
    files: dict[object, list[T]] = {}
    for number, document in enumerate(documents):
        metadata = metadata_of(document)
        source = first_text(metadata, SOURCES)
        is_page = bool(source) and any(name in metadata for name in PAGED)
        files.setdefault(source if is_page else number, []).append(document)
    for pages in files.values():
        first = metadata_of(pages[0])
        metadata = {name: value for name, value in first.items() if name not in PAGED}
        stays = len(pages) == 1 and metadata == first
        yield pages[0], metadata, None if stays else _joined(map(page_of, pages))


def _joined(texts: Iterable[tuple[str, object]]) -> str:
    """One text of pages, each with its number from 0 where it is known; gaps are empty pages."""
    from sharedllm import join_pages

    pages: list[str] = []
    for text, number in texts:
        if isinstance(number, int) and not isinstance(number, bool):
            pages += [""] * (number - len(pages))
        pages.append(text)
    return join_pages(pages)
