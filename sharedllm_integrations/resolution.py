"""Documents in a request's messages -> trees: of the memory, of the process's cache, or new ones.

A reference resolves if, and only if, its document is in the request's own memory and tenant, has
the text that the reference names, and passes the request's filter. Nobody needs a permission beside
that, and no reference gives one. Of a reference that does not resolve, the text that stands with it
is read as the text it is; without a text, it is an error if this process made it, and else text.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sharedllm_integrations.documents import name_of, whole_characters
from sharedllm_integrations.errors import CapacityError, DocumentReferenceError
from sharedllm_integrations.long_text import LONG_TEXT, KnownText, documents_in
from sharedllm_integrations.references import (
    UNKNOWN,
    Mention,
    Reference,
    Refused,
    Scope,
    neutral,
    parse,
    text_hash,
    was_made_here,
)
from sharedllm_integrations.report import DocumentReport, FoundAs, Outcome
from sharedllm_integrations.requests import GivenText, Message
from sharedllm_integrations.tree_cache import process_cache

if TYPE_CHECKING:
    from sharedllm import Asked, Document, SharedLLM, StoredDocument, TreeMemory

CAPACITY = 1_000_000  # tokens of documents in one request
MOST_SEARCHED = 1000  # documents of a memory whose texts are not looked for in prompts
IN_ANSWER = "a reference in the assistant's words"
MOST_LISTS = 16
MOST_GIVEN_OUT = 256  # texts of one memory that are looked for in every prompt
MOST_SCOPES = 256
MOST_CHARACTERS = 1 << 28  # of texts that are held for the process


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A document in a message.

    Attributes
    ----------
    found_as : str
        See :class:`~sharedllm_integrations.report.DocumentReport`.
    id : str
        In the memory, or a hash of the text.
    stored : StoredDocument or None
        The memory's, whose title and source it has.
    given : GivenText or None
        A text that is not the memory's.
    """

    found_as: FoundAs
    id: str
    stored: StoredDocument | None = None
    given: GivenText | None = None


class Readable:
    """The documents that a request may read: those of its memory that pass its filter."""

    def __init__(
        self, memory: TreeMemory | None, tenant: str, filter: Mapping[str, Any] | None = None
    ) -> None:
        self.scope = Scope.of(memory, tenant)
        self._memory, self._filter = memory, filter

    def find(self, reference: Reference) -> Found | None:
        """The document of `reference`, if this request may read it and it has not changed."""
        stored = self._listed.places.get(reference.place)
        if stored is not None and self._hash(stored, reference.place) == reference.text:
            return Found(found_as="reference", id=stored.id, stored=stored)
        given = None if self._filter else held_texts.find(self.scope, reference)
        if given is None:
            return None
        return Found(found_as="reference", id=reference.text, given=given)

    def holding(self, text: str) -> StoredDocument | None:
        """The document whose text this is, word for word."""
        if self._memory is None:
            return None
        for stored in self._listed.places.values():
            same_length = stored.characters == len(text)
            if same_length and neutral(self._memory.get(stored.id).text) == text:
                return stored
        return None

    @property
    def known(self) -> Iterator[KnownText]:
        """The texts of a memory of moderate size, to look for in prompts."""
        if len(self._listed.places) <= MOST_SEARCHED:
            yield from map(self._known, self._listed.places.values())

    @property
    def retrieved(self) -> Iterator[KnownText]:
        """The texts that retrievers gave out without references, where they have not changed."""
        for one in held_texts.given_out(self.scope):
            if isinstance(one.document, Reference):
                given = None if self._filter else held_texts.find(self.scope, one.document)
                if given is not None:
                    yield replace(one, document=given)
                continue
            stored = self._listed.ids.get(one.document)
            if stored is not None and self._known(stored).digest == one.digest:
                yield self._known(stored)

    def _known(self, stored: StoredDocument) -> KnownText:
        held = self._listed.texts
        if stored.id not in held and self._memory is not None:
            held[stored.id] = KnownText.of(self._memory.get(stored.id).text, stored)
        return held[stored.id]

    def _hash(self, stored: StoredDocument, place: str) -> str:
        """The hash of a document's text, taken once for each state of the memory."""
        held = self._listed.hashes
        if place not in held and self._memory is not None:
            held[place] = text_hash(self._memory.get(stored.id).text, self.scope.tenant)
        return held[place]

    @cached_property
    def _listed(self) -> _Listed:
        """The documents, looked at anew after a change of the memory."""
        if self._memory is None:
            return _Listed({}, {})
        key = (self.scope, self._memory.revision, repr(self._filter))
        with _lock:
            if key in _lists:
                _lists.move_to_end(key)
                return _lists[key]
        stored = self._memory.list(self._filter)
        made = _Listed(
            {self.scope.place(one.id): one for one in stored}, {one.id: one for one in stored}
        )
        with _lock:
            _lists[key] = made
            while len(_lists) > MOST_LISTS:
                _lists.popitem(last=False)
        return made


