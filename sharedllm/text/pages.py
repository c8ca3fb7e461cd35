"""Pages of a text: a form feed stands where one ends and the next begins, as in pdftotext.

:func:`join_pages` makes one such text of the pages of a PDF. It keeps what stands on a page but for
two things that a printer added: the title or number at the edge of page after page (a title's first
occurrence stays), and hyphens at line ends.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

BREAK = "\f"
MOST = 100_000  # pages; a text with more form feeds uses them for something else
_IN_A_SENTENCE = re.compile(r"\n\f(?=[a-z\u00df-\u00f6\u00f8-\u00ff])")  # a small letter follows

EDGE = 3  # lines at either end of a page that may be running ones
NEAR = 2  # pages between two occurrences: left and right pages may have different ones
LONGEST = 200  # characters of a line that may be a running one
FEWEST = 3  # pages in a row, or nearly, that a running line stands on
LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", BREAK: "\n"}
)
NUMBER = re.compile(r"\d+")
WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
HYPHENATED = re.compile(
    rf" ?(?<![^\W\d_])([^\W\d_]+)(?:-|\u00ad)(\n?{BREAK}?)(?<=[\n{BREAK}])([^\W\d_]+)"
)

Key = tuple[str, int | None]


def page_starts(text: str) -> tuple[int, ...]:
    """The characters at which pages start; none where nothing says where they end."""
    if not 0 < text.count(BREAK) < MOST:
        return ()
    starts, at = [0], text.find(BREAK)
    while at >= 0:
        starts.append(at + 1)
        at = text.find(BREAK, at + 1)
    return tuple(starts)


def as_read(text: str) -> str:
    """What a model reads for `text`, exactly as long: the end of a page as a blank line.

    In the middle of a sentence it is the end of a line.
    """
    return _IN_A_SENTENCE.sub(" \n", text).replace(BREAK, "\n") if BREAK in text else text


def page_of(starts: Sequence[int], start: int, text: str) -> int | None:
    """The page, from 1, on which `text` begins, or None where there are no pages.

    Parameters
    ----------
    starts : what :func:`page_starts` gave for the document
    start : where in it `text` stands; white space that ends the page before does not count
    """
    if not starts:
        return None
    return bisect.bisect_right(starts, start + len(text) - len(text.lstrip()))


def join_pages(pages: Sequence[str]) -> str:
    """One text of the texts of all `pages` of a document, for :meth:`SharedLLM.remember`.

    A form feed stands where a page ends, so that citations know their page; an empty page keeps its
    number. Lines that stand at the edge of page after page (titles, page numbers) are left out but
    for the first, and words that were broken at a line's end are whole. :func:`read_file` does this
    for PDF files; it is for pages that something else has read, such as text recognition.
    """
    lines = [_clean(page).split("\n") for page in pages]
    kept = ["\n".join(page).strip() for page in without_running(lines)]
    out = kept[:1]
    for before, page in pairwise(kept):
        out += [f"\n{BREAK}" if before else BREAK, page]
    return whole_words("".join(out))


def without_running(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    """The lines of each page without those that run: the same, or counting pages, page by page.

    Only lines at a page's edge are taken, from the outside in, and the first of each kind stays; a
    page on which nothing else stands is left as it is.
    """
    out = [list(page) for page in pages]
    for end in (0, -1):
        seen: dict[Key, list[int]] = {}
        for number, page in enumerate(out):
            for line in page[:EDGE] if end == 0 else page[-EDGE:]:
                for key in _keys(line, number):
                    seen.setdefault(key, []).append(number)
        running = {key: _runs(numbers) - _kept(key, numbers) for key, numbers in seen.items()}
        for number, page in enumerate(out):
            for _ in range(EDGE):
                if not page or all(number not in running[k] for k in _keys(page[end], number)):
                    break
                page.pop(end)
    return [left or list(page) for left, page in zip(out, pages, strict=True)]


def whole_words(text: str) -> str:
    """`text` with words that were broken at a line's or page's end whole, on the next line.

    A hyphen stays where the text has the word with it within a line more often than without
    ("well-known"); if it has neither, before a capital ("Anglo-Saxon").
    """
    if not HYPHENATED.search(text):
        return text.replace("\u00ad", "")
    known = Counter(match.group().lower() for match in WORD.finditer(text))

    def whole(match: re.Match[str]) -> str:
        first, between, last = match.groups()
        parted, plain = known[f"{first}-{last}".lower()], known[f"{first}{last}".lower()]
        hyphen = parted > plain or not (plain or last[0].islower())
        return f"{between}{first}{'-' * hyphen}{last}"

    return HYPHENATED.sub(whole, text).replace("\u00ad", "")


def _clean(page: str) -> str:
    """Text of one page as it can be kept: ligatures as letters, no halves of surrogate pairs."""
    text = page.replace("\r\n", "\n").replace("\r", "\n").translate(LIGATURES).strip()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _keys(line: str, page: int) -> Iterator[Key]:
    """What makes a line the same as one of another page: its words, or these and a page number."""
    words = " ".join(line.split())
    if not words or len(words) > LONGEST:
        return
    if NUMBER.sub("", words).strip():
        yield words, None
    for match in NUMBER.finditer(words):
        if len(match.group()) <= 6:
            rest = f"{words[: match.start()]}#{words[match.end() :]}"
            yield rest, int(match.group()) - page


def _runs(pages: Sequence[int]) -> set[int]:
    """The pages of all runs that are long enough."""
    out: set[int] = set()
    run: list[int] = []
    for page in [*dict.fromkeys(pages), 1 << 60]:
        if run and page - run[-1] > NEAR:
            if len(run) >= FEWEST:
                out.update(run)
            run = []
        run.append(page)
    return out


def _kept(key: Key, pages: Sequence[int]) -> set[int]:
    """Where a running line stays, so that nothing it says is lost; a bare number says nothing."""
    return {min(_runs(pages), default=-1)} if re.search(r"[^\W\d_]", key[0]) else set()
