"""``sharedllm eval qa``: rows of files -> questions -> items -> measures.

Rows have our own form, LongBench's or L-Eval's. A passage is asked about alone or within longer
text, or it is left out, and the right answer is to abstain.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sharedllm.errors import ConfigError, DocumentError
from sharedllm.evaluation import metrics
from sharedllm.evaluation.filler import REPEATS, Filler, plant, require_filler
from sharedllm.evaluation.items import Item
from sharedllm.evaluation.methods import Method, Ready
from sharedllm.evaluation.metrics import Metric, Row
from sharedllm.evaluation.options import Settings
from sharedllm.evaluation.run import Session, generate_answers
from sharedllm.generation.prompt import AFTER, BEFORE, part_ids
from sharedllm.shared_llm import SharedLLM
from sharedllm.text.loaders import read_rows
from sharedllm.text.tokens import Tokenizer

CODE_SETS = ("lcc", "repobench")  # LongBench's data sets whose answers are lines of code
SUMMARISE = "Write a summary of the text."
COMPLETE = "Write the next line of the code."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
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
TRIES = 50  # other passages that are tried for a question without its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a passage.

    Attributes
    ----------
    source : str
        Name of the data set, for scores by task.
    context : str
    question : str
    answers : tuple of str
    options : tuple of str
        Multiple-choice options; `correct` holds the indices of the right ones.
    code : bool
        True if the answer is code, which is scored by edit similarity.
    """

    source: str
    context: str
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    correct: tuple[int, ...] = ()
    code: bool = False


def read(given: Iterable[Mapping[str, Any]], path: str) -> Iterator[Question]:
    """Yield the questions of all rows of one file; the form of each row is recognised.

    Raises
    ------
    DocumentError
        If a row has none of the forms.
    """
    for number, row in enumerate(given, start=1):
        where = f"row {number} of {path!r}"
        if "instructions" in row and "outputs" in row:
            yield from _leval(row, where)
        elif "answers" in row and "input" in row and "context" in row:
            yield _longbench(row, where)
        else:
            yield _generic(row, where)


def _generic(row: Mapping[str, Any], where: str) -> Question:
    """Read context, question, and answers or answer (a str or a list); options are optional."""
    given = row.get("answers", row.get("answer"))
    context, question = row.get("context"), row.get("question")
    if not isinstance(context, str) or not isinstance(question, str) or given is None:
        raise DocumentError(
            f"{where} has the fields {', '.join(map(repr, sorted(row)))}; needed are context, "
            "question and answer (or answers), or LongBench's or L-Eval's own"
        )
    if not context.strip() or not question.strip():
        raise DocumentError(f"{where} has an empty context or question")
    options = _options(row.get("options"), where)
    answers, correct = _answers(given, options, where)
    return Question(
        source=str(row.get("dataset") or row.get("source") or "qa"),
        context=context,
        question=question.strip(),
        answers=answers,
        options=options,
        correct=correct,
        code=row.get("kind") == "code",
    )


def _longbench(row: Mapping[str, Any], where: str) -> Question:
    """Read input, context, answers, dataset and all_classes of THUDM's LongBench."""
    dataset = str(row.get("dataset") or "LongBench")
    code = dataset.startswith(CODE_SETS)
    classes = _options(row.get("all_classes"), where)
    answers, correct = _answers(row["answers"], classes, where)
    context, asked = str(row["context"]), str(row["input"])
    if code:
        context, asked = context + ("\n" + asked if asked else ""), COMPLETE
    if not context.strip():
        raise DocumentError(f"{where} has an empty context")
    return Question(
        source=dataset,
        context=context,
        question=asked.strip() or SUMMARISE,
        answers=answers,
        options=classes,
        correct=correct,
        code=code,
    )


def _leval(row: Mapping[str, Any], where: str) -> Iterator[Question]:
    """Read instructions, outputs, input, source and evaluation of L-Eval, one question each."""
    asked, right, text = row["instructions"], row["outputs"], row.get("input")
    if not isinstance(text, str) or not text.strip() or len(asked) != len(right):
        raise DocumentError(
            f"{where} has {len(asked)} instructions and {len(right)} outputs; L-Eval's rows have "
            "as many of both, and a text in input"
        )
    for question, answer in zip(asked, right, strict=True):
        yield Question(
            source=str(row.get("source") or row.get("evaluation") or "L-Eval"),
            context=text,
            question=str(question).strip(),
            answers=_answers(answer, (), where)[0],
        )


def _options(given: object, where: str) -> tuple[str, ...]:
    if given is None or given == []:
        return ()
    if isinstance(given, Mapping):
        given = list(given.values())
    if not isinstance(given, list) or len(given) < 2:
        raise DocumentError(f"{where} has the options {given!r}; give a list of two or more")
    return tuple(str(option) for option in given)


