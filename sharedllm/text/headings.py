"""Text -> its headings, where no loader knows them: Markdown, underlined titles, chapters, numbers.

A false heading is worse than a missing one: it ends a section in its middle. So a line counts only
if it stands apart and is numbered as its neighbours are; lines of contents, which name the same
titles close together, and lists do not count. All is done in time linear in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from sharedllm.arguments import checked
from sharedllm.config import require_one_of
from sharedllm.text.numerals import CHINESE, KIND, NUMBER, ROMAN, Label, label_of
from sharedllm.text.outline import Heading, Outline, make_outline


@checked()
def find_outline(text: str, *, form: str | None = None) -> Outline:
    """Find the sections of `text`.

    Parameters
    ----------
    form : "markdown", "latex", "asciidoc", "org" or "plain", which may have underlined titles,
        chapters and numbers; None tells Markdown and LaTeX from plain text

    Raises
    ------
    ConfigError
        If `form` is none of these.
    """
    if form is not None:
        require_one_of("form", form, tuple(FORMS))
    return make_outline(find_headings(text, form=form), len(text))


def find_headings(text: str, *, form: str | None = None) -> list[Heading]:
    """Find the headings of `text`; see :func:`find_outline`."""
    if form is None:
        form = "markdown" if is_markdown(text) else "plain"
        form = "latex" if LATEX_BEGINS in text else form
    return FORMS[form](text)


def plain_headings(text: str) -> list[Heading]:
    """Underlined titles, or chapters and numbered headings where there are more of these."""
    underlined, numbered = underlined_headings(text), numbered_headings(text)
    return underlined if len(underlined) >= len(numbered) else numbered


# -- Markdown --------------------------------------------------------------------------------------

_RULE = r"(?:---|\+\+\+|\.\.\.)[ \t]*"
FRONT_MATTER = re.compile(
    rf"\A(?:---|\+\+\+)[ \t]*\n(?:(?!{_RULE}$).*\n){{0,500}}{_RULE}(?:\n|\Z)", re.M
)
SHARPS = re.compile(r"^(#{1,6})[ \t]+\S.*$", re.MULTILINE)
CODE = re.compile(
    r"^(?:#!|#[ \t]*include\b|#[ \t]*-\*-|import \w|from \w[\w.]* import |def \w+\(|"
    r"class \w+[(:]|package \w|using \w|function \w+|const \w+ =|let \w+ =|set -[eux]|export \w+=)",
    re.MULTILINE,
)
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
INLINE = (  # Markdown within a heading -> its words
    (re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)"), ""),
    (re.compile(r"\[([^\]\n]*)\](?:\([^)\n]*\)|\[[^\]\n]*\])"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>\n]{0,200}>|\{#[^}\n]*\}[ \t]*$|[*`]+|(?<!\w)_+|_+(?!\w)"), ""),
    (re.compile(r"\\(?=[^\w\s])"), ""),
)


def is_markdown(text: str) -> bool:
    """True of a text whose lines of sharps are headings, rather than comments of a program."""
    lines = list(SHARPS.finditer(text))
    if not lines or (len(lines) == 1 and text[: lines[0].start()].strip()):
        return False
    if CODE.search(text) and not FENCE.search(text):
        return False
    apart = [one for one in lines if _stands_apart(text, one.start())]
    alone = [one for one in apart if text[one.end() : one.end() + 2] in ("\n\n", "\n", "")]
    deeper = any(len(one[1]) > 1 for one in apart)
    return 2 * len(apart) >= len(lines) and (deeper or 2 * len(alone) >= len(apart))


def markdown_headings(text: str) -> list[Heading]:
    """The headings of Markdown, without those in code, lists and quotations."""
    from markdown_it import MarkdownIt

    front = FRONT_MATTER.match(text)
    skipped = front.end() if front else 0
    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])
    starts = [skipped, *(m.end() for m in re.compile("\n").finditer(text, skipped))]
    return [
        Heading(starts[token.map[0]], int(token.tag[1:]), _words(inside.content))
        for token, inside in pairwise(parser.parse(text[skipped:]))
        if token.type == "heading_open" and token.level == 0 and token.map
    ]


def _words(title: str) -> str:
    for pattern, words in INLINE:
        title = pattern.sub(words, title)
    return title


# -- LaTeX, AsciiDoc, Org --------------------------------------------------------------------------

LATEX_BEGINS = "\\begin{document}"
LATEX_LEVELS = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph")
LATEX = re.compile(
    rf"^[ \t]*\\({'|'.join(LATEX_LEVELS)})\*?[ \t]*(?:\[[^\]\n]*\])?"
    r"\{((?:[^{}\n]|\{[^{}\n]*\}){1,300})\}",
    re.MULTILINE,
)
LATEX_WORDS = re.compile(r"\\[a-zA-Z]+\*?[ ]?|[{}~$]")
ASCIIDOC = re.compile(r"^(={1,6})[ \t]+(\S.*)$", re.MULTILINE)
ORG = re.compile(
    r"^(\*{1,8})[ \t]+(?:(?:TODO|DONE)[ \t]+)?(\S.*?)(?:[ \t]+:[\w:]+:)?[ \t]*$", re.MULTILINE
)


def latex_headings(text: str) -> list[Heading]:
    """The sectioning commands of LaTeX."""
    return [
        Heading(m.start(), LATEX_LEVELS.index(m[1]) + 1, LATEX_WORDS.sub(" ", m[2]))
        for m in LATEX.finditer(text)
    ]


def asciidoc_headings(text: str) -> list[Heading]:
    """The titles of AsciiDoc."""
    return [Heading(m.start(), len(m[1]), m[2]) for m in ASCIIDOC.finditer(text)]


def org_headings(text: str) -> list[Heading]:
    """The headlines of Org."""
    return [Heading(m.start(), len(m[1]), m[2]) for m in ORG.finditer(text)]


# -- underlined titles -----------------------------------------------------------------------------

SIGNS = r"=\-~^\"*+#"
UNDERLINED = re.compile(
    rf"^(?P<title>(?![{SIGNS}_.|:`])\S[^\n|]{{0,118}})\n"
    rf"(?P<line>(?P<sign>[{SIGNS}])(?P=sign){{2,}})[ \t]*$",
    re.MULTILINE,
)


def underlined_headings(text: str) -> list[Heading]:
    """Titles with a line of signs below them, as long as they are (reStructuredText, letters)."""
    order: list[str] = []
    out: list[Heading] = []
    for found in UNDERLINED.finditer(text):
        above = text[max(0, found.start() - 200) : found.start()].rstrip("\n").rpartition("\n")[2]
        length = len(found["title"].rstrip())
        apart = _stands_apart(text, found.start()) or set(above.strip()) == {found["sign"]}
        if apart and length - 1 <= len(found["line"]) <= 2 * length + 3:
            if found["sign"] not in order:
                order.append(found["sign"])
            out.append(Heading(found.start(), order.index(found["sign"]) + 1, found["title"]))
    return out if len(out) > 1 else []


# -- chapters and numbers --------------------------------------------------------------------------

RANKS = {
    "volume": 1,
    "book": 2,
    "part": 3,
    "title": 3,
    "act": 3,
    "chapter": 4,
    "appendix": 0,
    "scene": 5,
}
RANKS |= {"article": 5, "section": 6, "clause": 7}
NUMBERED = 8  # rank of headings with a bare number; those with more levels have higher ones
LONE, CUT = 100, 101  # ranks of numbers without a name, until it is known what they number
LOOKED_AT = 400  # characters of a line; of longer ones, which are paragraphs, the first
LONGEST = 120  # characters of a heading's line
MOST_WORDS = 14  # of a title
FEW_WORDS = 6  # of a title that may end in a full stop
CLAUSE_WORDS = 9  # by which a clause is named, its number among them
CLAUSES = ("section", "article", "clause")  # which may begin with their text
FULL = 60  # characters of a line that the next one continues
UNFINISHED = frozenset(
    "a an and as at be by for from has her his in into is its my no not of on or our that the "
    "their this to was were which who will with your".split()
)
RUN_IN = re.compile(r"(?P<title>[^\W\d_][^.\n]{1,70})\.[ \t]+(?=[A-Z\"'\u201c(])")
TIGHT = 100  # characters between two lines of contents, or of a list
FEWEST_TIGHT = 2  # of chapters; one is enough of bare numbers
FEWEST_NUMBERED = 3  # headings with bare numbers, without which two steps are an outline
SHORT = 45  # characters of a line that is not full
ALONE = (
    "prologue epilogue preface foreword afterword introduction conclusion conclusions abstract "
    "references bibliography acknowledgements acknowledgments prolog epilog vorwort nachwort "
    "einleitung literaturverzeichnis pr\u00e9face avant-propos pr\u00f3logo ep\u00edlogo"
).split()
_ALONE = "|".join(form for word in ALONE for form in (word.upper(), word.capitalize()))
LINE = re.compile(
    r"^(?P<indent>[ \t\f]*)(?P<line>(?:"
    rf"[*_]{{0,3}}(?=[\w\u00a7])(?![a-z])(?:{KIND}\.?[ ]+(?:(?i:the|no\.?)[ ]+)?|\u00a7[ ]*)"
    rf"{NUMBER}(?![^\W_]|['\u2019])"
    rf"|{CHINESE}"
    rf"|{ROMAN}(?:\.?[ \t]*$|[.:)][ ]+\S)"
    r"|\d{1,3}(?:\.\d{1,3}){0,5}\.?(?:[ \t]+\S|[ \t]*$)"
    rf"|(?:{_ALONE})[.:]?[ \t]*$"
    rf")[^\n\f]{{0,{LOOKED_AT}}})",
    re.MULTILINE,
)
CONTENTS_LINE = re.compile(
    r"\.{3,}|\u2026{2,}|(?: \.){3,}|(?<=\S)(?:[ ]{2,}|\t)[ \t]*(?:\d{1,4}|[ivxlc]{1,6})[ \t]*$"
)
BELOW = re.compile(r"[ \t]*\n(?:[ \t]*\n)?[ \t]*(?P<title>(?:[^\n\f]{1,100}\n){1,4})(?=[ \t]*\n)")
SENTENCE_END = re.compile(r"[.!?:;\"'\u201d\u2019)\]*_]\s*\Z")
LETTER = re.compile(r"[^\W\d_]")
QUOTES = "\"'\u201c\u2018*_(\u00bf\u00a1"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that may be a heading.

    Attributes
    ----------
    end : where its text ends
    label : what it is numbered with; None of "Preface"
    rank : 1 is the highest; 0 of a preface or an appendix, which stand beside the highest others
    goes_on : a paragraph begins with it
    """

    start: int
    end: int
    title: str
    label: Label | None
    rank: int
    goes_on: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """Its number, level by level; () of a letter."""
        parts = (self.label.number if self.label else "").split(".")
        return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()

    @property
    def is_bare(self) -> bool:
        """True of a label that says no kind."""
        return self.label is not None and not self.label.kind


