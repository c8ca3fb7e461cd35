"""Sections that a question about the whole names -> the parts of the documents that it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sharedllm.config import TreeConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.parts import in_sections, parts_in
from sharedllm.text.outline import section_at

_NUMBER = r"(?:\d+(?:\.\d+)*|[IVXLC]+\b|one|two|three|four|five|six|seven|eight|nine|ten)"
_NAMED = re.compile(
    rf"\b(?P<kind>chapter|section|part|book|volume|appendix|article|act|scene|canto)s? "
    rf"(?P<first>{_NUMBER}|[A-H]\b)(?P<more>(?:(?:,|,? and|,? or|,? with|,? to) (?:the )?"
    rf"(?:(?:chapter|section|part|book|volume|appendix|article|act|scene|canto) )?{_NUMBER})*)",
    re.IGNORECASE,
)


def names_in(question: str) -> list[str]:
    """Return the sections that a question names by number: "chapter 2", "chapter 9"."""
    found: dict[str, None] = {}
    for match in _NAMED.finditer(question):
        kind = match["kind"].lower()
        found[f"{kind} {match['first']}"] = None
        found |= dict.fromkeys(f"{kind} {n}" for n in re.findall(_NUMBER, match["more"], re.I))
    return list(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The part of the documents that a question reads.

    Attributes
    ----------
    documents : list of Document
    titles : list of str
        The name of each for an answer.
    remark : str
        Says which sections the question names that are not there; empty if all are.
    """

    documents: list[Document]
    titles: list[str]
    remark: str = ""


def read_of(
    documents: Sequence[Document], question: str, section: str | None, tree: TreeConfig
) -> Chosen:
    """Return what a question reads of `documents`.

    Parameters
    ----------
    section : names the sections that are read; None reads those that the question names by number,
        where an outline has them, and else all

    Raises
    ------
    SectionError
        If no document has `section`.
    """
    remark = ""
    if section is not None:
        found = in_sections(documents, section, tree)
    else:
        held = {
            name: [part for one in documents for part in parts_in(one, name, tree)]
            for name in names_in(question)
        }
        found = [part for parts in held.values() for part in parts]
        absent = [name for name, parts in held.items() if not parts]
        if absent:
            remark = f"No {' and no '.join(absent)} was found"
            remark += "." if found else "; all of the text was read."
    if not found:
        titles = [one.title for one in documents]
        return Chosen(documents=list(documents), titles=titles, remark=remark)
    several = len(documents) > 1
    titles = [_name(part, several=several) for part in found]
    return Chosen(documents=found, titles=titles, remark=remark)


def _name(part: Document, *, several: bool) -> str:
    """Name a section by its path, after its document's title if there are several documents."""
    path = section_at(part.outline, part.offset)
    named = [part.title, path] if several or not path else [path]
    return ", ".join(filter(None, named))
