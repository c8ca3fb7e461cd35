"""Token ids -> chunks: non-overlapping spans, one context tree each (paper, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from sharedllm.config import whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Tokens [start, end) of a document; the `index`-th chunk of it."""

    index: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def cut(n_tokens: int, chunk: int) -> tuple[Chunk, ...]:
    """Cut `n_tokens` into chunks of `chunk` tokens; the last one holds the remainder."""
    whole("the number of tokens", n_tokens, least=0)
    whole("chunk", chunk, least=1)
    starts = range(0, n_tokens, chunk)
    return tuple(
        Chunk(index=i, start=s, end=min(s + chunk, n_tokens)) for i, s in enumerate(starts)
    )
