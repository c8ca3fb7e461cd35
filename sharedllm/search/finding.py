"""A question over documents, as its settings say: what later rounds add, and in which documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sharedllm.config import SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.search.citations import complete_sentences
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.rounds import SCORER, Looked, look_again

Found = TypeVar("Found")


def rounds_of(search: SearchConfig) -> int:
    """Return how many rounds there are at most: other scores are no log-odds, a path no ranking."""
    return search.rounds if search.scorer == SCORER and search.selection == "budget" else 1


def follow(
    query: str, documents: Sequence[Document], scores: Sequence[Scores], search: SearchConfig
) -> Looked:
    """Look again for `query`, where `search` allows it."""

    def widen(index: int, node: int) -> tuple[int, int]:
        return complete_sentences(documents[index], node, search.sentences)

    return look_again(query, documents, scores, most=rounds_of(search), widen=widen)


def find_in_rounds(
    find: Callable[[Sequence[str]], Found], unfound: Callable[[Found], Sequence[str]], rounds: int
) -> Found:
    """Find documents in a large memory, and again with what the best of them name.

    Parameters
    ----------
    find : finds for a question, and for names besides
    unfound : returns the names that stand nowhere else in what was found
    rounds : of search, at most
    """
    found, names = find(()), dict[str, None]()
    for _ in range(rounds - 1):
        new = [name for name in unfound(found) if name not in names]
        if not new:
            break
        names |= dict.fromkeys(new)
        found = find(tuple(names))
    return found
