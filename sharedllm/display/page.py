"""The file that a page of answers becomes: its links to documents' files, and its writing."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from sharedllm.display import html
from sharedllm.display.picture import Answered, Pictures
from sharedllm.display.plain import CONTROL
from sharedllm.errors import ConfigError

WEB = ("http://", "https://")


def page(answers: Sequence[Answered], folder: Path | None = None) -> str:
    """The whole page; with links to the documents' files, if it is to lie in `folder`."""
    if folder is not None:
        answers = [replace(one, pictures=_linked(one.pictures, folder)) for one in answers]
    return html.page(answers)


def _linked(pictures: Pictures, folder: Path) -> Pictures:
    return tuple(replace(one, link=link_from(folder, one.source)) for one in pictures)


def link_from(folder: Path, source: str) -> str:
    """The address of `source` for a page in `folder`: "" where it is neither a file nor on the web.

    Files are linked relative to the page, so that both can be moved together.
    """
    if source.startswith(WEB):
        return "" if CONTROL.search(source) else source.partition("#")[0]
    file = local(source)
    if file is None:
        return ""
    try:
        return quote(Path(os.path.relpath(file, folder.resolve())).as_posix())
    except ValueError:  # another drive
        return file.as_uri()


def local(source: str) -> Path | None:
    """The file that `source` names, if there is one."""
    try:
        return Path(source).resolve() if source and Path(source).is_file() else None
    except (OSError, ValueError):  # a text that is no path: too long, or with a NUL character
        return None


def check(path: str | os.PathLike[str], sources: Sequence[str] = (), name: str = "--html") -> None:
    """Refuse a path to which no page can be written, before the work begins.

    Parameters
    ----------
    sources : files, and folders of memories, that must not be written over
    name : what messages call the path

    Raises
    ------
    ConfigError
        If it is a folder, a device or one of `sources`, or its folder is not there or not
        writable.
    """
    target = Path(path)
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            what = "a folder" if target.is_dir() else "no regular file"
            raise ConfigError(f"{name} is {os.fspath(path)!r}, {what}; name a file to write")
        real = target.resolve()
        if any(Path(source).resolve() in (real, *real.parents) for source in sources):
            raise ConfigError(
                f"{name} is {os.fspath(path)!r}, which is read, or lies in the memory that "
                "is; name another file"
            )
        if not target.parent.is_dir():
            raise ConfigError(
                f"{name} is {os.fspath(path)!r}; there is no folder {str(target.parent)!r}: make it"
            )
        _create(target).unlink()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        raise _refused(path, name, error) from error


def write(path: str | os.PathLike[str], answers: Sequence[Answered], name: str = "--html") -> str:
    """Write the page whole or not at all, and return it; what was there stays until it is.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    target, made = Path(path), None
    try:
        made = _create(target)
        text = page(answers, target.parent)
        made.write_text(text, encoding="utf-8", newline="\n")
        made.replace(target)
    except OSError as error:
        if made is not None:
            made.unlink(missing_ok=True)
        raise _refused(path, name, error) from error
    return text


def _create(target: Path) -> Path:
    """An empty file beside `target`, with the rights that a new file has."""
    made = target.parent / f".sharedllm-{secrets.token_hex(8)}"
    os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return made


def _refused(path: str | os.PathLike[str], name: str, error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return error
    reason = getattr(error, "strerror", None) or error
    return ConfigError(
        f"{name} is {os.fspath(path)!r}, which cannot be written: {reason}; name another file"
    )
