"""Selected nodes -> passages: completed to whole sentences, joined, pasted and cited.

A leaf ends after a fixed number of tokens, wherever that falls. Half a name or number is read as
something else, and a citation that begins within a word looks broken; :func:`complete_sentences`
moves the edges of a leaf that is pasted as text. Neighbouring leaves are joined into
windows, each of which is one passage of the prompt and one citation.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from sharedllm.encoding.document import Document
from sharedllm.search.selection import SelectedNode
from sharedllm.search.sentences import (
    Span,
    matches,
    matching_sentence,
    sentences,
    spaces_after,
    trimmed,
)
from sharedllm.text.document_text import DocumentText
from sharedllm.text.normalise import normalise
from sharedllm.text.outline import section_at
from sharedllm.text.pages import page_of
from sharedllm.text.tokens import Tokenizer, tokenize

BETWEEN = "\n...\n"  # between two windows of a document
DIGITS = 4  # of a citation's score
BEHIND = 8  # tokens before an edge that are searched for an end
RECORD = 1000  # characters on either side in which the record is looked for that an edge may cut
NEAR = 240  # characters of a citation: whole sentences are added until it has as many


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
    match_start, match_end : int or None
        Characters of that sentence.
    round : int
        The round of search that found it; 1 is the question's own.
    sought : str
        What a later round searched for.
    section : str
        The titles of the sections around that sentence, or the citation's beginning, the highest
        first, with " > " between them; "" where the document has no outline.
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
    match_start: int | None = None
    match_end: int | None = None
    round: int = 1
    sought: str = ""
    section: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Neighbouring selected nodes: tokens [start, end) of a document.

    Without `nodes` it is one place.
    """

    start: int
    end: int
    level: int
    score: float
    as_text: bool
    nodes: tuple[SelectedNode, ...] = ()


def complete_sentences(document: Document, node: int, reach: int) -> tuple[int, int]:
    """Return tokens [start, end) of `node` with the sentences that its edges cut.

    Either edge moves outwards by at most `reach` tokens: to the end of a sentence or paragraph, or
    else of a line, or else of a word.
    """
    start, end = int(document.forest.start[node]), int(document.forest.end[node])
    if not reach:
        return start, end
    return _before(document, start, reach), _after(document, end, reach)


def sentences_around_match(
    document: Document, tokens: tuple[int, int], query: str
) -> tuple[int, int]:
    """Return those of whole sentences around the one of `tokens` that matches `query` best.

    They have about :data:`NEAR` characters. Without a match it is all `tokens`.
    """
    start, end = tokens
    first, last = document.tokens.characters(start, end)
    text = document.text[first:last]
    spans = sentences(text)
    scores = matches(text, spans, query)
    best = max(range(len(spans)), key=scores.__getitem__)
    if not scores[best]:
        return start, end
    left, right = trimmed(text, *_around(spans, range(len(spans)), best))
    own = document.tokens.spans[start:end]
    before = int(np.searchsorted(own[:, 1], first + left, side="right"))
    return start + before, start + int(np.searchsorted(own[:, 0], first + right, side="left"))


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
    """Yield a list for each kind of end: tokens [start, end) of its white space around here.

    A token that begins with its white space counts as after both ends of it.
    """
    spans = document.tokens.spans
    beyond = min(end, len(spans) - 1)
    first, last = int(spans[start, 0]), int(spans[beyond, 1])
    left, right = _paragraphs(document.text, first, last)
    for found in spaces_after(document.text[left:right]):
        places = left + np.asarray(found, dtype=np.int64).reshape(-1, 2)
        places = places[(first <= places[:, 0]) & (places[:, 1] <= last)]
        tokens = start + np.searchsorted(spans[start : beyond + 1, 1], places, side="right")
        yield [(int(a), int(b)) for a, b in tokens]


def _paragraphs(text: str, start: int, end: int) -> tuple[int, int]:
    """Widen characters [start, end) to the paragraphs that they lie in, so far as these are near.

    A row or record is known as one by all of it, and by its neighbours.
    """
    left, right = max(0, start - RECORD), min(len(text), end + RECORD)
    before, after = text.rfind("\n\n", left, start), text.find("\n\n", end, right)
    return (before + 2 if before >= 0 else left), (after if after >= 0 else right)


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
                nodes=(*held.nodes, node),
            )
            continue
        if held is not None:
            yield held
        held = Window(
            start=start,
            end=end,
            level=level,
            score=node.score,
            as_text=node.as_text,
            nodes=(node,),
        )
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


