"""The two halves of every set of questions: one to choose with, one to report."""

from __future__ import annotations

import zlib

CHOOSE, REPORT = 0, 1


def half_of(key: str | int) -> int:
    """Return the half of a context (a text) or of a generator's seed (a number)."""
    return (key if isinstance(key, int) else zlib.crc32(key.encode())) % 2
