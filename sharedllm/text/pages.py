"""Pages of a text: a form feed stands where one ends and the next begins, as in pdftotext.

:func:`join_pages` makes one such text of the pages of a PDF. It leaves out two things
that a printer added: the title or number at the edge of page after page (a title's first occurrence
stays), and hyphens at line ends.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from sharedllm.arguments import shown
from sharedllm.errors import InputError

BREAK = "\f"
MOST = 100_000  # pages; a text with more form feeds uses them for something else
_IN_A_SENTENCE = re.compile(r"\n\f(?=[a-z\u00df-\u00f6\u00f8-\u00ff])")  # a small letter follows

EDGE = 3  # lines at either end of a page that may be running titles
NEAR = 2  # pages from one occurrence to the next: left and right pages may have different titles
LONGEST = 200  # characters of a running title
FEWEST = 3  # pages with the same line that make it a running title
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
    """Return the characters at which pages start; empty for a text without form feeds."""
    if not 0 < text.count(BREAK) < MOST:
        return ()
    starts, at = [0], text.find(BREAK)
    while at >= 0:
        starts.append(at + 1)
        at = text.find(BREAK, at + 1)
    return tuple(starts)


def as_read(text: str) -> str:
    """Return `text` as a model reads it, of the same length: a page end becomes a blank line.

    In the middle of a sentence it becomes a line end.
    """
    return _IN_A_SENTENCE.sub(" \n", text).replace(BREAK, "\n") if BREAK in text else text


def page_of(starts: Sequence[int], start: int, text: str) -> int | None:
    """Return the page, counted from 1, on which `text` begins; None without pages.

    Parameters
    ----------
    starts : the result of :func:`page_starts` for the document
    start : place of `text` in the document; white space at its start, which may end a page, is
        skipped
    """
    if not starts:
        return None
    return bisect.bisect_right(starts, start + len(text) - len(text.lstrip()))


def join_pages(pages: Sequence[str]) -> str:
    """Join the texts of all `pages` of a document into one, for :meth:`SharedLLM.remember`.

    Form feeds separate the pages, so that citations know their page; an empty page keeps its
    number. Page numbers, and running titles but for their first occurrence, are left out, and
    words that were hyphenated at a line's end are put together. :func:`read_file` does this for PDF
    files; call it for pages from another source, such as text recognition.
    """
    several = isinstance(pages, Sequence) and not isinstance(pages, str)
    if not several or not all(isinstance(page, str) for page in pages):
        raise InputError(f"pages is {shown(pages)}; it must be a list of str, one a page")
    lines = [_clean(page).split("\n") for page in pages]
    kept = ["\n".join(page).strip() for page in remove_running_titles(lines)]
    out = kept[:1]
    for before, page in pairwise(kept):
        out += [f"\n{BREAK}" if before else BREAK, page]
    return join_broken_words("".join(out))


def remove_running_titles(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the lines of each page without running titles and page numbers.

    Lines are removed from a page's edge inwards. The first occurrence of each stays, and so does a
    page that would be empty without them.
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


def join_broken_words(text: str) -> str:
    """Put words together that were hyphenated at the end of a line or page, on the next line.

    The hyphen stays where the text has the word with it more often than without ("well-known");
    if it has neither, before a capital ("Anglo-Saxon").
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
    """Normalise the text of one page: ligatures as letters, no halves of surrogate pairs."""
    text = page.replace("\r\n", "\n").replace("\r", "\n").translate(LIGATURES).strip()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _keys(line: str, page: int) -> Iterator[Key]:
    """Yield keys by which `line` equals a line of another page: its words, or words and number.

    A number is keyed by its difference from the page's index, which page numbers share.
    """
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
    """Return the pages of all runs of at least FEWEST pages."""
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
    """Return the page on which a running title stays: the first; page numbers stay on none."""
    return {min(_runs(pages), default=-1)} if re.search(r"[^\W\d_]", key[0]) else set()
