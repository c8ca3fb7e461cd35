"""What is trained on: a past, a question about it (or none), and the text to be predicted."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training example, as text.

    Attributes
    ----------
    kind : str
        The task, for the log of losses.
    past : str
        The document.
    question : str
        Empty for language modelling, where `answer` continues `past`.
    answer : str
        What the loss is taken over.
    evidence : tuple of (start, end)
        Characters of `past` that hold what the answer needs; empty where all of it may help.
    """

    kind: str
    past: str
    question: str
    answer: str
    evidence: tuple[Span, ...] = ()


class Past:
    """A past under construction: filler text into which passages are put.

    Parameters
    ----------
    filler : str
        Unrelated text.
    gap : str
        What stands on either side of a passage.
    """

    def __init__(self, filler: str, gap: str = "\n") -> None:
        self._filler, self._gap = filler, gap
        self._inserts: list[tuple[int, str]] = []

    def put(self, passage: str, where: float) -> None:
        """Put `passage` at the end of the sentence or line at the share `where` of the filler."""
        at = int(where * len(self._filler))
        ends = [self._filler.find(mark, at) for mark in (". ", ".\n", "\n")]
        found = [end for end in ends if end >= 0]
        self._inserts.append((min(found) + 1 if found else len(self._filler), passage))

    def build(self) -> tuple[str, tuple[Span, ...]]:
        """The text and each passage's span, in the order in which they were put."""
        spans: dict[int, Span] = {}
        pieces: list[str] = []
        length = before = 0
        for index in sorted(range(len(self._inserts)), key=lambda i: self._inserts[i][0]):
            at, passage = self._inserts[index]
            for piece in (self._filler[before:at], self._gap):
                pieces.append(piece)
                length += len(piece)
            spans[index] = (length, length + len(passage))
            pieces += [passage, self._gap]
            length += len(passage) + len(self._gap)
            before = at
        pieces.append(self._filler[before:])
        return "".join(pieces), tuple(spans[index] for index in range(len(self._inserts)))
