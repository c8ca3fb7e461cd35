"""RULER's tasks, and two hops, at a given length: items, and how answers are scored."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from benchmarks.quality.ruler.needles import NEW_TOKENS as NEEDLE_TOKENS
from benchmarks.quality.ruler.needles import TASKS as NEEDLES
from benchmarks.quality.ruler.needles import Build, Sample, builder, two_hop
from benchmarks.quality.ruler.tracing import NEW_TOKENS, common_words, frequent_words, tracking
from sharedllm import SharedLLM
from sharedllm.errors import ConfigError
from sharedllm.evaluation import metrics
from sharedllm.evaluation.filler import REPEATS, SENTENCE_END, Filler, require_filler
from sharedllm.evaluation.items import Item, frame
from sharedllm.evaluation.methods import Method, Ready
from sharedllm.evaluation.metrics import Metric, Row
from sharedllm.evaluation.options import Settings
from sharedllm.evaluation.run import Session, generate_answers
from sharedllm.text.tokens import Tokenizer

OTHERS = ("vt", "cwe", "fwe")
TASKS = (*NEEDLES, *OTHERS, "two_hop")
SHORT_NAMES = dict(
    zip(
        TASKS, ("S1", "S2", "S3", "K1", "K2", "K3", "MV", "MQ", "VT", "CW", "FW", "2H"), strict=True
    )
)
METRICS = (Metric(key="score", title="string_match_all", scale=100, digits=1),)
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
        essay = _words(filler, length, own)
    build = _build(task, own, length, essay, (index + 0.5) / of)
    sample = fitted(build, tokens, length, task)
    if filler is not None and essay:
        filler.repeats |= len(sample.text.split()) > 1.05 * len(essay)
    return item(sample)


def _words(filler: Filler, n: int, seed: int) -> list[str]:
    """`n` words in the order of the texts, from a random sentence on; fewer if there are."""
    rng = random.Random(seed)
    order = rng.sample(range(len(filler.texts)), len(filler.texts))
    first = filler.texts[order[0]]
    found = SENTENCE_END.search(first, rng.randrange(len(first)))
    at = found.end() if found else 0
    out: list[str] = []
    for text in (first[at:], *(filler.texts[i] for i in order[1:]), first[:at]):
        out += text.split(maxsplit=n - len(out))[: n - len(out)]
        if len(out) >= n:
            break
    return out


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


def run(
    settings: Settings,
    tasks: tuple[str, ...],
    filler: Filler | None,
    llm: SharedLLM | None = None,
) -> dict[str, Any]:
    """RULER's tasks at each length."""
    for task in tasks:
        if needs_filler(task):
            require_filler(filler, f"the task {task}")
    session = Session("ruler", settings, llm)
    made = chain.from_iterable(
        items(tasks, length, settings.items, session.llm.tokenizer, filler, settings.seed)
        for length in settings.lengths
    )
    n = len(tasks) * settings.items * len(settings.lengths)
    found = session.rows(made, n, measure)
    if filler is not None and filler.repeats:
        session.note(REPEATS)
    names = {task: SHORT_NAMES[task] for task in tasks}
    return session.finish(found, METRICS, title="RULER, string_match_all in %", tasks=names)


def measure(method: Method, ready: Sequence[Ready]) -> list[Row]:
    given = generate_answers(method, ready)
    return [
        {
            "score": metrics.string_match_all(text, r.case.item.answers),
            "answer": text,
            "gold": list(r.case.item.answers),
        }
        for r, text in zip(ready, given, strict=True)
    ]
