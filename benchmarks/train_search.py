"""Trains a linear map of search vectors (H7), and compares what MaxSim finds with and without it.

    python benchmarks/train_search.py --data SUBSET --dev DEV --out FOLDER --minutes 4

A question's evidence should score above the other leaves of its document and of the other documents
of its batch. The map starts as the identity; everything below it is frozen. Examples are those of
``sharedllm train``; what is found is measured as in library_search.py, and on RULER's needles.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from library import library
from library_search import found
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sharedllm import SharedLLM
from sharedllm.chunks import cut
from sharedllm.evaluation import ruler
from sharedllm.evaluation.sources import Filler
from sharedllm.lower_model import unit
from sharedllm.tokens import tokenize
from sharedllm.training.config import DataConfig, read_config
from sharedllm.training.data import Mixture

CONFIG = Path(__file__).with_name("train_further.toml")
LEAF = 128
NEEDLES = ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "vt", "two_hop")


@dataclass(frozen=True, slots=True)
class Asked:
    """One example's tokens: of its question, of its past, and which leaves hold the evidence."""

    kind: str
    question: np.ndarray[Any, Any]
    past: np.ndarray[Any, Any]
    right: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]


class Examples(IterableDataset[Asked]):
    """Questions with evidence out of the training mixture."""

    def __init__(self, data: DataConfig, tokenizer: Any, seed: int) -> None:
        self._data, self._tokenizer, self._seed = data, tokenizer, seed

    def __iter__(self) -> Iterator[Asked]:
        info = get_worker_info()
        for example in Mixture(self._data, 1000 * self._seed + (info.id if info else 0)):
            if not (example.question and example.evidence):
                continue
            tokens = tokenize(example.past, self._tokenizer)
            asked = tokenize(example.question, self._tokenizer).ids
            if not len(asked) or len(tokens) <= LEAF:
                continue
            leaf = np.arange(len(tokens)) // LEAF
            inside = np.zeros(len(tokens), bool)
            for start, end in example.evidence:
                inside |= (tokens.spans[:, 0] < end) & (tokens.spans[:, 1] > start)
            right = np.unique(leaf[inside])
            pairs = np.unique(np.stack([tokens.ids, leaf]), axis=1)[0]
            held = np.array([(pairs == token).sum() for token in asked])
            weights = np.log1p((leaf[-1] + 1) / (1 + held)) ** 2
            if 0 < len(right) <= 8:
                yield Asked(example.kind, asked, tokens.ids, right, weights.astype(np.float32))


def states(llm: SharedLLM, texts: list[np.ndarray[Any, Any]]) -> Tensor:
    """Search vectors, before any map, of all tokens of `texts`."""
    lengths = np.array([len(text) for text in texts])
    spans = [
        (int(at) + c.start, int(at) + c.end)
        for at, n in zip(np.cumsum(lengths) - lengths, lengths, strict=True)
        for c in cut(int(n), llm.tree.chunk)
    ]
    return llm.lower.vectors(np.concatenate(texts), spans).float().clone()


def loss_of(head: nn.Linear, batch: list[Asked], llm: SharedLLM, scale: Tensor) -> Tensor:
    """Negative log-likelihood of the evidence among all leaves of the batch."""
    device = llm.lower.device
    asked = unit(head(states(llm, [x.question for x in batch])))
    past = unit(head(states(llm, [x.past for x in batch])))
    leaves = [np.arange(0, len(x.past), LEAF) for x in batch]
    starts = np.cumsum([0, *(len(x.past) for x in batch)])
    bounds = np.concatenate([a + s for a, s in zip(leaves, starts, strict=False)] + [starts[-1:]])
    similarity = past @ asked.T
    best = torch.segment_reduce(similarity, "max", offsets=torch.from_numpy(bounds).to(device))
    first = np.cumsum([0, *(len(a) for a in leaves)])
    out, column = [], 0
    for i, example in enumerate(batch):
        own = best[:, column : column + len(example.question)]
        column += len(example.question)
        weights = torch.from_numpy(example.weights).to(device)
        scores = scale.exp() * (own @ (weights / weights.sum()))
        right = torch.from_numpy(example.right + first[i]).to(device)
        out.append(scores.logsumexp(0) - scores[right].logsumexp(0))
    return torch.stack(out)


