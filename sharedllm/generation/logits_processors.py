"""Logits -> next tokens: grammars, refusals, lists without repeats, sampling.

What changes the logits of transformers' own processors stands beside them here; this is the only
file outside hf/ that uses transformers.
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
WORDS = 4  # of an item; what is longer is a clause between commas


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


class Constraint:
    """One answer's place in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next; shape (V,)."""
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) > 0
        self._require_sound()
        return allowed

    def take(self, token: int) -> None:
        """Go on by one token."""
        self._matcher.consume_token(token)
        self._require_sound()

    def _require_sound(self) -> None:
        if self._matcher.is_error():
            raise ConfigError(
                f"the grammar cannot be followed: {self._matcher.get_error()}; make it simpler"
            )


class Grammars:
    """Starts constraints for one tokenizer, whose table of tokens is made once.

    Grammars are those of llguidance: Lark, or JSON such as
    ``{"grammars": [{"json_schema": {...}}]}``.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tables: dict[int, Any] = {}
        self._lock = threading.Lock()

    def start(self, grammar: str, vocabulary: int) -> Constraint:
        """A constraint at the beginning of `grammar`.

        Parameters
        ----------
        vocabulary : width V of the logits

        Raises
        ------
        ConfigError
            If the grammar is none.
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
    """Finds the tokens that would go on repeating an item of a list, for one tokenizer.

    Small models lose count of what they have listed and say the first item twice instead of the
    last. Where a new item begins as an earlier one did, going on so costs some nats at every
    token: enough for the item that is missing to win at the first letter in which the two differ,
    too little where nothing else fits.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def repeating(self, text: str) -> set[int]:
        """Tokens that, after `text`, would begin an item of it again, or go on doing so."""
        *given, begun = BETWEEN.split(text)
        begun = begun.lstrip()
        again = {
            item[len(begun) :]
            for item in map(str.strip, given)
            if item.startswith(begun) and len(item.split()) <= WORDS
        }
        return {token for rest in again for token in self._beginning(rest, spaced=not begun)}

    def _beginning(self, rest: str, *, spaced: bool) -> Iterator[int]:
        """Tokens that are a beginning of `rest`; `spaced`: with or without a space before it."""
        ids = self._table()
        for length in range(1, len(rest) + 1):
            yield from ids.get(rest[:length], ())
            if spaced:
                yield from ids.get(" " + rest[:length], ())

    def _table(self) -> dict[str, list[int]]:
        """Text -> the tokens that are shown so, made once."""
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
