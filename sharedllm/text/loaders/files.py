"""Files -> text: the one table of formats, and what every file goes through before its reader."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sharedllm.arguments import checked
from sharedllm.config import require_int
from sharedllm.errors import DocumentError
from sharedllm.text.headings import find_headings
from sharedllm.text.loaders.encodings import decode, require_encoding
from sharedllm.text.loaders.epub import CONTAINER, read_epub
from sharedllm.text.loaders.html import read_html
from sharedllm.text.loaders.mail import read_eml
from sharedllm.text.loaders.office import SLIDES_MAIN, WORD_MAIN, read_docx, read_pptx
from sharedllm.text.loaders.packages import ZIP_START
from sharedllm.text.loaders.pdf import NO_TITLE, START, read_pdf
from sharedllm.text.loaders.records import read_csv, read_json, read_jsonl, read_tsv
from sharedllm.text.loaders.rtf import read_rtf
from sharedllm.text.loaders.source import Contents, Given, SourceText
from sharedllm.text.loaders.subtitles import read_subtitles
from sharedllm.text.outline import Heading, Outline, make_outline

STDIN = "-"
TEXT_LIMIT = 64 << 20
MOST_BYTES = 1 << 40  # that `limit` allows
PACKED_LIMIT = 256 << 20  # of formats that hold pictures
HTML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<!doctype html|<html)", re.IGNORECASE)

Reader = Callable[[Given], Contents]


def read_plain(given: Given) -> Contents:
    """Return a text as it stands."""
    return Contents(decode(given))


def reader_of(form: str) -> Reader:
    """Make a reader of texts as they stand, whose headings are marked in one form."""

    def read(given: Given) -> Contents:
        text = decode(given).replace("\r\n", "\n").replace("\r", "\n")
        return Contents(text, "", find_headings(text, form=form))

    return read


def read_code(given: Given) -> Contents:
    """Return a program or settings as they stand; their comments are no headings."""
    return Contents(decode(given), "", ())


# A format is added by one entry here: its suffixes, and the function that reads it.
PROSE: Mapping[str, Reader] = {
    **dict.fromkeys((".txt", ".text", ".rst"), read_plain),
    **dict.fromkeys((".md", ".markdown"), reader_of("markdown")),
    ".adoc": reader_of("asciidoc"),
    ".org": reader_of("org"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".pptx": read_pptx,
    ".epub": read_epub,
    ".rtf": read_rtf,
    ".eml": read_eml,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    **dict.fromkeys((".jsonl", ".ndjson"), read_jsonl),
    **dict.fromkeys((".srt", ".vtt"), read_subtitles),
}
SOURCE_CODE = tuple(
    ".py .pyi .ipy .js .mjs .cjs .jsx .ts .tsx .java .kt .kts .scala .groovy .c .h .cc .cpp .cxx "
    ".hh .hpp .cs .fs .go .rs .swift .m .mm .rb .php .pl .pm .lua .r .jl .sh .bash .zsh .fish "
    ".bat .ps1 .sql .hs .ml .ex .exs .erl .clj .lisp .el .dart .zig .nim .f90 .f .vb .asm .s .css "
    ".scss .vue .svelte .xml .yaml .yml .toml .ini .cfg .conf .properties .tex .bib .proto "
    ".graphql .tf .cmake .gradle .diff .patch .log".split()
)
FORMATS: Mapping[str, Reader] = {
    **dict.fromkeys(SOURCE_CODE, read_code),
    **PROSE,
    ".tex": reader_of("latex"),
}
# Files that are known by their whole name.
NAMES = frozenset(
    "readme license licence copying changelog authors notice makefile dockerfile gemfile".split()
)
MAIN_PARTS: Mapping[bytes, Reader] = {
    WORD_MAIN.encode(): read_docx,
    SLIDES_MAIN.encode(): read_pptx,
    CONTAINER.encode(): read_epub,
}
PACKED = (".pdf", ".docx", ".pptx", ".epub")


def is_read(path: Path) -> bool:
    """True if the name of a file tells a format that is read."""
    return path.suffix.lower() in FORMATS or path.name.lower() in NAMES


@checked(error=DocumentError)
def read_file(
    path: str | os.PathLike[str], *, limit: int | None = None, encoding: str | None = None
) -> SourceText:
    """Read a document, or standard input.

    Text, Markdown, source code, HTML, PDF, DOCX, PPTX, EPUB, RTF, EML, CSV, TSV, JSON, JSON Lines,
    SRT and WebVTT are read.

    Parameters
    ----------
    path : str or path
        "-" is standard input. The suffix tells the format, and a file with another suffix is
        read as text; standard input is inspected for HTML, PDF, RTF, DOCX, PPTX and EPUB.
    limit : int or None
        The most bytes to read; None is 64 MiB, and 256 MiB for PDF, DOCX, PPTX and EPUB.
    encoding : str or None
        The encoding of a text, as Python names it; None finds it out.

    Raises
    ------
    DocumentError
        If the file is missing, a folder, empty, larger than the limit, binary, damaged, encrypted,
        without text, or its encoding cannot be told.
    InputError
        If there is no such encoding.
    """
    if limit is not None:
        require_int("limit", limit, least=1, most=MOST_BYTES)
    if encoding is not None:
        require_encoding(encoding)
    given = os.fspath(path)
    source = "standard input" if given == STDIN else spelled(given)
    suffix = Path(given).suffix.lower()
    data = _read(given, source, limit or (PACKED_LIMIT if suffix in ("", *PACKED) else TEXT_LIMIT))
    reader = _reader(suffix, data, piped=given == STDIN)
    if reader not in (read_pdf, read_docx, read_pptx, read_epub):
        _require_size(len(data), limit or TEXT_LIMIT, source)
    try:
        text, stated, headings = reader(Given(data=data, source=source, encoding=encoding))
    except (RecursionError, MemoryError) as error:
        raise DocumentError(f"{source} is too large, or nested too deeply, to be read") from error
    text = _valid(text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        raise DocumentError(f"{source} has no text: it is empty or only white space")
    own = source if given == STDIN else _title(Path(given))
    stated = " ".join(_valid(stated).replace("\0", "").split())
    title = own if not stated or NO_TITLE.fullmatch(stated) else stated
    return SourceText(text=text, title=title, source=source, outline=_outline(text, headings))


def _outline(text: str, headings: Sequence[Heading] | None) -> Outline:
    """The outline by the headings that the file marks; by those in its text where it has few.

    A single heading, such as the title of a page, divides nothing.
    """
    if headings is None or len(headings) == 1:
        found = find_headings(text, form=None if headings is None else "plain")
        headings = found if len(found) > 1 else headings or found
    return make_outline(headings, len(text))


def spelled(path: str) -> str:
    r"""A path as text: bytes that are not UTF-8 as in ``caf\xe9.txt``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _title(path: Path) -> str:
    """The name of a file, for reading; source code keeps its suffix."""
    name = path.name if path.suffix.lower() in SOURCE_CODE else path.stem.replace("_", " ")
    return spelled(name)


def _valid(text: str) -> str:
    """`text` without halves of surrogate pairs, which JSON and PDF can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _reader(suffix: str, data: bytes, *, piped: bool) -> Reader:
    """The reader of a file, by its content where that is certain, else by its suffix."""
    if data.startswith(START):
        return read_pdf
    if piped and HTML_START.match(data):
        return read_html
    if piped and data.startswith(b"{\\rtf"):
        return read_rtf
    if piped and data.startswith(ZIP_START):  # its main part is named in the list at its end
        return next((reader for part, reader in MAIN_PARTS.items() if part in data), read_plain)
    return FORMATS.get(suffix, read_plain)


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
