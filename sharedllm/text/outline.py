"""A document's outline: its sections in document order, what names them, and where a place lies.

Loaders know the headings of formats that mark them (:class:`Heading`); of other texts
:mod:`sharedllm.text.headings` finds them. A section reaches from its heading to the next one of its
own level or a higher one, so that it holds the sections below it.
"""

from __future__ import annotations

import bisect
import difflib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from sharedllm.arguments import shown, unicode_problem
from sharedllm.errors import DocumentError, SectionError
from sharedllm.text.numerals import label_of, number_of

MOST_SECTIONS = 10_000  # the deepest levels of a longer outline are left out
LONGEST_TITLE = 160  # characters
BETWEEN = " > "  # titles of a path
NEAREST = 5  # sections that an error names
FEW = 12  # sections that an error lists all
MOST_NAMED = 3  # documents that an error names
WORDS = re.compile(r"[^\W_]+")


class Heading(NamedTuple):
    """A heading: where it stands in the text, its level (1 is the highest), and its words."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of a document that has a heading.

    Attributes
    ----------
    title : str
        The heading on one line, as it stands: "CHAPTER IV. The Storm".
    level : int
        1 is the highest.
    start, end : int
        Characters [start, end) of the document's text, from the heading to the next one of the same
        or a higher level.
    number : str
        What the heading is numbered with, in digits ("4" of "IV", "3.2"), or its letter; "" if it
        has none.
    """

    title: str
    level: int
    start: int
    end: int
    number: str = ""


Outline = tuple[Section, ...]


def make_outline(headings: Iterable[Heading], characters: int) -> Outline:
    """Make the outline of a text of so many characters from its headings, in any order.

    Headings without words, and all but the first at one place, are left out. Levels are numbered
    from 1 without gaps.
    """
    found: dict[int, Heading] = {}
    for one in sorted(headings):
        title = one_line(one.title)
        if WORDS.search(title) and 0 <= one.start < characters:
            found.setdefault(one.start, one._replace(title=title))
    kept = _highest(list(found.values()))
    levels = {level: n for n, level in enumerate(sorted({h.level for h in kept}), start=1)}
    return tuple(
        Section(
            title=one.title,
            level=levels[one.level],
            start=one.start,
            end=end,
            number=number_of(one.title),
        )
        for one, end in zip(kept, _ends(kept, characters), strict=True)
    )


def _ends(headings: Sequence[Heading | Section], characters: int) -> list[int]:
    """Return the place at which each of `headings` is ended by one of its level or higher."""
    ends = [characters] * len(headings)
    begun: list[int] = []
    for at, one in enumerate(headings):
        while begun and headings[begun[-1]].level >= one.level:
            ends[begun.pop()] = one.start
        begun.append(at)
    return ends


def one_line(title: str) -> str:
    """A heading's words on one line, cut where they are more than a title's."""
    words = " ".join(title.split())
    words = words.rstrip(" .:") or words
    if len(words) <= LONGEST_TITLE:
        return words
    return (words[:LONGEST_TITLE].rpartition(" ")[0] or words[:LONGEST_TITLE]) + "\u2026"


def require_outline(given: Sequence[Section], text: str) -> Outline:
    """Return an outline that a caller gives, as it is for `text`.

    Sections end where the next one of their level or a higher one begins, whatever end is given.

    Raises
    ------
    DocumentError
        If it is not made of sections of this text.
    """
    if isinstance(given, str) or not all(isinstance(one, Section) for one in given):
        raise DocumentError(
            f"outline is {shown(given)}; give sections (Section), or None to have them found"
        )
    for one in given:
        if not _is_section_of(one, len(text)):
            raise DocumentError(
                f"the section {shown(one.title)} has level {shown(one.level)}, number "
                f"{shown(one.number)} and the characters {shown(one.start)} to {shown(one.end)} of "
                f"a text of {len(text):,}; give a title and a number as text, a level of at least "
                "1 and characters of the text"
            )
    if _is_outline(given, len(text)):  # nearly always; numbers take longer to find
        return tuple(given)
    return make_outline((Heading(one.start, one.level, one.title) for one in given), len(text))


