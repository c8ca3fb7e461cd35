"""Search vectors as arrays on disk: the one place that knows their form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.memory.shards import Stored

NAME = "vectors"


def stored(vectors: Tensor) -> dict[str, Stored]:
    """The search vectors (T, hidden) of one chunk."""
    return {NAME: Stored.of(vectors.half().cpu().numpy())}


def joined(chunks: Sequence[dict[str, NDArray[np.generic]]], device: torch.device) -> Tensor:
    """What :attr:`sharedllm.document.Document.vectors` holds, for these chunks in order."""
    return torch.from_numpy(np.concatenate([arrays[NAME] for arrays in chunks])).to(device)
