"""Documents as they go into a memory, and reports about them: plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharedllm.arguments import shown
from sharedllm.errors import InputError
from sharedllm.text.headings import find_outline
from sharedllm.text.outline import Section, require_outline

LONGEST_ID = 1024
LONGEST_TEXT = 1 << 26  # characters of a document
LONGEST_NAME = 4096  # characters of a title or a source, which stand in every prompt
LONGEST_METADATA = 1 << 24  # characters of JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryDocument:
    """A document of a memory.

    Parameters
    ----------
    text : str
    id : str
        What names it in the memory; without one, a hash of text, title and source.
    title : str
        Shown to the model beside the document's passages; at most 4,096 characters.
    source : str
        Where it came from, shown in citations; at most 4,096 characters.
    metadata : mapping
        Whatever JSON can hold; search can filter by its fields.
    outline : sequence of Section or None
        The sections of the text, as ``read_file`` gives them; None finds them in the text.

    Raises
    ------
    InputError
        If a value is of another type, the text is longer than 67,108,864 characters, or JSON cannot
        hold the metadata.
    """

    text: str = field(repr=False)
    id: str = ""
    title: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    outline: Sequence[Section] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("text", "id", "title", "source"):
            _require_text(name, getattr(self, name))
        for name, most, advice in (
            ("text", LONGEST_TEXT, "divide it into several documents"),
            ("title", LONGEST_NAME, "shorten it"),
            ("source", LONGEST_NAME, "shorten it"),
        ):
            if len(getattr(self, name)) > most:
                raise InputError(
                    f"a document's {name} has {len(getattr(self, name)):,} characters; allowed are "
                    f"at most {most:,}: {advice}"
                )
        found = self.outline
        found = find_outline(self.text) if found is None else require_outline(found, self.text)
        object.__setattr__(self, "outline", found)
        object.__setattr__(self, "metadata", json.loads(metadata_json(self.metadata)))
        if not self.id:
            object.__setattr__(self, "id", _content_id(self.text, self.title, self.source))
        if len(self.id) > LONGEST_ID or not self.id.isprintable():
            raise InputError(
                f"a document's id is {self.id[:60]!r}; allowed are 1 to {LONGEST_ID} printable "
                "characters"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """A document of a memory with its size, without its text.

    Attributes
    ----------
    id, title, source, metadata : as they were given
    characters, tokens, chunks : int
        The length of its text.
    bytes : int
        On disk, for its text and its chunks; what documents share is counted for each.
    """

    id: str
    title: str
    source: str
    metadata: Mapping[str, Any]
    characters: int
    tokens: int
    chunks: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something broken in a memory.

    Attributes
    ----------
    what : str
        What is broken and what to do.
    table : str
        The table it lies in, or the name of the whole file.
    documents : tuple of str
        Ids of the documents it belongs to.
    chunk : int or None
        The broken chunk, where it can be encoded again from the text.
    """

    what: str
    table: str
    documents: tuple[str, ...] = ()
    chunk: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The result of :meth:`TreeMemory.verify`.

    Attributes
    ----------
    documents, chunks, bytes : int
        What was checked.
    problems : tuple of Problem
        Empty when all is well.
    repaired : int
        Problems that were mended.
    """

    documents: int
    chunks: int
    bytes: int
    problems: tuple[Problem, ...]
    repaired: int = 0

    @property
    def clean(self) -> bool:
        return not self.problems


def metadata_json(metadata: object) -> str:
    """The metadata as JSON text with its keys in order.

    Raises
    ------
    InputError
        If it is not a mapping that JSON can hold.
    """
    if not isinstance(metadata, Mapping):
        raise InputError(f"metadata is {shown(metadata)}; give a mapping, such as {{'year': 1902}}")
    if not all(isinstance(key, str) for key in metadata):
        raise InputError(f"metadata has the keys {shown(list(metadata))}; every key must be a str")
    try:
        text = json.dumps(dict(metadata), sort_keys=True, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"metadata cannot be written as JSON: {error}; allowed are str, numbers, booleans, "
            "None, lists and mappings of them"
        ) from error
    if len(text) > LONGEST_METADATA:
        raise InputError(
            f"metadata takes {len(text):,} characters as JSON; allowed are at most "
            f"{LONGEST_METADATA:,}: leave out what is not needed to find or show the document"
        )
    return text


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(f"a document's {name} is {shown(value)}; it must be a str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"a document's {name} is not valid Unicode: character {error.start} is half of a "
            "surrogate pair"
        ) from error
    if name != "text" and "\0" in value:
        raise InputError(f"a document's {name} holds a NUL character; leave it out")


def _content_id(text: str, title: str, source: str) -> str:
    digest = hashlib.sha256()
    for part in (title, source, text):
        digest.update(f"{len(part)}:".encode() + part.encode())
    return digest.hexdigest()[:32]