def _is_section_of(one: Section, characters: int) -> bool:
    """True of a section whose values are such as a text of so many characters allows."""
    texts, numbers = (one.title, one.number), (one.level, one.start, one.end)
    return (
        all(isinstance(value, str) and not unicode_problem(value) for value in texts)
        and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        and len(one.number) <= LONGEST_TITLE
        and one.level > 0
        and 0 <= one.start < one.end <= characters
    )


def _is_outline(given: Sequence[Section], characters: int) -> bool:
    """True of sections as :func:`make_outline` makes them."""
    levels = {one.level for one in given}
    return (
        len(given) <= MOST_SECTIONS
        and levels == set(range(1, len(levels) + 1))
        and all(before.start < after.start for before, after in pairwise(given))
        and [one.end for one in given] == _ends(given, characters)
        and all(one.title == one_line(one.title) for one in given)
    )


def _highest(headings: list[Heading]) -> list[Heading]:
    """Leave out the deepest levels, one by one, while there are too many headings."""
    while len(headings) > MOST_SECTIONS:
        deepest = max(one.level for one in headings)
        kept = [one for one in headings if one.level < deepest]
        if not kept:
            return []  # tens of thousands of equal headings are rows of a table, not an outline
        headings = kept
    return headings


# -- where a place lies ----------------------------------------------------------------------------


def path_of(outline: Sequence[Section], index: int) -> tuple[str, ...]:
    """Return the titles that lead to a section, the highest first, its own last."""
    titles, level = [outline[index].title], outline[index].level
    while level > 1 and index > 0:
        index -= 1
        if outline[index].level < level:
            level = outline[index].level
            titles.append(outline[index].title)
    return tuple(reversed(titles))


def section_at(outline: Sequence[Section], place: int) -> str:
    """Return the path of titles of the deepest section that holds a character; "" if none does."""
    index = bisect.bisect_right(outline, place, key=lambda section: section.start) - 1
    return BETWEEN.join(path_of(outline, index)) if index >= 0 else ""


# -- what names a section --------------------------------------------------------------------------


def sections_named(outline: Sequence[Section], wanted: str) -> list[Section]:
    """Find the sections that `wanted` names, in document order; none lies within another.

    A section is named by its number ("3.2", "chapter 3", "III"), by its title, whose case, accents
    and punctuation do not count, or by a path of these ("Part II > Chapter 3"). Where no whole
    title is meant, titles that hold the words in a row are. Where several sections are named, all
    of them are found; a number without a kind means the highest level that has it, and no
    appendix.
    """
    *above, own = [part.strip() for part in wanted.split(">")] or [""]
    keys = [_key(section.title) for section in outline]
    whole = [at for at, key in enumerate(keys) if above and key == _key(wanted)]
    found = whole or _named(outline, keys, own)
    if above and not whole:  # a title may hold the sign as well
        found = [at for at in found if _lies_below(outline, keys, at, above)]
    if found and _bare_number(own):
        found = [at for at in found if _kind(outline[at].title) != "appendix"] or found
        highest = min(outline[at].level for at in found)
        found = [at for at in found if outline[at].level == highest]
    out: list[Section] = []
    for at in found:
        if not out or outline[at].start >= out[-1].end:
            out.append(outline[at])
    return out


def _named(outline: Sequence[Section], keys: Sequence[str], name: str) -> list[int]:
    """Indices of the sections that one part of a path names."""
    key = _key(name)
    if not key:
        return []
    label = label_of(name)
    if label is not None and not label.rest:
        same = [at for at, section in enumerate(outline) if section.number == label.number]
        kinds = [_kind(outline[at].title) for at in same]
        wanted = {label.kind} if label.kind in kinds else {label.kind, ""}
        numbered = (a for a, kind in zip(same, kinds, strict=True) if kind in wanted)
        exact = (at for at, own in enumerate(keys) if own == key)
        return sorted({*exact, *(numbered if label.kind else same)})
    unnumbered = [_key(_unnumbered(section.title)) for section in outline]
    whole = [at for at, own in enumerate(keys) if key in (own, unnumbered[at])]
    return whole or [at for at, own in enumerate(unnumbered) if f" {key} " in f" {own} "]


def _kind(title: str) -> str:
    """Return the word by which a heading calls its section: "chapter", "part", ... or ""."""
    label = label_of(title)
    return label.kind if label is not None else ""


