"""Tokens of nodes -> position-free KV of the injection layers, and search states (paper, 3.2).

The lower model is the first M layers of the checkpoint, with the adapter's role "lower" if there is
one; search states are always the base's. A node is encoded alone, at positions from 0, so that
nodes which start at the same token share one pass. Passes are packed into one row without padding.
Of the last injection layer only the keys and values of kept tokens are computed.

Shapes: M injection layers, T tokens, G key/value heads, K kept entries, D head dim.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharedllm.attention.visibility import Segments
from sharedllm.encoding.kv import NodeKV, kept_positions
from sharedllm.errors import WindowError
from sharedllm.hf.architectures import ModelShape, parameter_device
from sharedllm.hf.attention_interface import require_active
from sharedllm.hf.cache import CaptureCache
from sharedllm.hf.loading import multiplies_bf16
from sharedllm.hf.lora import Adapter, acting
from sharedllm.hf.rope import Rotation

BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}  # on the CPU: activations stay in its caches
SEARCH_LAYERS = 1
CENTRE_TOKENS, CENTRE_SPAN = 4096, 512  # tokens read to find the centre of search vectors

Turn = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class NodeRequest:
    """Tokens [start, end) of a document, to be encoded at `ratio` tokens per KV entry.

    They are read together with the `context` tokens before them.
    """

    start: int
    end: int
    ratio: float
    context: int = 0

    @property
    def first(self) -> int:
        """The first token that is read."""
        return self.start - self.context


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedBatch:
    """The KV of several nodes, concatenated.

    Attributes
    ----------
    keys, values : (M, G, K, D), with K the entries of all nodes
    counts : entries of each node
    """

    requests: Sequence[NodeRequest]
    counts: Sequence[int]
    keys: Tensor
    values: Tensor

    def nodes(self) -> Iterator[tuple[NodeRequest, NodeKV]]:
        """Yield each node with a copy of its KV, so that keeping one frees the batch."""
        keys, values = (torch.split(x, list(self.counts), dim=2) for x in (self.keys, self.values))
        for request, k, v in zip(self.requests, keys, values, strict=True):
            yield request, NodeKV(keys=k.contiguous(), values=v.contiguous())


class LowerModel:
    """The first `layers` layers of `model`, which encode nodes.

    Parameters
    ----------
    model : the transformers causal LM, under our attention
    layers : int
        Injection layers M.

    Attributes
    ----------
    batch_tokens : int
        Tokens of one batch, at most; a single pass may be longer.
    query_projection : float32 tensor (hidden, hidden) or None
        The adapter's projection of a question's search vectors, for MaxSim.
    """

    query_projection: Tensor | None = None

    def __init__(self, model: Any, shape: ModelShape, rotation: Rotation, layers: int) -> None:
        self._model = model
        self._rotation = rotation
        self._window = shape.window
        self.layers = layers
        self._encoder = _first_layers(model.get_decoder(), layers - 1)
        self._last = model.get_decoder().layers[layers - 1]
        self._keys_values = shape.family.keys_values
        self._searcher = _first_layers(model.get_decoder(), SEARCH_LAYERS)
        self.device = parameter_device(model)
        self.batch_tokens = BATCH_TOKENS[self.device.type]
        self.search_in_bf16 = _gains_from_bf16(model)
        self._found_centre: Tensor | None = None

    def adapt(self, adapter: Adapter) -> None:
        """Take the query projection of `adapter`, which is on the model already."""
        found = adapter.query_projection
        self.query_projection = None if found is None else found.to(self.device, torch.float32)

    def encode(
        self,
        ids: NDArray[np.int32],
        requests: Sequence[NodeRequest],
        *,
        done: Callable[[int], None] | None = None,
        turn: Turn = nullcontext,
    ) -> Iterator[tuple[NodeRequest, NodeKV]]:
        """Encode nodes of one document, yielding each as its batch is ready.

        Gradients are kept unless the caller is in inference mode.

        Parameters
        ----------
        ids : (T,) the document's tokens
        requests : the nodes; those that are read from the same token share a pass
        done : called with the number of tokens just encoded, without their context
        turn : held during each pass
        """
        groups = _grouped(requests)
        lengths = [_length(group) for group in groups]

        for one in self._cut(lengths):
            with turn():
                encoded = self._encode_batch(ids, groups[one])
            yield from encoded.nodes()
            if done:
                done(sum(_length(group) - group[0].context for group in groups[one]))

    def _cut(self, lengths: Sequence[int]) -> Iterator[slice]:
        """Yield the passes of each batch, as slices of `lengths`."""
        at = 0
        while at < len(lengths):
            first, at = at, at + self._fitting(lengths[at:])
            yield slice(first, at)

    def _fitting(self, lengths: Sequence[int]) -> int:
        """Return the number of passes, from the first of `lengths` on, that make one batch."""
        total = 0
        for count, length in enumerate(lengths):
            total += length
            if total > self.batch_tokens:
                return max(1, count)
        return len(lengths)

    def _encode_batch(self, ids: NDArray[np.int32], batch: list[list[NodeRequest]]) -> EncodedBatch:
        spans = [(group[0].first, max(r.end for r in group)) for group in batch]
        requests = [request for group in batch for request in group]
        lengths = [_length(group) for group in batch]
        firsts = np.repeat(np.cumsum([0, *lengths[:-1]]), [len(group) for group in batch])
        # A token that several nodes keep is listed once for each.
        places = [r.context + kept_positions(r.end - r.start, r.ratio) for r in requests]
        kept, positions = (
            torch.from_numpy(np.concatenate(x)).to(self.device)
            for x in ([p + f for p, f in zip(places, firsts, strict=True)], places)
        )
        cache = CaptureCache(self._rotation, kept, positions)
        with acting("lower"):
            hidden = self._run(self._encoder, ids, spans, cache)
            last = self._keys_values(self._last, hidden.index_select(0, kept))
        keys, values = (
            torch.stack([*below, above.transpose(0, 1)])
            for below, above in zip((cache.keys, cache.values), last, strict=True)
        )
        counts = [len(place) for place in places]
        return EncodedBatch(requests=requests, counts=counts, keys=keys, values=values)

    def states(
        self,
        ids: NDArray[np.int32],
        spans: Sequence[tuple[int, int]],
        *,
        done: Callable[[int], None] | None = None,
        turn: Turn = nullcontext,
    ) -> Iterator[tuple[int, Tensor]]:
        """Compute hidden states after one layer, each span [start, end) read alone.

        On a CPU that multiplies bfloat16, float32 weights are multiplied in bfloat16: faster, and
        the same leaves are found (docs/architecture.md).

        Parameters
        ----------
        turn : held during each pass

        Yields
        ------
        (index of the span, tensor (end - start, hidden))
        """
        order = sorted(range(len(spans)), key=lambda i: spans[i][0] - spans[i][1])
        lengths = [spans[i][1] - spans[i][0] for i in order]

        for one in self._cut(lengths):
            rows = order[one]
            with turn(), torch.inference_mode(), self._search_precision():
                hidden = self._run(self._searcher, ids, [spans[i] for i in rows])
            yield from zip(rows, torch.split(hidden, lengths[one]), strict=True)
            if done:
                done(len(hidden))

    def vectors(
        self,
        ids: NDArray[np.int32],
        spans: Sequence[tuple[int, int]],
        *,
        done: Callable[[int], None] | None = None,
        turn: Turn = nullcontext,
    ) -> Tensor:
        """Compute search vectors: states after one layer, centred, of unit length.

        The centre is the mean state over the model's vocabulary. It does not depend on a document,
        so vectors of short and long documents compare.

        Parameters
        ----------
        turn : held during each pass

        Returns
        -------
        float16 tensor (T, hidden)
            For all `ids`; zero for tokens outside of `spans`.
        """
        out: Tensor | None = None
        centre = self._centre(turn)
        for index, states in self.states(ids, spans, done=done, turn=turn):
            centred = unit(states.float() - centre).half()
            if out is None:
                out = centred.new_zeros(len(ids), centred.shape[1])
            out[slice(*spans[index])] = centred
        if out is None:
            raise ValueError("vectors need at least one span")
        return out

    def vocabulary(self) -> Tensor:
        """Compute search vectors of a fixed sample of the vocabulary; float16 (tokens, hidden).

        They depend on the model alone. Compact forms are fitted to them.
        """
        return self.vectors(*self._sample())

    def _sample(self) -> tuple[NDArray[np.int32], list[tuple[int, int]]]:
        """Draw tokens from the vocabulary, and the spans in which they are read."""
        size = self._model.get_input_embeddings().num_embeddings
        sample = np.random.default_rng(0).permutation(size)[:CENTRE_TOKENS].astype(np.int32)
        length = min(CENTRE_SPAN, self._window)
        starts = range(0, len(sample), length)
        return sample, [(start, min(start + length, len(sample))) for start in starts]

    def _centre(self, turn: Turn) -> Tensor:
        """The mean state over a fixed sample of the vocabulary, found once; float32 (hidden,)."""
        if self._found_centre is None:
            sample, spans = self._sample()
            found = self.states(sample, spans, turn=turn)
            total = sum(states.float().sum(0) for _, states in found)
            self._found_centre = torch.as_tensor(total) / len(sample)
        return self._found_centre

    def _search_precision(self) -> AbstractContextManager[object]:
        if self.search_in_bf16:
            return torch.autocast("cpu", torch.bfloat16)
        return nullcontext()

    def _run(
        self,
        layers: nn.Module,
        ids: NDArray[np.int32],
        spans: Sequence[tuple[int, int]],
        cache: CaptureCache | None = None,
    ) -> Tensor:
        """Return the last hidden states (T, hidden) of `spans`, each read alone, concatenated."""
        require_active(self._model, cached=cache is not None)
        lengths = [end - start for start, end in spans]
        segments = Segments.of(lengths, self.device)
        if segments.longest > self._window:
            raise WindowError(
                f"{segments.longest} tokens cannot be read at once: the model was trained on "
                f"{self._window}; shorten the question, or make chunks smaller (tree.chunk)"
            )
        tokens = np.concatenate([ids[start:end] for start, end in spans]).astype(np.int64)
        positions = np.concatenate([np.arange(length) for length in lengths])
        out = layers(
            input_ids=torch.from_numpy(tokens)[None].to(self.device),
            position_ids=torch.from_numpy(positions)[None].to(self.device),
            past_key_values=cache,
            use_cache=cache is not None,
            shared=segments,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden


def _grouped(requests: Sequence[NodeRequest]) -> list[list[NodeRequest]]:
    """Group requests by the pass that serves them, the longest pass first."""
    passes: dict[int, list[NodeRequest]] = {}
    for request in requests:
        passes.setdefault(request.first, []).append(request)
    return sorted(passes.values(), key=_length, reverse=True)


def _length(group: Sequence[NodeRequest]) -> int:
    """Return the tokens of the pass that serves `group`, whose nodes are read from one token."""
    return max(request.end for request in group) - group[0].first


def unit(x: Tensor) -> Tensor:
    """Scale `x` to unit length along its last dimension."""
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length.clamp_min(1e-12)


def _gains_from_bf16(model: Any) -> bool:
    """Return True for plain float32 weights on a CPU that multiplies bfloat16."""
    return (
        parameter_device(model).type == "cpu"
        and model.dtype == torch.float32
        and not getattr(model, "is_quantized", False)
        and multiplies_bf16()
    )


def _first_layers(decoder: Any, layers: int) -> nn.Module:
    """Return a view of `decoder`: its first `layers` layers, shared weights, without the norm."""
    view: Any = copy.copy(decoder)
    view.config = copy.copy(decoder.config)
    view.config.num_hidden_layers = layers
    # gpt-oss runs all of its layers, whatever the configuration says
    view._modules = {
        **decoder._modules,
        "norm": nn.Identity(),
        "layers": decoder.layers[:layers],
    }
    first: nn.Module = view
    return first
