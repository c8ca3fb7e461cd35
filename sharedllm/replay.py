"""Decoding in steps of one shape, which CUDA replays as a graph.

A step of :class:`~sharedllm.upper_model.UpperModel` makes new tensors for every token: its keys
grow, and the host launches each kernel. Here buffers have their final size from the start, what
counts up lives on the device, and a mask says which slots are filled; a token then costs one
launch. Without a graph the same steps run one by one, which tests on a CPU use.

Shapes: B batch, C slots of a cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharedllm.attention.visibility import ALWAYS, NEVER, Keys, Visibility
from sharedllm.errors import ConfigError
from sharedllm.hf.cache import InjectionCache
from sharedllm.injection import AttentionContext
from sharedllm.layout import TextPiece
from sharedllm.upper_model import Session, UpperModel, layer_memory

ROUND = 64  # slots are a multiple of it: kernels with masks want them aligned
WARM_UP = 2  # steps that are run before one is captured


@dataclass(frozen=True, slots=True)
class _Slots:
    """The key slots of the layers with memory, or of those above them.

    Attributes
    ----------
    keys : Keys, each (B, C)
        The order of a slot that is not filled is NEVER.
    next : int64 (1,)
        The slot of the next token.
    """

    keys: Keys
    next: Tensor

    @classmethod
    def of(cls, keys: Keys, new_tokens: int) -> _Slots:
        used = keys.order.shape[1]
        missing = -(-(used + new_tokens) // ROUND) * ROUND - used
        pad = torch.nn.functional.pad
        wide = Keys(
            order=pad(keys.order, (0, missing), value=NEVER),
            position=pad(keys.position, (0, missing)),
        )
        return cls(wide, torch.tensor([used], device=keys.order.device))

    @property
    def room(self) -> int:
        return self.keys.order.shape[1]

    def fill(self, text: Keys) -> None:
        """Put the next token, `text` (B, 1), into its slot."""
        self.keys.order.index_copy_(1, self.next, text.order)
        self.keys.position.index_copy_(1, self.next, text.position)

    def seen_by(self, text: Keys) -> Visibility:
        return Visibility(
            query_order=text.order,
            query_position=text.position,
            keys=self.keys,
            in_order=False,
            last=ALWAYS,
        )


class Replay:
    """Takes over a session after its prompts have been read.

    Parameters
    ----------
    session : it must not be stepped further by other means
    new_tokens : how many steps there may be at most
    graph : capture the step as a CUDA graph; else run it anew each time

    Attributes
    ----------
    logits : (B, V), of each row's last token; also in ``session.logits``
    """

    def __init__(self, upper: UpperModel, session: Session, new_tokens: int, *, graph: bool):
        self._upper, self._session = upper, session
        self._left = new_tokens
        with torch.inference_mode():
            self._injected = _Slots.of(session.injected[0], new_tokens)
            self._plain = _Slots.of(session.plain[0], new_tokens)
            count, with_memory = len(session.cache.layers), upper.layers
            slots = [self._injected if i < with_memory else self._plain for i in range(count)]
            self._cache = session.cache.fixed([s.next for s in slots], [s.room for s in slots])
            session.cache = InjectionCache(0)  # what was copied is not needed twice
            rows = session.logits.shape[0]
            piece = session.layout.text([(0,)] * rows)
            self._text = TextPiece(  # tensors of its own, which count up in place
                ids=piece.ids,
                keys=piece.keys,
                cross_position=piece.cross_position.clone(),
                valid=piece.valid,
            )
            self._counts = [self._text.keys.order, self._text.keys.position]
            if not session.layout.apart:
                self._counts.append(self._text.cross_position)
            self.logits = session.logits.clone()
            session.logits = self.logits
            self._graph = self._captured() if graph else None

    @staticmethod
    def require(upper: UpperModel) -> None:
        """Raise :class:`ConfigError` unless steps of `upper` can be captured."""
        if upper.device.type != "cuda":
            raise ConfigError(f"graphs=True needs CUDA; this model is on {upper.device}")
        if not upper.fixed_rotation:
            raise ConfigError(
                "graphs=True needs rotary frequencies that do not depend on the length; "
                "leave it False with rope types 'dynamic' and 'longrope'"
            )

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> None:
        """Append one token a row and update :attr:`logits`.

        Raises
        ------
        ValueError
            After more steps than there is room for.
        """
        if not self._left:
            raise ValueError("there is no room for another token; give new_tokens a larger number")
        self._left -= 1
        self._text.ids.copy_(torch.tensor(ids)[:, None], non_blocking=True)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    def _run(self) -> None:
        """One step on the device: reads and counts up the tensors of this object alone."""
        for slots in (self._injected, self._plain):
            slots.fill(self._text.keys)
        memory = self._session.memory
        context = AttentionContext(
            layers=self._upper.layers,
            injected=self._injected.seen_by(self._text.keys),
            plain=self._plain.seen_by(self._text.keys),
            crossed=layer_memory(memory[0], self._text) if memory else None,
        )
        out = self._upper.forward(
            self._text,
            context,
            reads=self._session.reads,
            past_key_values=self._cache,
            logits_to_keep=1,
        )
        self.logits.copy_(out[:, -1])
        for counter in (*self._counts, self._injected.next, self._plain.next):
            counter += 1

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The graph of :meth:`_run`. Kernels choose their form in steps that are taken back."""
        changed = [*self._counts, self.logits]
        for slots in (self._injected, self._plain):
            changed += [slots.next, slots.keys.order, slots.keys.position]
        before = [x.clone() for x in changed]
        stream = torch.cuda.Stream(self._upper.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._upper.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._run()
                self._restore(changed, before)
        torch.cuda.current_stream(self._upper.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        self._restore(changed, before)
        return graph

    @staticmethod
    def _restore(changed: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        for now, then in zip(changed, before, strict=True):
            now.copy_(then)
