"""Logits -> next tokens: grammars, abstaining, lists without repeats, sampling.

Sampling uses transformers' own logits processors, which makes this the only file outside of hf/
that imports transformers.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sharedllm.config import GenerationConfig
from sharedllm.errors import ConfigError, MissingExtraError
from sharedllm.text.tokens import Tokenizer

BETWEEN = re.compile(r"[,;\n]\s*(?:and\s+)?|\s+and\s+")
WORDS = 4  # of an item, at most; a longer one is a clause between commas


@dataclass(kw_only=True)
class Row:
    """The growing answer to one prompt.

    Attributes
    ----------
    ids : list of int
        New tokens, without the one that ended the answer.
    text : str
        The text that has been given out.
    finish_reason : "stop", "length", "unsure" or None while it grows
    tentative : bool
        True to end with "unsure", before the first token, where the model is.
    lead : str
        Text at the beginning that is not given out (``AdapterConfig.answer_lead``).
    thinking : bool
        The prompt ends within a thought.
    reasoning : str
        The model's thoughts, which are not given out as text.
    counted : (int, int) or None
        Tokens of the prompt and of the answer, where another machine counted them.
    settled : str
        The text of ``ids[:read]``, which ends with a complete character.
    overlap : str
        The text of ``ids[before:read]``.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    tentative: bool = False
    lead: str = ""
    thinking: bool = False
    reasoning: str = ""
    counted: tuple[int, int] | None = None
    settled: str = ""
    overlap: str = ""
    before: int = 0
    read: int = 0


class Constraint:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self) -> NDArray[np.bool_]:
        """Return the tokens that may come next; bool (V,)."""
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) > 0
        self._require_sound()
        return allowed

    def take(self, token: int) -> None:
        """Advance by one token."""
        self._matcher.consume_token(token)
        self._require_sound()

    def _require_sound(self) -> None:
        if self._matcher.is_error():
            raise ConfigError(
                f"the grammar cannot be followed: {self._matcher.get_error()}; make it simpler"
            )


class Grammars:
    """Makes constraints for one tokenizer; its table of tokens is built once.

    Grammars are those of llguidance: Lark, or JSON such as
    ``{"grammars": [{"json_schema": {...}}]}``.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tables: dict[int, Any] = {}
        self._lock = threading.Lock()

    def start(self, grammar: str, vocabulary: int) -> Constraint:
        """Return a constraint at the start of `grammar`.

        Parameters
        ----------
        vocabulary : width V of the logits

        Raises
        ------
        ConfigError
            If llguidance refuses the grammar.
        MissingExtraError
            If llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise MissingExtraError("llguidance", "grammar") from error
        with self._lock:
            if vocabulary not in self._tables:
                self._tables[vocabulary] = from_tokenizer(self._tokenizer, n_vocab=vocabulary)
        matcher = LLMatcher(self._tables[vocabulary], grammar, log_level=0)
        if matcher.is_error():
            raise ConfigError(
                f"grammar is {grammar[:80]!r}..., which llguidance refuses: {matcher.get_error()}"
            )
        return Constraint(matcher)


class Lists:
    """Finds the tokens that would repeat an item of a list, for one tokenizer.

    Small models lose count of what they have listed and repeat the first item instead of giving the
    last. While a new item begins like an earlier one, each token that continues the repetition is
    penalised by some nats: enough for the missing item to win at the first letter in which the two
    differ, too little to matter where nothing else fits (docs/experiments.md, 25).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def repeating(self, text: str) -> set[int]:
        """Return the tokens that, after `text`, would begin or continue a repeated item."""
        *given, begun = BETWEEN.split(text)
        begun = begun.lstrip()
        again = {
            item[len(begun) :]
            for item in map(str.strip, given)
            if item.startswith(begun) and len(item.split()) <= WORDS
        }
        return {token for rest in again for token in self._beginning(rest, spaced=not begun)}

    def _beginning(self, rest: str, *, spaced: bool) -> Iterator[int]:
        """Yield the tokens that are a prefix of `rest`; if `spaced`, also with a leading space."""
        ids = self._table()
        for length in range(1, len(rest) + 1):
            yield from ids.get(rest[:length], ())
            if spaced:
                yield from ids.get(" " + rest[:length], ())

    def _table(self) -> dict[str, list[int]]:
        """Return text -> the tokens that decode to it; built once."""
        with self._lock:
            if not self._ids:
                found = defaultdict(list)
                each = [[token] for token in range(len(self._tokenizer))]
                shown = self._tokenizer.backend_tokenizer.decode_batch(
                    each, skip_special_tokens=False
                )
                for token, text in enumerate(shown):
                    found[text].append(token)
                self._ids = dict(found)
        return self._ids


class TokenChooser:
    """Logits -> next tokens: greedy at temperature 0, else sampled from a seeded generator.

    Attributes
    ----------
    constraints : list of Constraint
        One per row; empty without a grammar.
    taught : list of int
        Rows that an adapter answers from documents; only these may abstain and are kept from
        repeating items.
    refusal_id : int
        First token of the text by which an adapter abstains.
    abstaining : float
        Nats that are added to it.
    """

    def __init__(self, config: GenerationConfig, lists: Lists) -> None:
        self._config, self._lists = config, lists
        self.constraints: list[Constraint] = []
        self.taught: list[int] = []
        self.refusal_id = -1
        self.abstaining = 0.0
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

    def __call__(self, logits: Tensor, rows: Sequence[Row], best: Sequence[int] = ()) -> list[int]:
        """Choose one token per row from `logits` (B, V).

        Parameters
        ----------
        best : the token of the highest logit of each row, if it is known
        """
        given = logits.float()
        scores = self._hesitant(self._within_grammar(given, rows), rows)
        scores = self._unrepeated(scores, rows)
        tokens = list(best) if best and scores is given and self._takes_best else []
        tokens = tokens or self._choose(scores, rows)
        for constraint, row, token in zip(self.constraints, rows, tokens, strict=False):
            if row.finish_reason is None:
                constraint.take(token)
        return tokens

    @property
    def _takes_best(self) -> bool:
        return self._config.temperature == 0 and self._config.repetition_penalty == 1

    def _hesitant(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """Raise or lower the score of abstaining at the first token; (B, V)."""
        starting = [index for index in self.taught if not rows[index].ids]
        change = self.abstaining - self._config.refusal_margin
        if not starting or not change:
            return scores
        scores = scores.clone()
        scores[starting, self.refusal_id] += change
        return scores

    def _unrepeated(self, scores: Tensor, rows: Sequence[Row]) -> Tensor:
        """Lower the scores of tokens that repeat an item by ``list_penalty``; (B, V)."""
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
        """Set the scores of tokens that a row's grammar forbids to -inf; (B, V)."""
        if not self.constraints:
            return scores
        allowed = torch.ones_like(scores, dtype=torch.bool)
        for index, (constraint, row) in enumerate(zip(self.constraints, rows, strict=True)):
            if row.finish_reason is None:
                allowed[index] = torch.from_numpy(constraint.allowed()).to(scores.device)
        return scores.masked_fill(~allowed, -torch.inf)

    def _choose(self, scores: Tensor, rows: Sequence[Row]) -> list[int]:
        if self._config.repetition_penalty != 1:
            penalty = RepetitionPenaltyLogitsProcessor(float(self._config.repetition_penalty))
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
