"""Document references: how a prompt names a document of a memory, and how they are spelled.

A reference belongs to a tenant and a memory (:class:`Scope`), and names one document with the text
that it had. It is spelled ``[[sllm:v1:ID]]``, or ``[[sllm:v1:ID]]text[[/sllm:ID]]`` with the text,
which any other model reads. That is ASCII without braces, quotes, backslashes, blanks and line
breaks, so that templates, JSON and markup leave it alone.

Both halves of an id are keyed hashes: of tenant, memory and document, and of tenant and text. So an
id says nothing about a document, nobody can guess one, and the end of a text cannot be forged.
Knowing an id is no authority: :mod:`sharedllm_integrations.resolution` reads only what the request
may read anyway. The key lies outside of every memory and its exports.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import re
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.errors import SetupError

if TYPE_CHECKING:
    from sharedllm import TreeMemory

KEY_VARIABLE = "SHAREDLLM_REFERENCE_KEY"
KEY_BYTES = 32
HALF = 16  # hex digits
SPELLING = re.compile(r"\[\[(?P<close>/)?sllm:(?(close)|v1:)(?P<id>[0-9a-f]{32})\]\]")
STARTS = ("[[sllm:", "[[/sllm:")
_BEGINNING = re.compile(r"\[\[(?=/?sllm:)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reference:
    """One document reference.

    Attributes
    ----------
    place : str
        Hash of tenant, memory and the document's id.
    text : str
        Hash of tenant and the document's text.
    """

    place: str
    text: str

    @classmethod
    def of_id(cls, id: str) -> Reference:
        """The reference with these 32 hex digits."""
        return cls(id[:HALF], id[HALF:])

    @property
    def id(self) -> str:
        """32 hex digits."""
        return self.place + self.text

    def __str__(self) -> str:
        return f"[[sllm:v1:{self.id}]]"

    @property
    def end(self) -> str:
        """The mark behind a text that stands with the reference."""
        return f"[[/sllm:{self.id}]]"

    def around(self, text: str) -> str:
        """`text` between the marks of this reference; marks inside of it become plain text."""
        return f"{self}{neutral(text)}{self.end}"


@dataclass(frozen=True, slots=True)
class Scope:
    """A tenant and a memory, to which references belong.

    Attributes
    ----------
    tenant : str
    memory : str
        The memory's folder; "" for requests without a memory.
    """

    tenant: str
    memory: str

    @classmethod
    def of(cls, memory: TreeMemory | None, tenant: str) -> Scope:
        """The scope of a request with this memory and tenant."""
        return cls(tenant, "" if memory is None else os.path.realpath(memory.path))

    def place(self, document: str) -> str:
        """Hash that names the document with this id.

        Raises
        ------
        SetupError
            If the key cannot be read or made.
        """
        return _hash("place", self.tenant, self.memory, document)

    def reference(self, document: str, text: str) -> Reference:
        """The reference to the document with this id and text."""
        made = Reference(self.place(document), text_hash(text, self.tenant))
        with _lock:
            _made[made.id] = None
            _made.move_to_end(made.id)
            while len(_made) > MOST_MADE:
                _made.popitem(last=False)
        return made

    def enclosed(self, document: str, text: str) -> str:
        """`text` between the marks of the reference to its document."""
        return self.reference(document, text).around(text)


MOST_MADE = 1 << 16
_made: OrderedDict[str, None] = OrderedDict()
_lock = threading.Lock()


def was_made_here(reference: Reference) -> bool:
    """Tell a reference that this process made from one that somebody wrote or brought."""
    with _lock:
        return reference.id in _made


def text_hash(text: str, tenant: str) -> str:
    """Hash that names a text for `tenant`."""
    return _hash("text", tenant, neutral(text))


def neutral(text: str) -> str:
    """`text` with nothing that reads as a reference; as long as before, so offsets stay right."""
    return _BEGINNING.sub("[(", text)


def neutral_values(value: Any) -> Any:
    """The same for every text in metadata."""
    if isinstance(value, str):
        return neutral(value)
    if isinstance(value, Mapping):
        return {neutral_values(key): neutral_values(one) for key, one in value.items()}
    return [neutral_values(one) for one in value] if isinstance(value, list) else value


# -- reading -------------------------------------------------------------------------------------

FORGED = "the text between the marks is not the one that they name"
STRAY = "an end without its beginning"
INSIDE = "a reference inside of forged marks"
UNKNOWN = "a reference that names no document of this request, and was not made by this process"


@dataclass(frozen=True, slots=True)
class Mention:
    """A reference in a prompt; `text` is what stands with it, or None."""

    reference: Reference
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A mark that was taken for plain text, and why."""

    id: str
    why: str


