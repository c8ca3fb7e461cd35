"""Rows of a memory's tables: their checksums, and the values of the manifest.

Every row has a checksum over all of its values, computed when it is written and compared when it
is read. Every function that takes a connection runs inside of a transaction of the caller's.
"""

from __future__ import annotations

import sqlite3
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sharedllm.errors import TreeMemoryDamagedError
from sharedllm.memory.documents import LONGEST_METADATA, LONGEST_NAME
from sharedllm.memory.schema import KINDS

REPAIR = "run sharedllm verify --repair, which encodes it again from the text"
VALUES_AT_ONCE = 500  # in one SQL statement
LONGEST_NUMBER = 18  # digits, of those that SQLite keeps
LONGEST_OUTLINE = 1 << 25  # characters of JSON
MOST_TOKENS = 1 << 20  # of a chunk


def checksum(*values: object) -> int:
    """CRC-32 over `values`, their types and their lengths."""
    crc = 0
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode()
        crc = zlib.crc32(f"{type(value).__name__}{len(data)}:".encode(), crc)
        crc = zlib.crc32(data, crc)
    return crc


def checked(row: Sequence[Any], table: str, what: str) -> tuple[Any, ...]:
    """The values of a row of `table`, whose last one is their checksum.

    Raises
    ------
    TreeMemoryDamagedError
        If they are not those that were written; the message begins with `what`.
    """
    kinds = tuple(map(type, row[:-1]))
    if checksum(*row[:-1]) != row[-1] or kinds != KINDS[table] or _is_huge(row, table):
        raise TreeMemoryDamagedError(f"{what} is not what was written")
    return tuple(row[:-1])


def _is_huge(row: Sequence[Any], table: str) -> bool:
    """True of what no memory writes, and what would take too long to read."""
    if table == "chunks":
        return not 0 < row[2] <= MOST_TOKENS
    if table == "outlines":
        return len(row[1]) > LONGEST_OUTLINE
    if table == "documents":
        return max(len(row[1]), len(row[2])) > LONGEST_NAME or len(row[3]) > LONGEST_METADATA
    return False


def inflated(data: bytes, most: int) -> bytes:
    """Inflate `data` to at most `most` bytes.

    Raises
    ------
    ValueError
        If it is not deflated, or gives more.
    """
    if not 0 <= most < sys.maxsize:  # zlib takes 0 for no bound
        raise ValueError(f"no text has {most:,} bytes")
    work = zlib.decompressobj()
    try:
        out = work.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(out) > most or not work.eof:
        raise ValueError(f"it does not end after {most:,} bytes")
    return out


def batches(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Give `values` in lists short enough for one SQL statement."""
    given = list(values)
    for at in range(0, len(given), VALUES_AT_ONCE):
        yield given[at : at + VALUES_AT_ONCE]


def marks(values: Sequence[object]) -> str:
    """As many question marks as there are `values`."""
    return ", ".join("?" * len(values))


def value_of(connection: sqlite3.Connection, name: str) -> str | None:
    """The value under `name` in the manifest.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written.
    """
    row = connection.execute("SELECT * FROM manifest WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(checked(row, "manifest", f"the manifest's {name}")[1])


def set_value(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Write the value under `name` in the manifest."""
    connection.execute(
        "INSERT OR REPLACE INTO manifest VALUES (?, ?, ?)", (name, value, checksum(name, value))
    )


def generation(connection: sqlite3.Connection) -> int:
    """The number of changes so far."""
    return number_of(connection, "generation")


def number_of(connection: sqlite3.Connection, name: str) -> int:
    """The number under `name` in the manifest, 0 where there is none.

    Raises
    ------
    TreeMemoryDamagedError
        If it is not what was written, or no number.
    """
    value = value_of(connection, name) or "0"
    if not (value.isascii() and value.isdigit() and len(value) <= LONGEST_NUMBER):
        raise TreeMemoryDamagedError(f"the manifest's {name} is {value[:40]!r} and no number")
    return int(value)


def bump(connection: sqlite3.Connection) -> int:
    """Count this change."""
    now = generation(connection) + 1
    set_value(connection, "generation", str(now))
    return now
