"""Every format as the programs that write it do: what its reader sees, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from sharedllm.errors import DocumentError
from sharedllm.text.loaders import read_file
from tests.text import samples
from tests.text.samples import DOCUMENTS, SENTENCE, zipped


def read(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return read_file(folder / name).text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_format_is_read(tmp_path: Path, name: str) -> None:
    text = read(tmp_path, name, DOCUMENTS[name])
    assert SENTENCE in text.replace("said: ", "")
    assert "unseen" not in text


@pytest.mark.parametrize(
    "name", ["a.html", "a.pdf", "a.docx", "a.pptx", "a.epub", "a.rtf", "a.txt"]
)
def test_standard_input_is_inspected(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(DOCUMENTS[name])))
    found = read_file("-")
    assert SENTENCE in found.text
    assert found.source == "standard input"


def test_word(tmp_path: Path) -> None:
    (tmp_path / "rules_of_may.docx").write_bytes(samples.word())
    found = read_file(tmp_path / "rules_of_may.docx")
    assert found.text == (
        f"Harbour\n\n{SENTENCE}\n\nRed boats\n\nSite | 2021 | 2022\nBramley |  | 951"
    )
    assert found.title == "rules of may"
    (tmp_path / "a.docx").write_bytes(samples.word(title="The rules"))
    assert read_file(tmp_path / "a.docx").title == "The rules"


W = nsdecls("w")


@pytest.mark.parametrize(
    ("inside", "shown"),
    [
        ("<w:r><w:t>one</w:t></w:r><w:r><w:t> two</w:t></w:r>", "one two"),
        ("<w:ins><w:r><w:t>put in</w:t></w:r></w:ins>", "put in"),
        ("<w:del><w:r><w:delText>taken out</w:delText></w:r></w:del>", ""),
        ("<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>", ""),
        ('<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>shown</w:t></w:r>', "shown"),
        ("<w:pPr><w:rPr><w:vanish/></w:rPr></w:pPr><w:r><w:t>shown</w:t></w:r>", "shown"),
        ("<w:sdt><w:sdtContent><w:r><w:t>control</w:t></w:r></w:sdtContent></w:sdt>", "control"),
        ("<w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink>", "link"),
        ("<w:r><w:instrText>PAGE</w:instrText></w:r><w:r><w:t>7</w:t></w:r>", "7"),
        ("<w:r><w:t>well</w:t><w:noBreakHyphen/><w:t>known</w:t><w:br/><w:t>x</w:t></w:r>",
         "well-known\nx"),
        ("<w:r><w:t>so</w:t><w:softHyphen/><w:t>ft</w:t></w:r>", "soft"),
    ],
)  # fmt: skip
def test_what_word_shows_of_a_paragraph(tmp_path: Path, inside: str, shown: str) -> None:
    document = docx.Document()
    document.add_paragraph("Before.")
    body = document.element.body
    body.insert(1, parse_xml(f"<w:p {W}>{inside}</w:p>"))
    out = io.BytesIO()
    document.save(out)
    assert read(tmp_path, "a.docx", out.getvalue()) == f"Before.\n\n{shown}".strip()


def test_slides_are_pages(tmp_path: Path) -> None:
    text = read(tmp_path, "a.pptx", samples.slides())
    first, second, third = text.split("\f")
    assert first == f"Slide 1\n\n{SENTENCE}\n\nSpeak slowly.\n"
    assert second == "\n"
    assert third == f"Slide 3\n\n{SENTENCE}\n\nBoat | Berth\nHeron | 7"


def test_books(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(samples.book())
    found = read_file(tmp_path / "a.epub")
    assert found.text == f"{SENTENCE}\n\nThen the tide turned."
    assert found.title == "Tides"
    lock = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<CipherReference URI="OEBPS/%s"/></encryption>'
    )
    fonts = samples.book(**{"META-INF/encryption.xml": lock % "a.ttf"})
    assert SENTENCE in read(tmp_path, "b.epub", fonts)
    with pytest.raises(DocumentError, match="copy-protected"):
        read(tmp_path, "c.epub", samples.book(**{"META-INF/encryption.xml": lock % "a.xhtml"}))


def test_rtf(tmp_path: Path) -> None:
    (tmp_path / "a.rtf").write_bytes(samples.RICH)
    found = read_file(tmp_path / "a.rtf")
    assert found.title == "Harbour rules"
    assert found.text == (
        f"{SENTENCE}\n\nCafé, €5, Привет\n\nSite | 2021\nBramley |\nEnd\n\nA note.."
    )


def test_messages(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(samples.letter())
    found = read_file(tmp_path / "a.eml")
    assert found.title == "Über den Hafen"
    assert found.text == (
        "From: Zoë <zoe@example.org>\nTo: harbour@example.org\nSubject: Über den Hafen\n\n"
        f"{SENTENCE}\n\nAttached: plan.zip"
    )


def test_a_forwarded_message_and_one_in_html(tmp_path: Path) -> None:
    inner = b"Subject: Inner\nContent-Type: text/html; charset=utf-8\n\n<p hidden>no</p>caf\xc3\xa9"
    outer = (
        b"Subject: =?iso-8859-1?Q?Gr=FC=DFe?=\nMIME-Version: 1.0\n"
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain; "
        b"charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nSch=F6n=\n!\n--x\n"
        b"Content-Type: message/rfc822\n\n" + inner + b"\n--x--\n"
    )
    assert read(tmp_path, "a.eml", outer) == "Subject: Grüße\n\nSchön!\n\nSubject: Inner\n\ncafé"


def test_subtitles_are_paragraphs_of_a_minute(tmp_path: Path) -> None:
    wanted = f"[0:00:01] {SENTENCE}\n\n[0:01:30] The tide turned."
    assert read(tmp_path, "a.srt", samples.SUBTITLES) == wanted
    assert read(tmp_path, "a.vtt", DOCUMENTS["a.vtt"]) == wanted
    with pytest.raises(DocumentError, match="no subtitles"):
        read(tmp_path, "b.srt", b"only words")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.docx", b"PK\x03\x04 and then nothing", "cannot be read"),
        ("a.docx", b"\xd0\xcf\x11\xe0 old", "with a password, or in the format from before 2007"),
        ("a.docx", zipped({"x": "y"}), "has no word/document.xml"),
        ("a.docx", zipped({"word/document.xml": "<w"}), "cannot be read"),
        ("a.docx", zipped({"word/document.xml": "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"}),
         "declares entities"),
        ("a.docx", zipped({"word/document.xml": b"<a>" + b" " * (130 << 20) + b"</a>"}),
         "unpacks to more than"),
        ("a.pptx", zipped({"ppt/presentation.xml":
                           "<p><sldId id='3' xmlns:r='r' r:id='x'/></p>"}), "slide 1 is missing"),
        ("a.epub", zipped({"x": "y"}), "has no META-INF/container.xml"),
        ("a.rtf", b"no rtf", "is not an RTF file"),
    ],
)  # fmt: skip
def test_damaged_and_hostile_packages(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        read(tmp_path, name, data)