@dataclass(frozen=True, slots=True)
class _Place:
    """A line of the text, and how it stands there.

    Attributes
    ----------
    apart : after a blank line, at the beginning of a page, or after another heading
    after : after the end of a sentence, in a text without blank lines
    goes_on : it is a full line of a paragraph
    """

    text: str
    start: int
    end: int
    line: str
    apart: bool
    after: bool
    indent: int
    goes_on: bool


def numbered_headings(text: str) -> list[Heading]:
    """Lines that begin with a chapter's label or a number, numbered one after the other."""
    found = list(_lines(text))
    kept = _in_order(_without_contents(_without_page_numbers(found)))
    labelled = [one for one in kept if one.label]
    if len(labelled) < (2 if labelled and labelled[0].rank < NUMBERED else FEWEST_NUMBERED):
        return []
    ranks = [one.rank for one in labelled if one.rank >= RANKS["chapter"]]
    top = min(ranks, default=1)
    return [Heading(one.start, one.rank or top, one.title) for one in kept]


def _lines(text: str) -> Iterator[_Line]:
    """Yield the lines that may be headings."""
    dense = text.count("\n\n") * 40 < text.count("\n")  # no blank lines: extracted from a PDF
    last = -1
    for found in LINE.finditer(text):
        line = found["line"].rstrip()
        if CONTENTS_LINE.search(line):
            continue
        start = found.start("line")
        apart = "\f" in found["indent"] or _stands_apart(text, found.start())
        place = _Place(
            text=text,
            start=start,
            end=start + len(line),
            line=line.strip("*_ \t"),
            apart=apart or last == found.start() - 1,
            after=dense and _ends_before(text, found.start()),
            goes_on=_goes_on(text, start, found.end(), dense=dense),
            indent=len(found["indent"].strip("\f").expandtabs(4)),
        )
        made = _labelled(place)
        if made is not None:
            last = made.end
            yield made


