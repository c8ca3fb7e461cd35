"""One document of every format, as the programs that write them do."""

from __future__ import annotations

import io
import json
import zipfile
from email.message import EmailMessage

import docx
import pptx
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

SENTENCE = "The harbour master is Captain Rees."


def pdf(
    *pages: str, title: str = "", password: str | None = None, method: str = "AES-256"
) -> bytes:
    """A PDF with one line of text on each page; "" is a page without text.

    Parameters
    ----------
    password : of the user; None does not encrypt
    """
    writer = PdfWriter()
    for line in pages:
        show(writer, f"BT /F1 12 Tf 20 200 Td ({line}) Tj ET" if line else "")
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, "owner", algorithm=method)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def show(writer: PdfWriter, drawing: str, font: DictionaryObject | None = None) -> None:
    """Add a page with `drawing` on it."""
    page = writer.add_blank_page(300, 300)
    names = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    plain = DictionaryObject({NameObject(k): NameObject(v) for k, v in names.items()})
    fonts = DictionaryObject({NameObject("/F1"): plain if font is None else font})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    content = DecodedStreamObject()
    content.set_data(drawing.encode("latin-1"))
    page[NameObject("/Contents")] = writer._add_object(content)


def table_pdf(rows: list[list[str]]) -> bytes:
    """A PDF with a table; empty cells are not drawn."""
    cells = [
        f"BT /F1 10 Tf {20 + 70 * column} {250 - 20 * row} Td ({text}) Tj ET"
        for row, texts in enumerate(rows)
        for column, text in enumerate(texts)
        if text
    ]
    writer = PdfWriter()
    show(writer, "\n".join(["BT /F1 12 Tf 20 280 Td (Visitors) Tj ET", *cells]))
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def word(*, title: str = "") -> bytes:
    """A Word document with a heading, a list, a table with an empty cell and a footer."""
    document = docx.Document()
    document.core_properties.title = title
    document.add_heading("Harbour", 1)
    document.add_paragraph(SENTENCE)
    document.add_paragraph("Red boats", style="List Bullet")
    table = document.add_table(rows=2, cols=3)
    for row, texts in enumerate([["Site", "2021", "2022"], ["Bramley", "", "951"]]):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    document.sections[0].footer.paragraphs[0].text = "On every page"
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def slides(*, title: str = "") -> bytes:
    """Three slides: one with notes, one hidden, one with a table."""
    deck = pptx.Presentation()
    deck.core_properties.title = title
    layout = deck.slide_layouts[1]
    for number in range(3):
        slide = deck.slides.add_slide(layout)
        slide.shapes.title.text = f"Slide {number + 1}"
        slide.placeholders[1].text_frame.text = SENTENCE
    deck.slides[0].notes_slide.notes_text_frame.text = "Speak slowly."
    deck.slides[1]._element.set("show", "0")
    inches = pptx.util.Inches
    shape = deck.slides[2].shapes.add_table(2, 2, inches(1), inches(4), inches(4), inches(1))
    for row, texts in enumerate([["Boat", "Berth"], ["Heron", "7"]]):
        for column, text in enumerate(texts):
            shape.table.cell(row, column).text = text
    out = io.BytesIO()
    deck.save(out)
    return out.getvalue()


def zipped(parts: dict[str, str | bytes]) -> bytes:
    """A ZIP archive of `parts`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
)


def book(**more: str) -> bytes:
    """An EPUB of two chapters, whose order is not that of its files."""
    opf = (
        '<package xmlns="http://www.idpf.org/2007/opf" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>Tides</dc:title>'
        '</metadata><manifest><item id="a" href="b%20two.xhtml" '
        'media-type="application/xhtml+xml"/><item id="b" href="a.xhtml" '
        'media-type="application/xhtml+xml"/><item id="n" href="nav.xhtml" properties="nav" '
        'media-type="application/xhtml+xml"/><item id="p" href="p.png" media-type="image/png"/>'
        '</manifest><spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/></spine>'
        "</package>"
    )
    head = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>'
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER,
            "OEBPS/book.opf": opf,
            "OEBPS/b two.xhtml": f'{head}<body><a id="x"/><p>{SENTENCE}</p></body></html>',
            "OEBPS/a.xhtml": f"{head}<body><p>Then the tide&#160;turned.</p></body></html>",
            "OEBPS/nav.xhtml": f"{head}<body>Contents</body></html>",
            **more,
        }
    )


def letter() -> bytes:
    """A message with a plain and an HTML version and an attachment."""
    message = EmailMessage()
    message["From"] = "Zoë <zoe@example.org>"
    message["To"] = "harbour@example.org"
    message["Subject"] = "Über den Hafen"
    message.set_content(SENTENCE)
    message.add_alternative(f"<p>{SENTENCE} <i>In HTML</i></p>", subtype="html")
    message.add_attachment(b"PK", maintype="application", subtype="zip", filename="plan.zip")
    return bytes(message)


RICH = rb"""{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fnil Arial;}{\f1\fcharset204 Arial;}}
{\info{\title Harbour rules}{\author Nobody}}{\*\generator Word;}
The harbour master is {\b Captain Rees}.\par
Caf\'e9, \u8364?5, {\f1 \'cf\'f0\'e8\'e2\'e5\'f2} {\v hidden}{\deleted gone}\par
\trowd\cellx1000\cellx2000 Site\cell 2021\cell\row\trowd\cellx1000\cellx2000 Bramley\cell\cell\row
\pard End{\footnote A note.}.\par}"""

SUBTITLES = b"""1
00:00:01,000 --> 00:00:03,000
<i>The harbour master</i>

2
00:00:03,000 --> 00:00:05,000 X1:10
is {\\an8}Captain Rees.

3
00:01:30,500 --> 00:01:32,000
The tide turned.
"""

DOCUMENTS: dict[str, bytes] = {
    "a.txt": SENTENCE.encode(),
    "a.md": f"# Harbour\n\n{SENTENCE}\n".encode(),
    "a.py": f'MASTER = "{SENTENCE}"\n'.encode(),
    "a.html": (
        "<!DOCTYPE html><title>Harbour</title><style>.x, p > .y { display: none }</style>"
        f"<h1>Harbour</h1><p>{SENTENCE}<p class=x>unseen<table><tr><td>a<td><td>b</table>"
    ).encode(),
    "a.pdf": pdf(SENTENCE, "", "Third page."),
    "a.docx": word(),
    "a.pptx": slides(),
    "a.epub": book(),
    "a.rtf": RICH,
    "a.eml": letter(),
    "a.csv": f'name,said\nZoë,"{SENTENCE}"\n'.encode(),
    "a.tsv": f"name\tsaid\nZoë\t{SENTENCE}\n".encode(),
    "a.json": json.dumps([{"said": SENTENCE, "tags": ["a", "b"], "deep": {"x": 1.5}}]).encode(),
    "a.jsonl": (json.dumps({"said": SENTENCE}) + '\n{"said": null}\n').encode(),
    "a.srt": SUBTITLES,
    "a.vtt": b"WEBVTT\n\n" + SUBTITLES.replace(b",", b"."),
}
