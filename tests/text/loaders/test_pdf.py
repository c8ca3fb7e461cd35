"""PDF: protected files, titles, tables with empty cells, ligatures that are lost."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from sharedllm import SharedLLM
from sharedllm.text.loaders import read_file
from sharedllm.text.loaders.pdf import find_tables
from tests.text import samples

ROWS = [
    ["Branch", "2021", "2022", "2023"],
    ["Aldwick", "1,204", "1,310", "1,402"],
    ["Bramley", "880", "", "951"],
    ["Cotham", "2,015", "2,100", "2,240"],
]


@pytest.mark.parametrize("method", ["RC4-128", "AES-128", "AES-256-R5", "AES-256"])
def test_a_pdf_that_only_its_owner_may_change_is_read(tmp_path: Path, method: str) -> None:
    (tmp_path / "a.pdf").write_bytes(samples.pdf("Open to read.", password="", method=method))
    assert read_file(tmp_path / "a.pdf").text == "Open to read."


@pytest.mark.parametrize(
    "stated",
    [
        *("untitled", "(anonymous)", "Untitled-1", "Microsoft Word - plan.doc", "report_v3.docx"),
        *(
            "Document1",
            "PowerPoint Presentation",
            "Slide 1",
            " ",
            "Title",
            "C:\\a\\b.tex",
            "Sheet1",
        ),
    ],
)
def test_titles_that_programs_write_are_none(tmp_path: Path, stated: str) -> None:
    (tmp_path / "harbour_plan.pdf").write_bytes(samples.pdf("Words.", title=stated))
    assert read_file(tmp_path / "harbour_plan.pdf").title == "harbour plan"


@pytest.mark.parametrize("stated", ["The untitled sea", "Document design", "Page turners"])
def test_titles(tmp_path: Path, stated: str) -> None:
    (tmp_path / "a.pdf").write_bytes(samples.pdf("Words.", title=stated))
    assert read_file(tmp_path / "a.pdf").title == stated


def test_an_empty_cell_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(samples.table_pdf(ROWS))
    assert read_file(tmp_path / "a.pdf").text.split("\n") == [
        "Visitors",
        *(" | ".join(row) for row in ROWS),
    ]


@pytest.mark.parametrize(
    "layout",
    [
        "one line\n\nanother line",
        "A first column of prose that      runs beside a second one, as\n"
        "papers print it; no cell here     of it is part of any table, and\n"
        "every line has two long parts     of about the same length",
        "a    b",
        "left right    only\nfar    apart too\nbetween others    x",
    ],
)
def test_what_is_no_table(layout: str) -> None:
    assert list(find_tables(layout)) == []


def test_ligatures_that_a_font_maps_to_nul(tmp_path: Path, tiny_llm: SharedLLM) -> None:
    codes = DecodedStreamObject()
    codes.set_data(
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n"
        b"1 begincodespacerange <00> <FF> endcodespacerange\n1 beginbfchar <01> <0000> endbfchar\n"
        b"1 beginbfrange <20> <7E> <0020> endbfrange\nendcmap end end"
    )
    writer = PdfWriter()
    font = DictionaryObject({NameObject("/ToUnicode"): writer._add_object(codes)})
    names = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font |= {NameObject(k): NameObject(v) for k, v in names.items()}
    samples.show(writer, "BT /F1 12 Tf 20 200 Td (The o\\001ce is shut.) Tj ET", font)
    out = io.BytesIO()
    writer.write(out)
    (tmp_path / "a.pdf").write_bytes(out.getvalue())
    text = read_file(tmp_path / "a.pdf").text
    document = tiny_llm.remember(text)
    assert "\0" not in tiny_llm.tokenizer.decode(document.tokens.ids)
    assert document.text_of(0, len(document)) == text
