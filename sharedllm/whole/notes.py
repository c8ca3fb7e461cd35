"""Chunks -> notes -> a summary: each chunk is read once, and notes are joined level by level.

A chunk's note depends on the chunk alone, so that it is kept and serves every later question. Notes
that do not fit one prompt are joined in groups, those of a document's beginning first, until they
do; the last level answers the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharedllm.encoding.document import Document
from sharedllm.generation.prompt import Asked
from sharedllm.search.sentences import Span, content_words, sentences, stem, trimmed
from sharedllm.text.normalise import normalise
from sharedllm.text.words import is_exact, parts, words
from sharedllm.whole.parts import Part

NOTE = "Summarize what happens or is said in this part of the text."  # asked of each chunk
NOTE_TOKENS = 96
SUPPORTED = 0.6  # share of the words of a statement that stand in what it was made of
NAMES = 0.99  # share of its names and numbers
ENDS = tuple(".!\u3002\uff01\u06d4\u0964")  # of a statement, also of Chinese, Urdu and Hindi


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A statement about a stretch of a document.

    Attributes
    ----------
    text : str
    parts : tuple of Part
        What it was made of, in document order.
    """

    text: str
    parts: tuple[Part, ...]

    @property
    def statements(self) -> list[Note]:
        """Its sentences, each as a note."""
        told = (self.text[slice(*trimmed(self.text, *span))] for span in sentences(self.text))
        return [Note(text=one, parts=self.parts) for one in told if one.strip()]


def note_question() -> Asked:
    """Return the question that each chunk is asked."""
    return Asked(turns=(("user", (NOTE,)),), query=NOTE, plain=True)


def statements_of(text: str, source: str) -> Iterator[str]:
    """Yield the sentences of `text` that `source` bears: most of its words, and all its names.

    A sentence is given once; none that was cut off, asks, or is a piece of somebody's speech.
    """
    held = _stems(source)
    known = {part for word in words(source) for part in parts(word.text)}
    seen: set[str] = set()
    for start, end in sentences(text):
        said = text[slice(*trimmed(text, start, end))]
        own = _stems(said)
        names = {
            part
            for index, word in enumerate(words(said))
            if is_exact(word.text) or (index and word.text[0].isupper())
            for part in parts(word.text)
        }
        if not own or said in seen or not _states(said):
            continue
        seen.add(said)
        if len(own & held) >= SUPPORTED * len(own) and len(names & known) >= NAMES * len(names):
            yield said


def _states(said: str) -> bool:
    """Tell a sentence that ends, asks nothing, and begins and ends what it quotes."""
    bare = said.rstrip("\"'\u201d\u2019)")
    quotes = said.count("\u201c") == said.count("\u201d") and said.count('"') % 2 == 0
    return quotes and bare[-1:] in ENDS


def unrepeated(notes: Sequence[Note]) -> list[list[Note]]:
    """Return the statements of each note that none before it made: neighbours share a sentence."""
    seen: set[str] = set()
    out = []
    for note in notes:
        own = [one for one in note.statements if one.text not in seen]
        seen |= {one.text for one in own}
        out.append(own)
    return out


def groups_of(notes: Sequence[Note], room: int, size: dict[str, int]) -> list[list[Note]]:
    """Divide notes, in order, into groups whose texts take at most `room` tokens."""
    groups: list[list[Note]] = []
    taken = 0
    for note in notes:
        own = size[note.text] + 1
        if not groups or taken + own > room:
            groups.append([])
            taken = 0
        groups[-1].append(note)
        taken += own
    return groups


def in_turn(notes: Sequence[Sequence[Note]], room: int, size: dict[str, int]) -> list[Note]:
    """Keep statements of all notes in turn, the first ones first, that take at most `room` tokens.

    Where not even the first ones of all fit, those that do are spread evenly. They stay in order.
    """
    longest = max(map(len, notes), default=0)
    kept: list[tuple[int, int]] = []
    for turn in range(longest):
        new = [(at, turn) for at, own in enumerate(notes) if turn < len(own)]
        for count in range(min(len(new), room), 0, -1):  # each takes a token at least
            chosen = [new[at * len(new) // count] for at in range(count)]
            if sum(size[notes[at][n].text] + 1 for at, n in [*kept, *chosen]) <= room:
                kept += chosen
                break
    if not kept and longest:
        kept = [(next(at for at, own in enumerate(notes) if own), 0)]
    return [notes[at][turn] for at, turn in sorted(kept)]


def best_place(statement: str, document: Document, part: Part) -> Span:
    """Return the characters of the sentence of `part` that shares most words with `statement`."""
    first, last = document.tokens.characters(part.start, part.end)
    text = document.text[first:last]
    wanted = _stems(statement)
    spans = sentences(text)
    best = max(spans, key=lambda span: len(_stems(text[slice(*span)]) & wanted))
    start, end = trimmed(text, *best)
    return first + start, first + end


def shared(statement: str, note: str) -> float:
    """Return the share of a statement's words that a note holds."""
    own = _stems(statement)
    return len(own & _stems(note)) / max(1, len(own))


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in content_words(normalise(text).text.lower()))
