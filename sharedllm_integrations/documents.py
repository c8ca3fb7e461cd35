"""Documents as readers of both frameworks make them: names, values, and files out of pages."""

from __future__ import annotations

import logging
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import UUID

from sharedllm import SharedLLMError
from sharedllm.arguments import shown
from sharedllm_integrations.errors import DocumentValueError, SetupError

if TYPE_CHECKING:
    from sharedllm import Citation, Hit, MemoryDocument

T = TypeVar("T")
logger = logging.getLogger(__name__)
TITLE = 60  # characters of a title that is the beginning of a text
TITLES = ("title", "file_name")  # fields of metadata, as readers of both frameworks name them
SOURCES = ("source", "file_path", "url")
# fields of metadata that say that a document is one page, or a part of one
PAGED = ("page_number", "page", "page_label")
MOST_PAGES = 20_000  # a larger number is no page's
DEEPEST = 32  # values within values
_ENDS_AS_A_FILE = re.compile(r"[/\\][^/\\]*\.\w{1,8}\Z")


def name_of(metadata: Mapping[str, Any], text: str) -> str:
    """A document's title, else the name of its file, else how it begins."""
    named = first_text(metadata, TITLES) or file_name(first_text(metadata, SOURCES))
    return named or beginning(text)


def first_text(metadata: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these fields that holds text or a path, or ""."""
    found = (str(metadata[n]) for n in names if isinstance(metadata.get(n), str | PurePath))
    return next((text for text in found if text.strip()), "")


def place_of(found: Hit | Citation) -> dict[str, Any]:
    """The place of a passage in its document, its score, page and match, as metadata."""
    return {
        "char_start": found.char_start,
        "char_end": found.char_end,
        "score": found.score,
        **match_of(found.match_start, found.match_end, found.round, found.sought),
        **page_label(found.page, found.end_page),
        **section_of(found.section),
    }


def match_of(start: int | None, end: int | None, number: int, sought: str) -> dict[str, Any]:
    """The sentence of a passage that matches best, in characters of its document.

    And the round of search that found it, with what that searched for, if it is a later one.
    """
    match = {} if start is None or end is None else {"match_start": start, "match_end": end}
    return match | ({"round": number, "sought": sought} if number > 1 else {})


def page_label(page: int | None, end_page: int | None) -> dict[str, str]:
    """The page of a passage under the name that readers of both frameworks give it.

    Where the sentence that matches ends on a later page, that one is `end_page_label`.
    """
    labels = {"page_label": page, "end_page_label": end_page}
    return {name: str(number) for name, number in labels.items() if number is not None}


def section_of(path: str) -> dict[str, str]:
    """The section of a passage, as a path of titles, where its document has an outline."""
    return {"section": path} if path else {}


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


# -- values that a memory cannot hold as they are --------------------------------------------------


def make_document(
    *, id: str, text: str, title: str, source: str, metadata: Mapping[str, Any]
) -> MemoryDocument:
    """A document of a memory, whose refusals name it and the field.

    Raises
    ------
    DocumentValueError
        If a memory cannot hold a value.
    """
    from sharedllm import MemoryDocument

    name = id or beginning(text)
    try:
        return MemoryDocument(
            id=id,
            text=whole_characters(text, f"document {name!r}: text"),
            title=whole_characters(title, f"document {name!r}: title"),
            source=whole_characters(source, f"document {name!r}: source"),
            metadata=plain_metadata(metadata, name),
        )
    except DocumentValueError:
        raise
    except SharedLLMError as error:
        raise DocumentValueError(f"document {name!r}: {error}") from error


def plain_metadata(metadata: Mapping[str, Any], document: str) -> dict[str, Any]:
    """Metadata as JSON holds them.

    Dates and times become ISO 8601, paths and UUIDs text, sets and tuples lists, values of numpy
    and enumerations their plain ones, and NaN, by which tables say that a cell is empty, null.

    Parameters
    ----------
    document : its name, for messages

    Raises
    ------
    DocumentValueError
        If a value is of another kind.
    """
    return {_key(k, document, ""): _plain(v, document, str(k)) for k, v in metadata.items()}


def whole_characters(text: str, where: str) -> str:
    """`text` with U+FFFD for every half of a surrogate pair, and a warning that says where."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        logger.warning(
            "%s has half of a surrogate pair at character %d; it is read as U+FFFD",
            where,
            error.start,
        )
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _key(key: Any, document: str, field: str) -> str:
    if not isinstance(key, str):
        raise DocumentValueError(
            f"document {document!r}: metadata{field and f' field {field!r}'} has the key {key!r}; "
            "every key must be a str"
        )
    return whole_characters(key, f"document {document!r}: metadata")


