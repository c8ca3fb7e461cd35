"""A text -> its pieces: chunks that are named by their content.

A piece's key is a hash of its tokens, of the characters they cover, and of what decides its trees
and states. Appending to a text changes its last piece at most, and equal passages at the same
chunk boundaries are one piece.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharedllm.errors import StoreDamagedError
from sharedllm.text.tokens import Tokens
from sharedllm.text.tree import cut

KEY_BYTES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One chunk of a text.

    Attributes
    ----------
    key : bytes
    ids : int32 (T,)
    spans : int32 (T, 2)
        Characters of each token, counted from the piece's first one.
    char_start, char_end : int
        Where the piece stands in its text.
    text : str
        Exactly these characters.
    """

    key: bytes
    ids: NDArray[np.int32]
    spans: NDArray[np.int32]
    char_start: int
    char_end: int
    text: str

    def __len__(self) -> int:
        return len(self.ids)


def pieces(text: str, tokens: Tokens, chunk: int, made_by: bytes) -> list[Piece]:
    """Cut `text` into pieces of `chunk` tokens; `made_by` is a digest of model and settings."""
    out = []
    for part in cut(len(tokens), chunk):
        first, last = tokens.characters(part.start, part.end)
        ids = tokens.ids[part.start : part.end]
        spans = tokens.spans[part.start : part.end] - np.int32(first)
        covered = text[first:last]
        digest = hashlib.blake2b(made_by, digest_size=KEY_BYTES)
        for data in (ids.tobytes(), spans.tobytes(), covered.encode()):
            digest.update(len(data).to_bytes(8, "little") + data)
        out.append(
            Piece(
                key=digest.digest(),
                ids=ids,
                spans=spans,
                char_start=first,
                char_end=last,
                text=covered,
            )
        )
    return out


def packed(ids: NDArray[np.int32], spans: NDArray[np.int32]) -> bytes:
    """Token ids and spans as the column `layout` holds them: about 3 bytes a token."""
    starts = np.diff(spans[:, 0], prepend=np.int32(0))
    columns = np.stack([ids, starts, spans[:, 1] - spans[:, 0]]).astype("<i4")
    return zlib.compress(columns.tobytes(), 6)


def unpacked(layout: bytes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Token ids (T,) and spans (T, 2) from what :func:`packed` gave.

    Raises
    ------
    StoreDamagedError
        If they are not readable.
    """
    try:
        columns = np.frombuffer(zlib.decompress(layout), "<i4").reshape(3, -1)
    except (zlib.error, ValueError) as error:
        raise StoreDamagedError(f"the tokens of a chunk cannot be read: {error}") from error
    starts = np.cumsum(columns[1], dtype=np.int32)
    spans = np.stack([starts, starts + columns[2]], axis=1).astype(np.int32)
    return columns[0].astype(np.int32), spans
