"""Documents found in a prompt -> trees: those of a memory, those kept for the process, new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sharedllm import SharedLLMError
from sharedllm_integrations.errors import CapacityError, HandleError
from sharedllm_integrations.finding import Found, Parts
from sharedllm_integrations.handles import handle_id, neutral
from sharedllm_integrations.names import name_of
from sharedllm_integrations.origins import Origin, issue, origin_of
from sharedllm_integrations.placing import searched_for
from sharedllm_integrations.report import DocumentReport, Outcome
from sharedllm_integrations.trees import TreeCache

if TYPE_CHECKING:
    from sharedllm import Document, SharedLLM, TreeMemory

CAPACITY = 1_000_000  # tokens of documents in one request


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolver:
    """Brings the documents of one request to the model.

    Attributes
    ----------
    llm : SharedLLM
    cache : TreeCache
    memory : TreeMemory or None
        Where new documents go if `keep` is true.
    tenant : str
    keep : bool
    """

    llm: SharedLLM
    cache: TreeCache
    memory: TreeMemory | None
    tenant: str
    keep: bool

    def messages(
        self, turns: Sequence[tuple[str, Parts]]
    ) -> tuple[list[dict[str, Any]], list[DocumentReport]]:
        """Messages for :meth:`sharedllm.SharedLLM.answer`, and what became of each document.

        A document that stands in several places is put in the last, nearest to the question.

        Raises
        ------
        HandleError
            If a handle's document is gone or was changed.
        CapacityError
            If the documents are too long together.
        """
        last = {
            part.handle: (i, j)
            for i, (_, parts) in enumerate(turns)
            for j, part in enumerate(parts)
            if isinstance(part, Found)
        }
        query = searched_for(turns)
        messages, reports = [], []
        for i, (role, parts) in enumerate(turns):
            content: list[dict[str, Any]] = []
            for j, part in enumerate(parts):
                if isinstance(part, str):
                    content.append({"type": "text", "text": part})
                elif last[part.handle] != (i, j):
                    reports.append(_report(part, "repeated", "", 0, 0))
                else:
                    documents, report = self.trees(part, query)
                    reports.append(report)
                    content += [{"type": "document", "document": d} for d in documents]
                    _require_capacity(reports)
            messages.append({"role": role, "content": content})
        return messages, reports

    def trees(self, part: Found, query: str) -> tuple[Sequence[Document], DocumentReport]:
        """The trees of one document: from its memory, from the cache, or new.

        Raises
        ------
        HandleError
            If it is a handle whose document is gone or was changed.
        """
        origin = origin_of(part.handle)
        home = self._home(origin, part.handle)
        if origin is not None and home is not None:
            return self._stored(part, home, origin.id, query, "reused")
        cached = self.cache.find(self.llm, part.handle)
        if part.text is None and cached is None:
            raise HandleError(
                f"the document of the handle {part.handle} was changed or deleted since, or "
                "dropped from what is kept for the process; retrieve it again"
            )
        if self.keep and self.memory is not None and part.text is not None:
            return self._stored(part, self.memory, self._kept(part, self.memory), query, "kept")
        document, built = cached, False
        if part.text is not None:
            source = part.source or (origin.source if origin else "")
            own = {"title": part.title or (origin.title if origin else ""), "source": source}
            title = name_of(own, part.text)
            document, built = self.cache.build(self.llm, part.handle, part.text, title, source)
        if document is None:
            raise HandleError(f"the handle {part.handle} has no document")
        outcome: Outcome = "built" if built else "reused"
        return [document], _report(part, outcome, document.title, len(document.text), len(document))

    def _home(self, origin: Origin | None, handle: str) -> TreeMemory | None:
        """The memory that holds the text which the handle was made for, if this model can read it.

        One that is not this request's own may have been closed, or be of another model: then it is
        no home, and the text is read as if nobody knew it.
        """
        memory = None if origin is None else origin.memory()
        if origin is None or memory is None:
            return None
        try:
            if origin.id not in memory:
                return None
            if memory is not self.memory and memory.encoder.identity != self.llm.identity:
                return None
            text = memory.get(origin.id).text
        except SharedLLMError:
            if memory is self.memory:
                raise
            return None
        return memory if handle_id(neutral(text), self.tenant) == handle else None

    def _stored(
        self, part: Found, memory: TreeMemory, id: str, query: str, outcome: Outcome
    ) -> tuple[Sequence[Document], DocumentReport]:
        documents = memory.documents_for(query, self.llm, {"id": id})
        stored = memory.list({"id": id})[0]
        title = stored.title
        if not title.strip():
            own = {"source": stored.source, **stored.metadata}
            title = name_of(own, part.text or neutral(memory.get(id).text))
            documents = [replace(document, title=title) for document in documents]
        tokens = sum(map(len, documents))
        return documents, _report(part, outcome, title, stored.characters, tokens)

    def _kept(self, part: Found, memory: TreeMemory) -> str:
        """Add the document to the memory; its id there."""
        from sharedllm import MemoryDocument

        text = part.text or ""
        title = name_of({"title": part.title, "source": part.source}, text)
        document = MemoryDocument(text=text, title=title, source=part.source)
        memory.add(document)
        issue(memory, document, self.tenant)
        return document.id


def _report(
    part: Found, outcome: Outcome, title: str, characters: int, tokens: int
) -> DocumentReport:
    return DocumentReport(
        path=part.path,
        outcome=outcome,
        id=part.handle,
        title=title or part.title,
        characters=characters or len(part.text or ""),
        tokens=tokens,
    )


def _require_capacity(reports: Sequence[DocumentReport]) -> None:
    total = sum(report.tokens for report in reports)
    if total > CAPACITY:
        raise CapacityError(
            f"the documents of this prompt have more than {CAPACITY} tokens; retrieve fewer, or "
            "ask a memory as a whole, which finds the parts that matter first"
        )
