"""Language modelling with a growing past: items, key tokens, measures."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.config import require_int
from sharedllm.errors import ConfigError, DocumentError
from sharedllm.evaluation.baselines import Truncated
from sharedllm.evaluation.filler import read_texts
from sharedllm.evaluation.items import Item, frame
from sharedllm.evaluation.methods import Case, Losses, Method, Ready
from sharedllm.evaluation.metrics import Metric, Row
from sharedllm.evaluation.options import Settings
from sharedllm.evaluation.run import Session
from sharedllm.generation.prompt import part_ids
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.tokens import Tokens, tokenize

QUERY_TOKENS = 256  # of the running text's beginning, where a scorer needs a query
TRIES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """What is read and what is scored.

    Attributes
    ----------
    pasts : tuple of int
        Tokens before the running text.
    running : int
        Tokens of running text, all attended to in full.
    scored : int
        The last so many of them are the last window.
    gain, sure : float
        LongPPL's thresholds: a token is a key token if its log-probability gains more than `gain`
        from the long context, and is above `sure` there.
    """

    pasts: tuple[int, ...]
    running: int = 2048
    scored: int = 256
    gain: float = 2.0
    sure: float = -2.0

    def __post_init__(self) -> None:
        require_int("--running", self.running, least=2)
        require_int("--scored", self.scored, least=1, most=self.running - 1)

    def metrics(self) -> tuple[Metric, ...]:
        def made(key: str, title: str) -> Metric:
            return Metric(key=key, title=title, weight=f"{key}_tokens", exp=True, lower=True)

        out = (
            made("nll_last", f"PPL of the last {self.scored:,} tokens"),
            made("nll_running", f"PPL of all {self.running:,} running tokens"),
            made("nll_key", f"LongPPL (key tokens among the last {self.scored:,})"),
        )
        if 0 not in self.pasts:
            return out
        return (*out, made("gained_running", f"PPL of all {self.running:,}, over that at past 0"))


def items(
    given: Sequence[str],
    windows: Windows,
    n: int,
    llm: SharedLLM,
    seed: int,
    *,
    group: int = 1,
    join: bool = False,
) -> Iterator[Item]:
    """`n` running texts, each with all its pasts, from texts that are long enough in turn.

    Parameters
    ----------
    group : so many running texts are given together, past after past, to be run as a batch
    join : short texts are joined to long ones

    Raises
    ------
    DocumentError
        If no text is long enough.
    """
    rng = random.Random(seed)
    needed = max(windows.pasts) + windows.running
    long: list[tuple[str, Tokens]] = []
    held = ""
    for text in rng.sample(given, len(given)):
        text = held + text
        tokens = tokenize(text, llm.tokenizer)
        held = text + "\n\n" if join and len(tokens) < needed else ""
        if len(tokens) >= needed:
            long.append((text, tokens))
        if len(long) == n:
            break
    if not long:
        raise DocumentError(
            f"no text in --data has the {needed:,} tokens that the longest past and the running "
            "text need: give longer texts, smaller --lengths, or --join"
        )
    for first in range(0, n, group):
        together = []
        for index in range(first, min(first + group, n)):
            text, tokens = long[index % len(long)]
            start = rng.randrange(max(windows.pasts), len(tokens) - windows.running + 1)
            together.append(_of_one(text, tokens, start, windows, llm, str(index)))
        for of_past in zip(*together, strict=True):
            yield from of_past


def _of_one(
    text: str, tokens: Tokens, start: int, windows: Windows, llm: SharedLLM, name: str
) -> list[Item]:
    """The running text from token `start` on after every past."""

    def between(first: int, last: int) -> str:
        begin, end = tokens.characters(first, last)
        return text[begin:end]

    base = Item(
        id=name,
        task="lm",
        after=between(start, start + 1),
        target=between(start + 1, start + windows.running),
        query=between(start, start + min(QUERY_TOKENS, windows.running)),
        new_tokens=1,
        chat=False,
    )
    longest = dataclasses.replace(base, text=between(start - max(windows.pasts), start))
    keys = key_tokens(llm, base, longest, windows)
    return [
        dataclasses.replace(
            base,
            id=f"{name}-{past}",
            length=past,
            text=between(start - past, start) if past else "",
            notes={"keys": keys, "scored": windows.scored},
        )
        for past in windows.pasts
    ]


def key_tokens(llm: SharedLLM, short: Item, long: Item, windows: Windows) -> list[int]:
    """LongPPL's rule, judged by the base with full attention.

    The long context is as much of the past as fits the trained window, the short one is the
    running text alone.

    Returns
    -------
    list of int
        Indexes among the last window's tokens.
    """
    judge = Truncated(llm, 1, side="left", budgeted=False)

    def losses(item: Item) -> Losses:
        document = llm.remember(item.text) if item.text else None
        case = Case(item=item, frame=frame(item, llm.tokenizer), document=document)
        target = part_ids(item.target, llm.tokenizer)
        return judge.losses([judge.prepare(case, None)], [target])[0][-windows.scored :]

    return [int(i) for i in np.flatnonzero(is_key(losses(short), losses(long), windows))]


def is_key(
    short: Losses, long: Losses, windows: Windows
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each token's log-probability gains enough from the long context, and is high."""
    key: NDArray[np.bool_] = (short - long > windows.gain) & (-long > windows.sure)
    return key


