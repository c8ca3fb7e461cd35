"""Selected nodes -> passages: completed to whole sentences, joined, pasted and cited.

A leaf ends after a fixed number of tokens, wherever that falls. Half a name or number is read as
something else, and a citation that begins within a word looks broken; :func:`complete_sentences`
moves the edges of a leaf that is pasted as text. Neighbouring leaves are joined into
windows, each of which is one passage of the prompt and one citation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sharedllm.encoding.document import Document
from sharedllm.search.selection import SelectedNode
from sharedllm.text.document_text import DocumentText
from sharedllm.text.normalise import normalise
from sharedllm.text.pages import page_of
from sharedllm.text.tokens import Tokenizer, tokenize

BETWEEN = "\n...\n"  # between two windows of a document
DIGITS = 4  # of a citation's score
ABBREVIATIONS = ("Mr", "Mrs", "Ms", "Dr", "St", "Prof", "No", "Fig", "vs", "e.g", "i.e", "cf")
# The white space after an end, best kind first: of a sentence or paragraph, a line, a word.
ENDS = (
    re.compile(
        r"[.!?\u2026]"
        + "".join(rf"(?<!\b{re.escape(word)}\.)" for word in ABBREVIATIONS)
        + r"[.!?\u2026\"'\u201d\u2019)\]*_]*(\s+)|(\n[^\S\n]*\n\s*)"
    ),
    re.compile(r"(\n\s*)"),
    re.compile(r"(\s+)"),
)
WORD = re.compile(r"[^\W_]+")
STEM = 6  # characters
BEHIND = 8  # tokens before an edge that are searched for an end


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """A span of a document that was selected as evidence and given to the model.

    Attributes
    ----------
    source : str
        The document's source (a path), else its title.
    char_start, char_end : int
        Characters [char_start, char_end) of the document's text; `text` is exactly these.
    level : int
        Tree level of the nodes; 0 is a root.
    score : float
        The scorer's value for the best node.
    text : str
    document, title : str
        The document's id (in its memory) and title.
    page : int or None
        The page on which the sentence that matches the question best begins, from 1; None if the
        document has no pages (form feeds). Without a sentence that shares a word with the question
        it is the page on which the citation begins.
    end_page : int or None
        The page on which that sentence, or citation, ends, where it is a later one.
    """

    source: str
    char_start: int
    char_end: int
    level: int
    score: float
    text: str
    document: str = ""
    title: str = ""
    page: int | None = None
    end_page: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Neighbouring selected nodes: tokens [start, end) of a document."""

    start: int
    end: int
    level: int
    score: float
    as_text: bool


def complete_sentences(document: Document, node: int, reach: int) -> tuple[int, int]:
    """Return tokens [start, end) of `node` with the sentences that its edges cut.

    Either edge moves outwards by at most `reach` tokens: to the end of a sentence or paragraph, or
    else of a line, or else of a word.
    """
    start, end = int(document.forest.start[node]), int(document.forest.end[node])
    if not reach:
        return start, end
    return _before(document, start, reach), _after(document, end, reach)


def _before(document: Document, at: int, reach: int) -> int:
    """Return the best place to cut among tokens [at - reach, at]."""
    first = max(at - reach, 0)
    for spaces in _spaces(document, max(first - BEHIND, 0), at):
        places = [place for space in spaces for place in space if first <= place <= at]
        if places or not first:
            return max(places, default=0)
    return at


def _after(document: Document, at: int, reach: int) -> int:
    """Return the best place to cut among tokens [at, at + reach]."""
    last = min(at + reach, len(document))
    for spaces in _spaces(document, max(at - BEHIND, 0), last):
        places = [end for _, end in spaces if at <= end <= last]
        if places or last == len(document):
            return min(places, default=last)
    return at


