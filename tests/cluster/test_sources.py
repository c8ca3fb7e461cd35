"""What is to be read becomes rows, and what cannot be read a row with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from sharedllm import MemoryDocument, Section
from sharedllm.cluster.sources import document_of, found_in, parsed, row_of
from sharedllm.errors import InputError
from sharedllm.memory.files import Search, id_of_file
from tests.texts import FERRY, GARDEN


def test_files_folders_uris_and_tables_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.md", "c.png", ".hidden.txt"):
        (tmp_path / "in" / name).write_text(FERRY)
    system = fsspec.filesystem("memory")
    for name in ("/shelf/x.txt", "/shelf/deep/y.md", "/shelf/z.exe", "/shelf/rows.parquet"):
        with system.open(name, "w") as file:
            file.write(GARDEN)
    files, tables = found_in(
        [str(tmp_path / "in"), "memory://shelf", "memory://shelf/z.exe", "more.parquet"], Search()
    )
    assert [Path(one).name for one in files] == ["a.txt", "b.md", "y.md", "x.txt", "z.exe"]
    assert tables == ["memory:///shelf/rows.parquet", "more.parquet"]
    row = parsed({"path": files[3]})
    assert (row["error"], row["id"], row["text"]) == ("", files[3], GARDEN)


def test_a_file_is_known_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(FERRY)
    row = parsed({"path": str(path)})
    assert row["id"] == id_of_file(str(path))
    assert document_of(row).metadata["file_bytes"] == path.stat().st_size


def test_documents_go_through_rows_unchanged() -> None:
    sections = [Section(title="One", level=1, start=0, end=9, number="1")]
    made = MemoryDocument(
        id="a", text="A section.", title="t", metadata={"x": [1]}, outline=sections
    )
    assert document_of(row_of(made)) == made
    row = parsed({"text": "A text.", "id": None, "metadata": '{"year": 1902}'})
    assert document_of(row) == MemoryDocument(text="A text.", metadata={"year": 1902})


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"path": "nowhere.txt"}, "nowhere.txt"),
        ({"path": "memory://nowhere.txt"}, "nowhere.txt"),
        ({"path": "foo://x.txt"}, "foo"),
        ({"id": "a", "txt": "x"}, "no text in 'text'"),
        ({"id": "a", "text": 3}, "no text in 'text'"),
        ({"id": "a", "text": "x", "metadata": "{"}, "not JSON"),
        ({"id": "a", "text": "x", "metadata": "[1]"}, "metadata"),
        ({"id": "a" * 2000, "text": "x"}, "id"),
        ({"id": 3, "text": "x"}, "id"),
        ({"id": "a", "text": "half \ud800"}, "Unicode"),
    ],
)
def test_what_cannot_be_read_is_a_row_with_the_reason(row: dict[str, Any], why: str) -> None:
    made = parsed(row)
    assert why in made["error"]
    assert made["text"] == ""


@pytest.mark.parametrize("uri", ["foo://bucket/a", "s3n:///"])
def test_a_uri_that_cannot_be_looked_at_is_an_error(uri: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        found_in([uri], Search())