def _stands_apart(text: str, at: int) -> bool:
    """True of a line at `at` with nothing or a blank line before it."""
    before = text[max(0, at - 80) : at].rstrip(" \t")
    line, _, rest = before.removesuffix("\n").rpartition("\n")
    return not rest.strip() if line or before.startswith("\n") else not before.strip()


def _goes_on(text: str, start: int, end: int, *, dense: bool) -> bool:
    """True of a line that is a paragraph's: longer than was looked at, or continued by the next."""
    if text[end : end + 1].strip():
        return True
    below = text[end : end + 80].partition("\n")[2].partition("\n")[0].strip()
    return not dense and bool(below) and (end - start >= FULL or below[0].islower())


def _ends_before(text: str, at: int) -> bool:
    """True if what stands before a line ends there: with a sentence, or in a short line."""
    line = text[max(0, at - 200) : at].rstrip("\n").rpartition("\n")[2]
    return len(line) < SHORT or SENTENCE_END.search(line) is not None


def _labelled(place: _Place) -> _Line | None:
    """The heading that a line is, by what it begins with; None if it is none."""
    line, label = place.line, label_of(place.line)
    if label is None:
        below = place.text[place.end : place.end + 2]
        alone = place.apart and (below in ("\n\n", "") or place.after)
        return _Line(place.start, place.end, line, None, 0) if alone else None
    if label.kind:
        return _with_kind(place, label) if place.apart or place.after else None
    if line[0].isdigit():
        return _with_number(place, label)
    if not place.apart or label.number.isalpha():
        return None
    if not label.rest:
        return _with_next_line(place, label, RANKS["chapter"])
    is_title = _is_title(label.rest, stop=True)
    return _Line(place.start, place.end, line, label, RANKS["chapter"]) if is_title else None


