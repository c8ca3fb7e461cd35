"""Every kind of file that is read, and every kind that is refused."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from sharedllm.errors import DocumentError
from sharedllm.text import loaders
from sharedllm.text.loaders import read_file
from tests.text.samples import pdf

PAGE = b"""<!DOCTYPE html><html><head><title> The
 ferry </title><style>p { color: red }</style></head><body><!-- a secret -->
<h1>Harbour</h1><p>She said <b>hello</b>,
 twice.<br>Then left.<ul><li>one<li>two</ul>
<table><tr><td>a<td>b</tr><tr><td>c</td><td>d</td></tr></table>
<pre>if x:
    go()
</pre><p hidden>unseen</p><div style="display:none">unseen</div><script>unseen()</script>
caf&eacute;</body></html>"""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"caf\xc3\xa9\n", "café\n"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("naïve".encode("utf-16"), "naïve"),
        (b"\xfe\xff" + "naïve".encode("utf-16-be"), "naïve"),
        (b"one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        (b"\x1b[1mbold\x1b[0m\x0c page two", "\x1b[1mbold\x1b[0m\x0c page two"),
    ],
)
def test_text(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "notes_of_may.txt"
    path.write_bytes(data)
    read = read_file(path)
    assert read == loaders.SourceText(text=text, title="notes of may", source=str(path))


def test_markdown_is_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Title\n\n*word* [link](x.html)\n")
    assert read_file(tmp_path / "a.md").text == "# Title\n\n*word* [link](x.html)\n"


def test_html_gives_visible_text_and_title(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(PAGE)
    read = read_file(path)
    assert read.title == "The ferry"
    assert read.text == (
        "Harbour\n\nShe said hello, twice.\nThen left.\n\none\ntwo\n\na | b\nc | d\n\n"
        "if x:\n    go()\n\ncafé"
    )


def test_html_in_its_declared_encoding(tmp_path: Path) -> None:
    path = tmp_path / "old.htm"
    path.write_bytes(b'<meta charset="iso-8859-1"><p>caf\xe9')
    assert read_file(path).text == "café"


def test_html_with_an_unclosed_head(tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    path.write_text("<html><head><title>T</title><body><p>words")
    assert read_file(path).text == "words"


def test_xhtml_gives_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "x.xhtml"
    path.write_text('<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><p>words</p>')
    assert read_file(path).text == "words"


def test_pdf_pages_are_joined_by_form_feeds(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(pdf("First page.", "", "Third page.", title="The report"))
    read = read_file(path)
    assert (read.text, read.title) == ("First page.\n\f\fThird page.", "The report")


@pytest.mark.parametrize(
    ("data", "text", "title"),
    [
        (b"some words", "some words", "standard input"),
        (b"\n <!doctype HTML><title>T</title><p>words", "words", "T"),
        (pdf("From a pipe."), "From a pipe.", "standard input"),
    ],
)
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, data: bytes, text: str, title: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read_file("-") == loaders.SourceText(text=text, title=title, source="standard input")


def test_a_pipe_has_no_size_but_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    try:
        assert read_file(f"/dev/fd/{reading}").text == "through a pipe"
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("white.txt", b" \n\t", "has no text"),
        ("nul.txt", b"abc\0d\0e\0\0f", "binary, not text"),
        ("control.txt", b"\x01\x02\x03\x04abc", "binary, not text"),
        ("noise.txt", bytes(range(256)) * 20, "binary, not text"),
        ("utf16.txt", b"\xff\xfea\x00b", "not UTF-16 text"),
        ("page.html", b"<title>T</title><script>x</script>", "has no text"),
        ("page.html", b'<meta charset="klingon"><p>x', "unknown encoding 'klingon'"),
        ("broken.pdf", b"%PDF-1.4 and then nothing", "cannot be read as PDF"),
        ("words.pdf", b"only words", "cannot be read as PDF"),
        ("scan.pdf", pdf("", ""), "2 pages but no text, only images; run OCR"),
        ("locked.pdf", pdf("Secret.", password="key"), "needs a password"),
    ],
)
def test_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DocumentError, match=message):
        read_file(tmp_path / name)


def test_missing_file_folder_and_impossible_path(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no such file: .*nothing\.txt.; check the path"):
        read_file(tmp_path / "nothing.txt")
    with pytest.raises(DocumentError, match="is a folder"):
        read_file(tmp_path)
    with pytest.raises(DocumentError, match="holds a NUL character"):
        read_file("a\0b.txt")
    with pytest.raises(DocumentError, match="has 300 bytes"):
        read_file(tmp_path / ("x" * 300))


@pytest.mark.parametrize(("name", "most"), [("a.txt", 64 << 20), ("a.pdf", 256 << 20)])
def test_too_large_is_refused_before_it_is_read(tmp_path: Path, name: str, most: int) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(most + 1)  # takes no room on the disk
    with pytest.raises(DocumentError, match=f"at most {most:,} are read"):
        read_file(tmp_path / name)


def test_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("12345")
    assert read_file(tmp_path / "a.txt", limit=5).text == "12345"
    with pytest.raises(DocumentError, match="at most 4 are read"):
        read_file(tmp_path / "a.txt", limit=4)


def test_too_much_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"123456")))
    with pytest.raises(DocumentError, match="at most 5 are read"):
        read_file("-", limit=5)
