"""Prompts -> tokens -> text, for a batch at once, as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sharedllm.config import GenerationConfig
from sharedllm.encoding.model_lock import Turns
from sharedllm.generation.cuda_graph import Replay, Replays
from sharedllm.generation.grammar import Constraint, Grammars
from sharedllm.generation.lists import Lists
from sharedllm.injection.positions import Prompt
from sharedllm.injection.upper_model import UpperModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_REPLAYED = 16  # tokens that an answer may have before capturing a graph for it pays
UNFINISHED = "\ufffd"  # what a tokenizer shows for the first bytes of a character


@dataclass(kw_only=True)
class Row:
    """The answer to one prompt, growing.

    Attributes
    ----------
    ids : list of int
        New tokens, without the one that ended the answer.
    text : str
        What has been given out.
    finish_reason : "stop", "length" or None while it grows
    settled : str
        The text of ``ids[:read]``, which is whole characters.
    overlap : str
        The text of ``ids[before:read]``.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    settled: str = ""
    overlap: str = ""
    before: int = 0
    read: int = 0


class Decoder:
    """Generates answers to a batch of prompts.

    Parameters
    ----------
    end_ids : token ids that end an answer
    turns : a question is open from the first to the last token

    Attributes
    ----------
    refusal_id : int or None
        The first token of what an adapter says where the documents do not tell.
    """

    refusal_id: int | None = None

    def __init__(
        self,
        upper: UpperModel,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: frozenset[int],
        turns: Turns,
    ) -> None:
        self._upper, self._tokenizer, self._end_ids, self._turns = upper, tokenizer, end_ids, turns
        self._grammars, self._lists = Grammars(tokenizer), Lists(tokenizer)
        self._replays = Replays(upper)

    def run(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        """Fill `rows`, yielding (row, new text) as it comes; the first pair once prefilled.

        Yields ``(-1, "")`` once after prefill.
        """
        with self._turns.question():
            yield from self._run(prompts, config, rows)

    def _run(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        choose = _Chooser(config, self._lists)
        if self.refusal_id is not None:
            choose.refusal_id = self.refusal_id
            choose.taught = [i for i, prompt in enumerate(prompts) if prompt.reads]
        replay = None
        graphs = self._with_graphs(config)
        with self._turns.model:
            session = self._upper.start(prompts)
        yield -1, ""
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
                if replay is not None:
                    self._replays.give(replay)
                return
            with self._turns.model:
                if graphs and replay is None:
                    replay = self._replays.take(session, config.max_new_tokens)
                if replay is None:
                    self._upper.step(session, tokens)
                else:
                    replay.step(tokens)

    def _with_graphs(self, config: GenerationConfig) -> bool:
        if config.graphs:
            Replay.require(self._upper)
        if config.graphs is None:
            return config.max_new_tokens >= LEAST_REPLAYED and self._replays.possible()
        return config.graphs

    def _advance(self, row: Row, token: int, config: GenerationConfig) -> str:
        """Take in one token and return the text that is now certain."""
        if token in self._end_ids:
            row.finish_reason = "stop"
        else:
            row.ids.append(token)
            if len(row.ids) >= config.max_new_tokens:
                row.finish_reason = "length"
        text = self._text(row)
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
        """The text of all of `row`, reading only its last few tokens.

        They are read with those that were settled before them, because some tokenizers show a
        token differently at the start of a text.
        """
        shown = row.settled + self._decode(row.ids[row.before :])[len(row.overlap) :]
        if not shown.endswith(UNFINISHED):
            row.overlap = self._decode(row.ids[row.read :])
            row.before, row.read, row.settled = row.read, len(row.ids), shown
        return shown

    def _decode(self, ids: Sequence[int]) -> str:
        # Spaces are left as they are: what has been given out must not change later.
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end of `text` that may yet change or turn out to begin a stop text."""
    whole = text.rstrip(UNFINISHED)
    unfinished = len(text) - len(whole)
    longest = max((len(stop) for stop in stops), default=1) - 1
    for n in range(min(longest, len(whole)), 0, -1):
        if any(stop.startswith(whole[-n:]) for stop in stops):
            return n + unfinished
    return unfinished


class _Chooser:
    """Logits -> next tokens: greedy at temperature 0, else sampled from a seeded generator.

    Attributes
    ----------
    constraints : list of Constraint
        What each row's answer follows; empty without a grammar.
    taught : list of int
        The rows that an adapter answers from documents: these may refuse, and give lists.
    refusal_id : int
        The first token of a refusal.
    """

    def __init__(self, config: GenerationConfig, lists: Lists) -> None:
        self._config, self._lists = config, lists
        self.constraints: list[Constraint] = []
        self.taught: list[int] = []
        self.refusal_id = -1
        self._random = torch.Generator()
        if config.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(config.seed)
        self._warpers = LogitsProcessorList()
        if config.temperature > 0:
            if config.temperature != 1:
                self._warpers.append(TemperatureLogitsWarper(float(config.temperature)))
            if config.top_k:
                self._warpers.append(TopKLogitsWarper(config.top_k))
            if config.top_p < 1:
                self._warpers.append(TopPLogitsWarper(config.top_p))

    def __call__(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """`logits` (B, V) -> one token a row."""
        scores = self._hesitant(self._within_grammar(logits.float(), rows), rows)
        scores = self._unrepeated(scores, rows)
        tokens = self._choose(scores, rows)
        for constraint, row, token in zip(self.constraints, rows, tokens, strict=False):
            if row.finish_reason is None:
                constraint.take(token)
        return tokens

    def _hesitant(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """`scores` (B, V) with refusals, where an answer begins, as much less likely as asked."""
        starting = [index for index in self.taught if not rows[index].ids]
        if not starting or not self._config.refusal_margin:
            return scores
        scores = scores.clone()
        scores[starting, self.refusal_id] -= self._config.refusal_margin
        return scores

    def _unrepeated(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """`scores` (B, V) with what would repeat an item of a list as much less likely."""
        if not self._config.list_penalty:
            return scores
        growing = [i for i in self.taught if rows[i].ids and rows[i].finish_reason is None]
        repeating = {i: self._lists.repeating(rows[i].settled) for i in growing}
        if any(repeating.values()):
            scores = scores.clone()
            for index, tokens in repeating.items():
                scores[index, list(tokens)] -= self._config.list_penalty
        return scores

    def _within_grammar(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """`scores` (B, V) without the tokens that no grammar allows here."""
        if not self.constraints:
            return scores
        allowed = torch.ones_like(scores, dtype=torch.bool)
        for index, (constraint, row) in enumerate(zip(self.constraints, rows, strict=True)):
            if row.finish_reason is None:
                allowed[index] = torch.from_numpy(constraint.allowed()).to(scores.device)
        return scores.masked_fill(~allowed, -torch.inf)

    def _choose(self, scores: Tensor, rows: Sequence[Row]) -> list[int]:
        if self._config.repetition_penalty != 1:
            penalty = RepetitionPenaltyLogitsProcessor(self._config.repetition_penalty)
            seen = [torch.tensor([r.ids], dtype=torch.int64, device=scores.device) for r in rows]
            pairs = zip(seen, scores[:, None], strict=True)
            scores = torch.cat([penalty(ids, row) for ids, row in pairs])
        if self._config.temperature == 0:
            greedy: list[int] = scores.argmax(dim=-1).tolist()
            return greedy
        scores = self._warpers(torch.empty(0, dtype=torch.int64), scores)
        chances = torch.softmax(scores, dim=-1).cpu()
        drawn: list[int] = torch.multinomial(chances, 1, generator=self._random)[:, 0].tolist()
        return drawn
