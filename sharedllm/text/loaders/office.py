"""DOCX and PPTX -> text, as Word and PowerPoint show it.

The XML is read here and not by python-docx and python-pptx: those leave out text that was inserted
with tracked changes, content controls, text boxes and footnotes, and keep whole files with all
their pictures in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from sharedllm.text.loaders.flow import Flow, Measured
from sharedllm.text.loaders.packages import Ignoring, Link, Package, Title
from sharedllm.text.loaders.source import Contents, Given
from sharedllm.text.loaders.word_styles import WordStyles, number, outline_level
from sharedllm.text.outline import Heading
from sharedllm.text.pages import BREAK

OFF = ("0", "false", "off")
WORD_MAIN = "word/document.xml"
SLIDES_MAIN = "ppt/presentation.xml"
# Deleted text, instructions of fields, phonetic guides, and second versions for old programs.
UNSEEN = frozenset("pPrChange del moveFrom delText instrText delInstrText Fallback rt".split())
SHAPES = ("sp", "graphicFrame", "grpSp", "cNvPr", "ph")
TITLES = ("title", "ctrTitle")
BETWEEN = f"\n{BREAK}"  # two slides
OF_PARAGRAPH = ("pStyle", "outlineLvl", "numId", "ilvl")
NOT_NOTES = ("separator", "continuationSeparator", "continuationNotice")
NOT_OF_THE_SLIDE = ("dt", "ftr", "sldNum", "hdr", "sldImg")  # on every slide


def read_docx(given: Given) -> Contents:
    """Return text and title of a Word document: body, text boxes, tables, footnotes.

    Headers and footers of pages, comments, hidden and deleted text are left out.

    Raises
    ------
    DocumentError
    """
    package = Package(given.data, given.source)
    main = _main(package, WORD_MAIN)
    flow = Flow(given.source)
    styles = WordStyles(package, main)
    package.parse(main, _Word(flow, styles))
    for link in package.links(main).values():
        if link.kind in ("footnotes", "endnotes") and link.part in package:
            package.parse(link.part, _Word(flow, styles))
    return Contents(flow.text(), _title(package), flow.headings or None)


def read_pptx(given: Given) -> Contents:
    """Return text and title of a presentation: a page for each slide, with its notes.

    Hidden slides are empty pages, so that the others keep their numbers.

    Raises
    ------
    DocumentError
    """
    package = Package(given.data, given.source)
    main = _main(package, SLIDES_MAIN)
    order = _SlideOrder()
    package.parse(main, order)
    links = package.links(main)
    measured, pages = Measured(given.source), list[str]()
    headings, at = list[Heading](), 0
    for slide in order.ids:
        if slide not in links or links[slide].part not in package:
            raise package.broken(f"slide {len(pages) + 1} is missing")
        flow = _slide(package, links[slide])
        pages.append(flow.text())
        headings += [one._replace(start=at + one.start) for one in flow.headings]
        at += len(pages[-1]) + len(BETWEEN)
        measured.add(len(pages[-1]))
    return Contents(BETWEEN.join(pages), _title(package), headings)


def _main(package: Package, usual: str) -> str:
    """The name of the main part."""
    named = [link.part for link in package.links("").values() if link.kind == "officeDocument"]
    main = next((part for part in [*named, usual] if part in package), None)
    if main is None:
        raise package.broken(f"it has no {usual}")
    return main


def _title(package: Package) -> str:
    title = Title()
    for link in package.links("").values():
        if link.kind == "core-properties" and link.part in package:
            package.parse(link.part, title)
    return title.text


class _Word(Ignoring):
    """Follows the elements of a Word document.

    Parameters
    ----------
    styles : which of its paragraphs are headings, and their numbers
    """

    def __init__(self, flow: Flow, styles: WordStyles) -> None:
        self._flow, self._styles = flow, styles
        self._paragraph: dict[str, str] = {}  # what its properties say
        self._unseen = 0  # depth inside of elements that are left out
        self._hidden = [False]  # by run: its text is hidden
        self._text = 0

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        unseen = name in UNSEEN or (attributes.get("type") in NOT_NOTES and name.endswith("note"))
        if self._unseen or unseen:
            self._unseen += 1
            return
        flow = self._flow
        if name == "p":
            self._paragraph = {}
            flow.part()
        elif name in OF_PARAGRAPH:
            self._paragraph[name] = attributes.get("val", "")
        elif name == "r":
            self._hidden.append(False)
        elif name == "vanish":
            self._hidden[-1] = attributes.get("val") not in OFF
        elif name == "t":
            self._text += 1
        elif name in ("tab", "ptab"):
            flow.words(" ")
        elif name in ("br", "cr"):
            flow.line()
        elif name == "noBreakHyphen":
            flow.words("-")
        else:
            self._table(name, attributes)

    def _table(self, name: str, attributes: Mapping[str, str]) -> None:
        """Begin a table or a cell, or learn how wide it is."""
        if name == "tbl":
            self._flow.open_table()
        elif name == "tc":
            self._flow.open_cell()
        elif name == "gridSpan":
            self._flow.widen(_number(attributes.get("val")))

    def end(self, name: str) -> None:
        if self._unseen:
            self._unseen -= 1
            return
        flow = self._flow
        if name in ("p", "footnote", "endnote"):
            flow.close_heading()
            flow.part()
        elif name == "pPr":
            self._properties()
        elif name == "r":
            self._hidden.pop()
        elif name == "rPr" and len(self._hidden) == 1:
            self._hidden[0] = False  # of a paragraph's mark, not of its text
        elif name == "t":
            self._text -= 1
        elif name == "tc":
            flow.close_cell()
        elif name == "tr":
            flow.close_row()
        elif name == "tbl":
            flow.close_table()

    def _properties(self) -> None:
        """Begin a heading where the properties of a paragraph make it one; count it in any case."""
        given = self._paragraph
        style, use = given.get("pStyle", ""), given.get("numId")
        level = number(given["ilvl"]) if "ilvl" in given else None
        shown = self._styles.number(style, use, level)
        heading = self._styles.heading(style)
        if "outlineLvl" in given:
            heading = outline_level(given["outlineLvl"])
        self._flow.open_heading(heading, shown)

    def data(self, text: str) -> None:
        if self._text and not self._unseen and not self._hidden[-1]:
            self._flow.words(text)


# -- presentations ---------------------------------------------------------------------------------


class _SlideOrder(Ignoring):
    """Collects the ids of the slides, in their order."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "sldId":
            self.ids.append(attributes.get("id", ""))


