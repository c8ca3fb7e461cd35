"""What each command does with its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sharedllm.errors import ConfigError, DocumentError
from sharedllm.evaluation import chat, lm, qa, questions, ruler, scores
from sharedllm.evaluation.chat_set import PROMPTS
from sharedllm.evaluation.methods import Method, Ready
from sharedllm.evaluation.report import Metric
from sharedllm.evaluation.run import Row, answers
from sharedllm.evaluation.session import Session
from sharedllm.evaluation.settings import Settings
from sharedllm.evaluation.sources import Filler, require_filler, rows, texts
from sharedllm.shared_llm import SharedLLM

NEEDLE_METRICS = (Metric(key="score", title="string_match_all", scale=100, digits=1),)
REPEATS = "the filler is shorter than the longest item and was repeated"


def run_needle(
    settings: Settings,
    tasks: tuple[str, ...],
    filler: Filler | None,
    llm: SharedLLM | None = None,
) -> dict[str, Any]:
    """RULER's tasks at each length."""
    for task in tasks:
        if ruler.needs_filler(task):
            require_filler(filler, f"the task {task}")
    session = Session("needle", settings, llm)
    made = chain.from_iterable(
        ruler.items(tasks, length, settings.items, session.llm.tokenizer, filler, settings.seed)
        for length in settings.lengths
    )
    n = len(tasks) * settings.items * len(settings.lengths)
    found = session.rows(made, n, _ruler_rows)
    if filler is not None and filler.repeats:
        session.note(REPEATS)
    names = {task: ruler.SHORT_NAMES[task] for task in tasks}
    return session.finish(found, NEEDLE_METRICS, title="RULER, string_match_all in %", tasks=names)


def _ruler_rows(method: Method, ready: Sequence[Ready]) -> list[Row]:
    given = answers(method, ready)
    return [
        {
            "score": scores.string_match_all(text, r.case.item.answers),
            "answer": text,
            "gold": list(r.case.item.answers),
        }
        for r, text in zip(ready, given, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What ``sharedllm eval qa`` asks.

    Attributes
    ----------
    absent : float
        The share of items that are asked without their passage.
    new_tokens : int
    skip : sequence of str
        Questions whose source starts with one of these are left out.
    """

    absent: float = 0.0
    new_tokens: int = 64
    skip: Sequence[str] = ()


def run_qa(
    settings: Settings,
    paths: Sequence[str],
    filler: Filler | None,
    asked: Asked,
    llm: SharedLLM | None = None,
) -> dict[str, Any]:
    """Questions over their passages, or over longer text that holds them."""
    if settings.lengths:
        require_filler(filler, "--within")
    found = _questions(paths, asked.skip)
    session = Session("qa", settings, llm)
    chosen = _chosen(found, settings, session)

    def made(length: int) -> Any:
        asking = qa.Asking(
            n=settings.items,
            length=length,
            absent=asked.absent,
            new_tokens=asked.new_tokens,
            seed=settings.seed,
        )
        return qa.items(chosen, asking, session.llm.tokenizer, filler)

    lengths = settings.lengths or (0,)
    n = min(settings.items, len(chosen)) * len(lengths)
    taken = session.rows(chain.from_iterable(map(made, lengths)), n, qa.measure)
    if filler is not None and filler.repeats:
        session.note(REPEATS)
    gone = () if asked.absent else ("recognised", "false_refusal")
    metrics = [metric for metric in qa.METRICS if metric.key not in gone]
    return session.finish(taken, metrics, title="Question answering")


def _questions(paths: Sequence[str], skip: Sequence[str]) -> list[questions.Question]:
    found = [q for path in paths for q in questions.read(list(rows(path)), path)]
    if not found:
        raise DocumentError(f"no row in {', '.join(map(repr, paths))}")
    sources = {q.source for q in found}
    unknown = [start for start in skip if not any(s.startswith(start) for s in sources)]
    kept = [q for q in found if not q.source.startswith(tuple(skip))]
    if unknown or not kept:
        raise ConfigError(
            f"--skip is {', '.join(skip)}; each must begin the name of a source, and one source "
            f"must be left: {', '.join(sorted(sources))}"
        )
    return kept


def _chosen(
    found: list[questions.Question], settings: Settings, session: Session
) -> list[questions.Question]:
    """Those that are asked, noting what is left out."""
    if settings.lengths:
        shortest = min(settings.lengths)
        fits = qa.fitting(found, shortest, session.llm.tokenizer)
        if not fits:
            raise ConfigError(f"--within is {shortest:,}; every passage alone is longer: raise it")
        if len(fits) < len(found):
            session.note(
                f"{len(found) - len(fits)} of {len(found)} questions are left out: their passage "
                f"alone is longer than --within, {shortest:,}"
            )
        found = fits
    chosen = qa.drawn(found, settings.items if settings.lengths else len(found), settings.seed)
    if len(chosen) < settings.items:
        session.note(f"there are {len(chosen)} questions; --items is {settings.items}")
    return chosen


def run_perplexity(
    settings: Settings,
    paths: Sequence[str],
    windows: lm.Windows,
    llm: SharedLLM | None = None,
    *,
    join: bool = False,
) -> dict[str, Any]:
    """Perplexity after pasts of every length."""
    documents = texts(paths, "--data")
    if "policy" not in settings.search:
        settings = dataclasses.replace(settings, search={**settings.search, "policy": "right"})
    session = Session("perplexity", settings, llm)
    if windows.running + max(session.budgets) > session.llm.window:
        raise ConfigError(
            f"--running {windows.running:,} and a budget of {max(session.budgets):,} need more "
            f"than the {session.llm.window:,} positions that the model was trained on: "
            "lower one of them"
        )
    made = lm.items(
        documents,
        windows,
        settings.items,
        session.llm,
        settings.seed,
        group=settings.batch,
        join=join,
    )
    n = settings.items * len(windows.pasts)
    found = session.rows(made, n, lm.measure)
    return session.finish(
        lm.with_gains(found),
        windows.metrics(),
        title="Perplexity",
        unit="tokens of past",
        across=True,
    )


def run_chat(
    settings: Settings, paths: Sequence[str], llm: SharedLLM | None = None
) -> dict[str, Any]:
    """The likelihood of reference replies without documents, with the adapter and without."""
    if paths:
        every = [item for path in paths for item in chat.read(list(rows(path)), path)]
    else:
        listed = [{"instruction": asked, "response": reply} for asked, reply in PROMPTS]
        every = list(chat.read(listed, "built-in"))
    if not every:
        raise DocumentError(f"no row in {', '.join(map(repr, paths))}")
    session = Session("chat", settings, llm, budgeted=False)
    base, batch = session.llm, settings.batch
    if session.llm.adapter is None:
        session.note("no adapter is loaded: both rows are the base")
    elif llm is None:
        base = SharedLLM.from_pretrained(
            settings.model, adapter=None, device=settings.device, dtype=settings.dtype
        )
    compared: list[Method] = [
        chat.Reply(base, batch, chat.BASE),
        chat.Reply(session.llm, batch, chat.AS_USED),
    ]
    if session.llm.adapter is not None:
        compared.append(chat.Reply(session.llm, batch, chat.FORCED, adapter=True))
    items = chat.chosen(every, settings.items, settings.seed)
    found = session.rows(items, len(items), chat.measure, compared)
    return session.finish(chat.with_ratio(found), chat.METRICS, title="Replies without documents")
