"""Packages: the ZIP archives of XML parts that DOCX, PPTX and EPUB files are, read within bounds.

Parts are read one by one, as they are needed: a presentation's pictures never are. XML goes through
the standard library's expat, event by event, so that neither depth nor size needs memory;
declarations of entities are refused, and with them all that unfold.
"""

from __future__ import annotations

import posixpath
import xml.parsers.expat as expat
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import NamedTuple, Protocol
from urllib.parse import unquote

from sharedllm.errors import DocumentError

MOST_PARTS = 20_000
MOST_BYTES = 128 << 20  # of the parts that are read, unpacked
ZIP_START = b"PK\x03\x04"
OLE_START = b"\xd0\xcf\x11\xe0"  # old Office files, and new ones with a password


class Link(NamedTuple):
    """A part that another part names.

    Attributes
    ----------
    kind : the last word of the relation's type, such as "notesSlide"
    """

    kind: str
    part: str


class Handler(Protocol):
    """Takes the events of an XML part; names are without their namespaces."""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        ...

    def end(self, name: str) -> None:
        """An element ends."""
        ...

    def data(self, text: str) -> None:
        """Text inside of the element."""
        ...


class Package:
    """The parts of one file.

    Raises
    ------
    DocumentError
        If it is not a ZIP archive, or is encrypted; from its methods, if a part is broken, or the
        parts unfold to more than MOST_BYTES.
    """

    def __init__(self, data: bytes, source: str) -> None:
        self.source, self._left = source, MOST_BYTES
        if data.startswith(OLE_START):
            raise DocumentError(
                f"{source} is an Office file with a password, or in the format from before 2007; "
                "save it again as DOCX or PPTX without a password"
            )
        try:
            self._zip = zipfile.ZipFile(BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
            raise self.broken(error) from error
        if len(self._zip.filelist) > MOST_PARTS:
            raise self.broken(f"it has more than {MOST_PARTS:,} parts")

    def __contains__(self, part: str) -> bool:
        return part in self._zip.NameToInfo

    def broken(self, why: object) -> DocumentError:
        """The error for a file that cannot be read."""
        return DocumentError(
            f"{self.source} cannot be read ({why}); it may be damaged: save it again"
        )

    def read(self, part: str) -> bytes:
        """The bytes of a part."""
        try:
            with self._zip.open(part) as file:
                data = file.read(self._left + 1)
        except (
            *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError),
            *(NotImplementedError, RuntimeError, KeyError, MemoryError),  # encrypted: RuntimeError
        ) as error:
            raise self.broken(f"{part}: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise DocumentError(
                f"{self.source} unpacks to more than {MOST_BYTES:,} bytes; split it"
            )
        return data

    def parse(self, part: str, handler: Handler) -> None:
        """Give the XML of a part to `handler`."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True

        def start(name: str, attributes: dict[str, str]) -> None:
            # of "id" and "r:id" on one element, the second one is wanted
            ordered = sorted(attributes.items(), key=lambda pair: " " in pair[0])
            own = {key.rpartition(" ")[2]: value for key, value in ordered}
            handler.start(name.rpartition(" ")[2], own)

        def refuse(*_: object) -> None:
            raise self.broken(f"{part} declares entities")

        parser.StartElementHandler = start
        parser.EndElementHandler = lambda name: handler.end(name.rpartition(" ")[2])
        parser.CharacterDataHandler = handler.data
        parser.EntityDeclHandler = refuse
        try:
            parser.Parse(self.read(part), True)
        except (expat.ExpatError, ValueError, LookupError) as error:
            if isinstance(error, DocumentError):
                raise
            raise self.broken(f"{part}: {error}") from error

    def links(self, part: str) -> dict[str, Link]:
        """The parts that `part` names, by the id under which it names them."""
        folder, name = posixpath.split(part)
        own = posixpath.join(folder, "_rels", f"{name}.rels")
        found: dict[str, Link] = {}
        if own in self:
            self.parse(own, _Links(folder, found))
        return found


def resolved(folder: str, target: str) -> str:
    """The part that a path names from within `folder`."""
    path = unquote(target.partition("#")[0])
    if path.startswith("/"):
        return posixpath.normpath(path).lstrip("/")
    return posixpath.normpath(posixpath.join(folder, path))


class Ignoring:
    """A handler that takes nothing; handlers derive from it."""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""

    def end(self, name: str) -> None:
        """An element ends."""

    def data(self, text: str) -> None:
        """Text inside of the element."""


class _Links(Ignoring):
    """Collects the relations of a part."""

    def __init__(self, folder: str, found: dict[str, Link]) -> None:
        self._folder, self._found = folder, found

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "Relationship" and attributes.get("TargetMode") != "External":
            kind = attributes.get("Type", "").rpartition("/")[2]
            part = resolved(self._folder, attributes.get("Target", ""))
            self._found[attributes.get("Id", "")] = Link(kind, part)


class Title(Ignoring):
    """Collects the first title of the properties of a file."""

    def __init__(self) -> None:
        self.text, self._inside, self._done = "", False, False

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._inside = name == "title" and not self._done

    def end(self, name: str) -> None:
        self._done = self._done or self._inside
        self._inside = False

    def data(self, text: str) -> None:
        if self._inside:
            self.text += text
