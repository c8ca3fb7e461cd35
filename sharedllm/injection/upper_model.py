"""Prompts with injected KV -> logits (paper, section 3.3).

Two paths, one attention function. :meth:`UpperModel.start` and :meth:`UpperModel.step` keep all KV
in a cache, for generation; :meth:`UpperModel.logits` hands injected KV to the layers by keyword,
for training and scoring.

Shapes: B batch, T text tokens, M injection layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharedllm.attention.context import AttentionContext, LayerMemory
from sharedllm.attention.visibility import Keys, Visibility
from sharedllm.config import InjectionConfig
from sharedllm.errors import WindowError
from sharedllm.hf.architectures import ModelShape, WeightsState, parameter_device
from sharedllm.hf.attention_interface import require_active
from sharedllm.hf.cache import InjectionCache
from sharedllm.hf.lora import acting
from sharedllm.hf.rope import Rotation
from sharedllm.injection.positions import Layout, MemoryPiece, Prompt, TextPiece, count_slots
from sharedllm.injection.prefix_cache import PrefixCache, have_shared_prefix


@dataclass(kw_only=True)
class Session:
    """A batch of prompts during generation.

    Attributes
    ----------
    reads : bool
        See :class:`~sharedllm.injection.positions.Prompt`.
    injected, plain : the keys of layers with injected KV, and of those above them; one item each
    memory : injected KV for cross-attention; empty in joint injection
    logits : (B, V), of each row's last token
    """

    reads: bool
    cache: InjectionCache
    layout: Layout
    injected: list[Keys] = field(default_factory=list)
    plain: list[Keys] = field(default_factory=list)
    memory: list[MemoryPiece] = field(default_factory=list)
    padded: bool = False
    logits: Tensor


class UpperModel:
    """All layers of the checkpoint, the first M of which see injected KV.

    Prompts with documents run with the adapter's role "upper", all others with the base.
    """

    def __init__(
        self, model: Any, shape: ModelShape, rotation: Rotation, config: InjectionConfig
    ) -> None:
        self._model = model
        self._shape = shape
        self._rotation = rotation
        self.config = config
        self.layers = config.layers or shape.layers
        self.fixed_rotation = rotation.fixed
        self.experts = shape.experts
        self._windowed = shape.mixes_windows(self.layers)
        self.device = parameter_device(model)
        self.weights_state = WeightsState(model)
        self._prefix_cache = PrefixCache(self.weights_state)

    @property
    def spread(self) -> bool:
        """True if the weights are on more than one device."""
        return len(self.weights_state.devices()) > 1

    @property
    def fixed_kernels(self) -> bool:
        """False if a pass chooses kernels by what it computes, as bitsandbytes' int8 does."""
        return not getattr(self._model, "is_loaded_in_8bit", False)

    def require_room(self, prompt: Prompt, new_tokens: int) -> None:
        """Raise :class:`WindowError` unless `prompt` and `new_tokens` fit the trained window."""
        extents = [m.extent(self.config.positions) for m in prompt.memory if m is not None]
        text = prompt.text_tokens + new_tokens
        together = not (self.config.mode == "cross" and self.config.positions == "chunk")
        needed = text + sum(extents) if together else max(text, sum(extents) + 1)
        if needed > self._shape.window:
            raise WindowError(
                f"the prompt needs {needed} positions ({prompt.text_tokens} text tokens, "
                f"{sum(extents)} of injected KV, {new_tokens} to be generated), but the model was "
                f"trained on {self._shape.window}: shorten the question, or lower budget or "
                "max_new_tokens"
            )

    def _layout(self, prompts: Sequence[Prompt]) -> Layout:
        return Layout(
            len(prompts), self.config, self._rotation, self.device, windowed=self._windowed
        )

    @torch.inference_mode()
    def start(self, prompts: Sequence[Prompt]) -> Session:
        """Prefill a batch of prompts piece by piece: text, injected KV, ..., text."""
        require_active(self._model, cached=True)
        text, memory = count_slots(prompts)
        rooms = [text + memory * (i < self.layers) for i in range(self._shape.layers)]
        session = Session(
            reads=_all_read(prompts),
            cache=InjectionCache(self._shape.layers, rooms),
            layout=self._layout(prompts),
            logits=torch.empty(0),
        )
        pieces = session.layout.pieces(prompts)
        if self.fixed_rotation and have_shared_prefix(prompts):
            self._begin(session, prompts, next(pieces))
        for piece in pieces:
            if isinstance(piece, TextPiece):
                self._feed(session, piece)
            else:
                self._inject(session, piece)
        return session

    def _begin(self, session: Session, prompts: Sequence[Prompt], head: Any) -> None:
        """Put the prefix that all prompts share into the cache, kept or run now."""
        if self._prefix_cache.fill(prompts, session.cache):
            session.injected, session.plain = [head.keys], [head.keys]
        else:
            self._feed(session, head)
            self._prefix_cache.keep(prompts, session.cache)

    @torch.inference_mode()
    def step(self, session: Session, ids: Sequence[int]) -> None:
        """Append one token per row and update ``session.logits``."""
        self._feed(session, session.layout.text([(token,) for token in ids]))

    @torch.inference_mode()
    def nll(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> list[float]:
        """Return the mean NLL, in nats per token, of each row's answer after its prompt."""
        session = self.start(prompts)
        first = session.logits[:, None]
        width = max(len(answer) for answer in answers)
        # right-padded: tokens after an answer's end cannot change the predictions before it
        rows = [[*answer, *[0] * (width - len(answer))] for answer in answers]
        later = self._feed(session, session.layout.text(rows), keep=0)
        chances = torch.cat([first, later[:, :-1]], dim=1).float().log_softmax(dim=-1)
        target = torch.tensor(rows, device=self.device)
        nll = -chances.gather(2, target[..., None])[..., 0]
        return [float(row[: len(a)].mean()) for row, a in zip(nll, answers, strict=True)]

    def _inject(self, session: Session, piece: MemoryPiece) -> None:
        if self.config.mode == "cross":
            session.memory = [_joined_memory([*session.memory, piece])]
            return
        session.cache.inject(piece.keys, piece.values)
        session.injected.append(piece.slots)
        session.padded |= piece.padded

    def _feed(self, session: Session, piece: TextPiece, keep: int = 1) -> Tensor:
        """Run `piece`; return the logits of its last `keep` tokens, all of them for 0."""
        session.injected = [_joined_keys([*session.injected, piece.keys])]
        session.plain = [_joined_keys([*session.plain, piece.keys])]
        session.padded |= piece.padded
        order, position = piece.query_order, piece.keys.position
        injected, plain = (
            Visibility(
                query_order=order, query_position=position, keys=keys, in_order=not session.padded
            )
            for keys in (session.injected[0], session.plain[0])
        )
        context = AttentionContext(
            layers=self.layers,
            injected=injected,
            plain=plain,
            crossed=layer_memory(session.memory[0], piece) if session.memory else None,
        )
        out = self.forward(
            piece,
            context,
            reads=session.reads,
            past_key_values=session.cache,
            logits_to_keep=keep,
        )
        session.logits = out[:, -1]
        return out

    def logits(self, prompts: Sequence[Prompt], *, keep: int = 0) -> list[Tensor]:
        """Compute logits of the last `keep` text tokens (0: of all), with injected KV by keyword.

        Gradients flow to the weights and to the injected KV.

        Returns
        -------
        list of (T, V)
            One per row; T is its number of text tokens, at most `keep`.
        """
        require_active(self._model, cached=False)
        layout = self._layout(prompts)
        pieces = list(layout.pieces(prompts))
        texts = [piece for piece in pieces if isinstance(piece, TextPiece)]
        memories = [piece for piece in pieces if isinstance(piece, MemoryPiece)]
        text = TextPiece(
            ids=torch.cat([t.ids for t in texts], dim=1),
            keys=_joined_keys([t.keys for t in texts]),
            cross_position=torch.cat([t.cross_position for t in texts], dim=1),
            valid=torch.cat([t.valid for t in texts], dim=1),
        )
        order, position = text.query_order, text.keys.position
        plain = Visibility(
            query_order=order, query_position=position, keys=text.keys, in_order=not text.padded
        )
        memory = layer_memory(_joined_memory(memories), text) if memories else None
        joined = memory if self.config.mode == "joint" else None
        injected = plain
        if joined is not None:
            injected = Visibility(
                query_order=order,
                query_position=position,
                keys=_joined_keys([joined.visibility.keys, text.keys]),
                in_order=False,
            )
        context = AttentionContext(
            layers=self.layers,
            injected=injected,
            plain=plain,
            joined=joined,
            crossed=memory if joined is None else None,
        )
        reads = _all_read(prompts)
        out = self.forward(text, context, reads=reads, past_key_values=None, logits_to_keep=keep)
        kept = text.valid[:, -out.shape[1] :]
        return [
            row if seen.all() else row[seen.nonzero()[:, 0].to(row.device)]
            for row, seen in zip(out, kept, strict=True)
        ]

    def forward(
        self, piece: TextPiece, context: AttentionContext, *, reads: bool, **options: Any
    ) -> Tensor:
        """Run all layers; return logits (B, T, V)."""
        with acting("upper" if reads else None):
            out: Tensor = self._model(
                input_ids=piece.ids,
                position_ids=piece.keys.position.long(),
                use_cache=options["past_key_values"] is not None,
                shared=context,
                **options,
            ).logits
        return out


def _all_read(prompts: Sequence[Prompt]) -> bool:
    """Return the ``reads`` that all prompts of a batch share."""
    reads = {prompt.reads for prompt in prompts}
    if len(reads) > 1:
        raise ValueError("a batch holds prompts with and without documents; run them apart")
    return reads.pop()


def layer_memory(piece: MemoryPiece, text: TextPiece) -> LayerMemory:
    """Return the KV of `piece` as the tokens of `text` see it."""
    return LayerMemory(
        keys=piece.keys,
        values=piece.values,
        visibility=Visibility(
            query_order=text.query_order,
            query_position=text.keys.position,
            keys=piece.slots,
            in_order=False,
        ),
        cross_position=text.cross_position,
    )


def _joined_memory(pieces: Sequence[MemoryPiece]) -> MemoryPiece:
    if len(pieces) == 1:
        return pieces[0]
    return MemoryPiece(
        keys=torch.cat([piece.keys for piece in pieces], dim=3),
        values=torch.cat([piece.values for piece in pieces], dim=3),
        slots=_joined_keys([piece.slots for piece in pieces]),
        padded=any(piece.padded for piece in pieces),
    )


def _joined_keys(keys: Sequence[Keys]) -> Keys:
    if len(keys) == 1:
        return keys[0]
    return Keys(
        order=torch.cat([k.order for k in keys], dim=1),
        position=torch.cat([k.position for k in keys], dim=1),
    )
