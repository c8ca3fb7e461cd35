"""Shards: safetensors files with the arrays of chunks, written whole and read by memory mapping.

A file's name is drawn at random by us; nothing of a document ever stands in it.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
import threading
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.errors import StoreDamagedError

FOLDER = "shards"
NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
OPEN_FILES = 64  # mapped at once; each takes a file descriptor
ALIGNMENT = 64
DTYPES: dict[
    str, np.dtype[Any]
] = {  # safetensors' names; numpy has no bfloat16, whose bits are kept as uint16
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "U16": np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """An array as it stands on disk: `values` of the type that safetensors calls `dtype`."""

    values: NDArray[np.generic]
    dtype: str

    @classmethod
    def of(cls, values: NDArray[np.generic]) -> Stored:
        """A plain numpy array under its own type."""
        for name, dtype in DTYPES.items():
            if dtype == values.dtype and name != "BF16":
                return cls(values, name)
        raise ValueError(f"arrays of type {values.dtype} are not stored; use {', '.join(DTYPES)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where an array stands: a row of the table `arrays`, with the name of its file."""

    chunk: int
    name: str
    file: str
    start: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]
    checksum: int

    @classmethod
    def of_row(cls, row: Sequence[object]) -> Place:
        """From the columns :data:`COLUMNS`.

        Raises
        ------
        StoreDamagedError
            If the row is none that we wrote; a file's name leads nowhere else.
        """
        chunk, name, file, start, length, dtype, shape, checksum = row
        try:
            sizes = tuple(int(n) for n in json.loads(str(shape)))
            known = DTYPES[str(dtype)]
            whole = math.prod(sizes) * known.itemsize == int(str(length)) and int(str(start)) >= 0
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole or not NAME.fullmatch(str(file)):
            raise StoreDamagedError(
                f"the table of arrays is damaged at {str(name)!r} of chunk {chunk}: run "
                "sharedllm verify --repair, which encodes it again from the text"
            )
        return cls(
            chunk=int(str(chunk)),
            name=str(name),
            file=str(file),
            start=int(str(start)),
            bytes=int(str(length)),
            dtype=str(dtype),
            shape=sizes,
            checksum=int(str(checksum)),
        )


COLUMNS = "chunk, name, file, start, bytes, dtype, shape, checksum"


def write(folder: Path, arrays: Mapping[tuple[int, str], Stored]) -> tuple[str, list[Place]]:
    """Write `arrays`, keyed by chunk and name, into one new file that is on the disk on return.

    Returns
    -------
    its name, and where every array stands in it
    """
    file = f"{uuid.uuid4().hex}.safetensors"
    places, at = [], 0
    for (chunk, name), stored in arrays.items():
        values = np.ascontiguousarray(stored.values)
        places.append(
            Place(
                chunk=chunk,
                name=name,
                file=file,
                start=at,
                bytes=values.nbytes,
                dtype=stored.dtype,
                shape=values.shape,
                checksum=zlib.crc32(values.data),
            )
        )
        at += values.nbytes
    header = _header(places)
    target, temporary = folder / FOLDER / file, folder / FOLDER / f"{file}.tmp"
    try:
        with temporary.open("wb") as out:
            out.write(header)
            for stored in arrays.values():
                out.write(np.ascontiguousarray(stored.values).data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, target)  # noqa: PTH105  (tests stop here)
        sync_folder(target.parent)
    except BaseException:
        for left in (temporary, target):
            with suppress(OSError):
                left.unlink()
        raise
    shifted = [_moved(place, len(header)) for place in places]
    return file, shifted


def _moved(place: Place, by: int) -> Place:
    values = {name: getattr(place, name) for name in place.__slots__}
    return Place(**{**values, "start": place.start + by})


def _header(places: Sequence[Place]) -> bytes:
    """The safetensors header: its length, then JSON, padded so that arrays are aligned."""
    entries = {
        f"{place.chunk}/{place.name}": {
            "dtype": place.dtype,
            "shape": place.shape,
            "data_offsets": [place.start, place.start + place.bytes],
        }
        for place in places
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def insert(connection: sqlite3.Connection, file: str, places: Sequence[Place]) -> None:
    """Note a written shard and its arrays; arrays of the same chunk and name are replaced."""
    shard = connection.execute("INSERT INTO shards (file) VALUES (?)", (file,)).lastrowid
    connection.executemany(
        "INSERT OR REPLACE INTO arrays VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (p.chunk, p.name, shard, p.start, p.bytes, p.dtype, json.dumps(p.shape), p.checksum)
            for p in places
        ],
    )


class Shards:
    """The shards of one memory, mapped when they are touched.

    An array is checked against its checksum the first time this process reads it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()
        self._checked: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def array(self, place: Place, *, check: bool = False) -> NDArray[np.generic]:
        """The array at `place`, read-only and not yet in memory.

        Parameters
        ----------
        check : compare it with its checksum even if that was done before

        Raises
        ------
        FileNotFoundError
            If the file is gone, as after a compaction: look the place up again.
        StoreDamagedError
            If the bytes are not those that were written.
        """
        data = self._map(place.file)[place.start : place.start + place.bytes]
        key = (place.file, place.start)
        if len(data) != place.bytes:
            raise StoreDamagedError(f"it ends after {len(self._map(place.file)):,} bytes")
        if check or key not in self._checked:
            if zlib.crc32(data.data) != place.checksum:
                raise StoreDamagedError("its bytes are not those that were written")
            self._checked.add(key)
        return data.view(DTYPES[place.dtype]).reshape(place.shape)

    def forget(self) -> None:
        """Let go of all maps, and check again what is read next."""
        with self._lock:
            self._maps.clear()
            self._checked.clear()

    def _map(self, file: str) -> NDArray[np.uint8]:
        with self._lock:
            found = self._maps.get(file)
            if found is None:
                path = self._folder / FOLDER / file
                if not path.stat().st_size:
                    return np.empty(0, np.uint8)  # an empty file cannot be mapped
                found = np.memmap(path, mode="r")
                self._maps[file] = found
                while len(self._maps) > OPEN_FILES:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(file)
            return found
