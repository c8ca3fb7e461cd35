"""Damaged documents of every format: each gives text or a typed error, in bounded time and memory.

The short run is part of every test; the long one, marked slow, takes a thousand documents.
"""

from __future__ import annotations

import random
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from sharedllm.errors import DocumentError
from sharedllm.text.loaders import read_file
from sharedllm.text.loaders.flow import MOST_CHARACTERS
from sharedllm.text.normalise import normalise
from tests.text.samples import DOCUMENTS, zipped

PACKED = (".docx", ".pptx", ".epub")
NOISE = (
    *(b"\0", b"\xff", b"<", b">", b'"', b"'", b"{", b"}", b"[", b"\\", b"&#", b"%PDF-", b"\x1b$"),
    *(b"<table><tr><td>", b"<!--", b"]]>", b"\\u-9", b"\\bin99", b"\\trowd", b"=?x?q?", b"\r"),
    *("\u202e\xad\u0301".encode(), b"\xed\xa0\x80", b"\xef\xbf\xbe", b"PK\x03\x04", b"NaN", b"1e9"),
)
ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "cp1252", "gb18030", "shift_jis", "utf-7", "cp037")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with a few changes: bytes and pieces put in, taken out, doubled, moved."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(out) + 1), rng.choice((1, 4, 40, 400))
        match rng.randrange(6):
            case 0:
                out[at : at + length] = b""
            case 1:
                out[at:at] = rng.choice(NOISE) * rng.choice((1, 3, 200))
            case 2:
                out[at : at + length] = rng.randbytes(length)
            case 3:
                out[at:at] = out[at : at + length] * rng.choice((1, 50))
            case 4:
                out = out[:at]
            case _:
                other = rng.choice(list(DOCUMENTS.values()))
                out[at:at] = other[:length]
    return bytes(out)


def mutated_part(data: bytes, rng: random.Random) -> bytes:
    """A package of which one part is changed, so that the change is not stopped by its checksum."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        parts: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([n for n in parts if n.endswith(("ml", "rels", "opf"))])
    parts[name] = mutated(bytes(parts[name]), rng)  # type: ignore[arg-type]
    return zipped(parts)


def make(number: int) -> tuple[str, bytes]:
    """The `number`-th damaged document."""
    rng = random.Random(number)
    name, data = rng.choice(sorted(DOCUMENTS.items()))
    if name.endswith(PACKED) and rng.random() < 0.7:
        return name, mutated_part(data, rng)
    if rng.random() < 0.25 and not name.endswith((*PACKED, ".pdf")):
        data = data.decode().encode(rng.choice(ENCODINGS), "replace")
    return name, mutated(data, rng)


def check(folder: Path, number: int) -> None:
    name, data = make(number)
    (folder / name).write_bytes(data)
    text, why = read(folder / name)
    assert text.strip() or name in why
    assert len(text) <= MOST_CHARACTERS
    assert "\r" not in text
    normalise(text)


def read(path: Path) -> tuple[str, str]:
    """The text of a file, or why it was refused."""
    try:
        found = read_file(path)
    except DocumentError as error:
        return "", str(error)
    for stated in (found.text, found.title, found.source):
        stated.encode()
    return found.text, ""


@pytest.mark.timeout(120)
def test_a_few_damaged_documents(tmp_path: Path) -> None:
    for number in range(160):
        check(tmp_path, number)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_damaged_documents(tmp_path: Path, part: int) -> None:
    for number in range(1000 + 200 * part, 1200 + 200 * part):
        check(tmp_path, number)


def bomb(name: str, size: int) -> bytes:
    """An archive with a part of `size` spaces, which deflates to a thousandth."""
    return zipped({name: b"<a>" + b" " * size + b"</a>"})


def lying(data: bytes) -> bytes:
    """An archive that says its parts are small."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        size = archive.filelist[0].file_size
    return data.replace(size.to_bytes(4, "little"), (9).to_bytes(4, "little"))


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
HOSTILE: dict[str, Callable[[], bytes]] = {  # made when they are needed: some are large
    "a.docx": lambda: bomb("word/document.xml", 200 << 20),
    "b.docx": lambda: lying(bomb("word/document.xml", 200 << 20)),
    "c.docx": lambda: zipped(
        {"word/document.xml": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><a>&l9;</a>'}
    ),
    "d.docx": lambda: zipped({"word/document.xml": "<a>" * 200_000}),
    "e.docx": lambda: zipped({"word/document.xml": "<tbl><tr><tc>" * 20_000}),
    "f.docx": lambda: zipped(
        {"word/document.xml": "<tbl>" + '<tr><tc><tcPr><gridSpan val="9999"/></tcPr></tc>'
         "<tc><p><r><t>x</t></r></p></tc></tr>" * 20_000 + "</tbl>"}
    ),
    "a.epub": lambda: zipped(
        {"META-INF/container.xml": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><a/>'}
    ),
    "a.json": lambda: b"[" * 5_000_000,
    "b.json": lambda: b'{"a":[' * 400_000,
    "a.jsonl": lambda: b'{"a":' * 100_000 + b"\n",
    "a.csv": lambda: b"a,b\n" + b'"' + b"x,\n" * 3_000_000,
    "b.csv": lambda: b"," * 2_000_000 + b"\n" + b"," * 2_000_000,
    "a.rtf": lambda: b"{\\rtf1" + b"{\\field{\\*\\fldinst{" * 100_000,
    "b.rtf": lambda: b"{\\rtf1" + b"\\trowd x\\cell" * 100_000 + b"{" * 100_000,
    "c.rtf": lambda: b"{\\rtf1{\\fonttbl" + b"{\\f1 " * 100_000,
    "a.eml": lambda: b"Content-Type: multipart/mixed; boundary=x\n\n" + b"--x\n" * 100_000,
    "b.eml": lambda: b"Content-Type: message/rfc822\n\n" * 20_000,
    "c.eml": lambda: b"Subject: " + b"=?utf-8?q?a?= " * 200_000 + b"\n\nx",
    "d.eml": lambda: b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(2_000)
    ),
    "a.srt": lambda: b"00:00:01,000 --> 00:00:02,000\nx\n" * 100_000,
    "b.srt": lambda: b"9" * 5_000_000,
    "a.txt": lambda: b"\xe9" * 5_000_000,
    "b.txt": lambda: b"a\0" * 2_000_000,
    "c.txt": lambda: bytes(range(128, 256)) * 40_000,
    "a.pdf": lambda: b"%PDF-1.4\n" + b"1 0 obj\n<< /A " * 20_000,
    "b.pdf": lambda: b"%PDF-1.4\n" + b"[" * 200_000,
    "c.pdf": lambda: b"%PDF-1.4\n1 0 obj\n<< /Length 9 /Filter /FlateDecode >>\nstream\n"
    + zlib.compress(b" " * (200 << 20)) + b"\nendstream\nendobj\ntrailer << /Root 1 0 R >>",
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_end(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name]())
    text, why = read(tmp_path / name)
    assert text.strip() or name in why
