"""RULER's tasks, and two hops, at a given length: items for ``sharedllm eval needle``."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from sharedllm.errors import ConfigError
from sharedllm.evaluation.framing import frame
from sharedllm.evaluation.hops import two_hop
from sharedllm.evaluation.items import Item
from sharedllm.evaluation.needles import NEW_TOKENS as NEEDLE_TOKENS
from sharedllm.evaluation.needles import TASKS as NEEDLES
from sharedllm.evaluation.needles import Build, Sample, builder
from sharedllm.evaluation.sources import Filler, require_filler
from sharedllm.evaluation.tracing import (
    NEW_TOKENS,
    common_words,
    frequent_words,
    tracking,
)
from sharedllm.text.tokens import Tokenizer

OTHERS = ("vt", "cwe", "fwe")
TASKS = (*NEEDLES, *OTHERS, "two_hop")
SHORT_NAMES = dict(
    zip(
        TASKS, ("S1", "S2", "S3", "K1", "K2", "K3", "MV", "MQ", "VT", "CW", "FW", "2H"), strict=True
    )
)
TOLERANCE = 0.002  # of the length, by which a document may stay below it
STEPS = 16


def needs_filler(task: str) -> bool:
    return task == "two_hop" or (task in NEEDLES and NEEDLES[task].haystack == "essay")


def make(
    task: str,
    index: int,
    of: int,
    length: int,
    tokenizer: Tokenizer,
    filler: Filler | None,
    seed: int,
) -> Item:
    """The `index`-th of `of` items of `task`: prompt and answer take at most `length` tokens.

    The first needle of the `of` items stands at evenly spread depths.

    Raises
    ------
    ConfigError
        If the task needs filler and there is none, or does not fit `length`.
    """
    own = zlib.crc32(f"{seed} {task} {length} {index}".encode())
    new_tokens = NEW_TOKENS.get(task, NEEDLE_TOKENS)

    def item(sample: Sample) -> Item:
        return Item(
            id=f"{task}-{length}-{index}",
            task=task,
            length=length,
            text=sample.text,
            before=sample.before,
            after=sample.after,
            query=sample.after.strip().removeprefix("Question: "),
            prefix=sample.prefix,
            answers=sample.answers,
            new_tokens=new_tokens,
        )

    def tokens(sample: Sample) -> int:
        made = item(sample)
        around = frame(made, tokenizer)
        text = tokenizer(made.text, add_special_tokens=False, verbose=False)["input_ids"]
        return len(around.head) + len(text) + len(around.tail) + new_tokens

    essay: list[str] = []
    if needs_filler(task):
        filler = require_filler(filler, f"the task {task}")
        essay = filler.words(length, own)
    build = _build(task, own, length, essay, (index + 0.5) / of)
    sample = fitted(build, tokens, length, task)
    if filler is not None and essay:
        filler.repeats |= len(sample.text.split()) > 1.05 * len(essay)
    return item(sample)


def _build(task: str, seed: int, length: int, essay: list[str], share: float) -> Build:
    others: dict[str, Callable[[], Build]] = {
        "vt": lambda: tracking(seed),
        "cwe": lambda: common_words(seed, length),
        "fwe": lambda: frequent_words(seed),
    }
    if task in others:
        return others[task]()
    if task == "two_hop":
        return two_hop(seed, essay, share)
    return builder(NEEDLES[task], seed, essay, share)


def fitted(build: Build, tokens: Callable[[Sample], int], length: int, task: str) -> Sample:
    """The largest sample of at most `length` tokens, to within the tolerance."""
    low, best = 1, build(1)
    used = tokens(best)
    if used > length:
        raise ConfigError(
            f"--lengths has {length:,}, but {task} takes at least {used:,} tokens with its "
            "question and answer: give a larger length"
        )
    high: tuple[int, int] | None = None
    size = max(2, 2 * length // max(used, 8))
    for _ in range(STEPS):
        if size <= low or (high and high[0] - low <= 1):
            break
        sample = build(size)
        count = tokens(sample)
        if count > length:
            high = (size, count)
        else:
            low, used, best = size, count, sample
            if length - used <= TOLERANCE * length:
                break
        if high is None:
            size = max(low + 1, min(8 * low, int(low * length / used)))
        else:
            step = (high[0] - low) * (length - used) / (high[1] - used)
            size = min(max(low + 1, low + int(step)), high[0] - 1)
    return best


def items(
    tasks: tuple[str, ...],
    length: int,
    n: int,
    tokenizer: Tokenizer,
    filler: Filler | None,
    seed: int,
) -> Iterator[Item]:
    """`n` items of each task."""
    for task in tasks:
        for index in range(n):
            yield make(task, index, n, length, tokenizer, filler, seed)