@dataclass(slots=True)
class _Listed:
    """The documents of one state of a memory, and what was made of their texts so far."""

    places: dict[str, StoredDocument]
    ids: dict[str, StoredDocument]
    texts: dict[str, KnownText] = field(default_factory=dict)  # by id
    hashes: dict[str, str] = field(default_factory=dict)  # by place


_lists: OrderedDict[tuple[Scope, str, str], _Listed] = OrderedDict()
_lock = threading.Lock()


class HeldTexts:
    """Texts that retrievers gave out, so that a prompt can name them; the oldest dropped.

    Those of no memory are held whole, each for a tenant and a memory, as every reference is. Of a
    memory's documents only what they are known by is held, for the memory.

    Attributes
    ----------
    limit : int
        Characters of all texts; one may be longer.
    """

    def __init__(self, limit: int = MOST_CHARACTERS) -> None:
        self.limit = limit
        self._texts: OrderedDict[tuple[Scope, Reference], GivenText] = OrderedDict()
        self._given_out: OrderedDict[Scope, OrderedDict[bytes, KnownText]] = OrderedDict()
        self._characters = 0
        self._own = threading.Lock()

    def hold(self, scope: Scope, given: GivenText) -> Reference:
        """Keep a text, and name it."""
        # a NUL, which no id of a memory's document holds
        made = scope.reference(f"\0{given.title}\0{given.source}", given.text)
        with self._own:
            if self._texts.pop((scope, made), None) is None:
                self._characters += len(given.text)
            self._texts[scope, made] = given
            while self._characters > self.limit and len(self._texts) > 1:
                self._characters -= len(self._texts.popitem(last=False)[1].text)
        self._note(scope, KnownText.of(given.text, made))
        return made

    def find(self, scope: Scope, reference: Reference) -> GivenText | None:
        """The text that `reference` names in `scope`."""
        with self._own:
            return self._texts.get((scope, reference))

    def give_out(self, scope: Scope, id: str, text: str) -> None:
        """Note that a retriever gives out the text of a memory's document without a reference."""
        self._note(Scope("", scope.memory), KnownText.of(text, id))

    def given_out(self, scope: Scope) -> list[KnownText]:
        """Return the texts of `scope` that are known; `document` is a reference or an id."""
        with self._own:
            scopes = dict.fromkeys((scope, Scope("", scope.memory)))
            return [known for one in scopes for known in self._given_out.get(one, {}).values()]

    def clear(self) -> None:
        """Let go of everything."""
        with self._own:
            self._texts.clear()
            self._given_out.clear()
            self._characters = 0

    def _note(self, scope: Scope, known: KnownText) -> None:
        with self._own:
            held = self._given_out.setdefault(scope, OrderedDict())
            held[known.digest] = known
            held.move_to_end(known.digest)
            self._given_out.move_to_end(scope)
            while len(held) > MOST_GIVEN_OUT:
                held.popitem(last=False)
            while len(self._given_out) > MOST_SCOPES:
                self._given_out.popitem(last=False)


