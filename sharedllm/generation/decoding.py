"""Prompts -> tokens -> text: the decoding loop, for a batch, as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from sharedllm.config import GenerationConfig
from sharedllm.encoding.document_encoder import ModelLock
from sharedllm.generation.cuda_graph import StepGraph, StepGraphs
from sharedllm.generation.logits_processors import Grammars, Lists, Row, TokenChooser
from sharedllm.injection.positions import Prompt
from sharedllm.injection.upper_model import UpperModel
from sharedllm.search.budget import is_unsure
from sharedllm.text.tokens import Tokenizer

LEAST_GRAPHED = 16  # max_new_tokens from which capturing a CUDA graph pays
UNSURE = "unsure"  # the reason why a tentative row ends
UNFINISHED = "\ufffd"  # decoded for the first bytes of a character that is not complete


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
    lead : str
        Text that begins an adapter's answers and is not given out.
    """

    refusal_id: int | None = None
    lead: str = ""

    def __init__(
        self,
        upper: UpperModel,
        tokenizer: Tokenizer,
        end_ids: frozenset[int],
        lock: ModelLock,
    ) -> None:
        self._upper, self._tokenizer, self._end_ids, self._lock = upper, tokenizer, end_ids, lock
        self._grammars, self._lists = Grammars(tokenizer), Lists(tokenizer)
        self._step_graphs = StepGraphs(upper)

    def run(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        """Fill `rows`, yielding (index of the row, new text) as it comes.

        The first pair is ``(-1, "")``, once the prompts are prefilled; rows that end as unsure
        have ended then.
        """
        with self._lock.question():
            yield from self._run(prompts, config, rows)

    def _run(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        choose = self._chooser(prompts, config, rows)
        step_graph = None
        graphs = self._with_graphs(config)
        with self._lock.forward:
            session = self._upper.start(prompts)
        self._judge(session.logits, rows)
        yield -1, ""
        if all(row.finish_reason for row in rows):
            return
        if config.grammar:
            width = session.logits.shape[-1]
            choose.constraints = [self._grammars.start(config.grammar, width) for _ in rows]
        while True:
            tokens = choose(session.logits, rows)
            for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                if row.finish_reason is None:
                    piece = self._advance(row, token, config)
                    if piece:
                        yield index, piece
            if all(row.finish_reason for row in rows):
                if step_graph is not None:
                    self._step_graphs.give(step_graph)
                return
            with self._lock.forward:
                if graphs and step_graph is None:
                    step_graph = self._step_graphs.take(session, config.max_new_tokens)
                if step_graph is None:
                    self._upper.step(session, tokens)
                else:
                    step_graph.step(tokens)

    def _chooser(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> TokenChooser:
        choose = TokenChooser(config, self._lists)
        if self.refusal_id is not None:
            choose.refusal_id = self.refusal_id
            choose.taught = [i for i, prompt in enumerate(prompts) if prompt.reads]
            for index in choose.taught:
                rows[index].lead = self.lead
        return choose

    def _judge(self, logits: Tensor, rows: Sequence[Row]) -> None:
        """End the tentative rows for which the model would abstain; `logits` (B, V)."""
        for index in [index for index, row in enumerate(rows) if row.tentative]:
            chances = logits[index].float().softmax(-1)
            if self.refusal_id is not None and is_unsure(float(chances[self.refusal_id])):
                rows[index].finish_reason = UNSURE

    def _with_graphs(self, config: GenerationConfig) -> bool:
        if config.graphs:
            StepGraph.require(self._upper)
        if config.graphs is None:
            return config.max_new_tokens >= LEAST_GRAPHED and self._step_graphs.possible()
        return config.graphs

    def _advance(self, row: Row, token: int, config: GenerationConfig) -> str:
        """Append one token and return the text that can no longer change."""
        if token in self._end_ids:
            row.finish_reason = "stop"
        else:
            row.ids.append(token)
            if len(row.ids) >= config.max_new_tokens:
                row.finish_reason = "length"
        text = self._text(row).removeprefix(row.lead)
        certain = text
        stops = [text.find(stop) for stop in config.stop if stop in text]
        if stops:
            row.finish_reason = "stop"
            certain = text[: min(stops)]
        elif row.finish_reason is None:
            certain = text[: len(text) - _held_back(text, config.stop)]
        piece = certain[len(row.text) :]
        row.text += piece
        return piece

    def _text(self, row: Row) -> str:
        """Return the text of `row`, decoding only its last few tokens.

        They are decoded together with the tokens before them, because some tokenizers decode a
        token differently at the start of a text.
        """
        shown = row.settled + self._decode(row.ids[row.before :])[len(row.overlap) :]
        if not shown.endswith(UNFINISHED):
            row.overlap = self._decode(row.ids[row.read :])
            row.before, row.read, row.settled = row.read, len(row.ids), shown
        return shown

    def _decode(self, ids: Sequence[int]) -> str:
        # no clean-up of spaces: text that was given out must not change later
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """Count the characters at the end of `text` that may change, or begin a stop text."""
    whole = text.rstrip(UNFINISHED)
    unfinished = len(text) - len(whole)
    longest = max((len(stop) for stop in stops), default=1) - 1
    for n in range(min(longest, len(whole)), 0, -1):
        if any(stop.startswith(whole[-n:]) for stop in stops):
            return n + unfinished
    return unfinished
