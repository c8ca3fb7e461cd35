"""A case: one question to be trained on, as text; lessons.py makes a prompt of it."""

from __future__ import annotations

from dataclasses import dataclass

from sharedllm.training.examples import Example, Span

Turn = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A document, and the characters of it from which the answer follows."""

    text: str
    title: str = "document"
    evidence: tuple[Span, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One question about some documents, in a conversation.

    An :class:`~sharedllm.training.examples.Example` of the library has one document and no
    conversation; :func:`make_case` converts it.

    Attributes
    ----------
    kind : str
        The task, for the log of losses.
    sources : tuple of Source
    question : str
        Empty for language modelling; `answer` then continues the document.
    answer : str
    history : tuple of (question, answer)
        Earlier turns, oldest first.
    sought : str
        The text to search for; empty for the question.
    sentences : bool
        True if the answer takes more than a few words.
    """

    kind: str
    sources: tuple[Source, ...]
    question: str
    answer: str
    history: tuple[Turn, ...] = ()
    sought: str = ""
    sentences: bool = False


def make_case(example: Example) -> Case:
    """Convert an example of the library's own tasks."""
    return Case(
        kind=example.kind,
        sources=(Source(text=example.past, evidence=example.evidence),),
        question=example.question,
        answer=example.answer,
    )