def _with_kind(place: _Place, label: Label) -> _Line | None:
    """A line such as "Chapter 3: The Storm"."""
    rank = RANKS[label.kind]
    if not label.rest:
        return _with_next_line(place, label, rank)
    lead = place.line[: len(place.line) - len(label.rest)].rstrip()
    is_title = _is_title(label.rest, stop=True) or (lead.endswith(":") and label.rest.isdigit())
    if len(place.line) <= LONGEST and not place.goes_on and is_title:
        return _Line(place.start, place.end, place.line, label, rank)
    if not lead.endswith((".", ":", "-", "\u2013", "\u2014")):
        return None
    run_in = _run_in(place, label, rank)
    return _clause(place, label, rank) if run_in is None and label.kind in CLAUSES else run_in


def _run_in(place: _Place, label: Label, rank: int) -> _Line | None:
    """A paragraph that begins with its title: "2. Delivery. The seller delivers ..."."""
    found = RUN_IN.match(label.rest)
    if not found or not place.apart or not _is_title(found["title"]):
        return None
    words = place.line[: len(place.line) - len(label.rest) + found.end("title")]
    return _Line(place.start, place.start + len(words), words, label, rank, goes_on=True)


def _with_number(place: _Place, label: Label) -> _Line | None:
    """A line such as "3.2 Results", or the first one of the clause 3.2."""
    depth = label.number.count(".")
    if not label.rest:
        return None if depth or not (place.apart or place.after) else _lone_number(place, label)
    if place.indent > 3 or not (place.apart or place.after):
        return None
    run_in = _run_in(place, label, NUMBERED + depth)
    if run_in is not None:
        return run_in
    if _is_title(label.rest) and not place.goes_on:
        return _Line(place.start, place.end, place.line, label, NUMBERED + depth)
    return _clause(place, label, NUMBERED + depth) if depth else None


def _clause(place: _Place, label: Label, rank: int) -> _Line | None:
    """A numbered paragraph of a contract or a law, which is named by how it begins."""
    if not place.apart or not label.rest[0].isupper():
        return None
    words = " ".join(place.line.split()[:CLAUSE_WORDS])
    return _Line(place.start, place.start + len(words), f"{words}\u2026", label, rank, goes_on=True)


def _lone_number(place: _Place, label: Label) -> _Line | None:
    """A chapter that has a number and no name, unless a page's number cuts a sentence there."""
    before = place.text[max(0, place.start - 200) : place.start].rstrip()
    after = place.text[place.end : place.end + 200]
    edge = place.after and ("\f" in before[-1:] + after[:2] or len(after) < 3)
    if edge or not after.startswith("\n" if place.after else "\n\n") or not after.strip():
        return None
    cut = label.number != "1" and not SENTENCE_END.search(before)
    rank = CUT if cut or after.lstrip()[0].islower() else LONE
    return _Line(place.start, place.end, place.line.rstrip("."), label, rank)


def _with_next_line(place: _Place, label: Label, rank: int) -> _Line:
    """Join a label that stands alone with the title below it, if there is one."""
    below = BELOW.match(place.text, place.end)
    if below:
        title = " ".join(below["title"].split()).strip("*_ ")
        one = below["title"].count("\n") == 1
        named = title.upper() == title or (one and _is_title(title) and _has_capitals(title))
        if named and label_of(title) is None and LETTER.search(title):
            sign = "" if place.line.endswith((".", ":")) else "."
            words = f"{place.line}{sign} {title}"
            return _Line(place.start, below.end("title"), words, label, rank)
    return _Line(place.start, place.end, place.line, label, rank)


