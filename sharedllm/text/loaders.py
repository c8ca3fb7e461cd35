"""Files -> text: plain text, Markdown, HTML, PDF and standard input; and rows of JSON Lines."""

from __future__ import annotations

import codecs
import json
import logging
import lzma
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm.arguments import checked
from sharedllm.config import require_int
from sharedllm.errors import DocumentError
from sharedllm.text.pages import join_pages

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from pypdf import PdfReader

STDIN = "-"
TEXT_LIMIT = 64 << 20
MOST_BYTES = 1 << 40  # that `limit` allows
PDF_LIMIT = 256 << 20
PDF_START = b"%PDF-"
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
HTML_START = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), *((b, "utf-16") for b in (b"\xff\xfe", b"\xfe\xff")))
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
MOST_CONTROL = 0.05  # share of control characters above which bytes are not text

HIDDEN = ("title", "script", "style", "noscript", "template", "svg", "object")
LINES = ("br", "dd", "dt", "li", "tr")
BLOCKS = (
    *("address", "article", "aside", "blockquote", "dl", "div", "figcaption", "figure", "footer"),
    *("form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "nav", "ol", "p", "pre"),
    *("section", "table", "ul"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceText:
    """The text of a file.

    Attributes
    ----------
    text : str
        Every line ends in a line feed. Citations count characters in this text. A form feed
        stands between the pages of a PDF, so that citations know theirs; running titles and page
        numbers are left out, and words broken at line ends are whole.
    title : str
        The title that HTML or PDF state, else the file's name, without its ending and underscores.
    source : str
        The path as it was given.
    """

    text: str
    title: str
    source: str


@checked(error=DocumentError)
def read_file(path: str | os.PathLike[str], *, limit: int | None = None) -> SourceText:
    """Read a text, Markdown, HTML or PDF file, or standard input.

    Parameters
    ----------
    path : str or path
        "-" is standard input. The suffix tells the format; standard input is inspected.
    limit : int or None
        The most bytes to read; None is 64 MiB, and 256 MiB for PDF.

    Raises
    ------
    DocumentError
        If the file is missing, a folder, empty, larger than the limit, binary, neither UTF-8 nor
        UTF-16, a damaged or encrypted PDF, or a PDF or HTML page without text.
    """
    if limit is not None:
        require_int("limit", limit, least=1, most=MOST_BYTES)
    given = os.fspath(path)
    source = "standard input" if given == STDIN else given
    suffix = Path(given).suffix.lower()
    most = limit or (PDF_LIMIT if suffix in ("", ".pdf") else TEXT_LIMIT)
    data = _read(given, source, most)
    title = source if given == STDIN else Path(given).stem.replace("_", " ")
    if suffix == ".pdf" or data.startswith(PDF_START):
        text, stated = _pdf(data, source)
    else:
        _require_size(len(data), limit or TEXT_LIMIT, source)
        if suffix in HTML_SUFFIXES or (given == STDIN and HTML_START.match(data)):
            text, stated = _html(data, source)
        else:
            text, stated = _decoded(data, source), ""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DocumentError(f"{source} has no text: it is empty or only white space")
    return SourceText(text=text, title=" ".join(stated.split()) or title, source=source)


@checked(error=DocumentError)
def read_rows(path: str | os.PathLike[str], *, skip: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the rows of a .jsonl or .jsonl.xz file, without about the first `skip` characters.

    Raises
    ------
    DocumentError
        If the file is missing or a line is not a JSON object.
    """
    name = os.fspath(path)
    try:
        opener = lzma.open if name.endswith(".xz") else open
        with opener(name, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if skip > 0:
                    skip -= len(line)
                    continue
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DocumentError(
                        f"line {number} of {name!r} is a JSON {type(row).__name__}; "
                        "each line must be an object"
                    )
                yield row
    except (OSError, lzma.LZMAError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DocumentError(
            f"cannot read rows from {name!r}: {error}; give a .jsonl or .jsonl.xz file"
        ) from error


def _read(given: str, source: str, most: int) -> bytes:
    """Read all bytes of a file; its size is checked first, if it has one."""
    try:
        if given == STDIN:
            data = sys.stdin.buffer.read(most + 1)
        else:
            status = Path(given).stat()
            if stat.S_ISDIR(status.st_mode):
                raise DocumentError(
                    f"{source} is a folder; name files in it, or read all of it into a memory: "
                    "sharedllm index FOLDER --memory DIR"
                )
            _require_size(status.st_size, most, source)
            with Path(given).open("rb") as file:  # a pipe has no size: read no more than allowed
                data = file.read(most + 1)
    except DocumentError:
        raise
    except FileNotFoundError as error:
        raise DocumentError(f"no such file: {source!r}; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        reason = getattr(error, "strerror", None) or error
        raise DocumentError(f"{source!r} cannot be read: {reason}") from error
    _require_size(len(data), most, source)
    if not data:
        raise DocumentError(f"{source} is empty; give a file with text in it")
    return data


def _require_size(size: int, most: int, source: str) -> None:
    if size > most:
        raise DocumentError(
            f"{source} has {size:,} bytes or more; at most {most:,} are read: "
            "split it, or raise read_file's limit"
        )


def _decoded(data: bytes, source: str, declared: str | None = None) -> str:
    """Decode `data` by its byte order mark, else as `declared`, else as UTF-8."""
    encoding = next((name for mark, name in BOMS if data.startswith(mark)), declared or "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-16":  # in which half of the bytes are NUL
            _refuse_binary(data.decode("latin-1"), source)
        raise DocumentError(
            f"{source} is not {encoding.removesuffix('-sig').upper()} text: byte {error.start:,} "
            f"is {data[error.start]:#04x}; convert it to UTF-8 "
            "(for instance: iconv -f WINDOWS-1252 -t UTF-8)"
        ) from error
    _refuse_binary(text, source)
    return text


def _refuse_binary(text: str, source: str) -> None:
    if "\0" in text or len(CONTROL.findall(text)) > MOST_CONTROL * len(text):
        raise DocumentError(
            f"{source} is binary, not text; allowed are text, Markdown, HTML and PDF: "
            "convert it to one of them"
        )


def _html(data: bytes, source: str) -> tuple[str, str]:
    """Return visible text and title of an HTML page."""
    from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    try:
        declared = codecs.lookup(declared).name if declared else None
    except LookupError as error:
        raise DocumentError(
            f"{source} declares the unknown encoding {declared!r}; convert it to UTF-8"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML is read as HTML on purpose
        soup = BeautifulSoup(_decoded(data, source, declared), "html.parser")
    title = soup.title.get_text() if soup.title else ""
    return _visible(soup), title


def _visible(soup: BeautifulSoup) -> str:
    """Return the visible text: blocks are separated, white space counts only in <pre>."""
    from bs4.element import NavigableString

    hidden = soup.select(f"{', '.join(HIDDEN)}, [hidden], [style*='display:none' i]")
    for tag in hidden:
        tag.extract()
    for string in soup.find_all(string=True):
        if type(string) is not NavigableString:
            continue  # comments and declarations are subclasses
        if string.find_parent("pre"):
            string.replace_with(string.replace(" ", "\xa0"))  # kept below, put back at the end
        else:
            string.replace_with(re.sub(r"[ \t\r\n\f]+", " ", string))
    for names, gap in ((("td", "th"), " "), (LINES, "\n"), (BLOCKS, "\n\n")):
        for tag in soup.find_all(list(names)):
            tag.insert_before(gap)
            if names is BLOCKS:
                tag.insert_after(gap)
    text = re.sub(r" *\n *", "\n", soup.get_text())
    return re.sub(r"\n{3,}", "\n\n", text).replace("\xa0", " ").strip()


def _pdf(data: bytes, source: str) -> tuple[str, str]:
    """Return the text of all pages, joined by :func:`join_pages`, and the title."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    try:
        with _silent_pypdf():
            reader = PdfReader(BytesIO(data))
            _require_open(reader, source)
            pages = [page.extract_text() for page in reader.pages]
            title = (reader.metadata.title if reader.metadata else None) or ""
    except DocumentError:
        raise
    except DependencyError as error:
        raise DocumentError(
            f"{source} is an encrypted PDF; save a copy without protection"
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
    return text, title


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
