"""StreamingLLM (arXiv:2309.17453): attention sinks and a window, at positions inside the cache.

Keys are kept position-free and rotated, at every pass, to their place in the cache, so positions
never go beyond its size. A text is read in blocks; before each, what would make the cache larger
than sinks + window is dropped, oldest first, so no token sees more than that.

Shapes: B batch, G key/value heads, T new tokens, S slots, D head dim.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from sharedllm.attention.context import AttentionContext
from sharedllm.attention.visibility import NEVER, Keys, Visibility
from sharedllm.errors import ConfigError
from sharedllm.evaluation.methods import Case, Losses, Prompted, Ready, token_losses
from sharedllm.hf.loading import end_ids
from sharedllm.hf.lora import acting
from sharedllm.hf.rope import Rotation
from sharedllm.injection.positions import Prompt
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
        keys, values = self._rotation.unrotation(new)(key_states, layer_idx), value_states
        if layer_idx in self._kept:
            old_keys, old_values = self._kept[layer_idx]
            keys = torch.cat([old_keys, keys], dim=2)
            values = torch.cat([old_values, values], dim=2)
        self._kept[layer_idx] = (keys, values)
        return self._rotation.rotate(keys, self.position, layer_idx), values

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
        self._cache = StreamCache(llm.encoder.rotation)
        self._device = llm.upper.device
        self._valid = torch.zeros(rows, 0, dtype=torch.bool, device=self._device)

    @torch.inference_mode()
    def feed(self, rows: Sequence[Sequence[int]], keep: int = 1, room: int = 1) -> Tensor:
        """Read the next tokens of each row, none for some; logits (B, keep, V) of the last slots.

        Rows are padded on the right to the longest.

        Parameters
        ----------
        room : free entries that a row has after something was dropped from it
        """
        new = max(map(len, rows))
        self._evict([len(row) for row in rows], room)
        padded = [[*row, *[0] * (new - len(row))] for row in rows]
        ids = torch.tensor(padded, dtype=torch.int64, device=self._device)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        valid = torch.arange(new, device=self._device) < lengths[:, None]
        seen = torch.cat([self._valid, valid], dim=1)
        position = (seen.cumsum(1) - 1).clamp(min=0)
        order = torch.where(seen, position, NEVER).int()
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

    def _evict(self, new: Sequence[int], room: int) -> None:
        """Drop from rows that would hold more than sinks and `window` with their `new` tokens.

        They keep their sinks and latest entries, `room` free ones aside. It does not depend on how
        much of the room is used, so neither do the first tokens of a block.
        """
        kept = []
        for row, n in zip(self._valid.tolist(), new, strict=True):
            own = [slot for slot, held in enumerate(row) if held]
            most = SINKS + self._window - room
            if len(own) + n > SINKS + self._window:
                own = own[:SINKS] + own[len(own) - (most - SINKS) :]
            kept.append(own)
        width = max(map(len, kept))
        if width == self._valid.shape[1]:
            return
        slots = [[0] * (width - len(own)) + own for own in kept]
        self._cache.take(torch.tensor(slots, dtype=torch.int64, device=self._device))
        held = torch.tensor([len(own) for own in kept], device=self._device)
        self._valid = torch.arange(width, device=self._device) >= width - held[:, None]


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
        most = llm.window - SINKS
        self.window = min(2044, most) if window is None else window
        if not 8 <= self.window <= most:
            raise ConfigError(
                f"a window of {window} is not possible; this model takes 8 to {most} entries "
                f"beside {SINKS} sinks"
            )

    def prepare(self, case: Case, budget: int | None) -> Ready:
        text = (*case.frame.head, *case.ids, *case.frame.tail)
        cached = min(len(text), SINKS + self.window)
        return Ready(
            case=case,
            prompt=Prompt(text=(text,)),
            tokens=min(len(case.ids), SINKS + self.window),
            flops=self.size.windowed(len(text), SINKS + self.window),
            stored=self.size.kv(cached),
        )

    def same_as(self, ready: Ready) -> Hashable | None:
        return None  # the same prompt, but not all of it is seen

    def generate(self, ready: Sequence[Ready], new_tokens: int) -> list[str]:
        out: list[str] = []
        for at in range(0, len(ready), self.batch):
            out += self._answers(ready[at : at + self.batch], new_tokens)
        return out

    def _answers(self, ready: Sequence[Ready], new_tokens: int) -> list[str]:
        texts = [r.prompt.text[0] for r in ready]
        stream = Stream(self.llm, len(ready), self.window)
        last = dict(self._read(stream, texts, [len(text) - 1 for text in texts]))
        tokens = {row: int(logits[-1].argmax()) for row, (_, logits) in last.items()}
        ends = end_ids(self.llm.model, self.llm.tokenizer)
        rows: list[list[int]] = [[] for _ in ready]
        for step in range(new_tokens):
            tokens = {row: token for row, token in tokens.items() if token not in ends}
            for row, token in tokens.items():
                rows[row].append(token)
            if not tokens or step == new_tokens - 1:
                break
            new = [[tokens[row]] if row in tokens else [] for row in range(len(ready))]
            with self.llm.encoder.lock.forward:
                logits = stream.feed(new)
            tokens = {row: int(logits[row, -1].argmax()) for row in tokens}
        decode = self.llm.tokenizer.decode
        return [str(decode(row, skip_special_tokens=True)).strip() for row in rows]

    def losses(self, ready: Sequence[Ready], targets: Sequence[Sequence[int]]) -> list[Losses]:
        out: list[Losses] = []
        for at in range(0, len(ready), self.batch):
            group = targets[at : at + self.batch]
            prompts = [r.prompt.text[0] for r in ready[at : at + self.batch]]
            texts = [(*prompt, *target) for prompt, target in zip(prompts, group, strict=True)]
            stream = Stream(self.llm, len(texts), self.window)
            found: list[list[Losses]] = [[] for _ in texts]
            for row, (start, logits) in self._read(stream, texts, [len(p) - 1 for p in prompts]):
                wanted = texts[row][start + 1 : start + 1 + len(logits)]
                found[row].append(token_losses(logits[: len(wanted)], wanted))
            out += [np.concatenate(pieces) for pieces in found]
        return out

    def _read(
        self, stream: Stream, texts: Sequence[Sequence[int]], first: Sequence[int]
    ) -> Iterator[tuple[int, tuple[int, Tensor]]]:
        """Read whole texts in blocks, each from its own start.

        Yields
        ------
        (row, (token, logits (n, V)))
            From each row's token `first` on, piece by piece.
        """
        block = min(BLOCK, self.window // 2)
        for start in range(0, max(map(len, texts)), block):
            rows = [text[start : start + block] for text in texts]
            width = max(map(len, rows))
            # of each row, the first slot of this block whose logits are wanted
            begin = [min(max(f - start, 0), len(row)) for f, row in zip(first, rows, strict=True)]
            least = min((b for b, row in zip(begin, rows, strict=True) if b < len(row)), default=-1)
            with self.llm.encoder.lock.forward:
                logits = stream.feed(rows, width - least if least >= 0 else 1, block)
            for index, row in enumerate(rows):
                if begin[index] < len(row):
                    piece = logits[index, begin[index] - least : len(row) - least]
                    yield index, (start + begin[index], piece)
