"""Puts documents into a memory, and keeps another folder equal to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sharedllm_integrations.memories import MEMORY_FILE

if TYPE_CHECKING:
    from sharedllm import MemoryDocument, TreeMemory


def put(memory: TreeMemory, document: MemoryDocument) -> bool:
    """Add `document`, or change the one under its id; whether there was anything to do."""
    if document.id not in memory:
        memory.add(document)
        return True
    if memory.get(document.id) == document:
        return False
    memory.update(document)
    return True


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
