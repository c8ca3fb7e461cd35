"""Pages that a framework's reader made a document each -> the files that they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from sharedllm_integrations.names import SOURCES, first_text

T = TypeVar("T")
PAGED = ("page", "page_label")  # fields of metadata that say that a document is one page


def files(
    documents: Iterable[T], metadata_of: Callable[[T], Mapping[str, Any]]
) -> Iterator[list[T]]:
    """The documents of each file, in order; one that is no page of a file stands alone."""
    found: dict[object, list[T]] = {}
    for number, document in enumerate(documents):
        metadata = metadata_of(document)
        source = first_text(metadata, SOURCES)
        is_page = bool(source) and any(name in metadata for name in PAGED)
        found.setdefault(source if is_page else number, []).append(document)
    yield from found.values()


def wholes(
    documents: Iterable[T],
    metadata_of: Callable[[T], Mapping[str, Any]],
    page_of: Callable[[T], tuple[str, object]],
) -> Iterator[tuple[T, dict[str, Any], str | None]]:
    """For each file its first page, its metadata and its text; None is a document that stays.

    Parameters
    ----------
    page_of : gives a page's text, and its number from 0 where it is known
    """
    for pages in files(documents, metadata_of):
        first = metadata_of(pages[0])
        metadata = of_whole(first)
        stays = len(pages) == 1 and metadata == first
        yield pages[0], metadata, None if stays else joined(map(page_of, pages))


def joined(texts: Iterable[tuple[str, object]]) -> str:
    """One text of pages, each with its number from 0 where it is known; gaps are empty pages."""
    from sharedllm import join_pages

    pages: list[str] = []
    for text, number in texts:
        if isinstance(number, int) and not isinstance(number, bool):
            pages += [""] * (number - len(pages))
        pages.append(text)
    return join_pages(pages)


def of_whole(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of a page says of its file."""
    return {name: value for name, value in metadata.items() if name not in PAGED}
