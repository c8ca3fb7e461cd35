"""The headings that formats mark: where they stand in the text that is read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import docx
import pptx
import pytest
from docx.enum.style import WD_STYLE_TYPE
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfWriter

from sharedllm.text.loaders import SourceText, read_file
from sharedllm.text.loaders.flow import CLOSES, NUMBERS, OPENS
from sharedllm.text.outline import sections_named
from tests.text import samples
from tests.text.samples import zipped


def read(folder: Path, name: str, data: bytes | str) -> SourceText:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read_file(folder / name)


def found(source: SourceText) -> list[tuple[int, str, str]]:
    """Level and title of each section, and the line at which it begins."""
    lines = [source.text[s.start :].lstrip("\f").partition("\n")[0] for s in source.outline]
    return [(s.level, s.title, line) for s, line in zip(source.outline, lines, strict=True)]


# -- HTML ------------------------------------------------------------------------------------------


def test_headings_of_a_page(tmp_path: Path) -> None:
    page = read(
        tmp_path,
        "a.html",
        "<!doctype html><title>T</title><nav><ul><li>Use<li>More</ul></nav><h1>My  page</h1>"
        "<p>x<h2>Use</h2>Some <b>text</b><h2></h2><h2 style='display:none'>Hidden</h2>"
        "<h4>Deep <small>down</small></h4>y<h2>More<br>of it</h2><pre>a\r\nb</pre>z",
    )
    assert page.text == (
        "Use\nMore\n\nMy page\n\nx\n\nUse\n\nSome text\n\nDeep down\n\ny\n\nMore\n"
        "of it\n\na\nb\n\nz"
    )
    assert found(page) == [
        (1, "My page", "My page"),
        (2, "Use", "Use"),
        (3, "Deep down", "Deep down"),
        (2, "More of it", "More"),
    ]


def test_headings_in_the_cells_of_a_layout(tmp_path: Path) -> None:
    long = "word " * 300
    page = read(
        tmp_path,
        "a.html",
        f"<table><tr><td><h2>Left</h2>{long}<td><h2>Right</h2>{long}</table>"
        "<table><tr><td><h3>In a row</h3><td>more</table>",
    )
    titles = [(level, title) for level, title, _ in found(page)]
    assert titles == [(1, "Left"), (1, "Right"), (2, "In a row")]
    assert "In a row | more" in page.text


def test_a_page_with_one_heading_has_that_of_its_text(tmp_path: Path) -> None:
    body = "".join(f"<p>CHAPTER {n}<p>{'The tide turned. ' * 20}" for n in ("I", "II"))
    assert [t for _, t, _ in found(read(tmp_path, "a.html", f"<h1>Book</h1>{body}"))] == [
        "CHAPTER I",
        "CHAPTER II",
    ]
    assert [t for _, t, _ in found(read(tmp_path, "b.html", "<h1>Book</h1><p>x"))] == ["Book"]
    assert read(tmp_path, "c.html", "<p>no heading").outline == ()


@pytest.mark.parametrize("sign", ["<a href='#a'>#</a>", "<a>\u00b6</a>", "<span>[edit]</span>"])
def test_signs_that_link_to_headings_are_no_words_of_theirs(tmp_path: Path, sign: str) -> None:
    page = "".join(f"<h2>{name}{sign}</h2><p>x" for name in ("Use", "C", "More"))
    source = read(tmp_path, "a.html", f"<h1>All</h1>{page}")
    assert [title for _, title, _ in found(source)] == ["All", "Use", "C", "More"]
    few = read(tmp_path, "b.html", "<h1>All</h1><h2>C#</h2><p>x<h2>Java</h2><p>y")
    assert [title for _, title, _ in found(few)] == ["All", "C#", "Java"]


PIECES = st.lists(
    st.sampled_from(
        ["<h1>", "</h1>", "<h2>", "</h2>", "<table>", "<tr>", "<td>", "</table>", "<p>", "a b",
         "<br>", "<div>", "</div>", "<pre>", "</pre>", "\r\n", "&#xfdd1;", CLOSES, OPENS[1], "<li>",
         "<b>", "</td>", "<h3>Title</h3>", "x" * 600]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@given(PIECES)
def test_marks_of_headings_never_reach_the_text(page: str) -> None:
    with_headings = _read_page(page)
    plain = page
    for level in "123":
        plain = plain.replace(f"<h{level}>", "<address>").replace(f"</h{level}>", "</address>")
    assert not set(with_headings.text) & set(OPENS + CLOSES + NUMBERS)
    for section in with_headings.outline:
        line = " ".join(with_headings.text[section.start :].split())
        assert line.startswith(section.title.rstrip("\u2026")[:40].rstrip())
    if "<h" not in page:
        assert with_headings.text == _read_page(plain).text


def _read_page(page: str) -> SourceText:
    from sharedllm.text.loaders.files import _outline
    from sharedllm.text.loaders.html import visible

    text, title, headings = visible(page, "page")
    return SourceText(text=text, title=title, source="", outline=_outline(text, headings))


# -- Office ----------------------------------------------------------------------------------------


def test_headings_of_word(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("The report", 0)  # a title is no heading
    document.add_heading("Aims", 1)
    document.add_paragraph("Text.")
    own = document.styles.add_style("Mine", WD_STYLE_TYPE.PARAGRAPH)
    own.base_style = document.styles["Heading 2"]
    document.add_paragraph("Means", style="Mine")
    document.add_table(1, 2).cell(0, 0).text = "a"
    document.add_heading("", 1)
    document.add_heading("Ends", 1)
    out = io.BytesIO()
    document.save(out)
    source = read(tmp_path, "a.docx", out.getvalue())
    assert found(source) == [(1, "Aims", "Aims"), (2, "Means", "Means"), (1, "Ends", "Ends")]


W = nsdecls("w")


def numbered(levels: list[tuple[str, str]], uses: dict[str, str]) -> Any:
    """A document whose heading styles belong to one list.

    Parameters
    ----------
    levels : form and text of the number of each
    uses : of the list: what each changes; the styles have the first
    """
    document = docx.Document()
    lists = document.part.numbering_part.element
    own = "".join(
        f'<w:lvl w:ilvl="{n}"><w:start w:val="1"/><w:numFmt w:val="{form}"/>'
        f'<w:pStyle w:val="Heading{n + 1}"/><w:lvlText w:val="{text}"/></w:lvl>'
        for n, (form, text) in enumerate(levels)
    )
    lists.insert(0, parse_xml(f'<w:abstractNum {W} w:abstractNumId="90">{own}</w:abstractNum>'))
    for use, changes in uses.items():
        inside = f'<w:abstractNumId w:val="90"/>{changes}'
        lists.append(parse_xml(f'<w:num {W} w:numId="{use}">{inside}</w:num>'))
    for n in range(len(levels)):
        style = document.styles[f"Heading {n + 1}"].element.get_or_add_pPr()
        level = f'<w:ilvl w:val="{n}"/>' if n == 1 else ""  # else by the list's pStyle
        first = next(iter(uses))
        style.append(parse_xml(f'<w:numPr {W}>{level}<w:numId w:val="{first}"/></w:numPr>'))
    return document


def saved(document: Any) -> bytes:
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def test_numbers_that_word_computes(tmp_path: Path) -> None:
    levels = [("upperRoman", "Article %1"), ("decimal", "%1.%2."), ("lowerLetter", "(%3)")]
    document = numbered(levels, {"90": ""})
    for level, title in [(1, "Aims"), (2, "Use"), (2, "Scope"), (3, "Land"), (1, "Ends"), (2, "X")]:
        document.add_heading(title, level)
        document.add_paragraph("Text.")
    source = read(tmp_path, "a.docx", saved(document))
    assert found(source) == [
        (1, "Article I Aims", "Aims"),
        (2, "I.1. Use", "Use"),
        (2, "I.2. Scope", "Scope"),
        (3, "(a) Land", "Land"),
        (1, "Article II Ends", "Ends"),
        (2, "II.1. X", "X"),
    ]
    assert "Article" not in source.text  # citations quote what is there
    assert [s.title for s in sections_named(source.outline, "article 2")] == ["Article II Ends"]


def test_lists_that_begin_anew_and_headings_without_a_number(tmp_path: Path) -> None:
    again = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride>'
    document = numbered([("decimal", "%1."), ("bullet", "-")], {"90": "", "91": again})
    for use in (None, None, "91", "91", "0", None):
        heading = document.add_heading("A", 1)
        if use is not None:
            own = parse_xml(f'<w:numPr {W}><w:numId w:val="{use}"/></w:numPr>')
            heading._p.get_or_add_pPr().append(own)
    document.add_heading("B", 2)
    source = read(tmp_path, "a.docx", saved(document))
    titles = [title for _, title, _ in found(source)]
    assert titles == ["1. A", "2. A", "7. A", "8. A", "A", "9. A", "B"]


@pytest.mark.parametrize("part", ["word/numbering.xml", "word/styles.xml"])
def test_broken_lists_and_styles_are_done_without(tmp_path: Path, part: str) -> None:
    document = numbered([("decimal", "%1.")], {"90": ""})
    document.add_heading("Aims", 1)
    document.add_heading("Ends", 1)
    with zipfile.ZipFile(io.BytesIO(saved(document))) as archive:
        parts: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    source = read(tmp_path, "a.docx", zipped({**parts, part: "<broken"}))
    assert source.text == "Aims\n\nEnds"
    kept = [] if "styles" in part else ["Aims", "Ends"]
    assert [title for _, title, _ in found(source)] == kept


def test_titles_of_slides(tmp_path: Path) -> None:
    deck = pptx.Presentation()
    for title in ("Rules", "", "Boats"):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = "Text of it."
    out = io.BytesIO()
    deck.save(out)
    source = read(tmp_path, "a.pptx", out.getvalue())
    assert found(source) == [(1, "Rules", "Rules"), (1, "Boats", "Boats")]
    assert source.text[source.outline[1].start - 1] == "\f"


def test_outline_levels_of_rtf(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        "a.rtf",
        r"{\rtf1\ansi{\stylesheet{\s1\outlinelevel0 heading 1;}}\pard\s1\outlinelevel0 Aims\par"
        r"\pard Text.\par\pard\outlinelevel1 Means\par\pard More.\par}",
    )
    assert source.text == "Aims\n\nText.\n\nMeans\n\nMore."
    assert found(source) == [(1, "Aims", "Aims"), (2, "Means", "Means")]


# -- EPUB ------------------------------------------------------------------------------------------


def book(chapters: list[str], **more: str) -> bytes:
    """An EPUB with these bodies, and other parts."""
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(chapters))
    )
    if "OEBPS/toc.ncx" in more:
        items += '<item id="t" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
    if "OEBPS/nav.xhtml" in more:
        items += '<item id="n" href="nav.xhtml" properties="nav" '
        items += 'media-type="application/xhtml+xml"/>'
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    opf = f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>"
    return zipped(
        {
            "META-INF/container.xml": samples.CONTAINER,
            "OEBPS/book.opf": opf,
            **{
                f"OEBPS/c{n}.xhtml": f"<html><body>{c}</body></html>"
                for n, c in enumerate(chapters)
            },
            **more,
        }
    )


NCX = (
    "<ncx><navMap><navPoint><navLabel><text>Part One</text></navLabel><content src='c0.xhtml'/>"
    "<navPoint><navLabel><text>The  start</text></navLabel><content src='c1.xhtml#a'/></navPoint>"
    "</navPoint></navMap></ncx>"
)
NAV = (
    "<html><body><nav epub:type='toc'><ol><li><a href='c0.xhtml'>Part One</a><ol><li>"
    "<a href='c1.xhtml#a'>The <i>start</i></a></li></ol></li></ol></nav>"
    "<nav epub:type='page-list'><ol><li><a href='c1.xhtml'>12</a></li></ol></nav></body></html>"
)


def test_headings_of_a_book(tmp_path: Path) -> None:
    data = book(["<h1>Tides</h1>", "<h2>Chapter 1</h2><p>x</p>", "<h2>Chapter 2</h2><p>y</p>"])
    assert found(read(tmp_path, "a.epub", data)) == [
        (1, "Tides", "Tides"),
        (2, "Chapter 1", "Chapter 1"),
        (2, "Chapter 2", "Chapter 2"),
    ]


@pytest.mark.parametrize("more", [{"OEBPS/toc.ncx": NCX}, {"OEBPS/nav.xhtml": NAV}])
def test_contents_of_a_book_without_headings(tmp_path: Path, more: dict[str, Any]) -> None:
    source = read(tmp_path, "a.epub", book(["<p>One.</p>", "<p>Two.</p>", ""], **more))
    assert found(source) == [(1, "Part One", "One."), (2, "The start", "Two.")]
    own = read(tmp_path, "b.epub", book(["<h1>A</h1>", "<h1>B</h1>"], **more))
    assert [title for _, title, _ in found(own)] == ["A", "B"]


@pytest.mark.parametrize("part", ["OEBPS/toc.ncx", "OEBPS/nav.xhtml"])
def test_broken_contents_are_done_without(tmp_path: Path, part: str) -> None:
    source = read(tmp_path, "a.epub", book(["<p>One.</p>"], **{part: "<ncx><a href='\ufffd"}))
    assert source.text == "One."
    assert source.outline == ()


# -- PDF -------------------------------------------------------------------------------------------


def marked_pdf(pages: list[str], bookmarks: list[tuple[str, int, int | None]]) -> bytes:
    """A PDF of pages of lines, with bookmarks: title, page and the number of the one above."""
    writer = PdfWriter()
    for page in pages:
        lines = "".join(f"({line}) Tj T* " for line in page.split("\n"))
        samples.show(writer, f"BT /F1 12 Tf 14 TL 20 280 Td {lines}ET")
    made: list[Any] = []
    for title, page, above in bookmarks:
        parent = None if above is None else made[above]
        made.append(writer.add_outline_item(title=title, page_number=page, parent=parent))
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


PAGES = [
    "Contents\nAims\nMeans\nData",
    "1 Aims\nText of it.",
    "2 Means\nText.\n2.1 Data and more-\nover\nOf data.",
    "Appendix A Maps\nA map.",
]


def test_bookmarks(tmp_path: Path) -> None:
    marks = [("Aims", 1, None), ("Means", 2, None), ("Data and moreover", 2, 1), ("Maps", 3, None)]
    source = read(tmp_path, "a.pdf", marked_pdf(PAGES, marks))
    assert found(source) == [
        (1, "1 Aims", "1 Aims"),
        (1, "2 Means", "2 Means"),
        (2, "2.1 Data and moreover", "2.1 Data and"),
        (1, "A Maps", "Appendix A Maps"),
    ]


def test_bookmarks_that_are_spelled_otherwise_begin_with_their_page(tmp_path: Path) -> None:
    marks = [("First", 1, None), ("Second", 2, None), ("Third", 2, None), ("Fourth", 9, None)]
    source = read(tmp_path, "a.pdf", marked_pdf(PAGES, marks[:3]))
    assert found(source) == [
        (1, "First", "1 Aims"),
        (1, "Second", "2 Means"),
        (1, "Third", "Text."),
    ]


def test_a_pdf_without_bookmarks_has_the_headings_of_its_text(tmp_path: Path) -> None:
    more = ["A line of the text that goes on and on."] * 12
    long = ["\n".join([page.replace(" and more-\nover", ""), *more]) for page in PAGES]
    source = read(tmp_path, "a.pdf", marked_pdf(long, []))
    assert [title for _, title, _ in found(source)] == [
        "1 Aims",
        "2 Means",
        "2.1 Data",
        "Appendix A Maps",
    ]


def test_bookmarks_to_one_page_are_no_outline(tmp_path: Path) -> None:
    marks = [("a", 0, None), ("b", 0, None), ("c", 0, None)]
    assert read(tmp_path, "a.pdf", marked_pdf(PAGES, marks)).outline == ()


# -- plain files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "titles"),
    [
        ("a.md", "# A\r\ntext\r\n\r\nB\r\n---\r\n", ["A", "B"]),
        ("a.txt", "# A\n\ntext\n\n## B\n\ntext\n", ["A", "B"]),
        ("a.rst", "A\n=\n\ntext\n\nB\n=\n\ntext\n\nLong title\n----------\n", ["Long title"]),
        ("a.adoc", "= A\n\n== B\n", ["A", "B"]),
        ("a.org", "* A\n** B\n", ["A", "B"]),
        ("a.tex", "\\section{A}\n\\section{B}\n", ["A", "B"]),
        ("a.py", "# A\n\nx = 1\n\n## B\n\n", []),
        ("a.yaml", "# A\n\na: 1\n\n# B\n\nb: 2\n", []),
        ("a.csv", "name,text\nChapter 1,x\nChapter 2,y\n", []),
        ("a.json", '[{"a": "# A"}, {"a": "# B"}]', []),
        ("a.srt", "1\n00:00:01,000 --> 00:00:03,000\nChapter 1\n", []),
    ],
)
def test_files_by_their_suffix(tmp_path: Path, name: str, text: str, titles: list[str]) -> None:
    source = read(tmp_path, name, text)
    if name == "a.rst":  # titles of one letter have lines that are too short
        assert source.outline == ()
        return
    assert [section.title for section in source.outline] == titles
    for section in source.outline:
        assert section.title in source.text[section.start : section.start + 12]
