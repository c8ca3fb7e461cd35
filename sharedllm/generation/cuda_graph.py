"""CUDA-graph decoding: steps of one shape, captured once and launched as one graph per token.

Without graphs the host launches each kernel of a step. The graph of one answer serves later ones
that fit into its buffers. Without a graph the same steps run one by one, which tests on a CPU use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sharedllm.errors import ConfigError
from sharedllm.generation.step_buffers import StepBuffers, used_slots
from sharedllm.injection.upper_model import Session, UpperModel

WARM_UP = (
    2  # steps run before one is captured, in which kernels are chosen and workspaces allocated
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
        self._upper, self._left = upper, new_tokens
        self._weights = upper.weights_state()
        self._rows = session.logits.shape[0]
        with torch.inference_mode():
            memory, text = used_slots(session)
            rooms = memory + new_tokens, text + new_tokens
            self.buffers = StepBuffers(upper, session, self._rows, rooms)
            self.buffers.take(session)
            self._graph = self._captured() if graph else None

    @property
    def logits(self) -> Tensor:
        return self.buffers.logits

    def fits(self, session: Session, new_tokens: int) -> bool:
        """Return True if :meth:`take` can take over `session`."""
        mine = self.buffers
        return (
            not (session.memory or mine.memory)  # KV of cross-attention is not in a buffer
            and self.logits.shape == session.logits.shape
            and (mine.reads, mine.padded) == (session.reads, session.padded)
            and all(
                used + new_tokens <= room
                for used, room in zip(used_slots(session), mine.rooms, strict=True)
            )
            and self._weights == self._upper.weights_state()
        )

    @torch.inference_mode()
    def take(self, session: Session, new_tokens: int) -> None:
        """Replace the session by another one that fits."""
        self._left = new_tokens
        self.buffers.take(session)

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
        self.buffers.give(ids)
        if self._graph is None:
            self.run()
        else:
            self._graph.replay()

    def run(self) -> None:
        """Run the step that :meth:`step` replays."""
        self.buffers.run(self._rows)

    def _captured(self) -> torch.cuda.CUDAGraph:
        return capture(self.run, self.buffers.state, self._upper.device)


def capture(
    run: Callable[[], None], changed: Sequence[Tensor], device: torch.device
) -> torch.cuda.CUDAGraph:
    """Capture `run` as a graph, after warm-up steps that are undone.

    Parameters
    ----------
    changed : the tensors that `run` changes and that have to be as before
    """
    before = [x.clone() for x in changed]
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
            restore(changed, before)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    restore(changed, before)
    return graph


def restore(changed: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Copy `before` into `changed`."""
    for now, then in zip(changed, before, strict=True):
        now.copy_(then)


def require_graphs(upper: UpperModel) -> None:
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


def can_capture(upper: UpperModel) -> bool:
    """Return True if steps of `upper` can be captured."""
    try:
        require_graphs(upper)
    except ConfigError:
        return False
    return True


class StepGraphs:
    """Lends step graphs to answers; one idle graph is kept for the next answer."""

    def __init__(self, upper: UpperModel) -> None:
        self._upper = upper
        self._idle: StepGraph | None = None

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
