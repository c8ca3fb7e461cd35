"""Trains the network of the scorer "fused".

    python -m benchmarks.default_scorer.train --data TRAIN

TRAIN holds books, docs, papers, code, qa and qa2 (.jsonl.xz). Every collection is read once and
kept under `--cache`; then training takes about two minutes on two CPU cores. A third of the
collections are searched without the query projection, so that the network serves models that have
none. The loss is that of a question's evidence among all leaves, both by their own scores and with
the shares of their neighbours that selection adds.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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

ALTERNATIVES = ("question", "follow-up", "hops")  # each place of the evidence is enough
HIDDEN = 12
CHECKED, PLAIN = 0.15, 0.3  # shares of collections: kept for checking, without a projection


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """What the network reads for one question, and the leaves that hold its evidence."""

    kind: str
    leaves: Tensor  # (L, features)
    query: Tensor  # (features,)
    right: Tensor  # bool (L,)
    needed: bool  # all of them hold one statement, rather than each of them one
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
                needed=sought.kind not in ALTERNATIVES,
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
    for collection in collections(args.data):
        started = time.perf_counter()
        rng = random.Random(collection.name)
        llm = plain if rng.random() < PLAIN else usual
        store = Store(collection, llm, args.cache / ("plain" if llm is plain else "usual"))
        out += examples_of(store, checked=rng.random() < CHECKED)
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

    def forward(self, rows: Tensor) -> Tensor:
        """Score rows of a leaf's and its question's features."""
        own = (rows - self.mean) / self.scale
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Questions with all of their leaves in one row.

    Attributes
    ----------
    rows : (R, leaf and query features)
    question : int (R,), rank of each leaf's question
    right : bool (R,)
    needed : bool (questions,)
    weight : (questions,), less for kinds with many questions
    neighbours : of each distance and side, int (R,): a row, or R + the question beyond an end
    """

    kinds: tuple[str, ...]
    rows: Tensor
    question: Tensor
    right: Tensor
    needed: Tensor
    weight: Tensor
    neighbours: tuple[Tensor, ...]

    @classmethod
    def of(cls, examples: Sequence[Example], counts: Mapping[str, int]) -> Batch:
        sizes = torch.tensor([len(one.leaves) for one in examples])
        question = torch.repeat_interleave(torch.arange(len(examples)), sizes)
        total, at = int(sizes.sum()), 0
        document = []
        for one in examples:
            document += [at + end for end in one.ends]
            at += len(one.leaves)
        starts = torch.zeros(total, dtype=torch.long)
        starts[torch.tensor([end for end in document if end < total], dtype=torch.long)] = 1
        of_document, place = starts.cumsum(0), torch.arange(total)
        neighbours = []
        for distance in range(1, len(SearchConfig().neighbours) + 1):
            for side in (-distance, distance):
                other = (place + side).clamp(0, total - 1)
                inside = (place + side == other) & (of_document[other] == of_document)
                neighbours.append(torch.where(inside, other, total + question))
        queries = torch.stack([one.query for one in examples])
        return cls(
            kinds=tuple(one.kind for one in examples),
            rows=torch.cat([torch.cat([one.leaves for one in examples]), queries[question]], dim=1),
            question=question,
            right=torch.cat([one.right for one in examples]),
            needed=torch.tensor([one.needed for one in examples]),
            weight=torch.tensor([counts[one.kind] ** -0.5 for one in examples]),
            neighbours=tuple(neighbours),
        )

    def near(self, scores: Tensor) -> Tensor:
        """Add the neighbours' shares, as selection does; beyond an end it is the mean."""
        count = len(self.kinds)
        sums = torch.zeros(count).index_add(0, self.question, scores)
        means = sums / torch.bincount(self.question, minlength=count)
        every, out = torch.cat([scores, means]), scores
        for at, other in enumerate(self.neighbours):
            out = out + SearchConfig().neighbours[at // 2] * every[other]
        return out

    def mean_of_right(self, scores: Tensor) -> Tensor:
        """Return the mean score of each question's leaves with evidence."""
        zeros, right = torch.zeros(len(self.kinds)), self.right.float()
        sums = zeros.index_add(0, self.question, scores * right)
        return sums / zeros.index_add(0, self.question, right)

    def logsumexp(self, scores: Tensor) -> Tensor:
        """Sum up the exponentials of each question's leaves; (questions,)."""
        least = torch.full((len(self.kinds),), -1e9)
        top = least.scatter_reduce(0, self.question, scores.detach(), "amax")
        powers = (scores - top[self.question]).exp()
        return top + torch.zeros(len(top)).index_add(0, self.question, powers).log()


def loss_of(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of each question, and if its evidence is first."""
    scores = model(batch.rows)
    near = batch.near(scores)
    some, any_near = (batch.logsumexp(x.masked_fill(~batch.right, -1e4)) for x in (scores, near))
    # to be selected whole, a statement that a leaf's edge cuts needs both leaves
    right = torch.where(batch.needed, batch.mean_of_right(near), any_near)
    losses = batch.logsumexp(scores) - some, batch.logsumexp(near) - right
    wrong = batch.logsumexp(scores.detach().masked_fill(batch.right, -1e4) * 1e3)
    best = batch.logsumexp(scores.detach().masked_fill(~batch.right, -1e4) * 1e3)
    return (losses[0] + losses[1]) / 2, best > wrong


def mean_of(networks: Sequence[Network]) -> Network:
    """Return one network that scores as the mean of `networks`: it has the units of all."""
    count = len(networks)
    return Network(
        linear=np.mean([one.linear for one in networks], axis=0),
        inner=np.concatenate([one.inner for one in networks], axis=1),
        bias=np.concatenate([one.bias for one in networks]),
        outer=np.concatenate([one.outer for one in networks]) / np.float32(count),
    )


def train(examples: Sequence[Example], args: argparse.Namespace, seed: int) -> Network:
    torch.manual_seed(seed)
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
    counts = Counter(one.kind for one in used)
    held = Batch.of(checked, counts)
    random.Random(seed).shuffle(used)
    batches = [
        Batch.of(used[at : at + args.batch], counts) for at in range(0, len(used), args.batch)
    ]
    for epoch in range(args.epochs):
        total = 0.0
        for at in torch.randperm(len(batches)).tolist():
            losses, _ = loss_of(model, batches[at])
            optimizer.zero_grad()
            weight = batches[at].weight
            ((losses * weight).sum() / weight.sum()).backward()
            optimizer.step()
            schedule.step()
            total += losses.sum().item()
        if epoch % 10 == 9 or epoch == args.epochs - 1:
            with torch.no_grad():
                losses, first = loss_of(model, held)
            shown = f"{total / len(used):.3f}, checked {float(losses.mean()):.3f}"
            print(f"epoch {epoch + 1}: {shown}", flush=True)
    kinds: dict[str, list[bool]] = defaultdict(list)
    for kind, right in zip(held.kinds, first.tolist(), strict=True):
        kinds[kind].append(right)
    print("first:", {k: f"{100 * np.mean(v):.0f} of {len(v)}" for k, v in sorted(kinds.items())})
    return model.network()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--cache", type=Path, default=Path("runs/default_scorer"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=4, help="networks whose mean is written")
    args = parser.parse_args()
    examples = read_all(args)
    mean_of([train(examples, args, seed) for seed in range(args.seeds)]).write(args.out)


if __name__ == "__main__":
    main()
