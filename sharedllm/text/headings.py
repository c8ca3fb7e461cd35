"""Text -> its headings, where no loader knows them: Markdown, underlined titles, chapters, numbers.

A false heading is worse than a missing one: it ends a section in its middle. So a line counts only
if it stands apart and is numbered as its neighbours are; lines of contents, which name the same
titles close together, and lists do not count. All is done in time linear in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from sharedllm.text.numerals import KIND, NUMBER, ROMAN, Label, label_of
from sharedllm.text.outline import Heading, Outline, make_outline

# -- Markdown --------------------------------------------------------------------------------------

FRONT_MATTER = re.compile(
    r"\A(?:---|\+\+\+)[ \t]*\n(?:(?!---|\+\+\+|\.\.\.).*\n){0,500}(?:---|\+\+\+|\.\.\.)[ \t]*(?:\n|\Z)"
)
SHARPS = re.compile(r"^(#{1,6})[ \t]+\S.*$", re.MULTILINE)
CODE = re.compile(
    r"^(?:#!|#[ \t]*include\b|#[ \t]*-\*-|import \w|from \w[\w.]* import |def \w+\(|class \w+[(:]|"
    r"package \w|using \w|function \w+|const \w+ =|let \w+ =|\w+=\$\(|set -[eux]|export \w+=)",
    re.MULTILINE,
)
FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})", re.MULTILINE)
MARKED = re.compile(
    r"[*_`]+|!?\[([^\]\n]*)\]\([^)\n]*\)|<[^<>\n]{1,200}>|\{#[^}\n]*\}[ \t]*$|\\(?=[^\w\s])"
)


def find_outline(text: str, *, markdown: bool | None = None) -> Outline:
    """Find the sections of `text`.

    Parameters
    ----------
    markdown : True for Markdown, False for plain text; None finds it out
    """
    return make_outline(find_headings(text, markdown=markdown), len(text))


def find_headings(text: str, *, markdown: bool | None = None) -> list[Heading]:
    """Find the headings of `text`; see :func:`find_outline`."""
    if markdown or (markdown is None and is_markdown(text)):
        found = markdown_headings(text)
        if found or markdown:
            return found
    return underlined_headings(text) or numbered_headings(text)


def is_markdown(text: str) -> bool:
    """True of a text whose lines of sharps are headings, rather than comments of a program."""
    lines = list(SHARPS.finditer(text))
    if not lines or (CODE.search(text) and not FENCE.search(text)):
        return False
    apart = [m for m in lines if not m.start() or text[: m.start()].endswith(("\n\n", "\n \n"))]
    alone = [m for m in apart if text.startswith("\n\n", m.end()) or m.end() == len(text)]
    deeper = any(len(m[1]) > 1 for m in apart)
    return 2 * len(apart) >= len(lines) and (deeper or 2 * len(alone) >= len(apart))


def markdown_headings(text: str) -> list[Heading]:
    """The headings of Markdown, without front matter, code and quotations."""
    from markdown_it import MarkdownIt

    front = FRONT_MATTER.match(text)
    skipped = front.end() if front else 0
    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])
    starts = _line_starts(text, skipped)
    out: list[Heading] = []
    tokens = parser.parse(text[skipped:])
    for token, inside in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            title = MARKED.sub(r"\1", inside.content)
            out.append(Heading(starts[token.map[0]], int(token.tag[1:]), title))
    return out


def _line_starts(text: str, begin: int) -> list[int]:
    starts, at = [begin], text.find("\n", begin)
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


# -- underlined titles -----------------------------------------------------------------------------

UNDERLINED = re.compile(
    r"^(?P<title>(?![=\-~^\"*+#_.|:`])\S[^\n|]{0,118})\n(?P<line>(?P<sign>[=\-~^\"*+#])(?P=sign){2,})[ \t]*$",
    re.MULTILINE,
)


def underlined_headings(text: str) -> list[Heading]:
    """Titles with a line of signs below them, as long as they are (reStructuredText, setext)."""
    order: list[str] = []
    out: list[Heading] = []
    for found in UNDERLINED.finditer(text):
        before = text[max(0, found.start() - 200) : found.start()]
        over = before.rstrip("\n").rpartition("\n")[2]
        above = not before.strip() or before.endswith("\n\n") or set(over) == {found["sign"]}
        length = len(found["title"].rstrip())
        if above and length <= len(found["line"]) + 1 <= 2 * length + 4:
            sign = found["sign"]
            if sign not in order:
                order.append(sign)
            out.append(Heading(found.start(), order.index(sign) + 1, found["title"]))
    return out if len(out) > 1 else []


# -- chapters and numbers --------------------------------------------------------------------------

RANKS = {
    "volume": 1,
    "book": 2,
    "part": 3,
    "act": 3,
    "chapter": 4,
    "scene": 5,
    "article": 5,
    "section": 6,
    "clause": 7,
}
NUMBERED = 8  # rank of headings with a bare number; deeper ones have more
LONE, CUT = 100, 101  # ranks of numbers without a name, until it is known what they number
LONGEST = 120  # characters of a heading's line
LONGEST_WORDS = 14
TIGHT = 100  # characters between two lines of contents, or of a list
FEWEST_TIGHT = 2
ALONE = frozenset(
    "prologue epilogue preface foreword afterword introduction conclusion conclusions abstract "
    "references bibliography acknowledgements acknowledgments prolog epilog vorwort nachwort "
    "einleitung fazit literaturverzeichnis pr\u00e9face avant-propos pr\u00f3logo ep\u00edlogo".split()
)
CONTENTS_LINE = re.compile(
    r"\.{3,}|\u2026{2,}|(?: \.){3,}|(?<=\S)(?:[ ]{2,}|\t)[ \t]*(?:\d{1,4}|[ivxlc]{1,6})[ \t]*$"
)
LINE = re.compile(
    rf"^[ \t\f]*(?P<line>(?:\**_?(?:{KIND}\b\.?|\u00a7)[ ]?(?:(?i:the)[ ])?[ ]*{NUMBER}(?![\w'\u2019])"
    rf"|\u7b2c[\d\u3007\u96f6\u4e00-\u9fff]{{1,7}}[\u7ae0\u56de\u8282\u7bc0\u90e8\u5377\u7bc7\u6761\u689d]"
    rf"|{ROMAN}\.?(?=[ \t]*$|\.?[ ]+[A-Z])|\d{{1,3}}(?:\.\d{{1,3}}){{0,5}}\.?(?=[ \t]+\S|[ \t]*$)"
    rf"|(?:{'|'.join(map(re.escape, sorted(ALONE)))})[.:]?[ \t]*$"
    rf"|(?:{'|'.join(re.escape(w.upper()) for w in sorted(ALONE))}|{'|'.join(re.escape(w.capitalize()) for w in sorted(ALONE))})[.:]?[ \t]*$)[^\n\f]{{0,400}})$",
    re.MULTILINE,
)
SENTENCE_END = re.compile(r"[.!?:;\"'\u201d\u2019)\]*_]\s*\Z")
TITLE_SIGNS = re.compile(r"[A-Za-z\u00c0-\uffff]")


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that may be a heading.

    Attributes
    ----------
    end : where its text ends
    label : what it is numbered with; None of "Preface"
    rank : 1 is the highest
    """

    start: int
    end: int
    title: str
    label: Label | None
    rank: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """Its number, level by level; () of a letter."""
        parts = (self.label.number if self.label else "").split(".")
        return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


