"""A question about all of its documents -> an answer with the places that it was made of.

Lists and counts: parts near the question are read one by one, and what they name is joined in code.
Summaries: every chunk is read once, and its note kept. Comparisons: what is told of each side is
found, and then read together.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from sharedllm.config import GenerationConfig, SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.generation.assemble import make_plan
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import ABSENT, Asked
from sharedllm.progress import Progress, Reporter, reporter
from sharedllm.readers.reader import Reader
from sharedllm.search.citations import sentences_around_match
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.rounds import SCORER
from sharedllm.search.scorers import is_by_place
from sharedllm.search.selection import SelectedNode, Selection, group_by_document
from sharedllm.search.sentences import content_words, sentences, stem
from sharedllm.text.words import parts as word_parts
from sharedllm.text.words import words
from sharedllm.whole.comparing import Fact, decided, fact_of, leaf_at
from sharedllm.whole.differences import MOST, differences
from sharedllm.whole.kinds import of_kind
from sharedllm.whole.merging import Thing, names_of, things_of
from sharedllm.whole.notes import (
    NOTE_TOKENS,
    Note,
    best_place,
    groups_of,
    in_turn,
    note_question,
    shared,
    statements_of,
    unrepeated,
)
from sharedllm.whole.parts import SURE, Part, near, parts_of, within
from sharedllm.whole.reading import PartReader, Said
from sharedllm.whole.scope import Scope
from sharedllm.whole.sections import names_in
from sharedllm.whole.wording import (
    counted_words,
    counts_events,
    event_of,
    item_question,
    sides_of,
)

SHORT = 256  # tokens of a part that a small model names things from
NAMES_TOKENS = 64
SUMMARY_TOKENS = 256  # of a final text, where its length is not given
DRY = 32  # parts in a row, the best first, after which no other part is taken to name anything
NEAREST = 3.0  # behind the best part, within which one that names nothing is read again
JOINED = 1024  # tokens of notes that are joined at once, at most
EVENT = 0.75  # share of an event's words that a sentence which tells it holds
MOST_PLACES = 3  # of a thing that are cited
NOT_COMPARED = "This model does not compare texts. What is said:"

Score = Callable[[str], Sequence[Scores]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """The outcome of a whole reading.

    Attributes
    ----------
    text : str
    selection : Selection
        The places of its statements.
    prompt_tokens, new_tokens : int
        Of all passes together.
    read, kept, left : int
        See :class:`PartReader`.
    cut : bool
        The final text met its limit of tokens.
    """

    text: str
    selection: Selection
    prompt_tokens: int
    new_tokens: int
    read: int
    kept: int
    left: int
    cut: bool = False


class Whole(Iterator[str]):
    """Reads the whole for one question; gives pieces of text, which are empty while it reads.

    Parameters
    ----------
    asked : the question
    scope : what it asks for
    score : scores all nodes of `documents` for a query
    titles : what each of `documents` is called in an answer
    remark : ends the answer
    new_tokens : of the final text, at most
    progress : True for a progress bar, or a function of (parts done, parts in all)

    Attributes
    ----------
    total, done : int
        Parts to be read, and those that were.
    result : Read
        When all pieces have come.
    """

    def __init__(
        self,
        asked: Asked,
        scope: Scope,
        documents: Sequence[Document],
        score: Score,
        *,
        titles: Sequence[str],
        remark: str,
        reader: Reader,
        encoder: DocumentEncoder,
        search: SearchConfig,
        generation: GenerationConfig,
        new_tokens: int,
        progress: Progress = None,
    ) -> None:
        self._asked, self._question, self._scope = asked, asked.query, scope
        self._documents, self._titles, self._score = documents, titles, score
        self._reader, self._encoder, self._search = reader, encoder, search
        self._generation = generation.replace(max_new_tokens=new_tokens)
        self._progress, self._bars = progress, ExitStack()
        self._report: Reporter = lambda parts: None
        self.total = self.done = 0
        started = time.perf_counter()
        self._parts = PartReader(
            reader,
            encoder,
            documents,
            generation,
            deadline=None if search.max_seconds is None else started + search.max_seconds,
            done=self._advance,
        )
        self._places: list[tuple[int, int, int, float, str]] = []
        self._text, self._cut, self._left = "", False, 0
        self._scores: Sequence[Scores] = ()
        ways = {"list": self._list, "count": self._count, "comparison": self._comparison}
        self._pieces = self._closing(ways.get(scope.kind, self._summary)(), remark)

    def __next__(self) -> str:
        piece = next(self._pieces)
        self._text += piece
        return piece

    def _closing(self, pieces: Iterator[str], remark: str) -> Iterator[str]:
        """Take the progress bar away however the reading ends; add `remark` when it does."""
        with self._bars:
            yield from pieces
        if remark:
            yield f"\n\n{remark}"

    @property
    def result(self) -> Read:
        """The outcome, once all pieces have come."""
        own = self._parts
        return Read(
            text=self._text.strip(),
            selection=self._selection(),
            prompt_tokens=own.prompt_tokens,
            new_tokens=own.new_tokens,
            read=own.read,
            kept=own.kept,
            left=own.left + self._left,
            cut=self._cut,
        )

    # -- lists and counts ----------------------------------------------------------------------

    def _list(self) -> Iterator[str]:
        things: list[Thing] = []
        yield from self._named(self._question, things)
        self._cite(things)
        yield "\n".join(f"- {thing.text}" for thing in things) or ABSENT

    def _count(self) -> Iterator[str]:
        counted = counted_words(self._question)
        if counted is not None:
            yield self._occurrences(counted)
            return
        if counts_events(self._question):
            yield self._events(event_of(self._question))
            return
        things: list[Thing] = []
        yield from self._named(item_question(self._question), things)
        self._cite(things)
        yield "\n".join([str(len(things)), *(f"- {thing.text}" for thing in things)])

    def _named(self, question: str, things: list[Thing]) -> Iterator[str]:
        """Read the parts near the question, and collect what they name into `things`."""
        asked = Asked(turns=(("user", (question,)),), query=question, plain=True)
        most = SHORT if self._reader.judges else None
        level = self._parts.level(asked, most, NAMES_TOKENS, self._reach)
        self._scores = self._score(question)
        levels = [level] * len(self._documents)
        parts = parts_of(self._documents, self._scores, levels, self._reach)
        if self._search.scorer == SCORER and names_of(question):
            parts = near(parts)
        parts = self._limited(parts, by_score=True)
        parts.sort(key=lambda part: -part.score)
        said: list[Said] = []
        dry, ranked = 0, not is_by_place(self._search.scorer)
        for batch in self._parts.ask(parts, asked, new_tokens=NAMES_TOKENS, abstains=True):
            own = [one for one in batch if one.text]
            said += own
            dry = 0 if things_of(own, self._documents, question) else dry + len(batch)
            yield ""
            if dry >= DRY and ranked:
                break
        again = self._unanswered(parts, said, question)
        for batch in self._parts.ask(again, asked, new_tokens=NAMES_TOKENS):
            said += [one for one in batch if one.text]
            yield ""
        found = things_of(said, self._documents, question)
        things += of_kind(found, self._documents, question)

    def _unanswered(self, parts: Sequence[Part], said: Sequence[Said], question: str) -> list[Part]:
        """Return the best sentences of those parts that should name something, and did not.

        A small model answers best from few tokens.
        """
        if not parts or parts[0].score < SURE:
            return []
        told = {one.part for one in said if things_of([one], self._documents, question)}
        sure = [p for p in parts if p.score >= parts[0].score - NEAREST and p not in told]
        again = []
        for part in sure:
            start, end = sentences_around_match(
                self._documents[part.document], (part.start, part.end), question
            )
            again.append(replace(part, start=start, end=end))
        self.total += len(again)
        return again

    def _cite(self, things: Sequence[Thing]) -> None:
        for thing in things:
            best = sorted(thing.places, key=lambda place: -place.score)[:MOST_PLACES]
            for place in best:
                self._places.append(
                    (place.document, place.first, place.last, place.score, thing.text)
                )

    def _occurrences(self, counted: str) -> str:
        """Count the places where the words `counted` stand; no model is asked."""
        key = [part for word in words(counted) for part in word_parts(word.text)]
        found = 0
        for index, document in enumerate(self._documents):
            own = [(w.start, p) for w in words(document.text) for p in word_parts(w.text)]
            spans = sentences(document.text)
            for at in range(len(own) - len(key) + 1):
                if own[at][1] == key[0] and [p for _, p in own[at : at + len(key)]] == key:
                    found += 1
                    start, end = spans[bisect.bisect_right(spans, (own[at][0], math.inf)) - 1]
                    self._places.append((index, start, end, 0.0, counted))
        return str(found)

    def _events(self, event: str) -> str:
        """Count the sentences that tell of an event by its words; no model is asked."""
        wanted = {stem(word) for word in content_words(event.lower())}
        found = 0
        for index, document in enumerate(self._documents):
            for start, end in sentences(document.text):
                own = {stem(word) for word in content_words(document.text[start:end].lower())}
                if wanted and len(own & wanted) >= EVENT * len(wanted):
                    found += 1
                    self._places.append((index, start, end, 0.0, event))
        return str(found)

    # -- summaries -----------------------------------------------------------------------------

    def _summary(self, lead: str = "") -> Iterator[str]:
        notes: list[list[Note]] = []
        yield from self._notes(notes)
        yield lead
        several = sum(map(bool, notes)) > 1
        room = self._generation.max_new_tokens // max(1, sum(map(bool, notes)))
        wrote = False
        for title, own in zip(self._titles, notes, strict=True):
            if not own:
                continue
            if several:
                yield f"{chr(10) * 2 * wrote}{title}: "
            yield from self._told(own, room)
            wrote = True
        if not wrote:
            yield ABSENT

    def _notes(self, notes: list[list[Note]]) -> Iterator[str]:
        """Read all chunks once; fill `notes` with those of each document, in its order."""
        parts = self._limited(self._parts.to_note(self._reach), by_score=False)
        said = []
        for batch in self._parts.note(parts):
            said += batch
            yield ""
        said.sort(key=lambda one: (one.part.document, one.part.start))
        notes += [[] for _ in self._documents]
        for one in said:
            document = self._documents[one.part.document]
            source = document.text_of(one.part.start, one.part.end)
            told = " ".join(statements_of(one.text, source))
            if told:
                notes[one.part.document].append(Note(text=told, parts=(one.part,)))

    def _told(self, notes: list[Note], room: int) -> Iterator[str]:
        """Give the final text from the notes of one document.

        A small model that has learned to answer from passages does not write a summary of notes:
        its text is made of their statements, the first ones first, spread over the document.
        """
        if self._reader.judges:
            told = unrepeated(notes)
            sizes = self._sizes([statement for own in told for statement in own])
            kept = in_turn(told, room, sizes)
            for note in kept:
                self._trace(note.text, [note])
            yield " ".join(note.text for note in kept)
            return
        while len(groups := groups_of(notes, self._room(), self._sizes(notes))) > 1:
            if len(groups) == len(notes):  # each fills a prompt of its own
                break
            joined = []
            for group in groups:
                text = "".join(self._joined(group, note_question(), NOTE_TOKENS))
                joined.append(
                    Note(text=text.strip(), parts=tuple(p for note in group for p in note.parts))
                )
                yield ""
            notes = joined
        text = ""
        for piece in self._joined(notes, self._asked, self._generation.max_new_tokens):
            text += piece
            yield piece
        for start, end in sentences(text):
            self._trace(text[start:end].strip(), notes)

    def _joined(self, notes: Sequence[Note], asked: Asked, new_tokens: int) -> Iterator[str]:
        """Read notes as one text, and yield what the reader writes to `asked`."""
        text = "\n\n".join(note.text for note in notes)
        document = self._encoder.read(text, title="notes", source="")
        nodes = _whole_document(document)
        yield from self._written(asked, [document], nodes, new_tokens)

    def _written(
        self,
        asked: Asked,
        documents: Sequence[Document],
        nodes: Sequence[SelectedNode],
        new_tokens: int,
    ) -> Iterator[str]:
        """Have the reader answer from `nodes`, as a stream."""
        generation = self._generation.replace(max_new_tokens=new_tokens)
        conversation = self._reader.converse(asked, documents, generation)
        selection = _selection(nodes, documents, (), "")
        prompt = self._reader.prompt(
            make_plan(conversation, selection, self._encoder.tokenizer), new_tokens
        )
        row = Row()
        for index, piece in self._reader.run([prompt], generation, [row]):
            yield piece if index >= 0 else ""
        self._parts.count([prompt], [row])
        self._cut = row.finish_reason == "length"

    def _trace(self, statement: str, notes: Sequence[Note]) -> None:
        """Remember the sentences of the documents that a statement of the text came from."""
        if not statement:
            return
        best = max(notes, key=lambda note: shared(statement, note.text))
        parts = best.parts
        if len(parts) > 1:
            texts = {
                part: self._documents[part.document].text_of(part.start, part.end) for part in parts
            }
            parts = (max(parts, key=lambda part: shared(statement, texts[part])),)
        for part in parts:
            start, end = best_place(statement, self._documents[part.document], part)
            self._places.append((part.document, start, end, part.score, statement))

    def _sizes(self, notes: Sequence[Note]) -> dict[str, int]:
        tokenizer = self._encoder.tokenizer
        return {
            note.text: len(tokenizer(note.text, add_special_tokens=False)["input_ids"])
            for note in notes
        }

    def _room(self) -> int:
        return min(JOINED, self._reader.window // 2)

    # -- comparisons ---------------------------------------------------------------------------

    def _comparison(self) -> Iterator[str]:
        sides = sides_of(self._question)
        if sides is None or names_in(self._question):
            yield from self._documents_compared()
            return
        facts: list[Fact | None] = []
        for side in (sides.first, sides.second):
            facts.append(fact_of(side, sides.rest, self._documents, self._score, self._reach))
            yield ""
        for fact in facts:
            if fact is not None:
                self._places.append((fact.document, fact.start, fact.end, fact.score, fact.side))
        told = decided(self._question, sides, facts)
        if told is not None:
            yield told
        elif None in facts:
            missing = [
                side
                for side, fact in zip((sides.first, sides.second), facts, strict=True)
                if fact is None
            ]
            yield f"Nothing was found about {' and '.join(missing)}."
        else:
            nodes = self._nodes()
            yield from self._written(
                self._asked, self._documents, nodes, self._generation.max_new_tokens
            )

    def _documents_compared(self) -> Iterator[str]:
        """Compare versions of one text by sentence, other documents or sections by notes."""
        told = self._versions() if len(self._documents) == 2 else None
        if told is not None:
            yield told
        elif self._reader.judges or len(self._documents) < 2:
            yield from self._summary(f"{NOT_COMPARED}\n\n" if self._reader.judges else "")
        else:
            notes: list[list[Note]] = []
            yield from self._notes(notes)
            titled = [
                replace(note, text=f"{title}: {note.text}")
                for title, own in zip(self._titles, notes, strict=True)
                for note in own
            ]
            yield from self._told(titled, self._generation.max_new_tokens) if titled else [ABSENT]

    def _versions(self) -> str | None:
        """Tell what differs between two versions of one text; None if they are none."""
        texts = [document.text for document in self._documents]
        found = differences(*texts)
        if found is None:
            return None
        lines = []
        for one in found[:MOST]:
            for index, span in enumerate((one.first, one.second)):
                if span is not None:
                    text = " ".join(texts[index][slice(*span)].split())
                    self._places.append((index, *span, 0.0, text))
                    lines.append(f"{'- ' if index == 0 or one.first is None else '  '}"
                                 f"{self._titles[index]}: {text}")  # fmt: skip
        more = len(found) - MOST
        if more > 0:
            lines.append(f"... and {more:,} more differences")
            self._cut = True
        return "\n".join(lines) or "There is no difference."

    # -- parts and places ----------------------------------------------------------------------

    @property
    def _reach(self) -> int:
        return self._search.sentences

    def _limited(self, parts: list[Part], *, by_score: bool) -> list[Part]:
        kept = within(parts, self._search.max_chunks, by_score=by_score)
        self._left += len(parts) - len(kept)
        self.total += len(kept)
        bar = reporter(self._progress, len(kept), "reading", "parts")
        self._report = self._bars.enter_context(bar)
        return kept

    def _advance(self, parts: int) -> None:
        self.done += parts
        self._report(parts)
        if self.done == self.total:
            self._bars.close()

    def _nodes(self) -> list[SelectedNode]:
        """The places of the answer as selected nodes, in document order."""
        out = []
        for index, start, end, score, about in sorted(set(self._places)):
            document = self._documents[index]
            spans = document.tokens.spans
            first = int(np.searchsorted(spans[:, 1], start, side="right"))
            last = int(np.searchsorted(spans[:, 0], end, side="left"))
            out.append(
                SelectedNode(
                    document=index,
                    node=leaf_at(document, start),
                    start=first,
                    end=max(last, first + 1),
                    ratio=1.0,
                    as_text=True,
                    fine=True,
                    score=score,
                    sought=about,
                )
            )
        return out

    def _selection(self) -> Selection:
        scores = [np.zeros(len(d.forest), np.float32) for d in self._documents]
        return _selection(self._nodes(), self._documents, scores, self._question)


def _selection(
    nodes: Sequence[SelectedNode],
    documents: Sequence[Document],
    scores: Sequence[Scores],
    query: str,
) -> Selection:
    spent = sum(node.end - node.start for node in nodes)
    chunks = {(n.document, int(documents[n.document].forest.tree[n.node])) for n in nodes}
    selection = Selection(
        nodes=tuple(nodes),
        budget=spent,
        spent=spent,
        root_ratio=None,
        left_out=sum(len(d.forest.roots) for d in documents) - len(chunks),
    )
    if not scores:
        return selection
    return replace(selection, searched=group_by_document(documents, scores, nodes, query))


def _whole_document(document: Document) -> list[SelectedNode]:
    return [
        SelectedNode(
            document=0,
            node=int(node),
            start=int(document.forest.start[node]),
            end=int(document.forest.end[node]),
            ratio=1.0,
            as_text=True,
            fine=True,
            score=0.0,
        )
        for node in document.forest.leaves
    ]