def _is_title(words: str, *, stop: bool = False) -> bool:
    """True of words that may be a title: few, and not the beginning of a sentence that goes on.

    Parameters
    ----------
    stop : a full stop may end it
    """
    first, count = words.lstrip(QUOTES), len(words.split())
    if not first or len(words) > LONGEST or count > MOST_WORDS or not LETTER.search(words):
        return False
    if first[0].islower() or first[0].isdigit() or words.split()[-1].lower() in UNFINISHED:
        return False
    last = words.rstrip("\"'\u201d\u2019*_ ")[-1:]
    return last not in ",;:" and (last not in ".!?" or stop or count <= FEW_WORDS)


def _has_capitals(title: str) -> bool:
    """True of a title, most of whose longer words begin with a capital; no quotation."""
    long = [word for word in title.split() if len(word) > 3]
    capitals = sum(word[0].isupper() for word in long)
    return title[0] not in QUOTES and title[-1] not in ".,;:" and 2 * capitals >= len(long)


# -- which of the lines count ----------------------------------------------------------------------


def _without_page_numbers(lines: Sequence[_Line]) -> list[_Line]:
    """Take lone numbers for chapters where they count from 1 and cut no sentence."""
    lone = [one for one in lines if one.rank >= LONE]
    counted = [one.numbers for one in lone] == [(n,) for n in range(1, len(lone) + 1)]
    chapters = len(lone) > 2 and counted and all(one.rank == LONE for one in lone)
    out = [one for one in lines if one.rank < LONE or chapters]
    return [replace(one, rank=RANKS["chapter"]) if one.rank >= LONE else one for one in out]


def _without_contents(lines: Sequence[_Line]) -> list[_Line]:
    """Leave out runs of lines that follow one another closely: contents, and lists."""
    out: list[_Line] = []
    run: list[_Line] = []
    labels: set[tuple[int, str]] = set()
    tight = 0
    for one in lines:
        label = (one.rank, one.label.number if one.label else one.title)
        before = run[-1] if run else one
        restarts = one.rank == before.rank and one.numbers <= before.numbers
        near = one.start - before.end <= TIGHT and not before.goes_on
        if run and (not near or label in labels or restarts):
            out += run if tight < _allowed(run) else ()
            run, labels, tight = [], set(), 0
        if run and (one.rank <= before.rank or not before.label):
            tight += 1
        run.append(one)
        labels.add(label)
    return [*out, *(run if tight < _allowed(run) else ())]


def _allowed(run: Sequence[_Line]) -> int:
    """Count the lines that stand so close to the one before that they make contents of `run`."""
    return 1 if all(one.rank >= NUMBERED for one in run) else FEWEST_TIGHT


def _in_order(lines: Sequence[_Line]) -> list[_Line]:
    """Keep headings that are numbered one after the other."""
    out: list[_Line] = []
    now: tuple[int, ...] = ()  # the last number of those that have digits and no kind
    last: dict[int, _Line] = {}  # of each rank, below those of higher ones
    for one in lines:
        if one.rank >= NUMBERED:
            if not _follows(now, one.numbers):
                continue
            now = one.numbers
        elif one.label is not None:
            before = last.get(one.rank)
            if before is not None and before.label == one.label:
                continue  # a running title
            if one.is_bare and one.numbers != (before.numbers[0] + 1 if before else 1,):
                continue
            last = {rank: line for rank, line in last.items() if rank < one.rank}
            last[one.rank], now = one, one.numbers
        out.append(one)
    bare = [one for one in out if one.is_bare and one.rank < NUMBERED]
    return out if len(bare) != 1 else [one for one in out if one is not bare[0]]


def _follows(before: tuple[int, ...], number: tuple[int, ...]) -> bool:
    """True of the number that comes next: a first one below, or the next one of any level."""
    if not number:
        return False
    if not before:
        return number in ((0,), (1,), (1, 1))
    if number == (*before, 1):
        return True
    length = len(number)
    if length > len(before) or number[:-1] != before[: length - 1]:
        return False
    gap = number[-1] - before[length - 1]
    return gap == 1 or (gap == 2 and length > 1)  # one may have been missed


FORMS: dict[str, Callable[[str], list[Heading]]] = {
    "plain": plain_headings,
    "markdown": markdown_headings,
    "latex": latex_headings,
    "asciidoc": asciidoc_headings,
    "org": org_headings,
}
