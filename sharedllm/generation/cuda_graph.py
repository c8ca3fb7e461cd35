"""CUDA-graph decoding: steps of one shape, captured once and launched as one graph per token.

An ordinary step of the upper model makes new tensors for every token: its keys grow, and the host
launches each kernel. Here buffers have their final size from the start, counters live on the
device, and a mask hides the slots that are not filled. Without a graph the same steps run one by
one, which tests on a CPU use. The graph of one answer serves later ones that fit into its buffers.

Shapes: B batch, C slots of a cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharedllm.attention.context import AttentionContext
from sharedllm.attention.visibility import ALWAYS, NEVER, Keys, Visibility
from sharedllm.errors import ConfigError
from sharedllm.hf.cache import InjectionCache
from sharedllm.injection.positions import TextPiece
from sharedllm.injection.upper_model import Session, UpperModel, layer_memory

ROUND = 256  # slots are rounded up to it: aligned for masks, and one graph fits more sessions
WARM_UP = (
    2  # steps run before one is captured, in which kernels are chosen and workspaces allocated
)


@dataclass(frozen=True, slots=True)
class _Slots:
    """The key slots of the layers with injected KV, or of those above them.

    Attributes
    ----------
    keys : Keys, each (B, C)
        An empty slot has the order NEVER.
    next : int64 (1,)
        The slot of the next token.
    seen : int32 (B,)
        Slots that the next token sees, its own included.
    """

    keys: Keys
    next: Tensor
    seen: Tensor

    @classmethod
    def of(cls, keys: Keys, new_tokens: int) -> _Slots:
        rows, used = keys.order.shape
        room = -(-(used + new_tokens) // ROUND) * ROUND
        slots = cls(
            keys=Keys(
                order=keys.order.new_empty(rows, room), position=keys.position.new_zeros(rows, room)
            ),
            next=torch.zeros(1, dtype=torch.int64, device=keys.order.device),
            seen=torch.zeros(rows, dtype=torch.int32, device=keys.order.device),
        )
        slots.take(keys)
        return slots

    def take(self, keys: Keys) -> None:
        """Reset to the slots of `keys`."""
        used = keys.order.shape[1]
        self.keys.order.fill_(NEVER)
        self.keys.order[:, :used] = keys.order
        self.keys.position[:, :used] = keys.position
        self.next.fill_(used)
        self.seen.fill_(used + 1)

    @property
    def room(self) -> int:
        return self.keys.order.shape[1]

    @property
    def state(self) -> list[Tensor]:
        """The tensors that a step changes."""
        return [self.next, self.seen, self.keys.order, self.keys.position]

    def fill(self, text: Keys) -> None:
        """Put the next token, `text` (B, 1), into its slot."""
        self.keys.order.index_copy_(1, self.next, text.order)
        self.keys.position.index_copy_(1, self.next, text.position)

    def seen_by(self, text: Keys, *, padded: bool) -> Visibility:
        return Visibility(
            used=None if padded else self.seen,
            query_order=text.order,
            query_position=text.position,
            keys=self.keys,
            in_order=False,
            last=ALWAYS,
        )


class StepGraph:
    """Decodes a session in steps of one shape, after its prompts have been prefilled.

    Parameters
    ----------
    session : may not be stepped by other means any more
    new_tokens : steps, at most
    graph : capture the step as a CUDA graph; otherwise run it anew each time

    Attributes
    ----------
    logits : (B, V), of each row's last token; also in ``session.logits``
    """

    def __init__(self, upper: UpperModel, session: Session, new_tokens: int, *, graph: bool):
        self._upper, self._session = upper, session
        self._left = new_tokens
        self._weights = upper.weights_state()
        with torch.inference_mode():
            self._injected = _Slots.of(session.injected[0], new_tokens)
            self._plain = _Slots.of(session.plain[0], new_tokens)
            count, with_memory = len(session.cache.layers), upper.layers
            slots = [self._injected if i < with_memory else self._plain for i in range(count)]
            self._cache = session.cache.fixed([s.next for s in slots], [s.room for s in slots])
            session.cache = InjectionCache(0)  # frees the KV that was copied
            piece = _next_token(session)
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

    def fits(self, session: Session, new_tokens: int) -> bool:
        """Return True if :meth:`take` can take over `session`."""
        mine = self._session
        return (
            not (session.memory or mine.memory)  # KV of cross-attention is not in a buffer
            and self.logits.shape == session.logits.shape
            and (mine.reads, mine.padded) == (session.reads, session.padded)
            and session.injected[0].order.shape[1] + new_tokens <= self._injected.room
            and session.plain[0].order.shape[1] + new_tokens <= self._plain.room
            and self._weights == self._upper.weights_state()
        )

    @torch.inference_mode()
    def take(self, session: Session, new_tokens: int) -> None:
        """Replace the session by another one that fits."""
        self._session, self._left = session, new_tokens
        self._injected.take(session.injected[0])
        self._plain.take(session.plain[0])
        for layer, grown in zip(self._cache.layers, session.cache.layers, strict=True):
            layer.take(grown)
        session.cache = InjectionCache(0)
        piece = _next_token(session)
        for mine, given in (
            (self._text.keys.order, piece.keys.order),
            (self._text.keys.position, piece.keys.position),
            (self._text.cross_position, piece.cross_position),
            (self.logits, session.logits),
        ):
            mine.copy_(given)
        session.logits = self.logits

    @staticmethod
    def require(upper: UpperModel) -> None:
        """Raise :class:`ConfigError` unless steps of `upper` can be captured."""
        if upper.device.type != "cuda" or upper.spread:
            where = "several devices" if upper.spread else upper.device
            raise ConfigError(f"graphs=True needs a model on one CUDA card; this one is on {where}")
        if upper.experts:
            raise ConfigError(
                "graphs=True is not for mixtures of experts, whose work depends on the token: "
                "leave it out"
            )
        if not upper.fixed_rotation:
            raise ConfigError(
                "graphs=True needs rotary frequencies that do not depend on the length; "
                "leave it False with rope types 'dynamic' and 'longrope'"
            )
        if not upper.fixed_kernels:
            raise ConfigError(
                "graphs=True needs steps that always run the same kernels; those of weights in 8 "
                "bits (bitsandbytes) look for large inputs first: leave it False, or quantise to 4"
            )

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> None:
        """Append one token a row and update :attr:`logits`.

        Raises
        ------
        ValueError
            After `new_tokens` steps.
        """
        if not self._left:
            raise ValueError("the buffers are full; make new_tokens larger")
        self._left -= 1
        self._text.ids.copy_(torch.tensor(ids)[:, None], non_blocking=True)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    def _run(self) -> None:
        """Run one step, which reads and updates only tensors of this object."""
        for slots in (self._injected, self._plain):
            slots.fill(self._text.keys)
        memory = self._session.memory
        context = AttentionContext(
            layers=self._upper.layers,
            injected=self._injected.seen_by(self._text.keys, padded=self._session.padded),
            plain=self._plain.seen_by(self._text.keys, padded=self._session.padded),
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
        for slots in (self._injected, self._plain):
            slots.next.add_(1)
            slots.seen.add_(1)
        for counter in self._counts:
            counter += 1

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Capture :meth:`_run` as a graph, after warm-up steps that are undone."""
        changed = [*self._counts, self.logits, *self._injected.state, *self._plain.state]
        before = [x.clone() for x in changed]
        stream = torch.cuda.Stream(self._upper.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._upper.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._run()
                self._restore(changed, before)
        torch.cuda.current_stream(self._upper.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._run()
        self._restore(changed, before)
        return graph

    @staticmethod
    def _restore(changed: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        for now, then in zip(changed, before, strict=True):
            now.copy_(then)


def _next_token(session: Session) -> TextPiece:
    """Lay out the next token of `session`; its ids are filled in later."""
    return session.layout.text([(0,)] * session.logits.shape[0])


class StepGraphs:
    """Lends step graphs to answers; one idle graph is kept for the next answer."""

    def __init__(self, upper: UpperModel) -> None:
        self._upper = upper
        self._idle: StepGraph | None = None

    def possible(self) -> bool:
        """Return True if steps of this model can be captured."""
        try:
            StepGraph.require(self._upper)
        except ConfigError:
            return False
        return True

    def take(self, session: Session, new_tokens: int) -> StepGraph:
        """Return a graph that has taken over `session`."""
        step_graph, self._idle = self._idle, None
        if step_graph is not None and step_graph.fits(session, new_tokens):
            step_graph.take(session, new_tokens)
            return step_graph
        del step_graph  # frees its buffers before new ones are made
        return StepGraph(self._upper, session, new_tokens, graph=True)

    def give(self, step_graph: StepGraph) -> None:
        """Take back a graph whose answer has ended."""
        self._idle = step_graph