def _lies_below(
    outline: Sequence[Section], keys: Sequence[str], at: int, above: Sequence[str]
) -> bool:
    """True if the sections around this one are named by `above`, in this order, with gaps."""
    around: list[int] = []
    level = outline[at].level
    for before in range(at - 1, -1, -1):
        if outline[before].level < level:
            level = outline[before].level
            around.append(before)
    left = list(above)
    for index in around:
        if left and _named([outline[index]], [keys[index]], left[-1]):
            left.pop()
    return not left


def _unnumbered(title: str) -> str:
    """A title without its number, and without what it calls its section."""
    label = label_of(title)
    return title if label is None else label.rest


def _bare_number(name: str) -> bool:
    label = label_of(name)
    return label is not None and not label.kind and not label.rest


def _key(title: str) -> str:
    """A title without case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", title)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    return " ".join(WORDS.findall(plain))


def nearest_titles(outline: Sequence[Section], wanted: str) -> list[str]:
    """Return the titles that are most like `wanted`, for an error."""
    titles = list(dict.fromkeys(section.title for section in outline))
    if len(titles) <= FEW:
        return titles
    label = label_of(wanted.rpartition(">")[2])
    if label is not None and label.number.isdigit():
        numbered = [one for one in outline if one.number.isdigit()]
        numbered.sort(key=lambda one: abs(int(one.number) - int(label.number)))
        if numbered:
            return list(dict.fromkeys(one.title for one in numbered[:NEAREST]))
    by_key = {_key(_unnumbered(title)): title for title in titles}
    by_key |= {_key(title): title for title in titles}
    near = difflib.get_close_matches(_key(wanted), list(by_key), n=2 * NEAREST, cutoff=0.3)
    found = list(dict.fromkeys(by_key[key] for key in near))[:NEAREST]
    highest = [section.title for section in outline if section.level == 1]
    return found or highest[:NEAREST]


def absent_section(wanted: str, documents: Sequence[tuple[str, Sequence[Section]]]) -> SectionError:
    """The error for a section that none of the documents has.

    Parameters
    ----------
    documents : title and outline of each
    """
    if not documents:
        return SectionError(f"section is {wanted!r}, and there is no document; give one to search")
    outlined = dict[str, Sequence[Section]]()
    for title, outline in documents:
        if outline:
            outlined.setdefault(title, outline)
    if not outlined:
        whose = (
            f"the document {documents[0][0]!r} has" if len(documents) == 1 else "no document has"
        )
        return SectionError(
            f"section is {wanted!r}, and {whose} {'no' if len(documents) == 1 else 'an'} outline: "
            "no headings, chapters or numbered sections were found; leave section out"
        )
    near = []
    for title, outline in list(outlined.items())[:MOST_NAMED]:
        names = ", ".join(map(repr, nearest_titles(outline, wanted)))
        near.append(f"{title!r} has {names}" if len(outlined) > 1 else names)
    said = "; ".join(near)
    return SectionError(
        f"section is {wanted!r}, and no document has such a section; the nearest: {said}. "
        "document.outline (sharedllm docs --outline) lists all"
    )


# -- as it is stored -------------------------------------------------------------------------------


def outline_to_json(outline: Sequence[Section]) -> str:
    """The outline as JSON text: a list of [title, level, start, end, number] each."""
    rows = [[one.title, one.level, one.start, one.end, one.number] for one in outline]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def outline_from_json(text: str, characters: int) -> Outline:
    """Read what :func:`outline_to_json` gave for a text of so many characters.

    Raises
    ------
    ValueError
        If it is not an outline of such a text.
    """
    rows = json.loads(text)
    if not isinstance(rows, list) or len(rows) > MOST_SECTIONS:
        raise ValueError("it is not a list of sections")
    out: list[Section] = []
    last = -1
    for row in rows:
        if not isinstance(row, list) or list(map(type, row)) != [str, int, int, int, str]:
            raise ValueError("it holds something else than sections")
        title, level, start, end, number = row
        placed = level > 0 and last < start < end <= characters
        if not placed or len(title) > LONGEST_TITLE + 1 or len(number) > LONGEST_TITLE:
            raise ValueError("a section of it lies outside of the text, or out of order")
        last = start
        out.append(Section(title=title, level=level, start=start, end=end, number=number))
    return tuple(out)
