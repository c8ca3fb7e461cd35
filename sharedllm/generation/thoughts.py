"""Thoughts: the part of an answer in which a model reasons, told apart from the answer's text.

Models open it by a mark of their own at the beginning of their turn, or their chat template opens
it in the prompt. gpt-oss writes channels, of which only "final" is for the user.
"""

from __future__ import annotations

from sharedllm.text.tokens import Tokenizer, special_tokens

MARKS = (  # how thoughts begin and end
    ("<think>", "</think>"),  # Qwen, DeepSeek, SmolLM3, GLM, Granite, ...
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
CHANNEL, MESSAGE = "<|channel|>", "<|message|>"  # gpt-oss
ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>")  # of what a channel holds
OPENERS = (*(mark for mark, _ in MARKS), CHANNEL)


def divide(raw: str, *, inside: bool = False, ended: bool = True) -> tuple[str, str]:
    """Divide what a model wrote into the answer and its thoughts.

    Parameters
    ----------
    inside : the prompt ends within a thought
    ended : nothing more comes; else an end that may be half of a mark is held back
    """
    text = raw.lstrip()
    if inside:
        return _closed(text, tuple(end for _, end in MARKS), ended)
    for begin, end in MARKS:
        if text.startswith(begin):
            return _closed(text[len(begin) :], (end,), ended)
    if text.startswith(CHANNEL):
        return _channels(text if ended else _without_half(text, (*ENDS, CHANNEL)))
    if not ended and any(mark.startswith(text) for mark in OPENERS):
        return "", ""
    return raw, ""


def _closed(text: str, ends: tuple[str, ...], ended: bool) -> tuple[str, str]:
    """Divide at the first of `ends`; without one, all of `text` is a thought."""
    places = [(text.find(end), end) for end in ends if end in text]
    if places:
        at, end = min(places)
        return text[at + len(end) :].lstrip(), text[:at].strip()
    return "", (text if ended else _without_half(text, ends)).strip()


def _without_half(text: str, marks: tuple[str, ...]) -> str:
    """Return `text` without an end with which one of `marks` may begin."""
    longest = min(max(map(len, marks)) - 1, len(text))
    half = (n for n in range(longest, 0, -1) if any(m.startswith(text[-n:]) for m in marks))
    return text[: len(text) - next(half, 0)]


def _channels(text: str) -> tuple[str, str]:
    """Divide by channels; a call of a tool, which names whom it goes to, is part of the answer."""
    answer, thoughts = "", list[str]()
    for part in text.split(CHANNEL)[1:]:
        head, begun, body = part.partition(MESSAGE)
        if not begun:
            continue
        body = body[: min((body.find(end) for end in ENDS if end in body), default=None)]
        if "to=" in head or head.strip().startswith("final"):
            answer += body
        else:
            thoughts.append(body.strip())
    return answer, "\n\n".join(filter(None, thoughts))


def opens_thought(prompt: str) -> bool:
    """Tell a prompt that ends within a thought, which its chat template has opened."""
    return prompt.rstrip().endswith(tuple(begin for begin, _ in MARKS))


def thought_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the special tokens that mark thoughts; decoding must not leave these out."""
    special = special_tokens(tokenizer)
    marks = [mark for pair in MARKS for mark in pair]
    if CHANNEL in special:
        marks += [CHANNEL, MESSAGE, *ENDS]
    return frozenset(special[mark] for mark in marks if mark in special)