def measure(method: Method, ready: Sequence[Ready]) -> list[Row]:
    """Sums of losses and their counts."""
    targets = [part_ids(r.case.item.target, method.tokenizer) for r in ready]
    out = []
    for r, losses in zip(ready, method.losses(ready, targets), strict=True):
        last = losses[-int(str(r.case.item.notes["scored"])) :]
        keys = r.case.item.notes["keys"]
        key = last[keys] if isinstance(keys, list) and keys else np.empty(0)
        parts = {"nll_last": last, "nll_running": losses, "nll_key": key}
        out.append(
            {name: float(part.sum()) for name, part in parts.items()}
            | {f"{name}_tokens": len(part) for name, part in parts.items()}
        )
    return out


def with_gains(rows: Sequence[Row]) -> list[Row]:
    """Rows with what the past changed: the loss minus that of the same text and method at past 0.

    Texts differ far more than methods: the change has an interval that shows something.
    """

    def series(row: Row) -> tuple[object, ...]:
        return row["item"].rpartition("-")[0], row["method"], row["budget"]

    alone = {
        series(row): row["nll_running"]
        for row in rows
        if row["length"] == 0 and "nll_running" in row
    }
    return [
        row
        | {
            "gained_running": row["nll_running"] - alone[series(row)],
            "gained_running_tokens": row["nll_running_tokens"],
        }
        if "nll_running" in row and series(row) in alone
        else row
        for row in rows
    ]


def run(
    settings: Settings,
    paths: Sequence[str],
    windows: Windows,
    llm: SharedLLM | None = None,
    *,
    join: bool = False,
) -> dict[str, Any]:
    """Perplexity after pasts of every length."""
    documents = read_texts(paths, "--data")
    if "scorer" not in settings.search:
        settings = dataclasses.replace(settings, search={**settings.search, "scorer": "recency"})
    session = Session("perplexity", settings, llm)
    if windows.running + max(session.budgets) > session.llm.window:
        raise ConfigError(
            f"--running {windows.running:,} and a budget of {max(session.budgets):,} need more "
            f"than the {session.llm.window:,} positions that the model was trained on: "
            "lower one of them"
        )
    made = items(
        documents,
        windows,
        settings.items,
        session.llm,
        settings.seed,
        group=settings.batch,
        join=join,
    )
    n = settings.items * len(windows.pasts)
    found = session.rows(made, n, measure)
    return session.finish(
        with_gains(found),
        windows.metrics(),
        title="Perplexity",
        unit="tokens of past",
        across=True,
    )
