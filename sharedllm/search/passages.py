"""Selected nodes -> what stands at a document's place in the prompt, and its citations.

At its place a document contributes its injected KV first, then its selected leaves as text,
neighbouring leaves joined into windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sharedllm.encoding.document import Document
from sharedllm.search.selection import SelectedNode
from sharedllm.text.document import DocumentText
from sharedllm.text.pages import page_of
from sharedllm.text.tokens import Tokenizer, tokenize

BETWEEN = "\n...\n"
DIGITS = 4  # of scores that are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """Selected evidence: a span of a document that the model was given verbatim.

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
        The page on which it begins, from 1; None where the text has no pages (form feeds).
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Neighbouring selected nodes: tokens [start, end) of a document."""

    start: int
    end: int
    level: int
    score: float
    as_text: bool


def windows(document: DocumentText, nodes: Sequence[SelectedNode]) -> Iterator[Window]:
    """Join the finely selected `nodes` of `document`, given in document order."""
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


def label(index: int, document: Document, of: int) -> str:
    """What stands in front of a window; nothing for a single document."""
    return f"[{index + 1}] {document.title}\n" if of > 1 else ""


def pasted(
    document: Document,
    found: Sequence[Window],
    heading: str,
    tokenizer: Tokenizer,
    *,
    order: Callable[[Window], float] = lambda window: window.score,
) -> list[int]:
    """Token ids of the windows that enter as text: the document's own, with separators.

    The best window stands last, nearest to the question: small models read it best there
    (docs/experiments.md).
    """
    between = tokenizer(BETWEEN, add_special_tokens=False)["input_ids"]
    title = tokenize(heading, tokenizer).ids.tolist() if heading else []
    ids: list[int] = []
    for window in sorted(found, key=order):
        if window.as_text:
            ids += [*(between if ids else []), *title]
            ids += document.tokens.ids[window.start : window.end].tolist()
    return ids


def overhead(heading: str, tokenizer: Tokenizer) -> int:
    """Tokens a window costs beside its own."""
    texts = [BETWEEN, heading] if heading else [BETWEEN]
    return sum(len(tokenize(text, tokenizer)) for text in texts)


def overheads(documents: Sequence[Document], tokenizer: Tokenizer) -> list[int]:
    """Tokens a window of each document costs beside its own."""
    labels = [label(index, document, len(documents)) for index, document in enumerate(documents)]
    return [overhead(text, tokenizer) for text in labels]


def cite(document: Document, found: Sequence[Window]) -> Iterator[Citation]:
    """A citation for each window."""
    for window in found:
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
            page=page_of(document.pages, document.offset + first, document.text[first:last]),
        )