def _plain(value: Any, document: str, field: str, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise DocumentValueError(
            f"document {document!r}: metadata field {field!r} is nested more than {DEEPEST} levels "
            "deep, or holds itself; leave it out"
        )
    if isinstance(value, Mapping):
        return {
            _key(k, document, field): _plain(v, document, field, depth + 1)
            for k, v in value.items()
        }
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return [_plain(one, document, field, depth + 1) for one in value]
    if isinstance(value, Enum):
        return _plain(value.value, document, field, depth + 1)
    if hasattr(value, "tolist"):  # of numpy, which need not be installed
        return _plain(value.tolist(), document, field, depth + 1)
    return _single(value, document, field)


def _single(value: Any, document: str, field: str) -> Any:
    if isinstance(value, str | PurePath | UUID):
        return whole_characters(str(value), f"document {document!r}: metadata field {field!r}")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float | Decimal | date) and value != value:
        return None  # NaN; NaT of pandas
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return float(value)
    raise DocumentValueError(
        f"document {document!r}: metadata field {field!r} is {reprlib.repr(value)} "
        f"({type(value).__name__}); allowed are str, finite numbers, booleans, None, dates, times, "
        "paths, and lists and mappings of them. Convert it, or leave it out"
    )


# -- pages that a reader made a document each ------------------------------------------------------


def whole_files(
    kind: type[T],
    documents: Iterable[T],
    metadata_of: Callable[[T], Mapping[str, Any]],
    text_of: Callable[[T], str],
) -> Iterator[tuple[T, dict[str, Any], str | None]]:
    """For each file its first page, what its pages' metadata share, and its text.

    A document that stays as it is has None as its text.

    Raises
    ------
    SetupError
        If one is not of the class `kind`.
    """
    files: dict[object, list[T]] = {}
    for number, document in enumerate(documents):
        if not isinstance(document, kind):
            raise SetupError(
                f"item {number} of the documents is {shown(document)}; give a "
                f"{kind.__module__.partition('.')[0]} {kind.__name__}"
            )
        metadata = metadata_of(document)
        source = first_text(metadata, SOURCES)
        is_page = bool(source) and any(name in metadata for name in PAGED)
        files.setdefault(source if is_page else number, []).append(document)
    for pages in files.values():
        all_metadata = [metadata_of(page) for page in pages]
        shared = {k: v for k, v in _shared(all_metadata).items() if k not in PAGED}
        stays = len(pages) == 1 and shared == all_metadata[0]
        joined = None if stays else _joined(map(text_of, pages), _page_numbers(all_metadata))
        yield pages[0], shared, joined


def _shared(all_metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields that have one value in all."""
    first, *rest = all_metadata
    return {k: v for k, v in first.items() if all(k in one and one[k] == v for one in rest)}


def _page_numbers(all_metadata: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    """The page of each, counted from 1.

    Readers count "page_number" from 1, and "page" from 0 or from 1: from 0 where there is a page 0,
    or where its label or the number of all pages says so. Where no number is known, pages are
    counted as they come.
    """
    for name in PAGED:
        found = [_number(one.get(name)) for one in all_metadata]
        given = [number for number in found if number is not None]
        if not given:
            continue
        from_zero = 0 in given or (name == "page" and _counts_from_zero(all_metadata, given))
        if name == "page_label" and (len(given) < len(found) or given != sorted(set(given))):
            continue  # such as iv, or one that begins again
        if max(given) > MOST_PAGES or min(given) < 0:
            continue
        out, last = list[int](), 1
        for number in found:
            last = last if number is None else max(number + from_zero, 1)
            out.append(last)
        return out
    return range(1, len(all_metadata) + 1)


def _counts_from_zero(all_metadata: Sequence[Mapping[str, Any]], pages: Sequence[int]) -> bool:
    for one in all_metadata:
        page, label = _number(one.get("page")), _number(one.get("page_label"))
        if page is not None and label is not None and label - page in (0, 1):
            return label > page
    total = _number(all_metadata[0].get("total_pages"))
    return total is not None and max(pages) < total


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _joined(texts: Iterable[str], numbers: Sequence[int]) -> str:
    """One text of pages; several texts of one page are paragraphs, gaps are empty pages."""
    from sharedllm import join_pages

    pages: dict[int, list[str]] = {}
    for text, number in zip(texts, numbers, strict=True):
        pages.setdefault(number, []).append(text)
    return join_pages(["\n\n".join(pages.get(n, ())) for n in range(1, max(pages) + 1)])