def train(llm: SharedLLM, args: argparse.Namespace) -> nn.Linear:
    config = read_config(args.config, args.data)
    size = llm.lower.vectors(np.zeros(1, np.int32), [(0, 1)]).shape[1]
    head = nn.Linear(size, size, bias=False, device=llm.lower.device)
    nn.init.eye_(head.weight)
    scale = nn.Parameter(torch.tensor(3.0, device=llm.lower.device))
    optimizer = torch.optim.AdamW(
        [{"params": head.parameters()}, {"params": [scale], "weight_decay": 0.0}],
        lr=args.learning_rate,
        weight_decay=0.0,
    )
    loader = DataLoader(
        Examples(config.data, llm.tokenizer, args.seed),
        batch_size=args.batch,
        collate_fn=list,
        num_workers=args.workers,
    )
    start, seen = time.monotonic(), defaultdict(list)
    for step, batch in enumerate(loader):
        done = (time.monotonic() - start) / (60 * args.minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / 50, 2 * (1 - done))
        each = loss_of(head, batch, llm, scale)
        pull = args.pull * (head.weight - torch.eye(size, device=head.weight.device)).square().sum()
        (each.mean() + pull).backward()
        optimizer.step()
        optimizer.zero_grad()
        for example, value in zip(batch, each.tolist(), strict=True):
            seen[example.kind].append(value)
        if step % 50 == 49:
            means = {kind: round(sum(v) / len(v), 3) for kind, v in sorted(seen.items())}
            print(f"step {step + 1}, {time.monotonic() - start:.0f} s: {means}", flush=True)
            seen.clear()
    return head


def compare(llm: SharedLLM, head: nn.Linear, args: argparse.Namespace) -> dict[str, Any]:
    """Evidence found with and without `head`, by kind of question; True and False an item."""
    plain = llm.lower.vectors

    def mapped(*given: Any, **options: Any) -> Tensor:
        with torch.inference_mode():
            return unit(head(plain(*given, **options).float())).half()

    out: dict[str, Any] = {}
    for name, vectors in (("without", plain), ("with", mapped)):
        llm.lower.vectors = vectors
        hits: dict[str, list[bool]] = defaultdict(list)
        for seed in args.library_seeds:
            made = library(args.dev, args.items, seed, llm.tokenizer)
            documents = [llm.remember(v.text, title=v.title) for v in made.volumes]
            for index, item in enumerate(made.items):
                home = index % len(documents)
                hits[item.kind].append(found(llm, item, documents, home, "maxsim"))
        filler = Filler([str(args.dev / "books.jsonl.xz")])
        for task in NEEDLES:
            for index in range(args.needles):
                item = ruler.make(task, index, args.needles, args.length, llm.tokenizer, filler, 5)
                document = llm.remember(item.text, title=name)
                options = {"policy": "maxsim", "budget": 1024, "rest": "none"}
                nodes = llm.select(item.query, document, **options).nodes
                forest = document.forest
                read = "".join(
                    document.text_of(int(forest.start[n.node]), int(forest.end[n.node]))
                    for n in nodes
                )
                hits[task] += [answer in read for answer in item.answers]
        out[name] = dict(hits)
    llm.lower.vectors = plain
    for kind in out["with"]:
        a, b = out["without"][kind], out["with"][kind]
        print(f"{kind}: {100 * np.mean(a):.1f} -> {100 * np.mean(b):.1f} % of {len(a)}", end="; ")
        print(f"only without {sum(x and not y for x, y in zip(a, b, strict=True))}", end=", ")
        print(f"only with {sum(y and not x for x, y in zip(a, b, strict=True))}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--data", type=Path, required=True, help="the training data")
    parser.add_argument("--dev", type=Path, required=True, help="books and qa to compare on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--pull", type=float, default=0.0, help="towards the identity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=240)
    parser.add_argument("--library-seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--needles", type=int, default=8, help="items of each of RULER's tasks")
    parser.add_argument("--length", type=int, default=32768, help="their tokens")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    llm = SharedLLM.from_pretrained(adapter=None)
    head = train(llm, args)
    torch.save(head.weight.detach().cpu(), args.out / "head.pt")
    found = compare(llm, head, args)
    (args.out / "found.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
