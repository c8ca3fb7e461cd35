"""Where a document's file is, seen from a page: what a reader may click to see the whole."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from sharedllm.display.picture import Picture
from sharedllm.display.plain import CONTROL, escaped

WEB = ("http://", "https://")


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


def linked(picture: Picture, words: str, page: int | None = None) -> str:
    """`words` as a link to the file, at its `page` if it has one; plain where there is no file."""
    if not picture.link:
        return f"<bdi>{escaped(words)}</bdi>"
    is_pdf = picture.link.partition("?")[0].lower().endswith(".pdf")
    at = f"#page={page}" if page and is_pdf else ""
    return (
        f'<a class="file" target="_blank" rel="noreferrer" href="{escaped(picture.link + at)}">'
        f"<bdi>{escaped(words)}</bdi></a>"
    )