def numbered_headings(text: str) -> list[Heading]:
    """Lines that begin with a chapter's label or a number, numbered one after the other."""
    dense = text.count("\n\n") * 40 < text.count("\n")  # no blank lines: extracted from a PDF
    lines = _without_contents(_without_page_numbers(list(_lines(text, dense=dense))))
    named = [one for one in lines if one.label and one.rank < NUMBERED]
    kept = _in_order(lines, chapters=bool(named))
    numbered = [one for one in kept if one.label]
    if len(numbered) < 2:
        return []
    top = min(one.rank for one in numbered if one.rank >= (4 if named else 0)) if numbered else 1
    return [
        Heading(one.start, one.rank if one.label and one.rank else top, one.title) for one in kept
    ]


def _lines(text: str, *, dense: bool) -> Iterator[_Line]:
    """Yield the lines that may be headings."""
    for found in LINE.finditer(text):
        start, end = found.span("line")
        line = found["line"].rstrip()
        if CONTENTS_LINE.search(line):
            continue
        before = text[max(0, found.start() - 120) : found.start()]
        blank = (
            not before.strip()
            or before.endswith("\n\n")
            or not before.rpartition("\n")[0].rpartition("\n")[2].strip()
            or "\f" in text[found.start() : start]
        )
        ends = dense and SENTENCE_END.search(before) is not None
        made = _made(text, start, line, blank=blank, ends=ends)
        if made is not None:
            yield made


def _made(text: str, start: int, line: str, *, blank: bool, ends: bool) -> _Line | None:
    """The heading that a line is; None if it is none."""
    end = start + len(line)
    line = line.strip("*_ \t")
    label = label_of(line)
    if label is None:
        after = text[end : end + 3]
        alone = blank and (after.startswith("\n\n") or ends) and line.rstrip(".:").lower() in ALONE
        return _Line(start, end, line, None, 0) if alone else None
    if label.kind:
        return _labelled(text, start, end, line, label) if blank or ends else None
    if label.number.isalpha():
        return None
    depth = label.number.count(".")
    if not line[0].isdigit():  # Roman: a line of its own, or a title
        if not blank or not (not label.rest or _is_title(label.rest)):
            return None
        if not label.rest:
            return _with_next_line(text, start, end, line, label, 4)
        return _Line(start, end, line, label, 4)
    if not label.rest:
        return _lone_number(text, start, end, line, label) if blank and not depth else None
    if not (blank or ends) or re.match(r"[\d.]+\)", line):
        return None
    if _is_title(label.rest):
        return _Line(start, end, line, label, NUMBERED + depth)
    if depth and blank and label.rest[:1].isupper():  # a clause, which is named by how it begins
        words = " ".join(line.split()[:9])
        return _Line(start, start + len(words), f"{words}\u2026", label, NUMBERED + depth)
    return None


