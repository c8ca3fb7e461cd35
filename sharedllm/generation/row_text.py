"""New tokens -> the text of an answer that can no longer change, without thoughts and stops."""

from __future__ import annotations

from collections.abc import Sequence

from sharedllm.config import GenerationConfig
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import AFTER
from sharedllm.generation.thoughts import divide, thought_tokens
from sharedllm.text.tokens import Tokenizer, special_tokens

NEXT = AFTER.partition(" {")[0]  # begins a question in our prompt
UNFINISHED = "\ufffd"  # decoded for the first bytes of a character that is not complete


class RowText:
    """Appends tokens to answers, for one tokenizer.

    Parameters
    ----------
    end_ids : token ids that end an answer

    Attributes
    ----------
    end_ids : frozenset of int
        Without those that mark thoughts.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        marks = thought_tokens(tokenizer)
        self.end_ids = end_ids if not marks else end_ids - (marks - _ends_of_turn(tokenizer))
        self._hidden = frozenset(special_tokens(tokenizer).values()) - marks if marks else None
        # without turns to end, a base model goes on with the next question
        self._stops = () if tokenizer.chat_template else (NEXT,)

    def advance(self, row: Row, token: int, config: GenerationConfig) -> str:
        """Append one token and return the text that can no longer change."""
        if token in self.end_ids:
            row.finish_reason = "stop"
        else:
            row.ids.append(token)
            if len(row.ids) >= config.max_new_tokens:
                row.finish_reason = "length"
        stops = (*config.stop, *self._stops)
        return grow(row, self._text(row).removeprefix(row.lead), stops)

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
        hidden = self._hidden
        return str(
            self._tokenizer.decode(
                ids if hidden is None else [token for token in ids if token not in hidden],
                skip_special_tokens=hidden is None,
                clean_up_tokenization_spaces=False,
            )
        )


def _ends_of_turn(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the marks of gpt-oss's channels that end an answer, too."""
    special = special_tokens(tokenizer)
    return frozenset(special[mark] for mark in ("<|return|>", "<|call|>") if mark in special)


def grow(row: Row, raw: str, stops: Sequence[str]) -> str:
    """Take `raw`, all that the model wrote, into `row`; return the text that it adds for good.

    The answer ends before the first of `stops`.
    """
    ended = row.finish_reason is not None
    text, row.reasoning = divide(raw, inside=row.thinking, ended=ended)
    certain = text
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        row.finish_reason = "stop"
        certain = text[: min(found)]
    elif not ended:
        certain = text[: len(text) - _held_back(text, stops)]
    piece = certain[len(row.text) :]
    row.text += piece
    return piece


def _held_back(text: str, stops: Sequence[str]) -> int:
    """Count the characters at the end of `text` that may change, or begin a stop text."""
    whole = text.rstrip(UNFINISHED)
    unfinished = len(text) - len(whole)
    longest = max((len(stop) for stop in stops), default=1) - 1
    for n in range(min(longest, len(whole)), 0, -1):
        if any(stop.startswith(whole[-n:]) for stop in stops):
            return n + unfinished
    return unfinished