def _spaces(document: Document, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
    """Yield a list for each of ENDS: tokens [start, end) of its white space around here.

    A token that begins with its white space counts as after both ends of it.
    """
    spans = document.tokens.spans
    beyond = min(end, len(spans) - 1)
    first, ends = int(spans[start, 0]), spans[start : beyond + 1, 1]
    text = document.text[first : int(spans[beyond, 1])]
    for kind in ENDS:
        found = [match.span(match.lastindex or 0) for match in kind.finditer(text)]
        places = first + np.asarray(found, dtype=np.int64).reshape(-1, 2)
        tokens = start + np.searchsorted(ends, places, side="right")
        yield [(int(a), int(b)) for a, b in tokens]


def join_windows(document: DocumentText, nodes: Sequence[SelectedNode]) -> Iterator[Window]:
    """Join the fine nodes among `nodes`, given in document order, into windows."""
    held: Window | None = None
    for node in nodes:
        if not node.fine:
            continue
        start, end, level = node.start, node.end, int(document.forest.level[node.node])
        if held is not None and held.end >= start:
            held = Window(
                start=held.start,
                end=max(held.end, end),
                level=max(held.level, level),
                score=max(held.score, node.score),
                as_text=node.as_text,
            )
            continue
        if held is not None:
            yield held
        held = Window(start=start, end=end, level=level, score=node.score, as_text=node.as_text)
    if held is not None:
        yield held


def heading_of(index: int, document: Document, of: int) -> str:
    """Return the heading of a window; empty for a single document."""
    return f"[{index + 1}] {document.title}\n" if of > 1 else ""


def paste(
    document: Document,
    found: Sequence[Window],
    heading: str,
    tokenizer: Tokenizer,
    *,
    order: Callable[[Window], float] = lambda window: window.score,
) -> list[int]:
    """Return the token ids of the windows that enter as text, with headings and separators.

    Windows are in rising `order`, so that the best is nearest to the question, where small models
    read it best (docs/experiments.md).
    """
    between = tokenizer(BETWEEN, add_special_tokens=False)["input_ids"]
    title = tokenize(heading, tokenizer).ids.tolist() if heading else []
    ids: list[int] = []
    for window in sorted(found, key=order):
        if window.as_text:
            ids += [*(between if ids else []), *title]
            ids += document.tokens.ids[window.start : window.end].tolist()
    return ids


def window_overhead(heading: str, tokenizer: Tokenizer) -> int:
    """Return the tokens that a window costs besides its own."""
    texts = [BETWEEN, heading] if heading else [BETWEEN]
    return sum(len(tokenize(text, tokenizer)) for text in texts)


def window_overheads(documents: Sequence[Document], tokenizer: Tokenizer) -> list[int]:
    """Return for each document the tokens that a window costs besides its own."""
    labels = [
        heading_of(index, document, len(documents)) for index, document in enumerate(documents)
    ]
    return [window_overhead(text, tokenizer) for text in labels]


def cite(document: Document, found: Sequence[Window], query: str) -> Iterator[Citation]:
    """Yield a citation for each window that was found for `query`."""
    for window in found:
        page, end_page = matching_pages(document, window.start, window.end, query)
        first, last = document.tokens.characters(window.start, window.end)
        yield Citation(
            source=document.source or document.title,
            char_start=document.offset + first,
            char_end=document.offset + last,
            level=window.level,
            score=round(window.score, DIGITS),
            text=document.text[first:last],
            document=document.id,
            title=document.title,
            page=page,
            end_page=end_page,
        )


def matching_pages(
    document: DocumentText, start: int, end: int, query: str
) -> tuple[int | None, int | None]:
    """Return `page` and `end_page` of a citation of the tokens [`start`, `end`)."""
    first, last = document.tokens.characters(start, end)
    text, at = document.text[first:last], document.offset + first

    def pages(begin: int, stop: int) -> tuple[int | None, int | None]:
        page = page_of(document.pages, at + begin, text[begin:stop])
        stop = begin + len(text[begin:stop].rstrip())
        end_page = page_of(document.pages, at + stop - 1, "x") if stop > begin else page
        return page, end_page if end_page != page else None

    whole = pages(0, len(text))
    return whole if whole[1] is None else pages(*matching_sentence(text, query))


def matching_sentence(text: str, query: str) -> tuple[int, int]:
    """Return characters [start, end) of the sentence of `text` that matches `query` best.

    Each word of the query counts the more, the fewer sentences hold it. Without any it is all.
    """
    ends = [match.end() for match in ENDS[0].finditer(text)]
    spans = list(pairwise(sorted({0, *ends, len(text)})))
    held = [_stems(text[start:end]) for start, end in spans]
    number = Counter(stem for stems in held for stem in stems)
    sought = _stems(query)
    scores = [sum(1 / number[stem] for stem in stems & sought) for stems in held]
    best = max(scores, default=0.0)
    return spans[scores.index(best)] if best else (0, len(text))


def _stems(text: str) -> set[str]:
    """The beginnings of the words of `text`: "appointed" counts as "appoints" does."""
    return {match.group().lower()[:STEM] for match in WORD.finditer(normalise(text).text)}
