"""Answers -> one page that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sharedllm.display import notebook
from sharedllm.display.links import link_from
from sharedllm.display.picture import Pictures
from sharedllm.display.plain import escaped, one_line
from sharedllm.display.style import PAGE, SHEET
from sharedllm.errors import ConfigError

# nothing may be loaded or run, whatever a document has in it
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One question on the page.

    Attributes
    ----------
    question, text : str
    pictures : tuple of Picture
    summary : str
        What it took, in plain lines.
    """

    question: str
    text: str
    pictures: Pictures
    summary: str


def page(answers: Sequence[Answered], folder: Path | None = None) -> str:
    """The whole page; with links to the documents' files, if it is to lie in `folder`."""
    if folder is not None:
        answers = [replace(one, pictures=_linked(one.pictures, folder)) for one in answers]
    title = escaped(one_line(answers[0].question)) if answers else "sharedllm"
    links = "".join(
        f'<li><a href="#q{n}"><bdi>{escaped(one_line(one.question))}</bdi></a></li>'
        for n, one in enumerate(answers, start=1)
    )
    contents = f'<nav aria-label="Questions"><ul>{links}</ul></nav>' if len(answers) > 1 else ""
    sections = "".join(
        f'<section class="sllm" id="q{n}"><h1 dir="auto">{escaped(one.question)}</h1>'
        f"{notebook.answer(one.text, one.pictures, one.summary, f'q{n}-')}</section>"
        for n, one in enumerate(answers, start=1)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta name="referrer" content="no-referrer"><title>{title}</title>'
        f"<style>{PAGE}{SHEET}</style></head><body>{contents}<main>{sections}</main>"
        "<footer>Passages were selected and given to the model by sharedllm. The answer is a "
        "model's and may be wrong: read the evidence.</footer></body></html>\n"
    )


def _linked(pictures: Pictures, folder: Path) -> Pictures:
    return tuple(replace(one, link=link_from(folder, one.source)) for one in pictures)


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