held_texts = HeldTexts()


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Finds the documents of one request, and brings them to the model.

    Attributes
    ----------
    llm : SharedLLM
    memory : TreeMemory or None
        The request's own; new documents are added to it if `keep` is true.
    tenant : str
    filter : mapping or None
        What documents of the memory the request may read.
    section : str or None
        Names the sections that will be searched: of a long document, parts in these are taken.
    keep : bool
    long_text : int or None
        Characters up to which text without references stays running text; None is any length.
    """

    llm: SharedLLM
    memory: TreeMemory | None
    tenant: str
    filter: Mapping[str, Any] | None = None
    section: str | None = None
    keep: bool = False
    long_text: int | None = LONG_TEXT

    @cached_property
    def readable(self) -> Readable:
        """The documents of the memory that this request may read."""
        return Readable(self.memory, self.tenant, self.filter)

    # -- finding ---------------------------------------------------------------------------------

    def find_documents(self, messages: Sequence[Message]) -> tuple[list[Message], list[Refused]]:
        """The messages with the documents in them, and the marks that were made plain text.

        Raises
        ------
        DocumentReferenceError
            For a reference of this process, without a text, that does not resolve.
        """
        refused: list[Refused] = []
        out = []
        for message in messages:
            parts: list[Any] = []
            for part in message.parts:
                where = f"a message of {message.role!r}"
                if isinstance(part, GivenText):
                    text = whole_characters(part.text, where)
                    parts.append(self.accept(replace(part, text=text)))
                elif isinstance(part, str):
                    text = whole_characters(part, where)
                    parts += self._in_text(text, message.role, refused)
                else:  # a call of a tool
                    parts.append(part)
            out.append(Message(role=message.role, parts=parts))
        return out, refused

    def accept(self, part: GivenText, found_as: FoundAs = "given") -> Found:
        """A text that its sender declares to be a document; the memory's own where it holds it."""
        text = neutral(part.text)
        stored = self.readable.holding(text)
        if stored is not None:
            return Found(found_as=found_as, id=stored.id, stored=stored)
        return self._text(found_as, replace(part, text=text))

    def accept_retrieved(self, part: GivenText) -> Found:
        """A text that a retriever has found: between the marks of its reference, or without."""
        pieces = list(parse(part.text, self.tenant))
        if len(pieces) == 1 and isinstance(pieces[0], Mention) and pieces[0].text is not None:
            found = self.readable.find(pieces[0].reference)
            return found or self.accept(replace(part, text=pieces[0].text), "enclosed")
        return self.accept(part)

    def _in_text(self, text: str, role: str, refused: list[Refused]) -> Iterator[str | Found]:
        plain = ""
        for piece in parse(text, self.tenant):
            if isinstance(piece, str):
                plain += piece
            elif isinstance(piece, Refused):
                refused.append(piece)
            elif piece.text is None and role == "assistant":
                refused.append(Refused(piece.reference.id, IN_ANSWER))
            elif piece.text is None and self._is_strange(piece.reference):
                refused.append(Refused(piece.reference.id, UNKNOWN))
                plain += neutral(str(piece.reference))
            elif piece.text is None or piece.text.strip():
                yield from self._in_plain(plain, role)
                plain = ""
                yield self._mentioned(piece)
        yield from self._in_plain(plain, role)

    def _is_strange(self, reference: Reference) -> bool:
        """Tell a reference that anybody may have written, in a text or a title, from one of ours.

        It stops nothing. One that this process made and that does not resolve is an error: the
        answer would lack the document.
        """
        return not was_made_here(reference) and self.readable.find(reference) is None

    def _mentioned(self, mention: Mention) -> Found:
        found = self.readable.find(mention.reference)
        if found is not None:
            return found
        if mention.text is not None:
            return self.accept(GivenText(text=mention.text), "enclosed")
        raise DocumentReferenceError(
            f"the prompt holds the document reference {mention.reference.id} without its text, and "
            "this request's memory has no such document for its tenant and filter, or has changed "
            "or deleted it since. Give the model the memory (and tenant) that the reference is "
            "from, retrieve the document again, or pass its whole text between its marks (a text "
            "splitter may have cut it)"
        )

    def _in_plain(self, text: str, role: str) -> Iterator[str | Found]:
        retrieved = iter(()) if role == "assistant" else self.readable.retrieved
        for piece in documents_in(text, self.long_text, self.readable.known, retrieved):
            if isinstance(piece, str):
                yield piece
            elif piece.known is None:
                yield self._text("pasted", GivenText(text=piece.text))
            elif isinstance(piece.known.document, GivenText):
                yield self._text("known", piece.known.document)
            else:
                stored: StoredDocument = piece.known.document
                yield Found(found_as="known", id=stored.id, stored=stored)

    def _text(self, found_as: FoundAs, given: GivenText) -> Found:
        return Found(found_as=found_as, id=text_hash(given.text, self.tenant), given=given)

    # -- reading ---------------------------------------------------------------------------------

    def build_question(
        self, found: Sequence[Message], question: str
    ) -> tuple[Asked, list[DocumentReport]]:
        """The question for :meth:`sharedllm.SharedLLM.answer`, and a record of each document.

        A document that stands in several places is put in the last, nearest to the question.

        Raises
        ------
        CapacityError
            If the documents are too long together.
        """
        last = {
            part.id: (i, j)
            for i, message in enumerate(found)
            for j, part in enumerate(message.parts)
            if isinstance(part, Found)
        }
        from sharedllm import Asked

        texts = ((m.role, tuple(p for p in m.parts if isinstance(p, str))) for m in found)
        sought = Asked(turns=tuple(texts), query=question).sought
        turns: list[tuple[str, tuple[Any, ...]]] = []
        reports: list[DocumentReport] = []
        for i, message in enumerate(found):
            parts: list[Any] = []
            for j, part in enumerate(message.parts):
                if not isinstance(part, Found):
                    parts.append(part)
                elif last[part.id] != (i, j):
                    reports.append(_report(part, "repeated", ()))
                else:
                    documents, report = self.read(part, sought)
                    reports.append(report)
                    parts += documents
                    _require_capacity(reports)
            turns.append((message.role, tuple(parts)))
        return Asked(turns=tuple(turns), query=question), reports

    def read(self, found: Found, question: str) -> tuple[Sequence[Document], DocumentReport]:
        """Give the trees of one document: of the memory, of the process's cache, or new."""
        if found.stored is not None and self.memory is not None:
            return self._of_memory(found, self.memory, found.stored, question, "reused")
        given = found.given
        if given is None:
            raise ValueError("a found document is either stored or given with its text")
        title = name_of({"title": given.title, "source": given.source}, given.text)
        if self.keep and self.memory is not None:
            stored, is_new = _kept(self.memory, given, title)
            outcome: Outcome = "kept" if is_new else "reused"
            return self._of_memory(found, self.memory, stored, question, outcome)
        document, built = process_cache().build(
            self.llm, self.readable.scope, given.text, title=title, source=given.source
        )
        return [document], _report(found, "built" if built else "reused", [document], title)

    def _of_memory(
        self,
        found: Found,
        memory: TreeMemory,
        stored: StoredDocument,
        question: str,
        outcome: Outcome,
    ) -> tuple[Sequence[Document], DocumentReport]:
        from sharedllm import SectionError

        only = {"id": stored.id}
        try:
            documents = memory.documents_for(question, self.llm, only, section=self.section)
        except SectionError:  # another document may have it; the core knows of all
            documents = memory.documents_for(question, self.llm, only)
        title = stored.title
        if not title.strip():
            text = neutral(memory.get(stored.id).text)
            title = name_of({"source": stored.source, **stored.metadata}, text)
            documents = [replace(document, title=title) for document in documents]
        return documents, _report(found, outcome, documents, title, stored.characters)


