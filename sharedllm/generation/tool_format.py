"""The form of tool calls that a model was trained on, read off its chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharedllm.generation.prompt import ToolCall, call_message
from sharedllm.text.tokens import Tokenizer, special_tokens

NAMES = ("first_tool_7f3a", "second_tool_7f3a")  # no template holds them
ARGUMENTS = {"an_argument": "a value"}
ENDED = "an answer 7f3a"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFormat:
    """The spelling of tool calls in an assistant's turn: ``before NAME middle ARGUMENTS after``.

    Attributes
    ----------
    before, middle, after : str
        With the special tokens as they are spelled.
    between : str or None
        Text from the arguments of one call to the name of the next; None if a turn has one call.
    special : mapping of str to int
        The special tokens in these, which no decoded answer shows.
    """

    before: str
    middle: str
    after: str
    between: str | None
    special: Mapping[str, int]


def read_tool_format(tokenizer: Tokenizer) -> ToolFormat | None:
    """The form of calls in the tokenizer's chat template; None if it shows no tools, or no calls.

    Only templates that spell a call as its name followed by its arguments in JSON are read.
    """
    if not tokenizer.chat_template:
        return None
    asked = {"role": "user", "content": "?"}
    try:
        prompt = _rendered(tokenizer, [asked], tools=True, answer=True)
        if NAMES[0] not in prompt:
            return None
        one = _turn(tokenizer, prompt, NAMES[:1])
        ended = _rendered(tokenizer, [asked, {"role": "assistant", "content": ENDED}], tools=True)
    except Exception:  # templates raise exceptions of any type: they know no calls
        return None
    if one is None or one.count(NAMES[0]) != 1:
        return None
    before, _, rest = one.partition(NAMES[0])
    middle, found, after = rest.partition(json.dumps(ARGUMENTS))
    if not found or not before:
        return None
    after = after.removesuffix(ended.rpartition(ENDED)[2])
    between = _between(tokenizer, prompt, before)
    spelled = "\n".join((before, middle, between or "", after))
    special = special_tokens(tokenizer).items()
    return ToolFormat(
        before=before,
        middle=middle,
        after=after,
        between=between,
        special={name: token for name, token in special if name in spelled},
    )


def _between(tokenizer: Tokenizer, prompt: str, before: str) -> str | None:
    try:
        two = _turn(tokenizer, prompt, NAMES)
    except Exception:  # a template that takes one call refuses two
        return None
    spelled = json.dumps(ARGUMENTS)
    if two is None or not two.startswith(before + NAMES[0]) or two.count(spelled) != 2:
        return None
    return two.partition(spelled)[2].partition(NAMES[1])[0] or None


def _turn(tokenizer: Tokenizer, prompt: str, names: Sequence[str]) -> str | None:
    """The assistant's turn with calls, without what stands in front of it."""
    calls = [ToolCall(name=name, arguments=ARGUMENTS, id=name) for name in names]
    asked = {"role": "user", "content": "?"}
    whole = _rendered(tokenizer, [asked, call_message("", calls, {})], tools=True)
    return whole[len(prompt) :] if whole.startswith(prompt) else None


def _rendered(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: bool,
    answer: bool = False,
) -> str:
    parameters = {"type": "object", "properties": {"an_argument": {"type": "string"}}}
    tool = {"name": NAMES[0], "description": "A tool.", "parameters": parameters}
    given = [{"type": "function", "function": tool}] if tools else None
    return str(
        tokenizer.apply_chat_template(
            list(messages), tools=given, tokenize=False, add_generation_prompt=answer
        )
    )
