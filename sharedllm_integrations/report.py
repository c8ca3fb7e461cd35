"""What happened to the documents of a request, for an adapter to hand on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Path = Literal["fence", "handle", "known", "pasted", "given", "memory"]
Outcome = Literal["reused", "built", "kept", "repeated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentReport:
    """What happened to one document.

    Attributes
    ----------
    path : str
        How it was found: between genuine marks (fence), by a bare handle, as text that is known,
        as long text without marks (pasted), as a document block (given), or in the memory that is
        asked as a whole.
    outcome : str
        Its trees were there (reused), were built, were built and added to the memory (kept); or it
        stands in the prompt again, further down (repeated).
    id : str
        Its handle's id, or its id in the memory that is asked as a whole.
    title : str
    characters, tokens : int
        Its length; `tokens` is what was searched, 0 where it is repeated.
    """

    path: Path
    outcome: Outcome
    id: str
    title: str
    characters: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedMark:
    """A mark that was taken for plain text, and why."""

    id: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What happened to a request's documents.

    Attributes
    ----------
    documents : tuple of DocumentReport
        In the order of the prompt.
    refused : tuple of RefusedMark
    question_repeated : bool
        Whether the question, which stood only in front of the documents, was repeated behind them.
    """

    documents: tuple[DocumentReport, ...] = ()
    refused: tuple[RefusedMark, ...] = ()
    question_repeated: bool = False

    @property
    def tokens_reused(self) -> int:
        """Tokens of documents whose trees were there."""
        return sum(d.tokens for d in self.documents if d.outcome == "reused")

    @property
    def tokens_built(self) -> int:
        """Tokens of documents that were read for this request."""
        return sum(d.tokens for d in self.documents if d.outcome in ("built", "kept"))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "documents": [asdict(document) for document in self.documents],
            "refused": [asdict(mark) for mark in self.refused],
            "question_repeated": self.question_repeated,
        }
