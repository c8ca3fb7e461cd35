"""Training of the query projection, which MaxSim applies to a question's search vectors.

The evidence of a question should score above all other leaves of the batch (a contrastive loss).
Documents' vectors stay as they are, so existing memories can be searched with the projection. Half
of the batches compare codes of 64 bytes per token, as memories keep them.
"""

from __future__ import annotations

import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sharedllm.arguments import checked
from sharedllm.config import TreeConfig
from sharedllm.encoding.lower_model import unit
from sharedllm.errors import ConfigError
from sharedllm.hf import lora_io
from sharedllm.memory.codes import VectorCodec
from sharedllm.search.maxsim import token_weights
from sharedllm.search.query import Query
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.tokens import Tokenizer, tokenize
from sharedllm.text.tree import cut
from sharedllm.training.data import Mixture
from sharedllm.training.examples import NO_VECTORS, leaves_of, make_document
from sharedllm.training.streams import FRUITLESS
from sharedllm.training.train_config import DataConfig, TrainConfig

MOST_LEAVES = 8  # of evidence; summaries, which have more, are left out
LOG_EVERY = 50  # steps
SHARPNESS = 3.0  # initial logarithm of the factor on mean similarities (inverse temperature)


def _nothing(line: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Sought:
    """One question and the past that contains its evidence.

    Attributes
    ----------
    kind : the task
    question : int32 (Q,)
    past : int32 (T,)
    leaves : int (leaves,), first token of each leaf
    right : int, ranks of the leaves that hold evidence
    weights : float32 (Q,), MaxSim's weight of each token of the question; they sum to 1
    """

    kind: str
    question: NDArray[np.int32]
    past: NDArray[np.int32]
    leaves: NDArray[np.int32]
    right: NDArray[np.int32]
    weights: NDArray[np.float32]


class Questions(IterableDataset[Sought]):
    """Endless stream of the mixture's examples with a question and evidence."""

    def __init__(self, data: DataConfig, tokenizer: Tokenizer, tree: TreeConfig, seed: int) -> None:
        self._data, self._tokenizer, self._tree, self._seed = data, tokenizer, tree, seed

    def __iter__(self) -> Iterator[Sought]:
        info, without = get_worker_info(), 0
        for example in Mixture(self._data, abs(hash((self._seed, info.id if info else 0)))):
            without += 1
            if without > FRUITLESS:
                raise ConfigError(
                    f"{FRUITLESS:,} examples in a row have no question with evidence in a few "
                    "leaves; give data.sources with the task 'qa' or 'planted', and longer texts"
                )
            if not (example.evidence and example.question.strip() and example.past.strip()):
                continue
            ids = tokenize(example.question, self._tokenizer).ids
            document = make_document(example.past, self._tokenizer, self._tree)
            found = [leaves_of(document, *span) for span in example.evidence]
            right = np.unique(np.concatenate(found))
            leaves = document.forest.start[document.forest.leaves]
            if not 0 < len(right) <= MOST_LEAVES or len(right) == len(leaves):
                continue
            without = 0
            query = Query(text=example.question, ids=ids, vectors=NO_VECTORS)
            weights = token_weights(query, [document])
            yield Sought(
                kind=example.kind,
                question=ids,
                past=document.tokens.ids,
                leaves=leaves,
                right=right.astype(np.int32),
                weights=weights / weights.sum(),
            )


class QueryProjection(nn.Module):
    """The projection, initially the identity, and the inverse temperature of the loss."""

    def __init__(self, hidden: int, device: torch.device) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(hidden, device=device))
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS, device=device))

    def losses(self, batch: Sequence[Sought], questions: Tensor, pasts: Tensor) -> Tensor:
        """Compute the NLL of each question's evidence among all leaves of the batch.

        Parameters
        ----------
        questions, pasts : (tokens, hidden)
            Search vectors of all questions, and of all pasts, concatenated.

        Returns
        -------
        losses (B,)
        """
        mapped = unit(questions @ self.matrix.T)
        begins = np.cumsum([0, *(len(x.past) for x in batch)])
        starts = [x.leaves + begin for x, begin in zip(batch, begins, strict=False)]
        bounds = torch.from_numpy(np.concatenate([*starts, begins[-1:]])).to(pasts.device)
        best = torch.segment_reduce(pasts @ mapped.T, "max", offsets=bounds)
        columns = torch.split(best, [len(x.question) for x in batch], dim=1)
        first = np.cumsum([0, *(len(x.leaves) for x in batch)])
        out = []
        for example, own, at in zip(batch, columns, first[:-1].tolist(), strict=True):
            scores = self.sharpness.exp() * (own @ torch.from_numpy(example.weights).to(own.device))
            right = torch.from_numpy(example.right + at).to(own.device)
            out.append(scores.logsumexp(0) - scores[right].logsumexp(0))
        return torch.stack(out)


