"""Search vectors, KV and token places as the bytes that a memory stores, and back.

Search vectors take 64 bytes a token, and are compared as they lie. A search vector is projected on
the directions along which the model's vocabulary differs most and turned at random within them, so
that all coordinates weigh alike; of each coordinate the sign is kept, one bit. The query is not
rounded. Its similarity with a token is a sum of one number a byte, read from a table of what each
of the 256 values of that byte adds: nothing is unpacked. Signs, because for their bytes many coarse
coordinates keep more of MaxSim's decisions than few fine ones, and no codebook has to be trained
(docs/experiments.md, 8).

Shapes: T tokens, Q query tokens, K kept entries of a node, M injection layers, G key/value heads,
D head dim. Numbers are little-endian.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.config import TreeConfig, require_int
from sharedllm.encoding.document import SearchVectors
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import ConfigError, InputError
from sharedllm.memory.records import inflated
from sharedllm.text.tree import Chunk, Forest, grow_trees

VECTOR_BYTES = 64  # of a token
BLOCK = {"cpu": 16384, "cuda": 32768}  # tokens at once; on the CPU what its caches hold
SEED = 0
GROUP = 32  # values of KV that share a scale in int4

# -- search vectors --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class VectorCodec:
    """Turns the search vectors of one model into codes. Made by :meth:`fit`, kept with the memory.

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
    def fit(cls, sample: Tensor, *, size: int = VECTOR_BYTES, seed: int = SEED) -> Self:
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
        require_int("size", size, least=1)
        if sample.ndim != 2 or not sample.isfinite().all() or not sample.any():
            raise ConfigError(
                f"sample is a tensor of shape {tuple(sample.shape)}; give search vectors "
                "(n, hidden) of finite numbers that are not all zero"
            )
        x = sample.detach().double()  # where it is: a CPU takes a minute for 4,096 numbers
        bits = 8 * size
        directions = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)[:, :bits]
        # With fewer directions than bits, each bit sees a mixture of all of them.
        turn = torch.randn(bits, bits, generator=_generator(seed), dtype=torch.float64).to(x.device)
        projection = directions @ torch.linalg.qr(turn).Q[: directions.shape[1]]
        sizes = (x @ projection).abs()
        levels = sizes.mean(0)
        # Similarities of codes come out as large as exact ones, so that documents in either form
        # can be ranked together: on average a vector's with itself is its squared length.
        levels *= x.square().sum() / (sizes @ levels).sum()
        return cls(projection=projection.float().cpu(), levels=levels.float().cpu())

    @functools.cached_property
    def digest(self) -> bytes:
        """The same for codecs whose codes mean the same, such as those of a memory's parts."""
        numbers = torch.cat([self.projection.flatten(), self.levels]).cpu().numpy()
        shape = f"{tuple(self.projection.shape)} {self.projection.device}"
        return hashlib.sha256(numbers.tobytes() + shape.encode()).digest()

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
        """The arrays that :meth:`from_arrays` takes, to be stored."""
        return {"projection": self.projection.cpu().numpy(), "levels": self.levels.cpu().numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Self:
        """Make the codec that gave these :meth:`arrays`.

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
            if not isinstance(other, CodedVectors):
                return None
            if other.codec is not self.codec and other.codec.digest != self.codec.digest:
                return None
            codes.append(other.codes)
        return CodedVectors(self.codec, torch.cat(codes)) if others else self

    def part(self, start: int, end: int) -> CodedVectors:
        """Those of the tokens [start, end)."""
        return CodedVectors(self.codec, self.codes[start:end])

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


def vectors_to_bytes(vectors: Tensor, codec: VectorCodec | None) -> bytes:
    """Search vectors (T, hidden) as codes, or without a codec as float16 numbers."""
    return _to_bytes(vectors.half() if codec is None else codec.encode(vectors))


def vectors_from_bytes(
    chunks: Sequence[bytes], hidden: int, codec: VectorCodec | None, device: torch.device
) -> SearchVectors:
    """The search vectors of neighbouring chunks, one after the other."""
    data = bytearray().join(chunks)
    if codec is None:
        return torch.frombuffer(data, dtype=torch.float16).view(-1, hidden).to(device)
    codes = torch.frombuffer(data, dtype=torch.uint8).view(-1, codec.size)
    return CodedVectors(codec, codes.to(device))


# -- token places ----------------------------------------------------------------------------------


def layout_to_bytes(ids: NDArray[np.int32], spans: NDArray[np.int32]) -> bytes:
    """Token ids (T,) and their character spans (T, 2), deflated: about 3 bytes a token."""
    starts = np.diff(spans[:, 0], prepend=np.int32(0))
    columns = np.stack([ids, starts, spans[:, 1] - spans[:, 0]]).astype("<i4")
    return zlib.compress(columns.tobytes(), 6)


def layout_from_bytes(
    data: bytes, tokens: int, characters: int, known: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Token ids (T,) and spans (T, 2) from what :func:`layout_to_bytes` gave.

    Parameters
    ----------
    characters : of the text that they cover
    known : ids that the model knows

    Raises
    ------
    ValueError
        If it is not of so many tokens, or they are not tokens of such a text and model.
    """
    columns = np.frombuffer(inflated(data, 12 * tokens), "<i4").reshape(3, tokens)
    starts = np.cumsum(columns[1], dtype=np.int32)
    spans = np.stack([starts, starts + columns[2]], axis=1).astype(np.int32)
    if columns[0].min() < 0 or columns[0].max() >= known:
        raise ValueError(f"ids that the model does not have: it has {known:,}")
    if spans.min() < 0 or spans.max() > characters or (spans[:, 0] > spans[:, 1]).any():
        raise ValueError(f"they are not of a text of {characters:,} characters")
    return columns[0].astype(np.int32), spans


# -- KV --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def kept_nodes(length: int, tree: TreeConfig, keep: str) -> tuple[NodeRequest, ...]:
    """The nodes of a chunk of `length` tokens whose KV is kept, in the order of their rows.

    With ``keep="leaves"`` that is every leaf as a selected one is read, at the leaf ratio. With
    ``keep="all"`` it is every node at every other ratio that search takes it at: a leaf at the leaf
    ratio where it is chosen, and at that of the level above where it is not. Verbatim nodes
    (ratio 1) are left out there: they would be as large as the whole KV.

    Returns
    -------
    tuple of NodeRequest
        With tokens counted from the chunk's first one; the root first, where it is kept.
    """
    if keep == "text":
        return ()
    root = NodeRequest(start=0, end=length, ratio=float(tree.root_ratio))
    if keep == "coarse":
        return (root,)
    forest = grow_trees([Chunk(index=0, start=0, end=length)], tree)
    if keep == "leaves":
        return tuple(_request(forest, int(leaf), tree.leaf_ratio) for leaf in forest.leaves)
    out: dict[NodeRequest, None] = {root: None}
    for node in range(len(forest)):
        level, leaf = int(forest.level[node]), forest.left[node] < 0
        ratios = [tree.ratio(min(level, max(tree.height - 1, 0)) if leaf else level)]
        ratios += [tree.ratio(level), tree.leaf_ratio] if leaf else []
        out |= {_request(forest, node, ratio): None for ratio in ratios if ratio > 1}
    return tuple(out)


def _request(forest: Forest, node: int, ratio: float) -> NodeRequest:
    return NodeRequest(
        start=int(forest.start[node]),
        end=int(forest.end[node]),
        ratio=float(ratio),
        context=forest.before(node),
    )


def kv_to_bytes(node: NodeKV, form: str) -> bytes:
    """The KV of a node as :func:`kv_from_bytes` takes it; see :func:`kv_to_arrays`."""
    return arrays_to_bytes(kv_to_arrays(node, form))


def arrays_to_bytes(arrays: Sequence[Tensor]) -> bytes:
    """Arrays as bytes, one behind the other."""
    return b"".join(map(_to_bytes, arrays))


def kv_to_arrays(node: NodeKV, form: str) -> tuple[Tensor, ...]:
    """The KV of a node as the arrays that are stored, where the node is: on a GPU this is quick.

    Parameters
    ----------
    form : {"exact", "bf16", "int8", "int4"}
        At most 1/256, 1/250 and (of a group of 32) 1/13 of the largest value is lost; "exact" is
        the model's own type.
    """
    values = torch.stack([node.keys, node.values]).detach()  # (2, M, G, K, D)
    if form == "exact":
        return (values,)
    if form == "bf16":
        return (values.to(torch.bfloat16),)
    return (_int8 if form == "int8" else _int4)(values.float())


def kv_from_bytes(
    data: bytes,
    shape: tuple[int, int, int, int],
    form: str,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> NodeKV:
    """The KV of a node of `shape` (M, G, K, D) from what :func:`kv_to_bytes` gave.

    Parameters
    ----------
    dtype, device : the model's own; codes become numbers there, so that fewer bytes are copied

    Raises
    ------
    ValueError
        If there are not as many bytes as that takes.
    """
    full = (2, *shape)
    short = torch.bfloat16
    if form in ("exact", "bf16"):
        (values,) = _arrays(data, [(full, short if form == "bf16" else dtype)], device)
    elif form == "int8":
        codes, scale = _arrays(data, [(full, torch.int8), ((*full[:-1], 1), short)], device)
        values = codes.float() * scale.float()
    else:
        group = _group(shape[-1])
        groups = -(-shape[-1] // group)
        each = ((*full[:-1], groups, 1), short)
        halves = ((*full[:-1], groups, group // 2), torch.uint8)
        packed, scale, least = _arrays(data, [halves, each, each], device)
        codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
        values = (codes.float() * scale.float() + least.float()).flatten(-2)[..., : shape[-1]]
    keys, values = values.to(dtype).contiguous()
    return NodeKV(keys=keys, values=values)


def _int8(values: Tensor) -> tuple[Tensor, ...]:
    """Round with one scale for each entry, layer and head."""
    scale = _scale(values.abs().amax(-1) / 127)
    rounded = (values / scale.float()[..., None]).round().clamp(-127, 127).to(torch.int8)
    return rounded, scale


def _scale(scale: Tensor) -> Tensor:
    """`scale` in bfloat16 (for its range), rounded up so that nothing is clipped, never zero."""
    short = scale.clamp_min(1e-30).to(torch.bfloat16)
    return torch.where(short.float() < scale, (short.float() * (1 + 2.0**-7)).bfloat16(), short)


def _int4(values: Tensor) -> tuple[Tensor, ...]:
    """Round groups of 32 values between their own least and largest, in 15 steps."""
    head_dim = values.shape[-1]
    group = _group(head_dim)
    missing = -head_dim % group
    if missing:  # the last group is filled up with the last value
        values = torch.cat([values, values[..., -1:].expand(*values.shape[:-1], missing)], -1)
    grouped = values.reshape(*values.shape[:-1], -1, group)
    least = grouped.amin(-1).to(torch.bfloat16)
    scale = _scale((grouped.amax(-1) - least.float()).clamp_min(0) / 15)
    steps = (grouped - least.float()[..., None]) / scale.float()[..., None]
    codes = steps.round().clamp(0, 15).to(torch.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), scale, least


def _group(head_dim: int) -> int:
    return min(GROUP, head_dim + head_dim % 2)


def _to_bytes(values: Tensor) -> bytes:
    return values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _arrays(
    data: bytes,
    parts: Sequence[tuple[tuple[int, ...], torch.dtype]],
    device: torch.device | str,
) -> list[Tensor]:
    """Cut `data` into arrays of these shapes and types, one behind the other."""
    counts = [int(np.prod(shape)) for shape, _ in parts]
    sizes = [n * dtype.itemsize for n, (_, dtype) in zip(counts, parts, strict=True)]
    if len(data) != sum(sizes):
        raise ValueError(f"{sum(sizes):,} bytes are needed and {len(data):,} are there")
    buffer, out = bytearray(data), []  # one that may be written, which PyTorch asks for
    for at, n, (shape, dtype) in zip(
        np.cumsum([0, *sizes[:-1]]).tolist(), counts, parts, strict=True
    ):
        one = torch.frombuffer(buffer, dtype=dtype, count=n, offset=at)
        out.append(one.view(shape).to(device))
    return out
