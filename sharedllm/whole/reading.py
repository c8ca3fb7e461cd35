"""Parts of documents -> what the reader says to each, in batches; kept, limited, cancellable."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sharedllm.config import GenerationConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.generation.assemble import AnyPrompt, Plan
from sharedllm.generation.decoding import UNSURE
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import Asked, Conversation, is_refusal
from sharedllm.readers.reader import Reader
from sharedllm.search.citations import Window, paste
from sharedllm.whole.notes import NOTE_TOKENS, note_question
from sharedllm.whole.parts import Part, noted_parts

MOST_RANKED = 32  # of parts that are read best first: a reading ends between batches
AT_ONCE = {"cpu": 8, "cuda": 64}  # parts of a batch
# the first byte of what an answer is kept under: notes serve every later question, and what was
# said to one question does not take their place
NOTE_KEY, ANSWER_KEY = b"n", b"a"


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """The reader's answer to one part; empty where it abstains."""

    part: Part
    text: str


class PartReader:
    """Asks the reader about parts one by one, and counts what that takes.

    Parameters
    ----------
    deadline : by ``time.perf_counter``, after which no further batch begins; None is never
    done : called with the number of parts of each batch
    keeps : what is said is asked for to be kept: it is an error where that cannot be

    Attributes
    ----------
    read, kept, left : int
        Parts that were read, whose answer was kept from before, and that were not read.
    prompt_tokens, new_tokens : int
    """

    def __init__(
        self,
        reader: Reader,
        encoder: DocumentEncoder,
        documents: Sequence[Document],
        generation: GenerationConfig,
        *,
        deadline: float | None = None,
        done: Callable[[int], None] = lambda parts: None,
        keeps: bool = False,
    ) -> None:
        self._reader, self._encoder, self._documents = reader, encoder, documents
        self._generation = generation.replace(
            temperature=0.0, stop=(), grammar="", seed=None, thinking=False
        )
        self._deadline, self._done, self._keeps = deadline, done, keeps
        self._at_once = AT_ONCE.get(encoder.lower.device.type, AT_ONCE["cpu"])
        self._identity = repr(reader.identity)
        self.read = self.kept = self.left = self.prompt_tokens = self.new_tokens = 0

    @property
    def late(self) -> bool:
        """True once the deadline has passed."""
        return self._deadline is not None and time.perf_counter() > self._deadline

    def ask(
        self,
        parts: Sequence[Part],
        asked: Asked,
        *,
        new_tokens: int,
        abstains: bool = False,
        kind: bytes = ANSWER_KEY,
    ) -> Iterator[list[Said]]:
        """Ask about each part, those with an answer from before first; yield batch by batch.

        Parameters
        ----------
        abstains : a part after which the model would abstain ends before its first token
        kind : the first byte of the answers' keys
        """
        known, new = [], []
        keys = {part: self._key(part, asked, new_tokens, kind) for part in parts}
        for part in parts:
            text = self._documents[part.document].nodes.note(keys[part], self._first(part))
            if text is None:
                new.append(part)
            else:
                known.append(Said(part=part, text=text))
        if known:
            self.kept += len(known)
            self._done(len(known))
            yield known
        generation = self._generation.replace(max_new_tokens=new_tokens)
        held: dict[int, Conversation] = {}
        at_once = min(self._at_once, MOST_RANKED) if abstains else self._at_once
        for at in range(0, len(new), at_once):
            batch = new[at : at + at_once]
            if self.late:
                self.left += len(new) - at
                return
            for index in {part.document for part in batch} - held.keys():
                own = [self._documents[index]]
                held[index] = self._reader.converse(asked, own, generation)
            prompts = [self._prompt(part, held[part.document], new_tokens) for part in batch]
            texts = self.run(prompts, generation, tentative=abstains and self._reader.judges)
            said = [Said(part=p, text=t) for p, t in zip(batch, texts, strict=True)]
            for index in {part.document for part in batch}:
                told = {
                    (keys[s.part], self._first(s.part)): s.text
                    for s in said
                    if s.part.document == index
                }
                self._documents[index].nodes.keep_notes(told, required=self._keeps)
            self.read += len(batch)
            self._done(len(batch))
            yield said

    def to_note(self, reach: int) -> list[Part]:
        """Return the parts of all documents of which notes are taken."""
        level = self.level(note_question(), None, NOTE_TOKENS, reach)
        return noted_parts(self._documents, level, reach, finer=self._reader.judges)

    def note(self, parts: Sequence[Part]) -> Iterator[list[Said]]:
        """Take a note of each part, as :meth:`ask` does; each is kept for every later question."""
        return self.ask(parts, note_question(), new_tokens=NOTE_TOKENS, kind=NOTE_KEY)

    def level(self, asked: Asked, most: int | None, new_tokens: int, reach: int) -> int:
        """Return the level of the largest nodes of at most `most` tokens that fit the window.

        Parameters
        ----------
        reach : tokens by which a part may grow on each side
        """
        tree = self._encoder.tree
        limit = min(self._room(asked, new_tokens) - 2 * reach, most or tree.chunk)
        for level in range(tree.height + 1):
            if -(-tree.chunk >> level) <= limit:
                return level
        return tree.height

    def _room(self, asked: Asked, new_tokens: int) -> int:
        """Return the tokens of a part that the reader's window has room for."""
        document = self._documents[0]
        generation = self._generation.replace(max_new_tokens=new_tokens)
        conversation = self._reader.converse(asked, [document], generation)
        return self._reader.room(conversation, new_tokens)

    def run(
        self, prompts: Sequence[AnyPrompt], generation: GenerationConfig, *, tentative: bool
    ) -> list[str]:
        """Run prompts as one batch; return their answers, empty where the model abstains."""
        rows = [Row(tentative=tentative) for _ in prompts]
        for _ in self._reader.run(prompts, generation, rows):
            pass
        self.count(prompts, rows)
        return [
            "" if row.finish_reason == UNSURE or is_refusal(row.text) else row.text.strip()
            for row in rows
        ]

    def count(self, prompts: Sequence[AnyPrompt], rows: Sequence[Row]) -> None:
        """Add the tokens of `prompts` and their `rows`."""
        for prompt, row in zip(prompts, rows, strict=True):
            read, written = row.counted or (prompt.text_tokens, len(row.ids))
            self.prompt_tokens += read
            self.new_tokens += written

    def _prompt(self, part: Part, conversation: Conversation, new_tokens: int) -> AnyPrompt:
        document = self._documents[part.document]
        window = Window(start=part.start, end=part.end, level=0, score=0.0, as_text=True)
        pasted = paste(document, [window], "", self._encoder.tokenizer)
        plan = Plan(
            conversation=conversation,
            windows=((window,),),
            pasted=(tuple(pasted),),
            injected=((),),
        )
        return self._reader.prompt(plan, new_tokens)

    def _first(self, part: Part) -> int:
        """Return the first token of the part's own chunk."""
        return int(self._documents[part.document].forest.start[part.node])

    def _key(self, part: Part, asked: Asked, new_tokens: int, kind: bytes) -> bytes:
        """Name the answer by all that it depends on: reader, question, and the part's own text."""
        document = self._documents[part.document]
        said = [piece for _, pieces in asked.turns for piece in pieces if isinstance(piece, str)]
        own = self._generation
        how = (new_tokens, own.repetition_penalty, own.list_penalty, own.refusal_margin)
        given = (self._identity, how, said, document.text_of(part.start, part.end))
        return kind + hashlib.sha256(repr(given).encode("utf-8", "surrogatepass")).digest()
