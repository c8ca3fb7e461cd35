"""Answers that are lists: an item that was given is less likely to be given again.

Small models lose count of what they have listed and say the first item twice instead of the last.
Where a new item begins as an earlier one did, going on so costs some nats at every token: enough
for the item that is missing to win at the first letter in which the two differ, too little where
nothing else fits.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BETWEEN = re.compile(r"[,;\n]\s*(?:and\s+)?|\s+and\s+")
WORDS = 4  # of an item; what is longer is a clause between commas


class Lists:
    """Finds the tokens that would go on repeating an item, for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def repeating(self, text: str) -> set[int]:
        """Tokens that, after `text`, would begin an item of it again, or go on doing so."""
        *given, begun = BETWEEN.split(text)
        begun = begun.lstrip()
        again = {
            item[len(begun) :]
            for item in map(str.strip, given)
            if item.startswith(begun) and len(item.split()) <= WORDS
        }
        return {token for rest in again for token in self._beginning(rest, spaced=not begun)}

    def _beginning(self, rest: str, *, spaced: bool) -> Iterator[int]:
        """Tokens that are a beginning of `rest`; `spaced`: with or without a space before it."""
        ids = self._table()
        for length in range(1, len(rest) + 1):
            yield from ids.get(rest[:length], ())
            if spaced:
                yield from ids.get(" " + rest[:length], ())

    def _table(self) -> dict[str, list[int]]:
        """Text -> the tokens that are shown so, made once."""
        with self._lock:
            if not self._ids:
                found = defaultdict(list)
                each = [[token] for token in range(len(self._tokenizer))]
                shown = self._tokenizer.backend_tokenizer.decode_batch(
                    each, skip_special_tokens=False
                )
                for token, text in enumerate(shown):
                    found[text].append(token)
                self._ids = dict(found)
        return self._ids
