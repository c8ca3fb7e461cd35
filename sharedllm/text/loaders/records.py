"""Records: rows of CSV and objects of JSON, each as a paragraph with a line for every field.

::

    invoice: 48000
    paid by: Ada

The name stands before each value, because a row is found and read without the header above it.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import threading
from collections.abc import Iterator
from typing import Any

from sharedllm.arguments import checked
from sharedllm.errors import DocumentError
from sharedllm.text.loaders.encodings import decode
from sharedllm.text.loaders.flow import Measured
from sharedllm.text.loaders.source import Contents, Given

DELIMITERS = (",", ";", "\t", "|")
ROWS_TRIED = 50  # by which the delimiter is told
PRETTY = 80  # characters of a list that stands on one line
_csv_limit = threading.Lock()  # the longest field that csv takes is one number for the process


class Paragraphs:
    """Collects records."""

    def __init__(self, source: str) -> None:
        self._measured, self._out = Measured(source), list[str]()
        self._lines: list[str] = []

    def field(self, name: str, value: str) -> None:
        """Add a field to the open record."""
        line = f"{name}: {value}".rstrip() if name else value
        self._measured.add(len(line) + 1)
        self._lines.append(line)

    def close(self) -> None:
        """End the open record, if it has a field."""
        if self._lines:
            self._out.append("\n".join(self._lines))
            self._lines = []

    def text(self) -> str:
        """All records."""
        self.close()
        return "\n\n".join(self._out)


# -- CSV -------------------------------------------------------------------------------------------


def read_csv(given: Given) -> Contents:
    """Return the rows of a CSV file; the first one names the fields.

    Where it begins with a number it is a row like the others, and the fields are "column 1" and
    so on. An empty cell is an empty field.

    Raises
    ------
    DocumentError
    """
    return _rows(decode(given), None, given.source)


def read_tsv(given: Given) -> Contents:
    """Return the rows of a file with tabs between its fields, as :func:`read_csv`."""
    return _rows(decode(given), "\t", given.source)


def _rows(text: str, delimiter: str | None, source: str) -> Contents:
    out = Paragraphs(source)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # written by Excel
        delimiter, text = first.strip()[4], rest
    delimiter = delimiter or _delimiter(text)
    names: list[str] = []
    with _csv_limit:
        before = csv.field_size_limit(len(text) + 1)
        try:
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
                if not any(cell.strip() for cell in row):
                    continue
                if not names and not _is_number(row[0]):
                    names = [" ".join(cell.split()) for cell in row]
                    header = row
                    continue
                names = names or [""]
                for at in range(max(len(row), len(names) if names != [""] else 0)):
                    name = names[at] if at < len(names) else ""
                    cell = row[at] if at < len(row) else ""
                    out.field(name or f"column {at + 1}", " ".join(cell.split()))
                out.close()
        except csv.Error as error:
            raise DocumentError(f"{source} cannot be read as CSV: {error}") from error
        finally:
            csv.field_size_limit(before)
    found = out.text()
    return Contents(found or "\n".join(header) if names else "", "", ())


def _delimiter(text: str) -> str:
    """The delimiter that gives most of the first rows the same number of fields."""
    lines = text[: 1 << 16].splitlines()[:ROWS_TRIED]

    def fit(delimiter: str) -> tuple[int, int]:
        counts = [line.count(delimiter) for line in lines if line.strip()]
        usual = max(set(counts), key=counts.count, default=0)
        return (counts.count(usual) if usual else 0, usual)

    return max(DELIMITERS, key=fit)


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().replace(",", "."))
    except ValueError:
        return False
    return True


# -- JSON ------------------------------------------------------------------------------------------


class _Object(list[tuple[str, Any]]):
    """The fields of a JSON object in order; a name may come twice."""


class _Spelled(str):
    """A number or constant as the file spells it."""

    __slots__ = ()


def read_json(given: Given) -> Contents:
    """Return the records of a JSON file.

    The objects of the outermost list are records, wherever it stands; a field of an object inside
    of a record is named with its path, such as ``address.city`` or ``items[0].price``.

    Raises
    ------
    DocumentError
    """
    out = Paragraphs(given.source)
    _put(_parsed(decode(given), given.source), out)
    return Contents(out.text(), "", ())


def read_jsonl(given: Given) -> Contents:
    """Return the records of a JSON Lines file, one a line.

    Raises
    ------
    DocumentError
    """
    out = Paragraphs(given.source)
    for number, line in enumerate(decode(given).split("\n"), start=1):
        if line.strip():
            _put(_parsed(line, f"line {number} of {given.source}"), out)
            out.close()
    return Contents(out.text(), "", ())


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_Object,
            parse_int=_Spelled,
            parse_float=_Spelled,
            parse_constant=_Spelled,
        )
    except RecursionError as error:
        raise DocumentError(f"{what} is nested too deeply to be read; flatten it") from error
    except ValueError as error:
        raise DocumentError(f"{what} is not JSON: {error}; mend it, or name it .txt") from error


def _put(value: Any, out: Paragraphs) -> None:
    """Add a value, without recursion: (path, value, in a record) wait on a stack."""
    waiting: list[tuple[str, Any, bool]] = [("", value, False)]
    while waiting:
        path, here, inside = waiting.pop()
        if here is _CLOSE:
            out.close()
        elif isinstance(here, _Object):
            waiting += [(_under(path, name), v, inside) for name, v in reversed(here)]
        elif isinstance(here, list) and here and _has_parts(here):
            for at, one in reversed(list(enumerate(here))):
                named = f"{path}[{at}]" if inside else path
                waiting += [] if inside else [(path, _CLOSE, True)]
                waiting.append((named, one, True))
            if not inside:
                out.close()
        elif isinstance(here, list):
            out.field(path, ", ".join(map(_plain, here)))
        else:
            out.field(path, _plain(here))


_CLOSE = object()  # a record ends


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _has_parts(values: list[Any]) -> bool:
    return any(isinstance(value, list) for value in values)  # an object is a list of pairs


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(str(value).split()) if "\n\n" in str(value) else str(value)


# -- rows for training and evaluation --------------------------------------------------------------


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
