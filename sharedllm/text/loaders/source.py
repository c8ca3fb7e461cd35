"""A file's bytes on their way to text, and the text that was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sharedllm.text.outline import Heading, Outline


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """The bytes of a file.

    Attributes
    ----------
    data : bytes
    source : str
        Names the file in errors.
    encoding : str or None
        The encoding that the user names; None is found out.
    """

    data: bytes
    source: str
    encoding: str | None = None


class Contents(NamedTuple):
    """The text of a file, the title that it states, and its headings.

    Attributes
    ----------
    title : "" without one
    headings : those that the format marks; None if they are to be found in the text
    """

    text: str
    title: str = ""
    headings: Sequence[Heading] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceText:
    r"""The text of a file.

    Attributes
    ----------
    text : str
        Every line ends in a line feed. Citations count characters in this text. A form feed
        stands between the pages of a PDF and the slides of a presentation, so that citations know
        theirs. Of a PDF, running titles and page numbers are left out, and words broken at line
        ends are whole.
    title : str
        The title that the file states, else its name, without its ending and underscores.
    source : str
        The path as it was given; bytes of a name that are not UTF-8 are spelled ``\xe9``.
    outline : tuple of Section
        The sections of the text: by the headings, bookmarks or contents of the file, else by
        headings in the text. Empty for code, data and texts without any.
    """

    text: str
    title: str
    source: str
    outline: Outline = ()
