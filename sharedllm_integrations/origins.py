"""Which document of which memory a handle was made for, remembered for the process."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

from sharedllm_integrations.handles import handle_id, neutral

if TYPE_CHECKING:
    from sharedllm import MemoryDocument, TreeMemory

MOST = 100_000
LARGE = 1000  # documents of a memory whose texts are not looked for in prompts
ANCHOR = 64  # characters by which a text is looked for
_known: OrderedDict[str, Origin] = OrderedDict()
_anchors: OrderedDict[tuple[str, str, str], list[KnownText]] = OrderedDict()
_lock = threading.Lock()
MOST_MEMORIES = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a handle's document stands.

    Attributes
    ----------
    memory : weak reference to the TreeMemory, which its owner may let go of
    id : str
        In the memory.
    title, source : str
    """

    memory: ReferenceType[TreeMemory]
    id: str
    title: str
    source: str


@dataclass(frozen=True, slots=True)
class KnownText:
    """A text that may stand in a prompt without marks.

    Attributes
    ----------
    anchor : str
        How it begins, without the blanks in front of it.
    length : int
        Characters, without the blanks around it.
    digest : bytes
        Of these characters.
    handle : str
    """

    anchor: str
    length: int
    digest: bytes
    handle: str

    def is_at(self, text: str, start: int) -> bool:
        """Whether the whole of it stands in `text` from `start` on."""
        return _digest(text[start : start + self.length]) == self.digest


def issue(memory: TreeMemory, document: MemoryDocument, tenant: str) -> str:
    """The handle id of `document`, which from now on is known to be one of `memory`'s."""
    id = handle_id(neutral(document.text), tenant)
    origin = Origin(ref(memory), document.id, document.title, document.source)
    with _lock:
        _known[id] = origin
        _known.move_to_end(id)
        while len(_known) > MOST:
            _known.popitem(last=False)
    return id


def origin_of(id: str) -> Origin | None:
    """Where the document of the handle `id` stands, if it was issued in this process."""
    with _lock:
        return _known.get(id)


def known_texts(memory: TreeMemory, tenant: str) -> list[KnownText]:
    """How the documents of a memory of moderate size begin; looked at anew after a change."""
    revision = (str(memory.path), memory.revision, tenant)
    with _lock:
        if revision in _anchors:
            return _anchors[revision]
    found = []
    if len(memory) <= LARGE:
        for stored in memory.list():
            document = memory.get(stored.id)
            found.append(known_text(document.text, issue(memory, document, tenant)))
    with _lock:
        _anchors[revision] = found
        while len(_anchors) > MOST_MEMORIES:
            _anchors.popitem(last=False)
    return found


def known_text(text: str, handle: str) -> KnownText:
    """How `text` is looked for: without the blanks around it, which templates take away."""
    bare = neutral(text).strip()
    return KnownText(bare[:ANCHOR], len(bare), _digest(bare), handle)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