def train(llm: SharedLLM, config: TrainConfig, say: Callable[[str], object] = _nothing) -> Tensor:
    """Train the projection; return the mean of it and the identity, (hidden, hidden).

    Parameters
    ----------
    say : called with a line of losses by task every LOG_EVERY steps
    """
    settings, lower = config.query_projection, llm.encoder.lower
    sample = lower.vocabulary()
    codec = VectorCodec.fit(sample).to(lower.device)
    model = QueryProjection(sample.shape[1], lower.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    dataset = Questions(config.data, llm.tokenizer, llm.tree, config.seed)
    # one bytes object per batch: torch's sharing would hold a file open for each array
    loader = DataLoader(
        dataset, batch_size=settings.batch, collate_fn=pickle.dumps, num_workers=config.workers
    )
    started = time.perf_counter()
    seen: dict[str, list[float]] = defaultdict(list)
    for step, pickled in enumerate(loader):
        done = step / settings.steps
        if settings.minutes is not None:
            done = max(done, (time.perf_counter() - started) / (60 * settings.minutes))
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (step + 1) / 50, 2 * (1 - done))
        batch: list[Sought] = pickle.loads(pickled)
        questions = _vectors(llm, [x.question for x in batch])
        pasts = _vectors(llm, [x.past for x in batch])
        if step % 2:
            pasts = codec.decode(codec.encode(pasts))
        losses = model.losses(batch, questions, pasts)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        for example, loss in zip(batch, losses.tolist(), strict=True):
            seen[example.kind].append(loss)
        if step % LOG_EVERY == LOG_EVERY - 1:
            shown = "  ".join(f"{k} {sum(v) / len(v):.2f}" for k, v in sorted(seen.items()))
            say(f"step {step + 1}  {time.perf_counter() - started:.0f} s  {shown}")
            seen.clear()
    return average_with_identity(model.matrix.detach(), sample.float())


def average_with_identity(trained: Tensor, sample: Tensor) -> Tensor:
    """Return the mean of the identity and of `trained`, scaled by the vectors `sample`.

    `trained` is scaled to keep the vectors' mean length. The mean finds again what the
    projection alone finds less well, and keeps nearly all of its gain (docs/experiments.md, 23).
    """
    trained = trained / (sample @ trained.T).norm(dim=-1).mean()
    return (torch.eye(len(trained), device=trained.device) + trained) / 2


def _vectors(llm: SharedLLM, texts: Sequence[NDArray[np.int32]]) -> Tensor:
    """Compute the search vectors of all tokens of `texts`, each chunk read alone."""
    starts = np.cumsum([0, *map(len, texts)]).tolist()
    spans = [
        (start + chunk.start, start + chunk.end)
        for start, text in zip(starts, texts, strict=False)
        for chunk in cut(len(text), llm.tree.chunk)
    ]
    return llm.encoder.lower.vectors(np.concatenate(texts), spans).float().clone()


@checked()
def run(
    config: TrainConfig, adapter: Path, say: Callable[[str], object] = _nothing, **options: Any
) -> None:
    """Train a projection for the adapter in the folder `adapter`, and write it there.

    Raises
    ------
    AdapterError
        If the folder holds no adapter.
    """
    tree = lora_io.Manifest.read(adapter).tree
    llm = SharedLLM.from_pretrained(config.model, adapter=None, tree=tree, **options)
    llm.require_injecting("a query projection")
    lora_io.save_query_projection(train(llm, config, say), adapter)
