"""Trains the network of the scorer "fused".

    python -m benchmarks.default_scorer.train --data TRAIN

TRAIN holds books, docs, papers, code, qa and qa2 (.jsonl.xz). Every collection is read once and
kept under `--cache`; then training takes about two minutes on two CPU cores. A third of the
collections is searched without the query projection, so that the network serves models that have
none. The loss is that of a question's evidence among all leaves, both by their own scores and with
the shares of their neighbours that selection adds.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.default_scorer.collections import collections
from benchmarks.quality.search.sought import Sought
from benchmarks.quality.search.systems import Known, Store
from sharedllm import SearchConfig, SharedLLM
from sharedllm.search.fused import OF_LEAF, OF_QUERY, WEIGHTS, Network, features
from sharedllm.search.query import query_of

HIDDEN = 24
CHECKED = 6  # every so many-th collection is kept for checking


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """What the network reads for one question, and the leaves that hold its evidence."""

    kind: str
    leaves: Tensor  # (L, features)
    query: Tensor  # (features,)
    right: Tensor  # bool (L,)
    ends: tuple[int, ...]  # of the documents, in leaves
    checked: bool


def right_leaves(store: Store, sought: Sought) -> np.ndarray:
    """Mark the leaves that touch any of the evidence."""
    out = np.zeros(store.bounds[-1], bool)
    index = {document.id: at for at, document in enumerate(store.documents)}
    for name, first, last in (place for places in sought.evidence for place in places):
        document = store.documents[index[name]]
        spans = document.tokens.spans
        start = int(np.searchsorted(spans[:, 1], first, side="right"))
        end = int(np.searchsorted(spans[:, 0], last, side="left"))
        before = store.bounds[index[name] - 1] if index[name] else 0
        out[before + np.unique(document.leaf_of_token[start:end])] = True
    return out


def examples_of(store: Store, *, checked: bool) -> list[Example]:
    out = []
    for sought in store.collection.sought:
        right = right_leaves(store, sought)
        if not right.any() or right.all():
            continue
        query = store.query(query_of(str(sought.question)))
        known = Known(store.maxsim(query))
        leaves, asked = features(query, store.documents, known)
        out.append(
            Example(
                kind=sought.kind,
                leaves=torch.from_numpy(leaves),
                query=torch.from_numpy(asked),
                right=torch.from_numpy(right),
                ends=tuple(int(end) for end in store.bounds),
                checked=checked,
            )
        )
    store.save()
    return out


def read_all(args: argparse.Namespace) -> list[Example]:
    usual = SharedLLM.from_pretrained(device="cpu")
    plain = SharedLLM.from_pretrained(device="cpu", adapter=None)
    out: list[Example] = []
    for at, collection in enumerate(collections(args.data)):
        started = time.perf_counter()
        llm = plain if at % 3 == 2 else usual
        store = Store(collection, llm, args.cache / ("plain" if llm is plain else "usual"))
        out += examples_of(store, checked=at % CHECKED == CHECKED - 1)
        print(
            f"{collection.key}: {len(out)} in all, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return out


class Model(nn.Module):
    """The network in torch."""

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        leaf, every = len(OF_LEAF), len(OF_LEAF) + len(OF_QUERY)
        self.linear = nn.Parameter(torch.zeros(leaf))
        self.inner = nn.Parameter(torch.randn(every, HIDDEN) * 0.3)
        self.bias = nn.Parameter(torch.zeros(HIDDEN))
        self.outer = nn.Parameter(torch.randn(HIDDEN) * 0.1)
        self.mean, self.scale = mean, scale
        with torch.no_grad():
            self.linear[:2] = 1.0

    def forward(self, leaves: Tensor, query: Tensor) -> Tensor:
        """Score rows (rows, features) of leaves, each with its question's (rows, features)."""
        own = (torch.cat([leaves, query], dim=1) - self.mean) / self.scale
        hidden = torch.tanh(own @ self.inner + self.bias)
        return own[:, : len(OF_LEAF)] @ self.linear + hidden @ self.outer

    def network(self) -> Network:
        """Return the weights for features as they come: their scaling is taken in."""
        with torch.no_grad():
            inner = self.inner / self.scale[:, None]
            bias = self.bias - (self.mean / self.scale) @ self.inner
            linear = self.linear / self.scale[: len(OF_LEAF)]
        arrays = (x.detach().numpy().astype(np.float32) for x in (linear, inner, bias, self.outer))
        return Network(*arrays)


def near(scores: Tensor, ends: Sequence[int]) -> Tensor:
    """Add the neighbours' shares, as selection does."""
    parts = torch.tensor_split(scores, list(ends[:-1]))
    neutral, out = scores.mean(), []
    shares = SearchConfig().neighbours
    reach = len(shares)
    for part in parts:
        padded = torch.cat([neutral.expand(reach), part, neutral.expand(reach)])
        total = part
        for distance, share in enumerate(shares, start=1):
            for side in (reach - distance, reach + distance):
                total = total + share * padded[side : side + len(part)]
        out.append(total)
    return torch.cat(out)


def loss_of(model: Model, batch: Sequence[Example]) -> tuple[Tensor, list[tuple[str, bool]]]:
    """Return the mean loss, and for each question if its evidence is first."""
    rows = [len(one.leaves) for one in batch]
    queries = torch.cat([one.query.expand(n, -1) for one, n in zip(batch, rows, strict=True)])
    scores = model(torch.cat([one.leaves for one in batch]), queries).split(rows)
    losses, first = [], []
    for one, own in zip(batch, scores, strict=True):
        for ranked in (own, near(own, one.ends)):
            losses.append(ranked.logsumexp(0) - ranked[one.right].logsumexp(0))
        first.append((one.kind, bool(one.right[own.argmax()])))
    return torch.stack(losses).mean(), first


def train(examples: Sequence[Example], args: argparse.Namespace) -> Model:
    torch.manual_seed(args.seed)
    used = [one for one in examples if not one.checked]
    checked = [one for one in examples if one.checked]
    queries = torch.stack([one.query for one in used])
    leaves = torch.cat([one.leaves for one in used])
    mean = torch.cat([leaves.mean(0), queries.mean(0)])
    scale = torch.cat([leaves.std(0), queries.std(0)]).clamp_min(1e-2)
    model = Model(mean, scale)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, weight_decay=args.decay
    )
    rate = args.learning_rate
    steps = args.epochs * -(-len(used) // args.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for epoch in range(args.epochs):
        total = 0.0
        order = torch.randperm(len(used)).tolist()
        for at in range(0, len(order), args.batch):
            batch = [used[i] for i in order[at : at + args.batch]]
            loss, _ = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        if epoch % 10 == 9 or epoch == args.epochs - 1:
            with torch.no_grad():
                held, first = loss_of(model, checked)
            print(
                f"epoch {epoch + 1}: {total / len(used):.3f}, checked {held.item():.3f}", flush=True
            )
    kinds: dict[str, list[bool]] = defaultdict(list)
    for kind, right in first:
        kinds[kind].append(right)
    print("first:", {k: f"{100 * np.mean(v):.0f} of {len(v)}" for k, v in sorted(kinds.items())})
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--cache", type=Path, default=Path("runs/default_scorer"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--decay", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(read_all(args), args).network().write(args.out)


if __name__ == "__main__":
    main()
