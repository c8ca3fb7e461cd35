"""PDF -> text, page by page, with the rows of tables on lines of their own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from sharedllm.errors import DocumentError
from sharedllm.text.loaders.flow import BAR, Measured
from sharedllm.text.loaders.source import Contents, Given
from sharedllm.text.outline import Heading
from sharedllm.text.pages import join_pages, page_starts

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

DEEPEST_BOOKMARK = 12
WORDS = re.compile(r"[^\W_]+")
HYPHEN, BREAK_OR_SIGN = "[-\u00ad\u2010\u2011]?", r"[\W_]{0,8}"
LONGEST_BOOKMARK = 30  # words of a title that are looked for on its page
START = b"%PDF-"
# Titles that programs write into every file.
NO_TITLE = re.compile(
    r"\W*(?:(?:un(?:titled|named|specified|known)|anonymous|no title|title|document|slide|sheet|"
    r"page|book|presentation|new (?:document|file)|powerpoint[ -]pr[\u00e4e]sentation|"
    r"full page photo|print|scan|layout|dokument|ohne titel|sans titre|sin t[i\u00ed]tulo|"
    r"microsoft (?:word|powerpoint|excel|office)\b.*)[\s\d_.-]*(?:\(\d+\))?|"
    r"[^\s]*\.(?:docx?|pptx?|xlsx?|rtf|odt|dvi|tex|indd|qxd|pdf|ps|eps|fm|pub|pages|html?|tmp))\W*",
    re.IGNORECASE,
)
CELL = re.compile(r"\S+(?: \S+)*")  # of a line in which spaces stand for places
SHORT_LINE = 30  # characters; pypdf gives each cell of a table as a line, or each row
SHORT_LINES = 6  # of a page that may hold a table
NUMBERS = re.compile(r"(?<!\S)[-+$(]?\d[\d.,%)]*(?!\S)")
MEAN_CELL = 24  # characters; longer ones are columns of text side by side
FEWEST_ROWS = 2
ROWS_DROPPED = 3  # above a table: a heading may look like a row of it


class Cell(NamedTuple):
    """A cell of a line: the places [start, end) where it stands, and its text."""

    start: int
    end: int
    text: str


def read_pdf(given: Given) -> Contents:
    """Return the text of all pages, joined by :func:`join_pages`, and the title.

    Raises
    ------
    DocumentError
        If it is damaged, needs a password, or has no text.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    source, measured = given.source, Measured(given.source)
    pages: list[str] = []
    try:
        with _silent_pypdf():
            reader = PdfReader(BytesIO(given.data))
            _require_open(reader, source)
            for page in reader.pages:
                pages.append(_page(page))
                measured.add(len(pages[-1]))
            title = (reader.metadata.title if reader.metadata else None) or ""
            bookmarks = list(_bookmarks(reader))
    except DocumentError:
        raise
    except DependencyError as error:
        raise DocumentError(
            f"{source} is encrypted with AES, for which the package cryptography is missing "
            "(pip install cryptography), or needs a password"
        ) from error
    except Exception as error:  # damaged files raise whatever pypdf stumbles over
        raise DocumentError(
            f"{source} cannot be read as PDF ({error}); it may be damaged: save it again from a "
            "PDF viewer"
        ) from error
    text = join_pages(pages)
    if not text.strip():
        raise DocumentError(
            f"{source} has {len(pages)} pages but no text, only images; run OCR over it first "
            "(for instance: ocrmypdf in.pdf out.pdf)"
        )
    return Contents(text, title, _placed(bookmarks, text, len(pages)) or None)


def _require_open(reader: PdfReader, source: str) -> None:
    if reader.is_encrypted and not reader.decrypt(""):
        raise DocumentError(
            f"{source} is a PDF that needs a password; save a copy without protection"
        )


@contextmanager
def _silent_pypdf() -> Iterator[None]:
    """Keep pypdf's remarks about slightly wrong files off standard error."""
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


# -- bookmarks -------------------------------------------------------------------------------------


class Bookmark(NamedTuple):
    """An entry of the outline that a PDF brings: its page, counted from 0, level and title."""

    page: int
    level: int
    title: str


def _bookmarks(reader: PdfReader) -> Iterator[Bookmark]:
    """Yield the bookmarks that lead to a page, in their order.

    Where what pypdf reads of them is broken, there are none: nothing of the text is lost.
    """
    try:
        found = list(_flat(reader.outline, reader, 1))
    except Exception:  # as for the file itself, whatever pypdf stumbles over
        return
    yield from found


def _flat(entries: Sequence[Any], reader: PdfReader, level: int) -> Iterator[Bookmark]:
    for entry in entries:
        if isinstance(entry, list):
            if level < DEEPEST_BOOKMARK:
                yield from _flat(entry, reader, level + 1)
            continue
        page = reader.get_destination_page_number(entry)
        if page is not None and page >= 0:
            yield Bookmark(page, level, str(entry.title or ""))


