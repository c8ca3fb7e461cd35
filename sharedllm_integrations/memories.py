"""A path or a TreeMemory -> the open memory: each folder is opened once a process."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.errors import SetupError

if TYPE_CHECKING:
    from sharedllm import SharedLLM, TreeMemory

MEMORY_FILE = "memory.sqlite"
_open: dict[str, tuple[tuple[int, int], TreeMemory]] = {}
_lock = threading.Lock()


def opened(memory: Any, *, create: bool = False, llm: SharedLLM | None = None) -> TreeMemory:
    """The open memory that `memory` is or names.

    Parameters
    ----------
    memory : TreeMemory, or the path of one
    create : make one where there is none
    llm : the model that a path is opened with first; None is the one that the memory names

    Raises
    ------
    SetupError
        If it is neither.
    TreeMemoryError
        Of the core, if the folder is no memory.
    """
    from sharedllm import TreeMemory

    if isinstance(memory, TreeMemory):
        return memory
    if not isinstance(memory, str | os.PathLike):
        raise SetupError(
            f"memory is {memory!r}; give a TreeMemory, the path of one, or None to keep what is "
            "built for the process"
        )
    folder = os.path.realpath(memory)
    with _lock:
        held = _open.get(folder)
        if held is not None and held[0] != _file(folder):  # somebody put another one in its place
            held[1].close()
            held = None
        if held is None:
            one = TreeMemory(folder, create=create, llm=llm)
            held = _open[folder] = (_file(folder) or (0, 0), one)
        return held[1]


def temporary(llm: SharedLLM | None = None) -> TreeMemory:
    """A memory for as long as the process runs."""
    from sharedllm import TreeMemory

    folder = tempfile.mkdtemp(prefix="sharedllm-")
    memory = TreeMemory(folder, llm=llm)

    def remove() -> None:
        memory.close()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return memory


def _file(folder: str) -> tuple[int, int] | None:
    """What tells the file in `folder` from another that takes its place."""
    try:
        status = (Path(folder) / MEMORY_FILE).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
