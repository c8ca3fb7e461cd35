"""Answers that follow a grammar: which tokens may come next."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
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