def _placed(bookmarks: Sequence[Bookmark], text: str, pages: int) -> list[Heading]:
    """The headings that bookmarks stand for: where their titles are on their pages.

    A title that is not there as it is spelled begins with its page, or after the one before it.
    """
    starts = page_starts(text) or (0,)
    if len(starts) != pages or len({one.page for one in bookmarks}) < 2 < len(bookmarks):
        return []
    ends = [*starts[1:], len(text)]
    out: list[Heading] = []
    for page, level, title in bookmarks:
        if page >= pages:
            continue
        least = max(starts[page], out[-1].start + 1 if out else 0)
        found = _title_pattern(title).search(text, starts[page], ends[page])
        if found and found.start("title") < least:
            found = _title_pattern(title).search(text, min(least, ends[page]), ends[page])
        if found:
            at = found.start("title")
        else:  # at the beginning of the page, or of the line after the one before it
            at = least if least == starts[page] else text.find("\n", least) + 1
            at += len(text[at : ends[page]]) - len(text[at : ends[page]].lstrip())
            if not least <= at < ends[page]:
                continue
        number = found.group("number") if found else None
        out.append(Heading(at, level, f"{number} {title}" if number else title))
    return out


def _title_pattern(title: str) -> re.Pattern[str]:
    """Matches a title at the beginning of a line, after any number; hyphens do not count."""
    words = [HYPHEN.join(map(re.escape, word)) for word in WORDS.findall(title)[:LONGEST_BOOKMARK]]
    return re.compile(
        r"(?:^|(?<=\f))[ \t]*(?P<title>(?:[^\W\d_]+[ \t]+)?"
        r"(?:(?P<number>(?:[A-Z]|[\dIVXLC]{1,6})(?:\.\d+)*\.?)[ \t]+)?"
        + rf"\W*{BREAK_OR_SIGN.join(words)})",
        re.MULTILINE | re.IGNORECASE,
    )


# -- tables ----------------------------------------------------------------------------------------


def _page(page: PageObject) -> str:
    """The text of a page; rows of tables on one line, where an empty cell can be seen."""
    text = page.extract_text()
    if not _may_hold_table(text.split("\n")):
        return text
    try:
        layout = page.extract_text(extraction_mode="layout")
    except Exception:  # this mode of pypdf fails on some pages that the other one reads
        return text
    for rows in find_tables(layout):
        text = _with_rows(text, rows)
    return text


def _may_hold_table(lines: Sequence[str]) -> bool:
    """True for many short lines, or lines of numbers; most pages have neither."""
    short = sum(0 < len(line) <= SHORT_LINE for line in lines)
    numbers = sum(len(NUMBERS.findall(line)) > 1 for line in lines)
    return short >= SHORT_LINES or numbers >= FEWEST_ROWS


def find_tables(layout: str) -> Iterator[list[list[str]]]:
    """Yield the tables of a page's layout, each as rows of as many cells.

    A table is a run of lines with cells that are apart, stand below one another and are short.
    """
    for lines in _runs(layout):
        for dropped in range(min(ROWS_DROPPED, len(lines))):
            rows = _columns(lines[dropped:])
            if rows:
                yield rows
                break


def _runs(layout: str) -> Iterator[list[list[Cell]]]:
    """Yield runs of lines with several cells."""
    run: list[list[Cell]] = []
    for line in [*layout.split("\n"), "end"]:
        cells = [Cell(m.start(), m.end(), m.group()) for m in CELL.finditer(line)]
        if len(cells) > 1:
            run.append(cells)
        elif cells:
            if len(run) >= FEWEST_ROWS:
                yield run
            run = []


def _columns(lines: Sequence[Sequence[Cell]]) -> list[list[str]] | None:
    """Put the cells of `lines` into columns; None if they are not those of a table."""
    cells = [cell for line in lines for cell in line]
    widest = max(len(line) for line in lines)
    few = len(lines) < FEWEST_ROWS or (widest < 3 and len(lines) < FEWEST_ROWS + 1)
    if few or sum(len(cell.text) for cell in cells) > MEAN_CELL * len(cells):
        return None
    columns: list[list[int]] = []
    for start, end in sorted((cell.start, cell.end) for cell in cells):
        if columns and start < columns[-1][1]:
            columns[-1][1] = max(columns[-1][1], end)
        else:
            columns.append([start, end])
    rows = []
    for line in lines:
        row = [""] * len(columns)
        for cell in line:
            place = next(i for i, (start, end) in enumerate(columns) if start <= cell.start < end)
            if row[place]:
                return None
            row[place] = cell.text
        rows.append(row)
    filled = sum(map(bool, (cell for row in rows for cell in row)))
    return rows if 2 * filled >= len(rows) * len(columns) else None


def _with_rows(text: str, rows: Sequence[Sequence[str]]) -> str:
    """Put a table's rows in the place of its cells; not if the text has them in another order."""
    places = [at for at, character in enumerate(text) if not character.isspace()]
    plain = "".join(text[at] for at in places)
    own = "".join("".join(cell.split()) for row in rows for cell in row)
    at = plain.find(own)
    if at < 0 or plain.find(own, at + 1) >= 0:
        return text
    first, last = places[at], places[at + len(own) - 1] + 1
    table = "\n".join(BAR.join(row).rstrip() for row in rows)
    before, after = text[:first].rstrip(), text[last:].lstrip()
    return f"{before}\n{table}\n{after}" if before else f"{table}\n{after}"
