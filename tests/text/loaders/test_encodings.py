# ruff: noqa: RUF001
"""Encodings: recognised, named or asked for, and never guessed into other words in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharedllm.errors import DocumentError, InputError
from sharedllm.text.loaders import read_file

FRENCH = "Le café de la gare ferme à dix heures. Le maître d'hôtel s'appelle François Lefèvre."
ENGLISH = (
    "The café manager\u2019s name is Zoë Müller. She paid €450 for the \u201cblue\u201d chairs."
)
POLISH = "Zażółć gęślą jaźń. Książka leży na stole, a dziewczynka śpi w łóżku."
RUSSIAN = "Председатель комитета Иван Петров подписал договор в понедельник."
GREEK = "Ο δήμαρχος της πόλης είναι ο Γιώργος Παπαδόπουλος και μένει στην Αθήνα."
CHINESE = "会议决定由王建国担任主任，预算为三百万元。"
TAIWANESE = "會議決定由王建國擔任主任，預算為三百萬元，工期為兩年。"
JAPANESE = "会議は火曜日に開かれ、田中さんが議長に選ばれました。"
TURKISH = "Belediye başkanının adı"
KOREAN = "이 프로젝트의 책임자는 김철수입니다. 예산은 삼백만 원입니다."


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((FRENCH, "cp1252"), (ENGLISH, "cp1252"), ("a good café here", "latin-1")),
        *((POLISH, "cp1250"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (GREEK, "cp1253")),
        *((CHINESE, "gb18030"), (TAIWANESE, "big5"), (KOREAN, "euc-kr")),
        *((JAPANESE, "shift_jis"), (JAPANESE, "euc-jp"), (JAPANESE, "iso2022_jp")),
        *((ENGLISH, "utf-16-le"), (ENGLISH, "utf-16-be"), (ENGLISH, "utf-16")),
        ("words", "utf-16-le"),
        *((ENGLISH, "utf-32"), (ENGLISH, "utf-32-le"), (ENGLISH, "utf-32-be")),
        *((CHINESE, "utf-16-le"), (RUSSIAN, "utf-16-be"), (JAPANESE, "utf-16-le")),
    ],
)  # fmt: skip
def test_recognised(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_file(tmp_path / "a.txt").text == text
    (tmp_path / "a.csv").write_bytes(f"said,by\n{text},x\n".encode(encoding))
    assert text.partition(",")[0] in read_file(tmp_path / "a.csv").text


def test_beginnings_are_shown_where_it_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TURKISH.encode("cp1254"))
    with pytest.raises(DocumentError, match=r"as cp1254 it reads '.*başkanının") as refused:
        read_file(tmp_path / "a.txt")
    assert "--encoding" in str(refused.value)
    assert read_file(tmp_path / "a.txt", encoding="cp1254").text == TURKISH


def test_utf8_with_a_wrong_byte_is_not_read_as_another(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(FRENCH.encode() + b" \xff.")
    at = len(FRENCH.encode()) + 1
    with pytest.raises(DocumentError, match=rf"but for 1 of its bytes, .* is byte {at} \(0xff\)"):
        read_file(tmp_path / "a.txt")


def test_dos_text_is_not_read_as_another(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Grüße aus Köln und Düsseldorf".encode("cp850"))
    with pytest.raises(DocumentError, match="encoding= "):
        read_file(tmp_path / "a.txt")
    assert "Köln" in read_file(tmp_path / "a.txt", encoding="cp850").text


def test_a_named_encoding_that_is_wrong_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DocumentError, match=r"not UTF-8 text: byte 3 is 0xe9; give another"):
        read_file(tmp_path / "a.txt", encoding="utf-8")
    for name in ("klingon", "rot13", "base64", "a\0b", ""):
        with pytest.raises(InputError, match="encoding is"):
            read_file(tmp_path / "a.txt", encoding=name)


@pytest.mark.parametrize(
    ("head", "body", "text"),
    [
        (b'<meta charset="iso-8859-1">', b"caf\xe9 \x80", "café €"),
        (b'<meta http-equiv=content-type content="text/html; charset=Shift_JIS">',
         JAPANESE.encode("shift_jis"), JAPANESE),
        (b'<?xml version="1.0" encoding="gb2312"?>', CHINESE.encode("gb18030"), CHINESE),
        (b'<meta charset="utf-8">', FRENCH.encode("cp1252"), FRENCH),
        (b'<meta charset="utf-16">', "café".encode(), "café"),
        (b"", FRENCH.encode("cp1252"), FRENCH),
    ],
)  # fmt: skip
def test_pages(tmp_path: Path, head: bytes, body: bytes, text: str) -> None:
    (tmp_path / "a.html").write_bytes(head + b"<p>" + body)
    assert read_file(tmp_path / "a.html").text == text


def test_a_log_with_a_nul_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"The harbour master is Captain Rees.\0\nThe fee is 12.\n")
    assert "Captain Rees." in read_file(tmp_path / "a.log").text


@pytest.mark.parametrize(
    ("text", "encoding"), [(FRENCH, "cp1252"), (RUSSIAN, "cp1251"), (CHINESE, "gb18030")]
)
def test_an_encoding_that_shows_late(tmp_path: Path, text: str, encoding: str) -> None:
    whole = "Only plain words. " * 10_000 + text
    (tmp_path / "a.txt").write_bytes(whole.encode(encoding))
    assert read_file(tmp_path / "a.txt").text == whole
