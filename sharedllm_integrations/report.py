"""Plain values that both frameworks tell about an answer: its documents, evidence and tokens."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from sharedllm_integrations.errors import SetupError
from sharedllm_integrations.references import Refused

if TYPE_CHECKING:
    from sharedllm import Answer

PROVIDER = "sharedllm"
FoundAs = Literal["reference", "enclosed", "given", "known", "pasted"]
Outcome = Literal["reused", "built", "kept", "repeated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentReport:
    """A record of what happened to one document.

    Attributes
    ----------
    found_as : str
        By a reference to a document of the memory (reference), as the text between the marks of a
        reference that is not this memory's (enclosed), as a document block (given), as text that
        is known (known), or as long text (pasted).
    outcome : str
        Its trees were there (reused), were built, were built and added to the memory (kept); or it
        stands in the prompt again, further down (repeated).
    id : str
        Its id in the memory, or a hash of its text.
    title : str
    characters, tokens : int
        Its length; `tokens` is what was searched, 0 where it is repeated.
    """

    found_as: FoundAs
    outcome: Outcome
    id: str
    title: str
    characters: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A record of what happened to a request's documents.

    Attributes
    ----------
    documents : tuple of DocumentReport
        In the order of the prompt.
    refused : tuple of Refused
        Marks that were taken for plain text.
    question_repeated : bool
        Whether the question, which stood only in front of the documents, was repeated behind them.
    """

    documents: tuple[DocumentReport, ...] = ()
    refused: tuple[Refused, ...] = ()
    question_repeated: bool = False

    @property
    def tokens_built(self) -> int:
        """Tokens of documents that were read for this request."""
        return sum(d.tokens for d in self.documents if d.outcome in ("built", "kept"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of an answer.

    Attributes
    ----------
    read : int
        Of the prompt, its documents included.
    written : int
    reused, built : int
        Of documents whose trees were there, and of those that were read for the answer.
    """

    read: int
    written: int
    reused: int
    built: int

    @property
    def total(self) -> int:
        """All that were read or written."""
        return self.read + self.written

    @classmethod
    def of(cls, answer: Answer, report: Report) -> Usage:
        """The tokens of an answer that is complete."""
        used, built = answer.usage, report.tokens_built
        return cls(
            read=used.prompt_tokens - used.evidence_tokens + used.context_tokens,
            written=used.new_tokens,
            reused=used.context_tokens - built,
            built=built,
        )


def details(answer: Answer, report: Report) -> dict[str, Any]:
    """A record of the documents of a request that has been answered.

    ``documents``, ``refused`` and ``question_repeated`` are those of :class:`Report`, ``citations``
    the selected evidence, best first, ``unsupported`` the names and numbers of the text that stand
    in no passage that was read, ``away`` the parts of a memory that could not be searched,
    ``budget``, ``looks`` and ``scope`` those of the core's ``Usage``, ``partial`` that of the
    core's ``Answer`` and ``abstains`` its ``refused``, ``answer_id`` what :func:`answer_of` finds
    the answer by.
    """
    return {
        "documents": [asdict(document) for document in report.documents],
        "refused": [asdict(mark) for mark in report.refused],
        "question_repeated": report.question_repeated,
        "citations": [asdict(citation) for citation in answer.citations],
        "unsupported": list(answer.unsupported),
        "away": list(answer.away),
        "budget": answer.usage.budget,
        "looks": answer.usage.looks,
        "scope": answer.usage.scope,
        "partial": answer.partial,
        "abstains": answer.refused,
        "answer_id": _keep(answer),
    }


# -- the core's answers behind messages and responses, which hold plain values only ---------------

MOST = 64
_kept: OrderedDict[str, Answer] = OrderedDict()
_lock = threading.Lock()


def answer_of(response: Any) -> Answer:
    """The core's answer behind a message or a response: ``to_html(path)``, ``plot()``, citations.

    Of several calls of the model it is the last one's. The last 64 of a process are kept.

    Raises
    ------
    SetupError
        If no SharedLLM wrote it, or its answer is not kept any more.
    """
    fields = ("response_metadata", "additional_kwargs", "metadata")
    told = [(getattr(response, name, None) or {}).get(PROVIDER) for name in fields]
    calls: Any = next(filter(None, told), None)
    last = calls[-1] if isinstance(calls, list) else calls
    name = last.get("answer_id") if isinstance(last, Mapping) else None
    if name is None:
        raise SetupError(
            "this was not written by a SharedLLM; give the message or response of one, as it came"
        )
    with _lock:
        found = _kept.get(name)
    if found is None:
        raise SetupError(
            f"the answer is not kept: only the last {MOST} of this process are. Its citations are "
            "in the message; ask again for the rest"
        )
    return found


def _keep(answer: Answer) -> str:
    """Keep `answer`, and give the id under which it is found."""
    name = secrets.token_hex(8)
    with _lock:
        _kept[name] = answer
        while len(_kept) > MOST:
            _kept.popitem(last=False)
    return name
