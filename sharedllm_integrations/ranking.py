"""A query -> the best documents of a memory, each with its best passage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.errors import SetupError

if TYPE_CHECKING:
    from sharedllm import Hit, TreeMemory

PASSAGES_A_DOCUMENT = 64  # looked at for each document that is wanted; a search costs the same


def best_documents(
    memory: TreeMemory, query: str, k: int, where: Mapping[str, Any] | None
) -> list[Hit]:
    """The best passage of each of the `k` best documents, best first."""
    asked = k * PASSAGES_A_DOCUMENT
    while True:
        hits = memory.search(query, asked, where)
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
        raise SetupError(f"{name} is {given!r}; give a whole number of at least 1")
    return given
