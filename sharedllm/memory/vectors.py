"""Search vectors in 64 bytes a token, compared as they lie.

A search vector is projected on the directions along which the model's vocabulary differs most and
turned at random within them, so that all coordinates weigh alike; of each coordinate the sign is
kept, one bit. The query is not rounded. Its similarity with a token is a sum of one number a byte,
read from a table of what each of the 256 values of that byte adds: nothing is unpacked.

Why signs: for their bytes, many coarse coordinates keep more of MaxSim's decisions than few fine
ones, and no codebook has to be trained (docs/experiments.md).

Shapes: T tokens, Q query tokens, 8 bits a byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.config import whole
from sharedllm.encoding.document import SearchVectors
from sharedllm.errors import ConfigError, InputError

BYTES = 64
BLOCK = {"cpu": 16384, "cuda": 32768}  # tokens at once; on the CPU what its caches hold
SEED = 0


@dataclass(frozen=True, eq=False)
class VectorCodec:
    """How search vectors of one model become codes. Made by :meth:`fit`, kept with the memory.

    Attributes
    ----------
    projection : float32 tensor (hidden, bits)
        A vector times this gives the coordinates whose signs are kept.
    levels : float32 tensor (bits,)
        What a positive sign stands for.
    """

    projection: Tensor
    levels: Tensor

    @classmethod
    def fit(cls, sample: Tensor, *, size: int = BYTES, seed: int = SEED) -> Self:
        """Choose the directions from `sample`, which no document needs to be part of.

        Takes about a second. The same sample and seed give the same codec on the same machine;
        on another one the last digits may differ, so it is kept and not made again.

        Parameters
        ----------
        sample : (n, hidden) search vectors, such as ``LowerModel.vocabulary()``
        size : bytes a token
        seed : of the random turn

        Raises
        ------
        ConfigError
            If `size` is less than 1, or `sample` is not a matrix of finite numbers, not all zero.
        """
        whole("size", size, least=1)
        if sample.ndim != 2 or not sample.isfinite().all() or not sample.any():
            raise ConfigError(
                f"sample is a tensor of shape {tuple(sample.shape)}; give search vectors "
                "(n, hidden) of finite numbers that are not all zero"
            )
        x = sample.detach().cpu().double()
        bits = 8 * size
        directions = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)[:, :bits]
        # With fewer directions than bits, each bit sees a mixture of all of them.
        turn = torch.randn(bits, bits, generator=_generator(seed), dtype=torch.float64)
        projection = directions @ torch.linalg.qr(turn).Q[: directions.shape[1]]
        sizes = (x @ projection).abs()
        levels = sizes.mean(0)
        # Similarities of codes come out as large as exact ones, so that documents in either form
        # can be ranked together: on average a vector's with itself is its squared length.
        levels *= x.square().sum() / (sizes @ levels).sum()
        return cls(projection=projection.float(), levels=levels.float())

    @property
    def hidden(self) -> int:
        """Numbers in a search vector."""
        return self.projection.shape[0]

    @property
    def size(self) -> int:
        """Bytes of a code."""
        return self.projection.shape[1] // 8

    def to(self, device: torch.device | str) -> VectorCodec:
        """The same codec on `device`."""
        return VectorCodec(self.projection.to(device), self.levels.to(device))

    def encode(self, vectors: Tensor) -> Tensor:
        """Codes of `vectors`, on the codec's device.

        Parameters
        ----------
        vectors : (T, hidden) of any floating type

        Returns
        -------
        uint8 tensor (T, size)

        Raises
        ------
        InputError
            If `vectors` have another shape.
        """
        self._require(vectors, "vectors")
        device = self.projection.device
        powers = (2 ** torch.arange(8, device=device)).to(torch.uint8)
        out = torch.empty(len(vectors), self.size, dtype=torch.uint8, device=device)
        for at in range(0, len(vectors), BLOCK[device.type]):
            part = vectors[at : at + BLOCK[device.type]].to(device).float()
            bits = (part @ self.projection >= 0).view(-1, self.size, 8)
            out[at : at + len(part)] = (bits * powers).sum(2, dtype=torch.uint8)
        return out

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors that `codes` stand for; float32 (T, hidden).

        Raises
        ------
        InputError
            If `codes` are not uint8 (T, size).
        """
        self._require_codes(codes)
        signs = _patterns(codes.device)[codes.int()].flatten(1)
        return (signs * self.levels) @ self.projection.T

    def similarities(self, query: Tensor, codes: Tensor) -> Tensor:
        """The dot product of every query vector with every coded one.

        Parameters
        ----------
        query : (Q, hidden)
        codes : uint8 (T, size)

        Returns
        -------
        float32 tensor (Q, T)

        Raises
        ------
        InputError
            If the shapes are not these.
        """
        self._require(query, "query")
        self._require_codes(codes)
        device = self.projection.device
        weights = (query.to(device).float() @ self.projection) * self.levels
        adds = torch.einsum("qsb,vb->svq", weights.view(-1, self.size, 8), _patterns(device))
        table = adds.reshape(256 * self.size, len(query))  # row 256 s + v: byte s has value v
        first = 256 * torch.arange(self.size, dtype=torch.int32, device=device)
        out = torch.empty(len(query), len(codes), device=device)
        for at in range(0, len(codes), BLOCK[device.type]):
            rows = codes[at : at + BLOCK[device.type]].to(device).int() + first
            summed = torch.nn.functional.embedding_bag(rows, table, mode="sum")
            out[:, at : at + len(rows)] = summed.T
        return out

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """What :meth:`from_arrays` takes, to be stored."""
        return {"projection": self.projection.cpu().numpy(), "levels": self.levels.cpu().numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Self:
        """The codec that gave these :meth:`arrays`.

        Raises
        ------
        InputError
            If one is missing, or they do not fit each other.
        """
        found = {name: np.array(arrays[name], np.float32) for name in _NAMES if name in arrays}
        shapes = {name: array.shape for name, array in found.items()}
        projection, levels = (shapes.get(name, ()) for name in _NAMES)
        if len(projection) != 2 or levels != projection[1:] or levels[0] % 8 or not levels[0]:
            raise InputError(
                f"the arrays of a codec are {shapes}; they must be projection (hidden, bits) and "
                "levels (bits,), with 8 bits a byte"
            )
        return cls(**{name: torch.from_numpy(array) for name, array in found.items()})

    def _require(self, vectors: Tensor, name: str) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.hidden:
            raise InputError(
                f"{name} have shape {tuple(vectors.shape)}; this codec is for "
                f"(tokens, {self.hidden}): use the one that was fitted for this model"
            )

    def _require_codes(self, codes: Tensor) -> None:
        if codes.ndim != 2 or codes.shape[1] != self.size or codes.dtype != torch.uint8:
            raise InputError(
                f"codes are {codes.dtype} of shape {tuple(codes.shape)}; this codec is for uint8 "
                f"(tokens, {self.size}): use the one that made them"
            )


_NAMES = ("projection", "levels")


@dataclass(frozen=True, eq=False)
class CodedVectors:
    """A document's search vectors as codes.

    Attributes
    ----------
    codec : VectorCodec
    codes : uint8 tensor (T, size)
    """

    codec: VectorCodec
    codes: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(T, hidden), as of the vectors themselves."""
        return len(self.codes), self.codec.hidden

    @property
    def nbytes(self) -> int:
        """Bytes of the codes; the codec is shared."""
        return self.codes.nbytes

    def joined(self, others: Sequence[SearchVectors]) -> CodedVectors | None:
        """These codes and then those of all `others`; None if one is of another codec."""
        codes = [self.codes]
        for other in others:
            if not isinstance(other, CodedVectors) or other.codec is not self.codec:
                return None
            codes.append(other.codes)
        return CodedVectors(self.codec, torch.cat(codes)) if others else self

    def similarities(self, query: Tensor) -> Tensor:
        """See :meth:`VectorCodec.similarities`."""
        return self.codec.similarities(query, self.codes)

    def float(self) -> Tensor:
        """The vectors unpacked; float32 (T, hidden)."""
        return self.codec.decode(self.codes)


def _patterns(device: torch.device) -> Tensor:
    """The signs that each value of a byte stands for; float32 (256, 8)."""
    values = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)
    return 2.0 * (values & 1).float() - 1.0


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
