"""Node KV <-> arrays on disk: which nodes of a chunk are kept, and in how many bits.

Shapes: K kept entries, M injection layers, G key/value heads, D head dim. On disk an entry's keys
and values lie together, (K, 2, M, G, D), so that one node is one stretch of its file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.config import TreeConfig
from sharedllm.encoding.kv import NodeKV, kept_count
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.memory.shards import Stored
from sharedllm.text.tree import Chunk, planted

COARSE, FINE = "coarse", "fine"
GROUP = 32  # values that share a scale in int4
TORCH_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Levels:
    """The nodes of one chunk whose KV is kept, in the order in which they stand on disk.

    Attributes
    ----------
    coarse, fine : requests with tokens counted from the chunk's first one
    """

    coarse: tuple[NodeRequest, ...]
    fine: tuple[NodeRequest, ...]

    @classmethod
    def of(cls, length: int, tree: TreeConfig, keep: str) -> Levels:
        """For a chunk of `length` tokens.

        With ``keep="all"`` that is every node at every ratio that search takes it at: a leaf at the
        finest ratio where it is chosen, and at that of the level above where it is not. Verbatim
        nodes (ratio 1) are left out: they would be as large as the whole KV.
        """
        root = NodeRequest(start=0, end=length, ratio=float(tree.root_ratio))
        if keep == "text":
            return cls((), ())
        if keep == "coarse":
            return cls((root,), ())
        forest = planted([Chunk(index=0, start=0, end=length)], tree)
        fine: dict[NodeRequest, None] = {}
        for node in range(len(forest)):
            level, leaf = int(forest.level[node]), forest.left[node] < 0
            ratios = [tree.ratio(min(level, max(tree.height - 1, 0)) if leaf else level)]
            ratios += [tree.ratio(level), tree.leaf_ratio] if leaf else []
            for ratio in ratios:
                request = NodeRequest(
                    start=int(forest.start[node]),
                    end=int(forest.end[node]),
                    ratio=float(ratio),
                    context=forest.before(node),
                )
                if ratio > 1 and request != root:
                    fine[request] = None
        return cls((root,), tuple(fine))

    def groups(self) -> dict[str, tuple[NodeRequest, ...]]:
        """The groups that are not empty, by the name of their arrays."""
        named = {COARSE: self.coarse, FINE: self.fine}
        return {name: requests for name, requests in named.items() if requests}

    def find(self, request: NodeRequest) -> tuple[str, int, int] | None:
        """The group of `request` and its entries [first, last) there, or None."""
        for name, requests in self.groups().items():
            at = 0
            for kept in requests:
                count = kept_count(kept.end - kept.start, kept.ratio)
                if kept == request:
                    return name, at, at + count
                at += count
        return None


def stored(name: str, nodes: Sequence[NodeKV], form: str) -> dict[str, Stored]:
    """The KV of `nodes`, one after the other, as arrays named after the group `name`."""
    entries = torch.cat([torch.stack([n.keys, n.values]).permute(3, 0, 1, 2, 4) for n in nodes])
    entries = entries.detach().cpu().contiguous()  # (K, 2, M, G, D)
    if form == "exact":
        return {f"{name}/kv": _as_stored(entries)}
    if form == "bf16":
        return {f"{name}/kv": _as_stored(entries.to(torch.bfloat16))}
    if form == "int8":
        return _int8(name, entries.float())
    return _int4(name, entries.float())


def parts(name: str, form: str) -> tuple[str, ...]:
    """Names of the arrays that hold the group `name`."""
    if form in ("exact", "bf16"):
        return (f"{name}/kv",)
    extra = ("scale",) if form == "int8" else ("scale", "least")
    return tuple(f"{name}/{part}" for part in ("kv", *extra))


def read(
    name: str,
    arrays: Arrays,
    dtypes: Mapping[str, str],
    form: str,
    entries: tuple[int, int],
    head_dim: int,
) -> Tensor:
    """Entries [first, last) of the group `name`; (2, M, G, K, D), on the CPU."""
    part = {
        key.removeprefix(f"{name}/"): np.array(array[slice(*entries)])
        for key, array in arrays.items()
    }
    if form in ("exact", "bf16"):
        values = torch.from_numpy(part["kv"])
        if dtypes[f"{name}/kv"] == "BF16":
            values = values.view(torch.bfloat16)
    elif form == "int8":
        values = torch.from_numpy(part["kv"]).float()
        values = values * _short(part["scale"])
    else:
        values = _from_int4(part, head_dim)
    return values.permute(1, 2, 3, 0, 4)


def _as_stored(values: Tensor) -> Stored:
    name = TORCH_NAMES[values.dtype]
    plain = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
    return Stored(plain.numpy(), name)


def _int8(name: str, entries: Tensor) -> dict[str, Stored]:
    """One scale for each entry, layer and head: at most 1/250 of the largest value is lost."""
    scale = _scale(entries.abs().amax(-1) / 127)
    rounded = (entries / scale.float()[..., None]).round().clamp(-127, 127).to(torch.int8)
    return {f"{name}/kv": Stored.of(rounded.numpy()), f"{name}/scale": _as_stored(scale)}


def _scale(scale: Tensor) -> Tensor:
    """`scale` in bfloat16 (for its range), rounded up so that nothing is clipped, never zero."""
    short = scale.clamp_min(1e-30).to(torch.bfloat16)
    return torch.where(short.float() < scale, (short.float() * (1 + 2.0**-7)).bfloat16(), short)


def _int4(name: str, entries: Tensor) -> dict[str, Stored]:
    """Groups of 32 values between their own least and largest, in 15 steps."""
    grouped = _grouped(entries)
    least = grouped.amin(-1).to(torch.bfloat16)
    scale = _scale((grouped.amax(-1) - least.float()).clamp_min(0) / 15)
    steps = (grouped - least.float()[..., None]) / scale.float()[..., None]
    codes = steps.round().clamp(0, 15).to(torch.uint8)
    packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return {
        f"{name}/kv": Stored.of(packed.numpy()),
        f"{name}/scale": _as_stored(scale),
        f"{name}/least": _as_stored(least),
    }


def _grouped(entries: Tensor) -> Tensor:
    """(..., D) as (..., groups, group), the last group filled up with the last value."""
    head_dim = entries.shape[-1]
    group = min(GROUP, head_dim + head_dim % 2)
    missing = -head_dim % group
    if missing:
        entries = torch.cat([entries, entries[..., -1:].expand(*entries.shape[:-1], missing)], -1)
    return entries.reshape(*entries.shape[:-1], -1, group)


def _short(bits: NDArray[np.generic]) -> Tensor:
    """Numbers of which numpy holds the bits; float32, with a last dimension of one."""
    return torch.from_numpy(bits).view(torch.bfloat16).float()[..., None]


def _from_int4(part: Mapping[str, NDArray[np.generic]], head_dim: int) -> Tensor:
    packed = torch.from_numpy(part["kv"])
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).float()
    values = codes * _short(part["scale"]) + _short(part["least"])
    return values.flatten(-2)[..., :head_dim]
