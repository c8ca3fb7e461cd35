"""Question answering: items, passages in longer text, absent passages, and measures."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharedllm.errors import ConfigError
from sharedllm.evaluation import scores
from sharedllm.evaluation.items import Item
from sharedllm.evaluation.methods import Method, Ready
from sharedllm.evaluation.questions import Question
from sharedllm.evaluation.report import Metric
from sharedllm.evaluation.run import Row, answers
from sharedllm.evaluation.sources import SENTENCE_END, Filler, require_filler
from sharedllm.generation.prompt import AFTER, BEFORE, part_ids
from sharedllm.text.tokens import Tokenizer

METRICS = (
    Metric(key="f1", title="F1", scale=100, digits=1),
    Metric(key="em", title="EM", scale=100, digits=1),
    Metric(key="contains", title="contains", scale=100, digits=1),
    Metric(key="rouge_l", title="ROUGE-L", scale=100, digits=1),
    Metric(key="edit_similarity", title="edit sim.", scale=100, digits=1),
    Metric(key="accuracy", title="choice", scale=100, digits=1),
    Metric(key="nll", title="NLL", lower=True),
    Metric(key="recognised", title="absent seen", scale=100, digits=1),
    Metric(key="false_refusal", title="false refusal", scale=100, digits=1, lower=True),
)
TRIES = 50  # other documents that are tried for an absent question


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How questions become items.

    Attributes
    ----------
    length : int
        Tokens of filler and passage together; 0 asks over the passage as it is.
    absent : float
        The share of items that are asked over a document without their passage.
    """

    n: int
    length: int = 0
    absent: float = 0.0
    new_tokens: int = 64
    seed: int = 0


def drawn(questions: Sequence[Question], n: int, seed: int) -> list[Question]:
    """`n` questions, as few as can be of one passage."""
    rng = random.Random(seed)
    by_context: dict[str, list[Question]] = {}
    for question in rng.sample(questions, len(questions)):
        by_context.setdefault(question.context, []).append(question)
    groups = list(by_context.values())
    most = max(map(len, groups))
    return [group[k] for k in range(most) for group in groups if k < len(group)][:n]


def fitting(questions: Sequence[Question], length: int, tokenizer: Tokenizer) -> list[Question]:
    """Those whose passage, alone, is shorter than `length` tokens."""
    fits = {
        text: len(part_ids(text, tokenizer)) < length for text in {q.context for q in questions}
    }
    return [question for question in questions if fits[question.context]]


def items(
    questions: Sequence[Question],
    asking: Asking,
    tokenizer: Tokenizer,
    filler: Filler | None,
) -> Iterator[Item]:
    """The first ``asking.n`` of `questions` as items.

    Raises
    ------
    ConfigError
        If a passage is longer than the length asked for.
    """
    chosen = questions[: asking.n]
    rng = random.Random(asking.seed + asking.length)
    gone = set(rng.sample(range(len(chosen)), round(asking.absent * len(chosen))))
    for index, question in enumerate(chosen):
        absent = index in gone
        passage = "" if absent else question.context
        if asking.length:
            text = _placed(passage, asking, tokenizer, filler, seed=rng.randrange(2**31))
        else:
            text = _other(question, questions, rng) if absent else passage
        yield Item(
            id=f"{asking.length}-{index}",
            task=question.source,
            length=asking.length,
            text=text,
            before=BEFORE,
            after=AFTER.format(question=question.question),
            query=question.question,
            answers=question.answers,
            target="" if absent else min(question.answers, key=len),
            options=() if absent else question.options,
            correct=question.correct,
            new_tokens=asking.new_tokens,
            notes={"absent": absent, "code": question.code, "question": question.question},
        )


def _placed(
    passage: str,
    asking: Asking,
    tokenizer: Tokenizer,
    filler: Filler | None,
    *,
    seed: int,
) -> str:
    """The passage at a random depth of filler, `asking.length` tokens together."""
    filler = require_filler(filler, "a passage within longer text")
    own = len(part_ids(passage, tokenizer)) if passage else 0
    if own >= asking.length:
        raise ConfigError(
            f"--within is {asking.length:,}, but a passage takes {own:,} tokens alone: "
            "give a larger one"
        )
    text = filler.cut(asking.length - own, tokenizer, seed)
    if not passage:
        return text
    at = int(random.Random(seed).random() * len(text))
    found = SENTENCE_END.search(text, at)
    place = found.end() if found else len(text)
    parts = (text[:place].rstrip(), passage.strip(), text[place:].lstrip())
    return "\n\n".join(part for part in parts if part)


def _other(question: Question, questions: Sequence[Question], rng: random.Random) -> str:
    """Another question's passage, in which no right answer stands."""
    for _ in range(TRIES):
        text = rng.choice(questions).context
        if text != question.context and not scores.contains(text, question.answers):
            return text
    raise ConfigError(
        f"--absent: none of {TRIES} other passages is without an answer to "
        f"{question.question!r}; give more rows, or --within and --filler"
    )


def measure(method: Method, ready: Sequence[Ready]) -> list[Row]:
    """Answers and their scores, the gold answer's likelihood, and choices by likelihood."""
    texts = answers(method, ready)
    likelihoods = _likelihoods(method, ready)
    return [
        _row(r.case.item, text, nll, picked)
        for r, text, (nll, picked) in zip(ready, texts, likelihoods, strict=True)
    ]


def _likelihoods(method: Method, ready: Sequence[Ready]) -> list[tuple[float | None, int | None]]:
    """Mean NLL of each target, and the option with the least mean NLL; None where there is none."""
    asked: list[tuple[int, int, str]] = []  # row, option (-1: the target), text
    for at, r in enumerate(ready):
        texts = [(-1, r.case.item.target), *enumerate(r.case.item.options)]
        asked += [(at, option, text) for option, text in texts if text]
    if not asked:
        return [(None, None)] * len(ready)
    targets = [part_ids(text, method.tokenizer) for _, _, text in asked]
    losses = method.losses([ready[at] for at, _, _ in asked], targets)
    target: dict[int, float] = {}
    options: dict[int, dict[int, float]] = {}
    for (at, option, _), loss in zip(asked, losses, strict=True):
        if option < 0:
            target[at] = float(loss.mean())
        else:
            options.setdefault(at, {})[option] = float(loss.mean())
    picked = {at: min(found, key=lambda i: found[i]) for at, found in options.items()}
    return [(target.get(at), picked.get(at)) for at in range(len(ready))]


def _row(item: Item, text: str, nll: float | None, picked: int | None) -> Row:
    refused = float(scores.refuses(text))
    row: Row = {"question": item.notes["question"], "answer": text, "gold": list(item.answers)}
    if item.notes["absent"]:
        return row | {"absent": True, "recognised": refused}
    return row | {
        "absent": False,
        "f1": scores.f1(text, item.answers),
        "em": scores.exact(text, item.answers),
        "contains": scores.contains(text, item.answers),
        "rouge_l": scores.rouge_l(text, item.answers),
        "edit_similarity": scores.edit_similarity(text, item.answers)
        if item.notes["code"]
        else None,
        "accuracy": None if picked is None else float(picked in item.correct),
        "nll": nll,
        "false_refusal": refused,
    }
