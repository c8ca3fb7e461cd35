"""Prompts in the oracle's form -> the same prompts in ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sharedllm import SharedLLM
from sharedllm.encoding.kv import InjectedKV, gather
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.injection.positions import Prompt
from sharedllm.injection.upper_model import UpperModel
from tests.equivalence.oracle import Node, Piece
from tests.models import some_ids

CLOSE = {"rtol": 2e-4, "atol": 2e-4}  # float32, logits of deviation about 1


def node(length: int, ratio: int, chunk: int, seed: int) -> Node:
    """A node of random tokens; the last token of each group of `ratio`, and the last one, stay."""
    kept = [i for i in range(length) if (i + 1) % ratio == 0 or i == length - 1]
    return Node(some_ids(length, seed), tuple(kept), chunk)


def memory_of(llm: SharedLLM, nodes: Sequence[Node]) -> InjectedKV:
    """Encode `nodes` with the lower model."""
    encoded = []
    for n in nodes:
        ratio = n.kept[0] + 1 if len(n.kept) > 1 else len(n.ids)
        request = NodeRequest(start=0, end=len(n.ids), ratio=float(ratio))
        ids = np.asarray(n.ids, dtype=np.int32)
        with torch.no_grad():
            ((_, kv),) = llm.encoder.lower.encode(ids, [request])
        encoded.append(kv)
    chunks = [n.chunk for n in nodes]
    return gather(encoded, chunks, max(chunks) + 1)


def prompt_of(llm: SharedLLM, pieces: Sequence[Piece]) -> Prompt:
    """Our form of `pieces`: text with memory between."""
    text: list[tuple[int, ...]] = [()]
    memory: list[InjectedKV | None] = []
    for piece in pieces:
        if isinstance(piece, tuple):
            text[-1] += piece
        else:
            memory.append(memory_of(llm, piece))
            text.append(())
    return Prompt(text=tuple(text), memory=tuple(memory))


def continued(prompt: Prompt, ids: Sequence[int]) -> Prompt:
    """`prompt` with `ids` behind its last text."""
    return Prompt(text=(*prompt.text[:-1], (*prompt.text[-1], *ids)), memory=prompt.memory)


def by_cache(upper: UpperModel, prompts: Sequence[Prompt], steps: Sequence[int]) -> list[Tensor]:
    """Logits (B, V) of the last token after prefill, and after each of `steps`."""
    session = upper.start(prompts)
    out = [session.logits]
    for token in steps:
        upper.step(session, [token] * len(prompts))
        out.append(session.logits)
    return out


def by_keyword(upper: UpperModel, prompts: Sequence[Prompt], steps: Sequence[int]) -> list[Tensor]:
    """As :func:`by_cache`, each from scratch with the memory passed by keyword."""
    with torch.no_grad():
        return [
            torch.stack(
                [row[-1] for row in upper.logits([continued(p, steps[:n]) for p in prompts])]
            )
            for n in range(len(steps) + 1)
        ]


# Head, memory, text, memory of two chunks at three ratios, tail; longer than the sliding window.
SCENE: list[Piece] = [
    some_ids(5, 1),
    [node(9, 2, 0, 2)],
    some_ids(4, 3),
    [node(6, 1, 0, 4), node(7, 3, 0, 5), node(12, 4, 2, 6)],
    some_ids(11, 7),
]
