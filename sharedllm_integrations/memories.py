"""The memories behind an adapter: opened, made for a while, filled, searched and saved."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sharedllm.arguments import path_problem, shown
from sharedllm_integrations.errors import SetupError

if TYPE_CHECKING:
    from sharedllm import Hit, MemoryDocument, SharedLLM, TreeMemory

logger = logging.getLogger(__name__)
MEMORY_FILE = "memory.sqlite"
Returns = Literal["documents", "passages"]
PASSAGES_A_DOCUMENT = 64  # looked at for each document that is wanted; a search costs the same


@dataclass(frozen=True, slots=True)
class KeptFolder(os.PathLike[str]):
    """The folder of a memory that was there: what a pickle holds of it.

    It is opened and never made, so that a memory that is gone is an error.

    Attributes
    ----------
    path : str
    named : str by str
        Model and adapter that the memory needs, where they are not the embedded ones: whoever
        wrote the pickle had named them.
    """

    path: str
    named: Mapping[str, str | None] = field(default_factory=dict)

    def __fspath__(self) -> str:
        return self.path


def holds_memory(folder: str | os.PathLike[str]) -> bool:
    """True where a memory stands, of one file or of parts."""
    from sharedllm import PartedMemory

    return (Path(folder) / MEMORY_FILE).exists() or PartedMemory.is_at(folder)


def portable(memory: Any) -> Any:
    """The form of `memory` that a pickle holds."""
    from sharedllm import TreeMemory

    if isinstance(memory, TreeMemory):
        return KeptFolder(os.path.realpath(memory.path), memory.needs_names)
    return memory


def open_given(memory: Any, *, create: bool = False, llm: SharedLLM | None = None) -> TreeMemory:
    """The open memory that `memory` is or names.

    Parameters
    ----------
    memory : TreeMemory, or the path of one
    create : make one where there is none
    llm : the model that a path is opened with first; None is the embedded one

    Raises
    ------
    SetupError
        If it is neither.
    TreeMemoryError
        Of the core, if the folder is no memory.
    """
    from sharedllm import PartedMemory, TreeMemory, open_memory

    if isinstance(memory, TreeMemory):
        return memory
    if not isinstance(memory, str | os.PathLike):
        raise SetupError(
            f"memory is {shown(memory)}; give a TreeMemory, the path of one, or None to keep what "
            "is built for the process"
        )
    if not isinstance(memory, KeptFolder):
        return open_memory(memory, llm=llm, create=create)
    if llm is None and memory.named:
        parted = PartedMemory.is_at(memory)
        with PartedMemory(memory) if parted else TreeMemory(memory, create=False) as there:
            return open_memory(memory, llm=there.load_encoder(**memory.named))
    return open_memory(memory, llm=llm)


def open_to_read(memory: Any, *, llm: SharedLLM | None = None) -> TreeMemory | None:
    """As :func:`open_given`; None, with a warning in the log, where nothing is at a path."""
    given = isinstance(memory, str | os.PathLike) and not isinstance(memory, KeptFolder)
    if given and not path_problem(memory):  # one that cannot exist is refused below
        folder = Path(memory)
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            logger.warning("nothing can be found: there is no memory in %r", str(folder))
            return None
    return open_given(memory, llm=llm)


def make_temporary(llm: SharedLLM | None = None) -> TreeMemory:
    """A memory for as long as the process runs."""
    from sharedllm import TreeMemory

    folder = tempfile.mkdtemp(prefix="sharedllm-")
    memory = TreeMemory(folder, llm=llm)

    def remove() -> None:
        memory.close()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return memory


def put(
    memory: TreeMemory, document: MemoryDocument, notes: SharedLLM | Literal[False] = False
) -> bool:
    """Add `document`, or change the one under its id; whether there was anything to do.

    Parameters
    ----------
    notes : takes those of its chunks; False for none
    """
    if document.id not in memory:
        memory.add(document, notes=notes)
        return True
    if memory.get(document.id) == document:
        return False
    memory.update(document, notes=notes)
    return True


def writer_for(memory: TreeMemory, llm: SharedLLM | None) -> SharedLLM:
    """Give what takes notes: `llm`, or the model of the memory."""
    from sharedllm import loaded_for

    return loaded_for(memory) if llm is None else llm


def save(memory: TreeMemory, folder: str | os.PathLike[str]) -> None:
    """Write `memory` to `folder`, with all that was encoded; only what differs, if it is there.

    Raises
    ------
    TreeMemoryError
        Of the core, if the folder holds something else or cannot be written.
    """
    from sharedllm import TreeMemory

    to = Path(os.path.realpath(folder))
    if to == Path(os.path.realpath(memory.path)):
        return  # it is there already: every change is on disk when it returns
    if not (to / MEMORY_FILE).exists():
        memory.export(to)
        return
    with TreeMemory(to, create=False, llm=memory.encoder) as other:
        ids = [stored.id for stored in memory.list()]
        there = [stored.id for stored in other.list()]
        kept = {id for id in there if id in memory and memory.get(id) == other.get(id)}
        gone = [id for id in there if id not in kept]
        missing = [id for id in ids if id not in kept]
        if gone:
            other.delete(gone)
        if missing:
            other.import_from(memory.path, missing)


def find_hits(
    memory: TreeMemory,
    query: str,
    k: int,
    where: Mapping[str, Any] | None,
    returns: Returns,
    section: str | None = None,
) -> list[Hit]:
    """The `k` best passages, or the best passage of each of the `k` best documents, best first."""
    if not len(memory):
        logger.warning("nothing can be found: the memory in %r is empty", str(memory.path))
        return []
    if where is not None and not memory.list(where):
        return []
    for one in memory.away:
        logger.warning("not searched: %s", one)
    if returns == "passages":
        return memory.search(query, k, where, section=section)
    asked = k * PASSAGES_A_DOCUMENT
    while True:
        hits = memory.search(query, asked, where, section=section)
        best: dict[str, Hit] = {}
        for hit in hits:
            best.setdefault(hit.id, hit)
        if len(best) >= k or len(hits) < asked:
            return list(best.values())[:k]
        asked *= 4


def require_count(name: str, given: Any) -> int:
    """`given`, if it is a number of things to find.

    Raises
    ------
    SetupError
        If it is not.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise SetupError(f"{name} is {shown(given)}; give a whole number of at least 1")
    return given
