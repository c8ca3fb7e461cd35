"""What a document is called where its citations and the model see it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

TITLE = 60  # characters of a title that is the beginning of a text
TITLES = ("title", "file_name")  # fields of metadata, as readers of both frameworks name them
SOURCES = ("source", "file_path", "url")
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
    """The last part of a path or an address; what is neither stays as it is."""
    if "://" in source:
        address = urlsplit(source)
        path = unquote(address.path).rstrip("/")
        return path.rpartition("/")[2] or address.netloc or source
    if source.startswith(("/", "./", "../", "~/")) or _ENDS_AS_A_FILE.search(source):
        return re.split(r"[/\\]", source.rstrip("/\\"))[-1] or source
    return source


def beginning(text: str) -> str:
    """How a text begins, in one line."""
    first = " ".join(text[: 4 * TITLE].split())
    return first if len(first) <= TITLE else first[: TITLE - 3].rsplit(" ", 1)[0] + "..."