def _kept(memory: TreeMemory, given: GivenText, title: str) -> tuple[StoredDocument, bool]:
    """The memory's document of a text, and whether it was added."""
    from sharedllm import MemoryDocument

    document = MemoryDocument(text=given.text, title=title, source=given.source)
    is_new = document.id not in memory
    if is_new:
        memory.add(document)
    return memory.list({"id": document.id})[0], is_new


def _report(
    found: Found,
    outcome: Outcome,
    documents: Sequence[Document],
    title: str = "",
    characters: int = 0,
) -> DocumentReport:
    """A record of a document; of one that is repeated, `documents` is empty."""
    known = found.given or GivenText(text="")
    if found.stored is not None:
        title, characters = title or found.stored.title, characters or found.stored.characters
    return DocumentReport(
        found_as=found.found_as,
        outcome=outcome,
        id=found.id,
        title=title or known.title,
        characters=characters or len(known.text),
        tokens=sum(map(len, documents)),
    )


def _require_capacity(reports: Sequence[DocumentReport]) -> None:
    total = sum(report.tokens for report in reports)
    if total > CAPACITY:
        raise CapacityError(
            f"the documents of this prompt have more than {CAPACITY} tokens; retrieve fewer, or "
            "ask a memory as a whole, which finds the parts that matter first"
        )
