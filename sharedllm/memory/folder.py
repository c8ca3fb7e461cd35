"""The folder of a memory: which files it may hold, and how they are opened.

A folder may come from a stranger. Nothing in it is followed, waited for or written to that is not
a plain file of the memory's own.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

from sharedllm.errors import TreeMemoryError, TreeMemoryFormatError
from sharedllm.memory import MEMORY_FILE as FILE
from sharedllm.memory import PARTS_FILE

WAL, SHM, JOURNAL = (f"{FILE}-{ending}" for ending in ("wal", "shm", "journal"))
WRITER = "writer.json"  # names who holds the write lock, or held it last: for messages only
OWN = (FILE, WAL, SHM, JOURNAL, WRITER)
NOTE_BYTES = 4096
LONGEST_NAME = 255  # bytes of a folder's name, on all common systems


def require_own(folder: Path, *, create: bool) -> None:
    """Refuse a folder that is not a memory before anything is written in it.

    Raises
    ------
    TreeMemoryFormatError
        If it holds something else.
    TreeMemoryError
        If there is none and `create` is false, or it cannot be read.
    """
    where = repr(str(folder))
    kind = kind_of(folder)
    if kind is None:
        if create:
            return
        raise TreeMemoryError(f"there is no memory in {where}: the folder does not exist")
    if not stat.S_ISDIR(kind):
        raise TreeMemoryFormatError(f"{where} is a file; a memory is a folder: name another path")
    try:
        held = {path.name: path.lstat() for path in sorted(folder.iterdir())}
    except OSError as error:
        raise TreeMemoryError(f"{where} cannot be read: {error.strerror or error}") from error
    if PARTS_FILE in held and FILE not in held:
        raise TreeMemoryFormatError(
            f"{where} is a memory of several parts: open it with PartedMemory() or open_memory()"
        )
    for name in OWN:
        if name in held:
            _require_plain(name, held[name], where)
    if FILE not in held:
        if create and set(held) <= set(OWN):
            return
        found = f"it holds {min(held)!r}" if held else "it is empty"
        raise TreeMemoryFormatError(
            f"{where} is no memory: {found} and no {FILE}; name the folder of a memory"
            + (", or one that is new or empty" if create else "")
        )


def kind_of(folder: Path) -> int | None:
    """The mode of what stands at a path; None where nothing does.

    Raises
    ------
    TreeMemoryError
        If no file can have the path's name.
    """
    try:
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return folder.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a name of more than 255 bytes, a NUL, links in a ring
        name = str(folder)
        length = len(name.encode("utf-8", "surrogatepass"))
        shown = name if length <= 100 else f"{name[:80]}...{name[-10:]}"
        raise TreeMemoryError(
            f"{shown!r} ({length:,} bytes) cannot be the path of a memory: "
            f"{getattr(error, 'strerror', None) or error}; name a folder that can be made"
        ) from error


def _require_plain(name: str, status: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "something else"
        raise TreeMemoryFormatError(
            f"{name} is {kind} in {where}, and a memory keeps to its own folder; link to the "
            "whole folder in place of its parts"
        )


def require_plain(file: Path) -> None:
    """Refuse a file that is a link or not a file; none may stand there yet.

    Raises
    ------
    TreeMemoryFormatError
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        _require_plain(file.name, file.lstat(), repr(str(file.parent)))


def is_writable(folder: Path) -> bool:
    """False where this process can only read the memory: by permission, or on a read-only disk."""
    return os.access(folder, os.W_OK | os.X_OK) and os.access(folder / FILE, os.W_OK)


def require_one_name(folder: Path) -> None:
    """Refuse to write to files that have other names as well, which may be somebody else's.

    SQLite would also keep a log for each name: https://sqlite.org/howtocorrupt.html

    Raises
    ------
    TreeMemoryFormatError
    """
    for name in (FILE, WAL, SHM, JOURNAL):
        with suppress(FileNotFoundError):
            if (folder / name).lstat().st_nlink > 1:
                raise TreeMemoryFormatError(
                    f"{name} in {str(folder)!r} has other names elsewhere (hard links), and what "
                    "is written here would change there: copy the folder (cp -r), and open the copy"
                )


def is_unfinished(folder: Path) -> bool:
    """True while the file has a log beside it: somebody has it open, or was killed."""
    return any(_size(folder / name) for name in (WAL, JOURNAL))


def state_of(folder: Path) -> tuple[int, ...]:
    """Values of the file system that change when somebody writes to the memory."""
    status = (folder / FILE).stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, _size(folder / WAL))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def file_of(folder: Path) -> tuple[int, int]:
    """Device and inode of the memory's file, or of the list of its parts; (0, 0) without both."""
    for name in (FILE, PARTS_FILE):
        with suppress(OSError, ValueError):
            status = (folder / name).stat()
            return (status.st_dev, status.st_ino)
    return (0, 0)


def read_plain(path: Path, most: int) -> bytes:
    """The bytes of a plain file, at most `most` of them; links and pipes are not followed.

    Raises
    ------
    OSError
        Also if it is something else, or larger.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path.name} is not a plain file")
        if status.st_size > most:
            raise OSError(f"{path.name} has {status.st_size:,} bytes, more than {most:,}")
        return file.read(most)


def sync(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def sign(folder: Path) -> None:
    """Leave a note naming this writer, for the message of those that wait; it may fail."""
    note = {"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    with suppress(OSError):
        # made anew: what stands there may be another name of somebody's file
        (folder / WRITER).unlink(missing_ok=True)
        file = os.open(folder / WRITER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.write(file, json.dumps(note).encode())
        finally:
            os.close(file)


def signed(folder: Path) -> str:
    """Who holds the write lock, as far as the note tells."""
    try:
        note = json.loads(read_plain(folder / WRITER, NOTE_BYTES))
        return f"process {int(note['process'])} on {str(note['host'])[:100]!r}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"
