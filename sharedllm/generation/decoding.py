"""Prompts -> tokens -> text: the decoding loop, for a batch, as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sharedllm.config import GenerationConfig
from sharedllm.encoding.document_encoder import ModelLock
from sharedllm.generation.cuda_graph import StepGraph, StepGraphs, can_capture, require_graphs
from sharedllm.generation.logits_processors import Grammars, Lists, Row, TokenChooser
from sharedllm.generation.row_text import RowText
from sharedllm.generation.shared_steps import Seat, SharedSteps
from sharedllm.injection.positions import Prompt
from sharedllm.injection.upper_model import UpperModel
from sharedllm.search.budget import is_unsure
from sharedllm.text.tokens import Tokenizer

LEAST_GRAPHED = 16  # max_new_tokens from which capturing a CUDA graph pays
UNSURE = "unsure"  # the reason why a tentative row ends


class OwnSteps:
    """The passes of one batch of prompts by itself.

    Parameters
    ----------
    graphs : where to borrow a CUDA graph; None steps without one

    Attributes
    ----------
    logits : (B, V), of each row's last token
    best : always empty: the highest logits are not known
    """

    best: Sequence[int] = ()

    def __init__(
        self,
        upper: UpperModel,
        lock: ModelLock,
        prompts: Sequence[Prompt],
        new_tokens: int,
        graphs: StepGraphs | None,
    ) -> None:
        self._upper, self._lock, self._graphs, self._new = upper, lock, graphs, new_tokens
        self._graph: StepGraph | None = None
        with lock.forward:
            self._session = upper.start(prompts)
        if self.logits.is_cuda:  # timed to here; the first choice waits for them anyway
            torch.cuda.synchronize(self.logits.device)

    @property
    def logits(self) -> Tensor:
        return self._session.logits

    def step(self, tokens: Sequence[int]) -> None:
        """Append one token a row and update :attr:`logits`."""
        with self._lock.forward:
            if self._graphs is not None and self._graph is None:
                self._graph = self._graphs.take(self._session, self._new)
            if self._graph is None:
                self._upper.step(self._session, tokens)
            else:
                self._graph.step(tokens)

    def leave(self) -> None:
        """Give the graph back."""
        if self._graphs is not None and self._graph is not None:
            self._graphs.give(self._graph)


class Decoder:
    """Generates answers to a batch of prompts.

    Parameters
    ----------
    end_ids : token ids that end an answer
    lock : holds back background encoding from the first to the last token

    Attributes
    ----------
    refusal_id : int or None
        First token of the text by which an adapter abstains; None without an adapter.
    abstaining : float
        Nats that are added to that token at the beginning of an answer.
    lead : str
        Text that begins an adapter's answers and is not given out.
    """

    refusal_id: int | None = None
    abstaining: float = 0.0
    lead: str = ""

    def __init__(
        self,
        upper: UpperModel,
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        lock: ModelLock,
    ) -> None:
        self._upper, self._lock = upper, lock
        self._text = RowText(tokenizer, end_ids)
        self._grammars, self._lists = Grammars(tokenizer), Lists(tokenizer)
        self._step_graphs = StepGraphs(upper)
        self._shared: SharedSteps | None = None

    @property
    def shares(self) -> bool:
        """True if answers of several threads run in one batch."""
        return self._shared is not None

    def share(self, rows: int) -> None:
        """Let up to `rows` answers of several threads run in one batch from now on."""
        self._shared = SharedSteps(self._upper, self._lock, rows)

    def run(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        """Fill `rows`, yielding (index of the row, new text) as it comes.

        The first pair is ``(-1, "")``, once the prompts are prefilled; rows that end as unsure
        have ended then. Text is empty where a row thinks.
        """
        for row, prompt in zip(rows, prompts, strict=True):
            row.thinking = prompt.thinking and not config.grammar
        with self._lock.question():
            steps = self._begin(prompts, config)
            try:
                yield from self._run(steps, prompts, config, rows)
            finally:
                steps.leave()

    def _begin(self, prompts: Sequence[Prompt], config: GenerationConfig) -> Seat | OwnSteps:
        """Prefill the prompts: in the shared batch if there is one with room, else alone."""
        graphs = self._with_graphs(config)
        if self._shared is not None:
            seat = self._shared.seat(prompts, config.max_new_tokens)
            if seat is not None:
                return seat
        lent = self._step_graphs if graphs else None
        return OwnSteps(self._upper, self._lock, prompts, config.max_new_tokens, lent)

    def _run(
        self,
        steps: Seat | OwnSteps,
        prompts: Sequence[Prompt],
        config: GenerationConfig,
        rows: list[Row],
    ) -> Iterator[tuple[int, str]]:
        choose = self._chooser(prompts, config, rows)
        self._judge(steps.logits, rows)
        yield -1, ""
        if all(row.finish_reason for row in rows):
            return
        if config.grammar:
            width = steps.logits.shape[-1]
            choose.constraints = [self._grammars.start(config.grammar, width) for _ in rows]
        while True:
            tokens = choose(steps.logits, rows, steps.best)
            for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                if row.finish_reason is None:
                    piece = self._text.advance(row, token, config)
                    if piece or row.reasoning:
                        yield index, piece
            if all(row.finish_reason for row in rows):
                return
            steps.step(tokens)

    def _chooser(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> TokenChooser:
        choose = TokenChooser(config, self._lists)
        if self.refusal_id is not None:
            choose.refusal_id, choose.abstaining = self.refusal_id, self.abstaining
            choose.taught = [i for i, prompt in enumerate(prompts) if prompt.reads]
            for index in choose.taught:
                rows[index].lead = self.lead
        return choose

    def _judge(self, logits: Tensor, rows: Sequence[Row]) -> None:
        """End the tentative rows for which the model would abstain; `logits` (B, V)."""
        for index in [index for index, row in enumerate(rows) if row.tentative]:
            if self.refusal_id is None:
                continue
            scores = logits[index].float().clone()
            scores[self.refusal_id] += self.abstaining
            if is_unsure(float(scores.softmax(-1)[self.refusal_id])):
                rows[index].finish_reason = UNSURE

    def _with_graphs(self, config: GenerationConfig) -> bool:
        if config.graphs:
            require_graphs(self._upper)
        if config.graphs is None:
            return config.max_new_tokens >= LEAST_GRAPHED and can_capture(self._upper)
        return config.graphs
