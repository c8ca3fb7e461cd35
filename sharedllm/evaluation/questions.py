"""Rows of question-answering files -> questions: a generic form, LongBench's and L-Eval's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharedllm.errors import DocumentError

CODE_SETS = ("lcc", "repobench")  # LongBench's data sets whose answers are lines of code
SUMMARISE = "Write a summary of the text."
COMPLETE = "Write the next line of the code."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a passage.

    Attributes
    ----------
    source : str
        The data set it comes from, for figures by task.
    context : str
    question : str
    answers : tuple of str
    options : tuple of str
        Choices; `correct` are the indexes of the right ones.
    code : bool
        Whether the answer is code, scored by edit similarity.
    """

    source: str
    context: str
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    correct: tuple[int, ...] = ()
    code: bool = False


def read(rows: Sequence[Mapping[str, Any]], path: str) -> Iterator[Question]:
    """Questions of all rows of one file, whichever of the forms each has.

    Raises
    ------
    DocumentError
        For a row of none of the forms.
    """
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {path!r}"
        if "instructions" in row and "outputs" in row:
            yield from _leval(row, where)
        elif "answers" in row and "input" in row and "context" in row:
            yield _longbench(row, where)
        else:
            yield _generic(row, where)


def _generic(row: Mapping[str, Any], where: str) -> Question:
    """context, question, and answers or answer (a str or a list); options where there are."""
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
    """input, context, answers, dataset, all_classes, length (THUDM's LongBench)."""
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
    """instructions, outputs, input, source, evaluation: one question for each instruction."""
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
    """The right answers as texts, and which of the options they are.

    With options an answer may be the text, its index, or its letter.
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
            + (f", which is none of its {len(options)} options" if options else "; it is empty")
        )
    return tuple(texts), correct