def _lone_number(text: str, start: int, end: int, line: str, label: Label) -> _Line | None:
    """A chapter that has a number and no name, unless a page's number cuts a sentence there."""
    before, after = text[max(0, start - 200) : start].rstrip(), text[end : end + 200]
    if not after.startswith("\n\n") or not after.strip():
        return None
    cut = label.number != "1" and not SENTENCE_END.search(before)
    cut = cut or after.lstrip()[0].islower()
    return _Line(start, end, line.rstrip("."), label, CUT if cut else LONE)


def _labelled(text: str, start: int, end: int, line: str, label: Label) -> _Line | None:
    rank = RANKS.get(label.kind, 4)
    if not label.rest:
        return _with_next_line(text, start, end, line, label, rank)
    parted = re.match(r"[^\w]*[.:\u2013\u2014\])-]|\s*\S", line[len(line) - len(label.rest) - 2 :])
    if len(line) > LONGEST or parted is None or not _is_title(label.rest, ends=True):
        return None
    return _Line(start, end, line, label, rank)


def _with_next_line(text: str, start: int, end: int, line: str, label: Label, rank: int) -> _Line:
    """Join a label that stands alone with the title below it, if there is one."""
    below = re.compile(r"[ \t]*\n(?:[ \t]*\n)?[ \t]*((?:[^\n\f]{1,100}\n){1,4})(?=[ \t]*\n)").match(
        text, end
    )
    if below:
        title = " ".join(below[1].split()).strip("*_ ")
        capitals = title.upper() == title
        rows = below[1].count("\n")
        if (
            (capitals or (rows == 1 and _is_title(title, capitals=True)))
            and label_of(title) is None
            and TITLE_SIGNS.search(title)
        ):
            sign = "" if line.endswith((".", ":")) else "."
            return _Line(start, below.end(1), f"{line}{sign} {title}", label, rank)
    return _Line(start, end, line, label, rank)


def _is_title(words: str, *, ends: bool = False, capitals: bool = False) -> bool:
    """True of words that may be a title: few, not the beginning of a sentence that goes on.

    Parameters
    ----------
    ends : a full stop may end it
    capitals : most of its longer words begin with a capital
    """
    parts = words.split()
    first = words.lstrip("\"'\u201c\u2018*_(\u00bf\u00a1")
    if not parts or len(words) > LONGEST or len(parts) > LONGEST_WORDS or not first:
        return False
    if first[0].islower() or first[0].isdigit() or not TITLE_SIGNS.search(words):
        return False
    last = words.rstrip("\"'\u201d\u2019*_ ")[-1:]
    if last in ",;:" or (last in ".!?" and not ends and len(parts) > 6):
        return False
    if capitals:
        if first != words:
            return False  # a quotation
        long = [part for part in parts if len(part) > 3]
        return last not in ".,;:" and 2 * sum(p[0].isupper() for p in long) >= len(long)
    return True


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
    tight = 0

    def close() -> None:
        nonlocal tight
        if tight < FEWEST_TIGHT:
            out.extend(run)
        run.clear()
        tight = 0

    for one in lines:
        if run:
            before = run[-1]
            near = one.start - before.end <= TIGHT
            restarts = any(
                one.label == other.label and one.rank == other.rank for other in run if one.label
            )
            if not near or restarts:
                close()
            elif one.rank <= before.rank or not one.label or not before.label:
                tight += 1
        run.append(one)
    close()
    return out


def _in_order(lines: Sequence[_Line], *, chapters: bool) -> list[_Line]:
    """Keep headings that are numbered one after the other."""
    out: list[_Line] = []
    now: tuple[int, ...] = ()  # the last bare number
    last: dict[int, _Line] = {}  # by rank
    for one in lines:
        if one.label is None:
            out.append(one)
            continue
        if one.rank >= NUMBERED:
            if _follows(now, one.numbers):
                now = one.numbers
                out.append(one)
            continue
        before = last.get(one.rank)
        if (
            before is not None
            and before.label
            and before.label[:2] == one.label[:2]
            and before.title == one.title
        ):
            continue  # a running title
        last = {rank: line for rank, line in last.items() if rank < one.rank} | {one.rank: one}
        now = one.numbers
        out.append(one)
    return out


def _follows(before: tuple[int, ...], number: tuple[int, ...]) -> bool:
    """True of the number that comes next: a first one below, or the next one of any level."""
    if not number:
        return False
    if not before:
        return number in ((1,), (0,), (1, 1))
    if number == (*before, 1):
        return True
    length = len(number)
    if length > len(before) or number[:-1] != before[: length - 1]:
        return False
    gap = number[-1] - before[length - 1]
    return gap == 1 or (gap == 2 and length > 1)
