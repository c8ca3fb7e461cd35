"""PartSearcher: looks words up in parts of memories for the processes that answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharedllm.arguments import checked, shown
from sharedllm.errors import InputError
from sharedllm.memory import records, word_index
from sharedllm.memory.elsewhere import Lookup
from sharedllm.memory.folder import file_of
from sharedllm.memory.tree_memory import TreeMemory

QUESTIONS = {
    one.__name__: one
    for one in (
        word_index.count,
        word_index.rank_by_words,
        word_index.score_words,
        word_index.score_near_words,
        word_index.holding_all,
        word_index.count_up_to,
        word_index.texts_in,
        word_index.newest,
        word_index.keys_of,
        word_index.first_documents,
        word_index.texts_of,
        word_index.first_chunks,
        word_index.chunks_between,
        word_index.runs_in,
    )
}


class PartSearcher:
    """Looks words up in parts of memories for other processes; it keeps the parts open.

    It may be used from several threads.
    """

    def __init__(self) -> None:
        self._open: dict[str, tuple[tuple[int, int], TreeMemory]] = {}
        self._lock = threading.Lock()

    @checked()
    def answer(self, lookups: Sequence[Lookup]) -> list[tuple[Any] | None]:
        """The answer to each of `lookups`, in a tuple; None if its part is not in that state.

        Raises
        ------
        InputError
            If a question is none of :data:`QUESTIONS`.
        TreeMemoryError
            If a part cannot be read.
        """
        return [self._one(lookup) for lookup in lookups]

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            for _, memory in self._open.values():
                memory.close()
            self._open = {}

    def _one(self, lookup: Lookup) -> tuple[Any] | None:
        if lookup.question not in QUESTIONS:
            raise InputError(
                f"question is {shown(lookup.question)}; allowed are {', '.join(QUESTIONS)}"
            )
        with self._opened(lookup.folder)._database.read() as connection:
            if records.generation(connection) != lookup.generation:
                return None
            return (QUESTIONS[lookup.question](connection, *lookup.args),)

    def _opened(self, folder: str) -> TreeMemory:
        with self._lock:
            held, now = self._open.get(folder), file_of(Path(folder))
            if held is None or held[0] != now or not held[1].is_current():
                held = self._open[folder] = (now, TreeMemory(folder, create=False))
            return held[1]