def parse(text: str, tenant: str) -> Iterator[str | Mention | Refused]:
    """Plain text without marks, references, and marks that were made plain text, in order.

    A text stands with a reference only if the reference names it. Other pairs of marks become plain
    text, and what stands between them is read on, so that a forged pair hides no genuine one.
    """
    at = 0
    forged_until = 0
    for mark in SPELLING.finditer(text):
        if mark.start() < at:
            continue  # inside of a text that was just taken
        made = Reference.of_id(mark["id"])
        plain, at = text[at : mark.start()], mark.end()
        if plain:
            yield neutral(plain)
        if mark["close"]:
            if mark.end() != forged_until:
                yield Refused(made.id, STRAY)
            yield neutral(mark[0])
            continue
        end = text.find(made.end, at)
        body = text[at:end] if end >= 0 else None
        if body is not None and text_hash(body, tenant) == made.text:
            at = end + len(made.end)
            yield Mention(made, body)
        elif body is not None:
            forged_until = max(forged_until, end + len(made.end))
            yield neutral(mark[0])
            yield Refused(made.id, FORGED)
        elif mark.start() < forged_until:
            yield neutral(mark[0])
            yield Refused(made.id, INSIDE)
        else:
            yield Mention(made)
    if text[at:]:
        yield neutral(text[at:])


class Cleaner:
    """Keeps references out of what a model writes, also where one comes in several pieces."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """The part that may be shown now of all that has come."""
        text = neutral(self._held + piece)
        keep = _begun(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """The part that was held back, at the end."""
        held, self._held = self._held, ""
        return held


def _begun(text: str) -> int:
    """Characters at the end of `text` that may turn out to begin a mark."""
    low = text[-len(STARTS[1]) :].lower()
    for n in range(len(low), 0, -1):
        if any(start.startswith(low[-n:]) for start in STARTS):
            return n
    return 0


# -- the key -------------------------------------------------------------------------------------


def _hash(*parts: str) -> str:
    digest = hmac.new(_key(), digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:HALF]


def _key() -> bytes:
    """$SHAREDLLM_REFERENCE_KEY, else the key in a file that is made when it is first needed."""
    given = os.environ.get(KEY_VARIABLE)
    return _given_key(given) if given else _kept_key(_key_file())


@functools.cache
def _given_key(given: str) -> bytes:
    try:
        key = bytes.fromhex(given)
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise SetupError(
            f"{KEY_VARIABLE} must be at least {2 * KEY_BYTES} hex digits; make one with: "
            f"python -c 'import secrets; print(secrets.token_hex({KEY_BYTES}))'"
        )
    return key


def _key_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "sharedllm" / "reference.key"


@functools.cache
def _kept_key(file: Path) -> bytes:
    try:
        if not file.exists():
            _make_key(file)
        key = bytes.fromhex(file.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise SetupError(
            f"the key of document references in {str(file)!r} cannot be read or made ({error}); "
            f"make its folder writable, or give a key of {2 * KEY_BYTES} hex digits in "
            f"{KEY_VARIABLE}"
        ) from error
    if len(key) < KEY_BYTES:
        raise SetupError(
            f"the key of document references in {str(file)!r} is too short; remove the file"
        )
    return key


def _make_key(file: Path) -> None:
    """Write a new key whole, unless another process is faster."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent)  # for this user's eyes only
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as out:
            out.write(secrets.token_hex(KEY_BYTES))
        try:
            os.link(name, file)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()
