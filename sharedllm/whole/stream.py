"""The answer to a question about the whole, as a stream that reads while it is iterated."""

from __future__ import annotations

import time

from sharedllm.answer import Answer, AnswerStream, Timings, Usage
from sharedllm.generation.prompt import Asked
from sharedllm.search.citations import Citation, cite, join_windows
from sharedllm.whole.scope import Scope
from sharedllm.whole.whole import Whole


class WholeStream(AnswerStream):
    """Iterator over parts of an answer's text, empty while the documents are read.

    Dropping it ends the reading; what was read by then is kept for the next question.

    Parameters
    ----------
    asked, scope : as `whole` was made for
    load_s, remember_s, search_s : seconds spent so far
    """

    def __init__(
        self,
        whole: Whole,
        asked: Asked,
        scope: Scope,
        *,
        load_s: float,
        remember_s: float,
        search_s: float,
    ) -> None:
        self._whole, self._asked, self._scope = whole, asked, scope
        self._spent = load_s, remember_s, search_s
        self._begun = self._took = 0.0
        self._ended = False

    @property
    def total(self) -> int:
        """Parts to be read; 0 before the first piece."""
        return self._whole.total

    @property
    def done(self) -> int:
        """Parts that were read."""
        return self._whole.done

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all parts are read, by those so far; None before the first."""
        if not self.done:
            return None
        return (time.perf_counter() - self._begun) * (self.total - self.done) / self.done

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The places of what has come so far, in document order."""
        return _citations(self._whole)

    def __next__(self) -> str:
        if not self._begun:
            self._begun = time.perf_counter()
        try:
            return next(self._whole)
        except StopIteration:
            if not self._ended:
                self._ended, self._took = True, time.perf_counter() - self._begun
            raise

    @property
    def answer(self) -> Answer:
        """The whole answer; reads what has not been read yet."""
        for _ in self:
            pass
        read, (load_s, remember_s, search_s) = self._whole.result, self._spent
        documents = [one.document for one in read.selection.searched]
        return Answer(
            text=read.text,
            citations=_citations(self._whole),
            usage=Usage(
                context_tokens=sum(map(len, documents)),
                injected_tokens=0,
                evidence_tokens=read.selection.spent,
                prompt_tokens=read.prompt_tokens,
                new_tokens=read.new_tokens,
                coarse_ratio=None,
                left_out_chunks=read.selection.left_out,
                budget=None,
                looks=1,
                search_rounds=1,
                scope=self._scope.kind,
                scope_reason=self._scope.reason,
                parts_read=read.read,
                parts_kept=read.kept,
                parts_left=read.left,
            ),
            timings=Timings(
                load_s=load_s,
                remember_s=remember_s,
                search_s=search_s,
                prefill_s=self._took,
                decode_s=0.0,
            ),
            finish_reason="length" if read.cut or read.left else "stop",
            selection=read.selection,
            question=self._asked.query,
        )


def _citations(whole: Whole) -> tuple[Citation, ...]:
    selection = whole.result.selection
    return tuple(
        citation
        for one in selection.searched
        for citation in cite(one.document, list(join_windows(one.document, one.nodes)), one.query)
    )
