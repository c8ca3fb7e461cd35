"""Keeps marks out of what a model writes, also where a mark comes in several pieces."""

from __future__ import annotations

from sharedllm_integrations.handles import neutral

STARTS = ("[[sllm:", "[[/sllm:")


class Cleaner:
    """Makes a stream of text free of marks."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may be shown now of all that has come."""
        text = neutral(self._held + piece)
        keep = _begun(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return held


def _begun(text: str) -> int:
    """Characters at the end of `text` that may turn out to begin a mark."""
    low = text[-len(STARTS[1]) :].lower()
    for n in range(len(low), 0, -1):
        if any(start.startswith(low[-n:]) for start in STARTS):
            return n
    return 0