def _slide(package: Package, slide: Link) -> Flow:
    """The text of a slide, of its diagrams and its notes; its title is a heading."""
    flow = Flow(package.source)
    reader = _Slide(flow)
    package.parse(slide.part, reader)
    if not reader.shown:
        return Flow(package.source)
    for link in package.links(slide.part).values():
        if link.kind in ("diagramData", "notesSlide") and link.part in package:
            package.parse(link.part, _Slide(flow))
    return flow


class _Slide(Ignoring):
    """Follows the elements of a slide, a diagram or a page of notes."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.shown = True
        self._skipped: list[bool] = []  # by open shape
        self._unseen = 0
        self._text = False

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        flow = self._flow
        if self._unseen or name == "Fallback":
            self._unseen += 1
        elif name == "sld":
            self.shown = attributes.get("show") not in OFF
        elif name in SHAPES:
            self._shape(name, attributes)
        elif name == "t":
            self._text = True
        elif name == "p":
            flow.part(1)
        elif name == "br":
            flow.line()
        elif name == "tbl":
            flow.open_table()
        elif name == "tc":
            merged = attributes.get("hMerge", "0") not in OFF
            if not merged:
                flow.open_cell(_number(attributes.get("gridSpan")))

    def _shape(self, name: str, attributes: Mapping[str, str]) -> None:
        """Begin a shape, or learn what it is."""
        if name in ("sp", "graphicFrame", "grpSp"):
            self._skipped.append(False)
            self._flow.part()
        elif name == "cNvPr" and self._skipped:
            self._skipped[-1] |= attributes.get("hidden", "0") not in OFF
        elif name == "ph" and self._skipped:
            self._skipped[-1] |= attributes.get("type") in NOT_OF_THE_SLIDE
            if attributes.get("type") in TITLES and not self._skipped[-1]:
                self._flow.open_heading(1)

    def end(self, name: str) -> None:
        flow = self._flow
        if self._unseen:
            self._unseen -= 1
        elif name in ("sp", "graphicFrame", "grpSp"):
            self._skipped.pop()
            flow.close_heading()
            flow.part()
        elif name == "t":
            self._text = False
        elif name == "p":
            flow.part(1)
        elif name == "tc":
            flow.close_cell()
        elif name == "tr":
            flow.close_row()
        elif name == "tbl":
            flow.close_table()

    def data(self, text: str) -> None:
        if self._text and not self._unseen and not any(self._skipped):
            self._flow.words(text)


def _number(given: str | None) -> int:
    digits = given or ""
    return max(1, int(digits)) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 1
