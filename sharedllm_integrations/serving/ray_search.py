"""Processes of Ray Serve that look words up in parts of memories, each in the parts it owns.

They need no model. An answer waits for the slowest of them, eight times or so for each search: what
they save is what looking up costs, and files that are open and in memory once.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sharedllm import PartSearcher

SEARCH_S = 20.0  # seconds that looking up may take; then whoever asked does it itself


class Searching:
    """Looks words up in the parts that it is asked about, and keeps those open."""

    def __init__(self) -> None:
        self._searcher = PartSearcher()

    def answer(self, lookups: Sequence[Any]) -> list[tuple[Any] | None]:
        """As :meth:`sharedllm.PartSearcher.answer`."""
        return self._searcher.answer(lookups)

    def __del__(self) -> None:
        self._searcher.close()


class SearchingProcesses:
    """Asks the processes that own the parts, all at the same time; each part has one of them.

    Parameters
    ----------
    handles : of the deployments of :class:`Searching`
    """

    def __init__(self, handles: Sequence[Any]) -> None:
        self._handles = handles

    def __call__(self, lookups: Sequence[Any]) -> list[tuple[Any] | None]:
        """The answers to `lookups`, in their order."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, lookup in enumerate(lookups):
            places[zlib.crc32(lookup.folder.encode()) % len(self._handles)].append(place)
        waiting = {
            owner: self._handles[owner].answer.remote([lookups[place] for place in own])
            for owner, own in places.items()
        }
        out: list[tuple[Any] | None] = [None] * len(lookups)
        for owner, own in places.items():
            for place, answer in zip(own, waiting[owner].result(timeout_s=SEARCH_S), strict=True):
                out[place] = answer
        return out
