"""StreamingLLM (arXiv:2309.17453): attention sinks and a window, at positions inside the cache.

Keys are kept position-free and rotated, at every pass, to their place in the cache, so positions
never go beyond its size. A text is read in blocks; before each, what would make the cache larger
than sinks + window is dropped, oldest first, so no token sees more than that.

Shapes: B batch, G key/value heads, T new tokens, S slots, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from sharedllm.attention.visibility import NEVER, Keys, Visibility
from sharedllm.errors import ConfigError
from sharedllm.evaluation.methods import Case, Losses, Prompted, Ready, token_losses
from sharedllm.hf.adapter import acting
from sharedllm.hf.loading import end_ids
from sharedllm.hf.rotation import Rotation
from sharedllm.injection import AttentionContext
from sharedllm.layout import Prompt
from sharedllm.shared_llm import SharedLLM

SINKS = 4
BLOCK = 512


class StreamCache(Cache):  # type: ignore[misc]  # to mypy, transformers is Any
    """Position-free keys and values of every layer, (B, G, S, D), right-aligned rows."""

    def __init__(self, rotation: Rotation) -> None:
        super().__init__(layers=[])
        self._rotation = rotation
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.position = torch.empty(0)  # (B, S + T), of all keys of the pass that runs

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        new = self.position[:, -key_states.shape[2] :]
        keys, values = self._rotation.unrotate(key_states, new), value_states
        if layer_idx in self._kept:
            old_keys, old_values = self._kept[layer_idx]
            keys = torch.cat([old_keys, keys], dim=2)
            values = torch.cat([old_values, values], dim=2)
        self._kept[layer_idx] = (keys, values)
        return self._rotation.rotate(keys, self.position), values

    def take(self, slots: Tensor) -> None:
        """Keep, of each row, the slots (B, S') alone."""
        for layer, kept in self._kept.items():
            index = slots[:, None, :, None]
            keys, values = (x.gather(2, index.expand(*x.shape[:2], -1, x.shape[3])) for x in kept)
            self._kept[layer] = (keys, values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._kept[layer_idx][0].shape[2] if layer_idx in self._kept else 0


class Stream:
    """A batch of texts being read.

    Parameters
    ----------
    window : entries kept beside the sinks
    """

    def __init__(self, llm: SharedLLM, rows: int, window: int) -> None:
        self._llm, self._window = llm, window
        self._cache = StreamCache(Rotation(llm.model.get_decoder().rotary_emb))
        self._device = llm.upper.device
        self._valid = torch.zeros(rows, 0, dtype=torch.bool, device=self._device)

    @torch.inference_mode()
    def feed(self, ids: Tensor, valid: Tensor, keep: int = 1) -> Tensor:
        """Read one block (B, T), left-padded where not `valid`; logits of the last `keep`."""
        self._evict(SINKS + self._window - ids.shape[1])
        seen = torch.cat([self._valid, valid], dim=1)
        position = (seen.cumsum(1) - 1).clamp(min=0)
        order = torch.where(seen, position, NEVER).int()
        new = ids.shape[1]
        visible = Visibility(
            query_order=torch.where(valid, order[:, -new:], -1),
            query_position=position[:, -new:].int(),
            keys=Keys(order=order, position=position.int()),
            in_order=bool(seen.all()),
        )
        self._cache.position = position
        context = AttentionContext(layers=0, injected=visible, plain=visible)
        with acting(None):
            logits: Tensor = self._llm.model(
                input_ids=ids,
                position_ids=position[:, -new:],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=keep,
                shared=context,
            ).logits
        self._valid = seen
        return logits

    def _evict(self, capacity: int) -> None:
        """Keep each row's sinks and latest entries, `capacity` in all."""
        rows, slots = self._valid.shape
        if slots <= capacity:
            return
        kept = []
        lengths = self._valid.sum(1).tolist()
        width = min(max(lengths), capacity)
        for n in lengths:
            own = list(range(slots - n, slots))
            if n > capacity:
                own = own[:SINKS] + own[len(own) - (capacity - SINKS) :]
            kept.append([0] * (width - len(own)) + own)
        index = torch.tensor(kept, dtype=torch.int64, device=self._device).view(rows, width)
        self._cache.take(index)
        filled = torch.tensor([min(n, width) for n in lengths], device=self._device)
        self._valid = torch.arange(width, device=self._device) >= width - filled[:, None]


class Streaming(Prompted):
    """The whole prompt, read with a cache of constant size by the plain base.

    Parameters
    ----------
    window : entries beside the four sinks; None is 2,044, or what the model's window allows
    """

    budgeted = False
    name = "StreamingLLM"

    def __init__(self, llm: SharedLLM, batch: int = 8, *, window: int | None = None) -> None:
        super().__init__(llm, batch)
        most = llm.shape.window - SINKS
        self.window = min(2044, most) if window is None else window
        if not 8 <= self.window <= most:
            raise ConfigError(
                f"--streaming-window is {window}; this model takes 8 to {most} entries "
                f"beside {SINKS} sinks"
            )

    def prepare(self, case: Case, budget: int | None) -> Ready:
        text = (*case.frame.head, *case.ids, *case.frame.tail)
        entries = min(len(text), SINKS + self.window)
        return Ready(
            case=case,
            prompt=Prompt(text=(text,)),
            entries=entries,
            flops=self.size.windowed(len(text), SINKS + self.window),
            stored=self.size.kv(entries),
        )

    def generate(self, ready: Sequence[Ready], new_tokens: int) -> list[str]:
        out: list[str] = []
        for at in range(0, len(ready), self.batch):
            out += self._answers(ready[at : at + self.batch], new_tokens)
        return out

    def _answers(self, ready: Sequence[Ready], new_tokens: int) -> list[str]:
        stream, logits = self._read([r.prompt.text[0] for r in ready], 0)
        ends = end_ids(self.llm.model, self.llm.tokenizer)
        rows: list[list[int]] = [[] for _ in ready]
        open_rows = set(range(len(ready)))
        for _ in range(new_tokens):
            tokens = logits[:, -1].argmax(-1)
            for i in sorted(open_rows):
                token = int(tokens[i])
                if token in ends:
                    open_rows.discard(i)
                else:
                    rows[i].append(token)
            if not open_rows:
                break
            logits = stream.feed(tokens[:, None], torch.ones_like(tokens[:, None]).bool())
        decode = self.llm.tokenizer.decode
        return [str(decode(row, skip_special_tokens=True)).strip() for row in rows]

    def losses(self, ready: Sequence[Ready], targets: Sequence[Sequence[int]]) -> list[Losses]:
        out: list[Losses] = [np.empty(0)] * len(ready)
        for at in range(0, len(ready), self.batch):
            group = range(at, min(at + self.batch, len(ready)))
            texts = [(*ready[i].prompt.text[0], *targets[i]) for i in group]
            logits = self._read(texts, 1 + max(len(targets[i]) for i in group))[1]
            for i, row in zip(group, logits, strict=True):
                out[i] = token_losses(row, targets[i])
        return out

    def _read(self, texts: Sequence[Sequence[int]], keep: int) -> tuple[Stream, Tensor]:
        """Read whole texts, their ends aligned; logits of at least the last `keep` tokens."""
        device, longest = self.llm.upper.device, max(map(len, texts))
        ids = torch.tensor([[0] * (longest - len(t)) + list(t) for t in texts], device=device)
        lengths = torch.tensor([len(t) for t in texts], device=device)
        valid = torch.arange(longest, device=device) >= longest - lengths[:, None]
        stream = Stream(self.llm, len(texts), self.window)
        block = min(BLOCK, self.window // 2)
        logits: list[Tensor] = []
        with self.llm.turns.model:
            for start in range(0, longest, block):
                end = min(start + block, longest)
                wanted = max(1, min(end - start, end - (longest - keep)))
                out = stream.feed(ids[:, start:end], valid[:, start:end], wanted)
                if end == longest or end > longest - keep:
                    logits.append(out)
        return stream, torch.cat(logits, dim=1)
