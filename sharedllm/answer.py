"""Answers, whole or as a stream: text, citations, usage and timings."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sharedllm.arguments import checked
from sharedllm.config import GenerationConfig
from sharedllm.display import console, html, page, views
from sharedllm.display.picture import Answered, Pictures
from sharedllm.displayed import Displayed, View, view
from sharedllm.generation.assemble import Prepared
from sharedllm.generation.decoding import UNSURE
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import is_refusal
from sharedllm.readers.reader import Reader
from sharedllm.search.citations import Citation
from sharedllm.search.selection import Selection
from sharedllm.search.verbatim import Statement, statements

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # of the extra "plot"


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens and KV entries that went into an answer.

    Attributes
    ----------
    context_tokens : int
        Tokens of the documents that were searched.
    injected_tokens : int
        KV entries injected into each injection layer.
    evidence_tokens : int
        Tokens pasted as evidence, including separators and headings, as the tokenizer counts that
        the documents were read with.
    prompt_tokens : int
        Tokens of the prompt, including the evidence; of a reader elsewhere as its endpoint reports
        them.
    new_tokens : int
        Tokens generated, thoughts included.
    coarse_ratio : float or None
        Tokens per KV entry of the unexpanded chunks; None without a coarse level.
    left_out_chunks : int
        Chunks from which nothing was selected.
    budget : int or None
        The token budget that was taken; None without documents.
    looks : int
        Selections that were read: 2 if a second, larger look was made (``budget="auto"``), whose
        figures these are; 0 without documents.
    search_rounds : int
        The last round of search that found something that was selected; 0 without documents.
    scope : str
        What was read: "passages", or all, for a "summary", "list", "count", "comparison" or
        "timeline".
    scope_reason : str
        Why that was taken.
    parts_read, parts_kept, parts_left : int
        Of a reading of the whole: parts that were read now, parts whose answers were kept from
        before, and parts that a limit left unread. Parts that lie far from the question, by their
        search scores, do not count.
    """

    context_tokens: int
    injected_tokens: int
    evidence_tokens: int
    prompt_tokens: int
    new_tokens: int
    coarse_ratio: float | None
    left_out_chunks: int
    budget: int | None
    looks: int
    search_rounds: int
    scope: str = "passages"
    scope_reason: str = ""
    parts_read: int = 0
    parts_kept: int = 0
    parts_left: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds for loading the model, reading the documents, and the stages of this answer.

    `prefill_s` includes encoding the nodes that were not encoded before, and a second look.
    """

    load_s: float
    remember_s: float
    search_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Displayed):
    """An answer with its evidence; a notebook and rich's console show both.

    Attributes
    ----------
    text : str
    citations : tuple of Citation
        In falling order of score. Empty without documents.
    usage : Usage
    timings : Timings
    finish_reason : str
        "stop" (the model ended its turn, or a stop text came) or "length" (max_new_tokens, or a
        limit left parts of the documents unread).
    selection : Selection or None
        The nodes that were selected, with their documents; None without documents.
    question : str
        The question in the last user message.
    reasoning : str
        What the model thought before it answered; empty if it did not, or does not say.
    away : tuple of str
        Parts of memories that could not be searched, each with the reason: what they hold is
        missing in the answer.
    """

    text: str
    citations: tuple[Citation, ...] = field(repr=False)
    usage: Usage = field(repr=False)
    timings: Timings = field(repr=False)
    finish_reason: str
    selection: Selection | None = field(default=None, repr=False)
    question: str = field(default="", repr=False)
    reasoning: str = field(default="", repr=False)
    away: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """True if it says that the documents do not hold the answer."""
        return is_refusal(self.text)

    @property
    def partial(self) -> bool:
        """True if a limit (``max_chunks``, ``max_seconds``) left parts unread that it asks for."""
        return self.usage.parts_left > 0

    def __str__(self) -> str:
        return self.text

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The names, numbers and codes of the text, with where each stands in what was read.

        What the question says itself is left out. Compared are words, in any spelling: whether the
        passage says of them what the answer does is not.
        """
        if self.selection is None:
            return ()
        found = statements(self.text, self.question, self.selection.searched, self.citations)
        counted = len(self.text.partition("\n")[0]) if self.usage.scope == "count" else 0
        return tuple(one for one in found if one.start >= counted)  # no passage holds a count

    @property
    def unsupported(self) -> tuple[str, ...]:
        """The names, numbers and codes of the text that stand in no passage that was read."""
        return tuple(one.text for one in self.statements if not one.places)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``sharedllm ask --json`` prints them."""
        return {
            "answer": self.text,
            "refused": self.refused,
            "partial": self.partial,
            "reasoning": self.reasoning,
            "citations": [asdict(citation) for citation in self.citations],
            "statements": [asdict(statement) for statement in self.statements],
            "unsupported": list(self.unsupported),
            "away": list(self.away),
            "usage": asdict(self.usage),
            "timings": asdict(self.timings),
        }

    @checked()
    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return one HTML page with the answer and its evidence, as ``ask --html`` writes it.

        The page is self-contained: it loads no script, font or image.

        Parameters
        ----------
        path : file to write, or None; links to documents that are files start at its folder

        Raises
        ------
        ConfigError
            If the file cannot be written, or is one of the documents' own.
        """
        shown = self.answered()
        if path is None:
            return page.page([shown])
        page.check(path, [one.source for one in shown.pictures if page.local(one.source)], "path")
        return page.write(path, [shown], "path")

    def plot(self) -> Figure:
        """Draw the places of the citations in their documents, and their scores.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed (extra "plot").
        """
        from sharedllm.display import plot

        return plot.answer(self.pictures, self.text)

    @property
    def pictures(self) -> Pictures:
        """The evidence in its documents as plain values to draw, made anew at each call."""
        return views.pictures(self.selection.searched) if self.selection else ()

    @checked()
    def summary(self, option: str = "max_new_tokens") -> str:
        """Return two lines: tokens used, and seconds taken.

        Parameters
        ----------
        option : name of the option to raise where the answer was cut off
        """
        used, took = self.usage, self.timings
        rounds = f" in {used.search_rounds} rounds" if used.search_rounds > 1 else ""
        again = " in a second look" if used.looks > 1 else ""
        cut = f", cut there: raise {option}" if self.finish_reason == "length" else ""
        if self.partial:
            cut = f", partial: {used.parts_left:,} parts unread: raise max_chunks or max_seconds"
        if used.scope != "passages":
            rounds = f" for a {used.scope} in {used.parts_read + used.parts_kept:,} parts"
            rounds += f", {used.parts_kept:,} of them kept from before" if used.parts_kept else ""
        answering = f"prefill {took.prefill_s:.1f} s, decode {took.decode_s:.1f} s"
        if used.scope != "passages":
            answering = f"parts and answer {took.prefill_s:.1f} s"
        return (
            f"{used.context_tokens:,} tokens searched{rounds}, "
            f"{used.evidence_tokens:,} given as text{again}, {used.injected_tokens:,} injected; "
            f"prompt {used.prompt_tokens:,}, answer {used.new_tokens:,}{cut}\n"
            f"load {took.load_s:.1f} s, read {took.remember_s:.1f} s, "
            f"search {took.search_s:.1f} s, {answering}"
        )

    def answered(self, question: str = "", option: str = "max_new_tokens") -> Answered:
        """Return plain values to be shown; `question` and `option` as they are called there."""
        return Answered(
            question=question or self.question or "Answer",
            text=self.text,
            pictures=self.pictures,
            summary=self.summary(option),
            unsupported=tuple((s.start, s.end) for s in self.statements if not s.places),
            away=self.away,
        )


