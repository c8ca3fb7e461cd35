"""The file that lists the parts of a memory, and what they have in common."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from sharedllm.arguments import path_problem, shown
from sharedllm.errors import (
    InputError,
    TreeMemoryBusyError,
    TreeMemoryError,
    TreeMemoryFormatError,
)
from sharedllm.memory import PARTS_FILE
from sharedllm.memory.folder import read_plain, require_plain, sync

FORMAT = 1
LOCK = f".{PARTS_FILE}.lock"
MOST_BYTES = 1 << 20
MOST_PARTS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class PartsList:
    """The contents of the file.

    Attributes
    ----------
    made_by : str
        The digest of the manifest of every part: model, tokenizer, trees and settings.
    codec : str
        A hash of the codec of search vectors of every part; "" where they are stored whole.
    parts : tuple of str
        Folders of memories: names within the memory's own folder, or absolute paths.
    """

    made_by: str
    codec: str
    parts: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the list in `folder`.

        Raises
        ------
        TreeMemoryFormatError
            If it is broken, or of another version.
        TreeMemoryError
            If it cannot be read.
        """
        where = f"{PARTS_FILE} in {str(folder)!r}"
        try:
            given = json.loads(read_plain(folder / PARTS_FILE, MOST_BYTES))
        except OSError as error:
            raise TreeMemoryError(f"{where} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise TreeMemoryFormatError(f"{where} is not JSON: {error}; {_AGAIN}") from error
        if not isinstance(given, dict) or given.get("format") != FORMAT:
            raise TreeMemoryFormatError(
                f"{where} is not a list of parts of version {FORMAT}; {_AGAIN}"
            )
        parts = given.get("parts")
        named = [given.get("made_by"), given.get("codec")]
        if not isinstance(parts, list) or not all(isinstance(one, str) for one in (*parts, *named)):
            raise TreeMemoryFormatError(
                f"{where} has parts {shown(parts)}, made_by {shown(named[0])} and codec "
                f"{shown(named[1])}; these must be a list of paths and two texts; {_AGAIN}"
            )
        for part in parts:
            problem = path_problem(part)
            if problem:
                raise TreeMemoryFormatError(f"{where} has the part {shown(part)}: {problem}")
        return cls(made_by=given["made_by"], codec=given["codec"], parts=tuple(parts))

    def write(self, folder: Path) -> None:
        """Let the list in `folder` be this one; it is the old or the new one, whatever happens.

        Raises
        ------
        TreeMemoryError
        """
        data = json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"
        try:
            made = folder / f".{PARTS_FILE}-{secrets.token_hex(8)}"
            with made.open("x", encoding="utf-8") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            made.replace(folder / PARTS_FILE)
            sync(folder)
        except OSError as error:
            raise TreeMemoryError(
                f"{PARTS_FILE} in {str(folder)!r} cannot be written: {error.strerror or error}; "
                "nothing was changed"
            ) from error

    def folders(self, folder: Path) -> list[Path]:
        """The folders of the parts; those named without a root are in `folder`."""
        return [folder / part for part in self.parts]


@contextmanager
def changing(folder: Path, busy_s: float) -> Iterator[None]:
    """Keep other processes and threads from changing the list in `folder` meanwhile.

    Raises
    ------
    TreeMemoryBusyError
        If another does not finish in time.
    TreeMemoryError
        If nothing can be written there.
    """
    held = locked(folder / LOCK, busy_s)
    if held is None:
        raise TreeMemoryBusyError(
            f"the list of parts in {str(folder)!r} is being changed by another process, and was "
            f"for {busy_s:g} s; try again"
        )
    with closing(held):
        yield


def locked(file: Path, busy_s: float) -> sqlite3.Connection | None:
    """Lock a file that holds nothing, as SQLite locks a memory: until it is closed.

    None if another has it. The system gives it up when the process ends, however it ends.

    Raises
    ------
    TreeMemoryError
        If it cannot be made, or something else stands there.
    """
    require_plain(file)
    try:
        held = sqlite3.connect(file, timeout=busy_s, isolation_level=None, check_same_thread=False)
        try:
            held.execute("BEGIN EXCLUSIVE")
        except BaseException:
            held.close()
            raise
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            return None
        raise TreeMemoryError(
            f"{file.name} in {str(file.parent)!r} cannot be locked: {error}; nothing was changed"
        ) from error
    return held


def state_of_list(folder: Path) -> tuple[int, ...]:
    """Values that change when the list in `folder` does; none without a list.

    The time as well: a system gives the inode of a file that is gone to the next one.
    """
    try:
        status = (folder / PARTS_FILE).stat()
    except (OSError, ValueError):
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns


_AGAIN = "make it again with PartedMemory(path, parts=[...])"


def part_folders(folder: Path) -> list[Path]:
    """The folders of a memory's parts; of a memory that is one, its own.

    Raises
    ------
    TreeMemoryError, TreeMemoryFormatError
    """
    return PartsList.read(folder).folders(folder) if is_parted(folder) else [folder]


def is_parted(folder: Path) -> bool:
    """True where a memory of several parts stands."""
    try:
        return (folder / PARTS_FILE).is_file()
    except (OSError, ValueError):
        return False


def part_paths(given: object) -> list[Path]:
    """The paths of parts, as they were given.

    Raises
    ------
    InputError
    """
    if isinstance(given, str | os.PathLike) or not isinstance(given, Iterable):
        raise InputError(f"parts is {shown(given)}; give the folders of memories, or a number")
    out = []
    for one in given:
        if not isinstance(one, str | os.PathLike):
            raise InputError(f"a part is {shown(one)}; give the folder of a memory")
        problem = path_problem(one)
        if problem:
            raise InputError(f"a part is {shown(one)}; {problem}")
        out.append(Path(one))
    if not out:
        raise InputError("parts is empty; give the folders of memories, or a number")
    if len(out) > MOST_PARTS:
        raise InputError(f"{len(out):,} parts are given; allowed are at most {MOST_PARTS:,}")
    return out


def part_name(part: Path, folder: Path) -> str:
    """The name of a part in the list: within the folder of the list, or absolute."""
    whole, own = part.absolute(), folder.absolute()
    return whole.relative_to(own).as_posix() if whole.is_relative_to(own) else str(whole)
