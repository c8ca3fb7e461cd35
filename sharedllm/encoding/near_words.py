"""Words of a model's vocabulary that are used like a given one, by the model's input embeddings.

Most frequent words are one token, and models give words of like meaning like embeddings. So they
know that "bought" is near "purchase" without any training of ours; a rare word, a name or a number
is several tokens, and has no near words.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.encoding.lower_model import unit
from sharedllm.text.tokens import Tokenizer
from sharedllm.text.words import parts

SPACES = ("\u0120", "\u2581")  # how tokenizers of bytes, and of pieces, write a space before a word
MOST = 16  # near words of a word
LEAST = 0.25  # cosine; what is farther has another meaning
WIDEST = 1024  # numbers of a vector; wider ones are projected at random
BLOCK = 8192  # vectors at once
REMEMBERED = 4096  # words


class NearWords:
    """The vocabulary's words, with an index (FAISS) of their embeddings.

    Takes two bytes a number: 25 MB for the default model.

    Parameters
    ----------
    embeddings : (vocabulary, hidden), of any floating type and device
    tokenizer : its tokens; without one that begins a word, no word is near another
    """

    def __init__(self, embeddings: Tensor, tokenizer: Tokenizer) -> None:
        tokens = _words(tokenizer.backend_tokenizer.get_vocab(), len(embeddings))
        self._words, rows = tuple(tokens), list(tokens.values())
        self._rank = {word: rank for rank, word in enumerate(self._words)}
        self._index: Any = None
        if rows:
            self._index = _index(embeddings, rows)
        self.of = lru_cache(REMEMBERED)(self._of)

    def __len__(self) -> int:
        return len(self._words)

    def _of(self, word: str) -> dict[str, float]:
        """The words near `word`, the nearest first, each with its cosine."""
        rank = self._rank.get(word)
        if rank is None:
            return {}
        vector = self._index.reconstruct(rank)[None]
        cosines, found = self._index.search(vector, min(1 + MOST, len(self)))
        near = {self._words[at]: float(c) for at, c in zip(found[0], cosines[0], strict=True)}
        return {
            other: min(1.0, cosine)
            for other, cosine in near.items()
            if other != word and cosine > LEAST
        }


def _words(vocabulary: dict[str, int], known: int) -> dict[str, int]:
    """Words that are one token, in the compared spelling; that in lower case comes first."""
    out: dict[str, int] = {}
    for token, row in sorted(vocabulary.items(), key=_capitals_last):
        word = token[1:]
        if row >= known or not token.startswith(SPACES) or len(word) < 2 or not word.isalpha():
            continue
        if token[0] == SPACES[0] and not word.isascii():
            continue  # bytes of other scripts, not letters
        own = parts(word)
        if len(own) == 1:
            out.setdefault(own[0], row)
    return out


def _capitals_last(entry: tuple[str, int]) -> tuple[bool, str]:
    token = entry[0]
    return token[1:] != token[1:].lower(), token


def _index(embeddings: Tensor, rows: list[int]) -> Any:
    """An index of the centred embeddings of `rows`, by their cosine."""
    width = embeddings.shape[1]
    turn = None
    if width > WIDEST:
        draw = torch.Generator().manual_seed(0)
        turn = torch.randn(width, WIDEST, generator=draw) / WIDEST**0.5
    centre = torch.zeros(width)
    for at in range(0, len(embeddings), BLOCK):
        centre += embeddings[at : at + BLOCK].detach().float().cpu().sum(0)
    centre /= len(embeddings)
    dims = min(width, WIDEST)
    kind = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexScalarQuantizer(dims, kind, faiss.METRIC_INNER_PRODUCT)
    for at in range(0, len(rows), BLOCK):
        some = embeddings[rows[at : at + BLOCK]].detach().float().cpu() - centre
        turned: NDArray[np.float32] = unit(some if turn is None else some @ turn).numpy()
        if not index.is_trained:
            index.train(turned)
        index.add(turned)
    return index