@view.register
def _(answer: Answer) -> View:
    shown = answer.answered()
    return View(partial(html.answer, shown), partial(console.answer, shown))


class AnswerStream(Iterator[str]):
    """Iterator over parts of an answer's text; :attr:`answer` is the whole.

    Iterating runs the model; parts are empty while it thinks. Dropping the iterator stops it.
    """

    def __init__(
        self, reader: Reader, prepared: Prepared, generation: GenerationConfig, load_s: float
    ) -> None:
        self._look, self._load_s = _Look(prepared), load_s
        self._watch = _Stopwatch()
        self._parts = _read(self._look, reader, generation)

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The selected evidence; before the first part, that of the first look."""
        return self._look.prepared.citations

    def __next__(self) -> str:
        for row, part in self._parts:
            if row < 0:
                self._watch.split()
                continue
            return part
        self._watch.stop()
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The whole answer; generates the parts that have not been read yet."""
        for _ in self:
            pass
        return _answer(self._look.prepared, self._look.row, self._watch, self._load_s)


class _Look:
    """A look, and the answer that grows from it; the second one takes the first one's place."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.row = prepared, Row(tentative=prepared.again is not None)


def _read(look: _Look, reader: Reader, generation: GenerationConfig) -> Iterator[tuple[int, str]]:
    """Yield what the reader does; a look after which the model would abstain gives no text.

    It knows nothing of the stream: dropping that ends it at once, and gives back the model lock.
    """
    yield from reader.run([look.prepared.prompt], generation, [look.row])
    if look.row.finish_reason == UNSURE and look.prepared.again:
        look.prepared, look.row = look.prepared.again(), Row()
        yield from reader.run([look.prepared.prompt], generation, [look.row])


def answer_all(
    reader: Reader, prepared: Sequence[Prepared], generation: GenerationConfig, load_s: float
) -> list[Answer]:
    """Run prepared questions in batches: those with documents, those without, and second looks.

    An adapter plays the upper role only where there are documents, so the two cannot share a pass.
    """
    out: dict[int, Answer] = {}
    reading = [i for i, p in enumerate(prepared) if p.prompt.reads]
    plain = [i for i, p in enumerate(prepared) if not p.prompt.reads]
    looks = list(prepared)
    for group in filter(None, (reading, plain)):
        watch = _Stopwatch()
        while group:
            rows = [Row(tentative=looks[i].again is not None) for i in group]
            for index, _ in reader.run([looks[i].prompt for i in group], generation, rows):
                if index < 0:
                    watch.split()
            watch.split()
            ended = dict(zip(group, rows, strict=True))
            out |= {i: _answer(looks[i], row, watch, load_s) for i, row in ended.items()}
            group = [i for i, row in ended.items() if row.finish_reason == UNSURE]
            for i in group:
                looks[i] = _next_look(looks[i])
    return [out[i] for i in range(len(prepared))]


def _next_look(prepared: Prepared) -> Prepared:
    return prepared.again() if prepared.again else prepared


class _Stopwatch:
    """Seconds between splits."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._stopped = False
        self.splits: list[float] = []

    def split(self) -> None:
        now = time.perf_counter()
        self.splits.append(now - self._last)
        self._last = now

    def stop(self) -> None:
        """Make the last split; further calls change nothing."""
        if not self._stopped:
            self.split()
        self._stopped = True


def _answer(prepared: Prepared, row: Row, watch: _Stopwatch, load_s: float) -> Answer:
    *prefills, decode_s = watch.splits
    selection = prepared.selection
    read, written = row.counted or (prepared.prompt.text_tokens, len(row.ids))
    return Answer(
        text=row.text.strip(),
        citations=prepared.citations,
        usage=Usage(
            context_tokens=prepared.context_tokens,
            injected_tokens=prepared.prompt.injected_tokens,
            evidence_tokens=prepared.evidence_tokens,
            prompt_tokens=read,
            new_tokens=written,
            coarse_ratio=selection.root_ratio if selection else None,
            left_out_chunks=selection.left_out if selection else 0,
            budget=selection.budget if selection else None,
            looks=prepared.looks if selection else 0,
            search_rounds=selection.rounds if selection else 0,
            scope_reason=prepared.scope_reason,
        ),
        timings=Timings(
            load_s=load_s,
            remember_s=prepared.remember_s,
            search_s=prepared.search_s,
            prefill_s=prepared.encode_s + sum(prefills),
            decode_s=decode_s,
        ),
        finish_reason=row.finish_reason or "length",
        selection=selection,
        question=prepared.question,
        reasoning=row.reasoning,
        away=prepared.away,
    )