def _answers(
    given: object, options: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the right answers as texts, and their indices among the options.

    With options an answer can be a text, an index or a letter.
    """
    listed = list(given) if isinstance(given, list | tuple) else [given]
    texts: list[str] = []
    for answer in listed:
        if options and isinstance(answer, int) and 0 <= answer < len(options):
            texts.append(options[answer])
        elif options and answer not in options and str(answer).strip("(). ") in (*LETTERS,):
            at = LETTERS.index(str(answer).strip("(). "))
            texts.append(options[at] if at < len(options) else str(answer))
        else:
            texts.append(str(answer))
    texts = [text for text in texts if text.strip()]
    correct = tuple(options.index(text) for text in texts if text in options)
    if not texts or (options and not correct):
        raise DocumentError(
            f"{where} has the answer {given!r}"
            + (f", which is not among its {len(options)} options" if options else "; it is empty")
        )
    return tuple(texts), correct


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """Settings by which questions become items.

    Attributes
    ----------
    length : int
        Tokens of filler and passage together; 0 asks about the passage alone.
    absent : float
        Share of items that are asked about a document without their passage.
    """

    n: int
    length: int = 0
    absent: float = 0.0
    new_tokens: int = 64
    seed: int = 0


def draw_questions(questions: Sequence[Question], n: int, seed: int) -> list[Question]:
    """Draw `n` questions, as few as possible from one passage."""
    rng = random.Random(seed)
    by_context: dict[str, list[Question]] = {}
    for question in rng.sample(questions, len(questions)):
        by_context.setdefault(question.context, []).append(question)
    groups = list(by_context.values())
    most = max(map(len, groups))
    return [group[k] for k in range(most) for group in groups if k < len(group)][:n]


def select_fitting(
    questions: Sequence[Question], length: int, tokenizer: Tokenizer
) -> list[Question]:
    """Return the questions whose passage alone has fewer than `length` tokens."""
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
    """Yield the first ``asking.n`` of `questions` as items.

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
    """Put the passage at a random depth of filler, `asking.length` tokens together."""
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
    return plant(text, passage, random.Random(seed).random(), "\n\n")


def _other(question: Question, questions: Sequence[Question], rng: random.Random) -> str:
    """Return another question's passage that contains no right answer."""
    for _ in range(TRIES):
        text = rng.choice(questions).context
        if text != question.context and not metrics.contains(text, question.answers):
            return text
    raise ConfigError(
        f"--absent: {TRIES} other passages all contain an answer to "
        f"{question.question!r}; give more rows, or --within and --filler"
    )


def measure(method: Method, ready: Sequence[Ready]) -> list[Row]:
    """Score answers, the gold answer's likelihood, and the options by likelihood."""
    texts = generate_answers(method, ready)
    likelihoods = _likelihoods(method, ready)
    return [
        _row(r.case.item, text, nll, picked)
        for r, text, (nll, picked) in zip(ready, texts, likelihoods, strict=True)
    ]


def _likelihoods(method: Method, ready: Sequence[Ready]) -> list[tuple[float | None, int | None]]:
    """Return for each item the target's mean NLL and the likeliest option; None without one."""
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
    refused = float(metrics.refuses(text))
    row: Row = {"question": item.notes["question"], "answer": text, "gold": list(item.answers)}
    if item.notes["absent"]:
        return row | {"absent": True, "recognised": refused}
    return row | {
        "absent": False,
        "f1": metrics.f1(text, item.answers),
        "em": metrics.exact(text, item.answers),
        "contains": metrics.contains(text, item.answers),
        "rouge_l": metrics.rouge_l(text, item.answers),
        "edit_similarity": metrics.edit_similarity(text, item.answers)
        if item.notes["code"]
        else None,
        "accuracy": None if picked is None else float(picked in item.correct),
        "nll": nll,
        "false_refusal": refused,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Options of ``sharedllm eval qa`` beside the common ones.

    Attributes
    ----------
    absent : float
        Share of items that are asked without their passage.
    new_tokens : int
    skip : sequence of str
        Prefixes of sources whose questions are left out.
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
    """Run the command; return its JSON object."""
    if settings.lengths:
        require_filler(filler, "--within")
    found = _questions(paths, asked.skip)
    session = Session("qa", settings, llm)
    chosen = _chosen(found, settings, session)

    def made(length: int) -> Any:
        asking = Asking(
            n=settings.items,
            length=length,
            absent=asked.absent,
            new_tokens=asked.new_tokens,
            seed=settings.seed,
        )
        return items(chosen, asking, session.llm.tokenizer, filler)

    lengths = settings.lengths or (0,)
    n = min(settings.items, len(chosen)) * len(lengths)
    taken = session.rows(chain.from_iterable(map(made, lengths)), n, measure)
    if filler is not None and filler.repeats:
        session.note(REPEATS)
    gone = () if asked.absent else ("recognised", "false_refusal")
    metrics = [metric for metric in METRICS if metric.key not in gone]
    return session.finish(taken, metrics, title="Question answering")


def _questions(paths: Sequence[str], skip: Sequence[str]) -> list[Question]:
    found = [q for path in paths for q in read(read_rows(path), path)]
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


def _chosen(found: list[Question], settings: Settings, session: Session) -> list[Question]:
    """Choose the questions to ask, with a note on those left out."""
    if settings.lengths:
        shortest = min(settings.lengths)
        fits = select_fitting(found, shortest, session.llm.tokenizer)
        if not fits:
            raise ConfigError(f"--within is {shortest:,}; every passage alone is longer: raise it")
        if len(fits) < len(found):
            session.note(
                f"{len(found) - len(fits)} of {len(found)} questions are left out: their passage "
                f"alone is longer than --within, {shortest:,}"
            )
        found = fits
    chosen = draw_questions(
        found, settings.items if settings.lengths else len(found), settings.seed
    )
    if len(chosen) < settings.items:
        session.note(f"there are {len(chosen)} questions; --items is {settings.items}")
    return chosen