def paste_text(document: Document, found: Sequence[Window], heading: str) -> str:
    """Return what :func:`paste` does as text, for models with a tokenizer of their own."""
    texts = []
    for window in sorted(found, key=lambda window: window.score):
        first, last = document.tokens.characters(window.start, window.end)
        texts.append(heading + normalise(document.text[first:last]).text.strip())
    return BETWEEN.join(texts)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A place in a document that was found for a question, as it is cited and shown.

    Attributes
    ----------
    start, end : int
        Characters [start, end) of the whole text.
    match_start, match_end : int or None
        Those of the sentence that matches the question best; None if none shares a word with it.
    level : int
        Tree level.
    score : float
    page, end_page, round, sought, section
        See :class:`Citation`.
    text : str
    """

    start: int
    end: int
    match_start: int | None
    match_end: int | None
    level: int
    score: float
    page: int | None
    end_page: int | None
    text: str
    round: int = 1
    sought: str = ""
    section: str = ""


def cite(document: DocumentText, found: Sequence[Window], query: str) -> Iterator[Citation]:
    """Yield the citations of each window that was found for `query`."""
    for window in found:
        for passage in cited_passages(document, window, query):
            yield Citation(
                source=document.source or document.title,
                char_start=passage.start,
                char_end=passage.end,
                level=passage.level,
                score=passage.score,
                text=passage.text,
                document=document.id,
                title=document.title,
                page=passage.page,
                end_page=passage.end_page,
                match_start=passage.match_start,
                match_end=passage.match_end,
                round=passage.round,
                sought=passage.sought,
                section=passage.section,
            )


def whole_passage(document: DocumentText, node: SelectedNode, query: str, *, level: int) -> Passage:
    """Make a passage of all tokens of `node`, which was selected for `query`."""
    first, last = document.tokens.characters(node.start, node.end)
    text = document.text[first:last]
    match = matching_sentence(text, f"{query} {node.sought}")
    passage = _passage(document, first, trimmed(text, 0, len(text)), match, level, node.score)
    return replace(passage, round=node.round, sought=node.sought)


def cited_passages(document: DocumentText, window: Window, query: str) -> Iterator[Passage]:
    """Yield a short passage for each node of `window`: whole sentences around the matching one.

    Each sentence belongs to the node that most of it stands in, so that passages do not overlap.
    """
    first, last = document.tokens.characters(window.start, window.end)
    text = document.text[first:last]
    spans = sentences(text)
    nodes = window.nodes
    starts = [document.tokens.characters(s, s + 1)[0] - first for s in map(_own(document), nodes)]
    owners = [bisect.bisect_right(starts, (a + b) // 2, lo=1) - 1 for a, b in spans]
    for owner, group in groupby(range(len(spans)), key=lambda at: max(owners[at], 0)):
        own = list(group)
        node = nodes[owner] if nodes else None
        scores = matches(text, spans, f"{query} {node.sought}" if node else query)
        best = max(own, key=lambda at: scores[at])
        level, score = window.level, window.score
        if node:
            level, score = int(document.forest.level[node.node]), node.score
        place, match = (spans[own[0]][0], spans[own[-1]][1]), None
        if scores[best]:
            place, match = _around(spans, own, best), trimmed(text, *spans[best])
        passage = _passage(document, first, trimmed(text, *place), match, level, score)
        yield replace(passage, round=node.round, sought=node.sought) if node else passage


def _own(document: DocumentText) -> Callable[[SelectedNode], int]:
    return lambda node: int(document.forest.start[node.node])


def _around(spans: Sequence[Span], own: Sequence[int], best: int) -> Span:
    """Add sentences after and before the best of `own`, in turn, until there are enough."""
    first = last = best
    while spans[last][1] - spans[first][0] < NEAR and (first > own[0] or last < own[-1]):
        if last < own[-1] and (last - best <= best - first or first == own[0]):
            last += 1
        else:
            first -= 1
    return spans[first][0], spans[last][1]


def _passage(
    document: DocumentText,
    first: int,
    place: Span,
    match: Span | None,
    level: int,
    score: float,
) -> Passage:
    """Make a passage of `place`, in characters after the character `first` of the document."""
    start, end = place
    text = document.text[first + start : first + end]
    at = document.offset + first
    pages = _pages(document, at + start, text)
    if match is not None and pages[1] is not None:
        pages = _pages(document, at + match[0], document.text[first + match[0] : first + match[1]])
    return Passage(
        start=at + start,
        end=at + end,
        match_start=None if match is None else at + match[0],
        match_end=None if match is None else at + match[1],
        level=level,
        score=round(score, DIGITS),
        page=pages[0],
        end_page=pages[1],
        text=text,
        section=section_at(document.outline, at + (start if match is None else match[0])),
    )


def _pages(document: DocumentText, start: int, text: str) -> tuple[int | None, int | None]:
    """Return the page on which `text`, from the character `start` on, begins, and a later last."""
    page = page_of(document.pages, start, text)
    if not text.strip():
        return page, None
    end_page = page_of(document.pages, start + len(text.rstrip()) - 1, "x")
    return page, end_page if end_page != page else None
