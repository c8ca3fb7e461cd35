"""Records: rows and objects with the names of their fields."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharedllm.errors import DocumentError
from sharedllm.text.loaders import read_file


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.csv", "name,age\nAda,36\nBo,\n", "name: Ada\nage: 36\n\nname: Bo\nage:"),
        ("a.csv", "name;age\nAda;3,6\n", "name: Ada\nage: 3,6"),
        ("a.csv", "sep=;\nname;age\nAda;36\n", "name: Ada\nage: 36"),
        ("a.csv", 'name,said\nAda,"one, two\nthree ""four"""\n',
         'name: Ada\nsaid: one, two three "four"'),
        ("a.csv", "1,Ada\n2,Bo\n", "column 1: 1\ncolumn 2: Ada\n\ncolumn 1: 2\ncolumn 2: Bo"),
        ("a.csv", ",name\n0,Ada\n", "column 1: 0\nname: Ada"),
        ("a.csv", "site,2021\nBramley,880,951\nCotham\n",
         "site: Bramley\n2021: 880\ncolumn 3: 951\n\nsite: Cotham\n2021:"),
        ("a.csv", "name\nAda\n", "name: Ada"),
        ("a.csv", "name,age\n", "name\nage"),
        ("a.tsv", "a\tb\n1,2\t3\n", "a: 1,2\nb: 3"),
        ("a.csv", "name|age\r\n\r\nAda|36\r\n", "name: Ada\nage: 36"),
    ],
)  # fmt: skip
def test_rows(tmp_path: Path, name: str, data: str, text: str) -> None:
    (tmp_path / name).write_text(data, newline="")
    assert read_file(tmp_path / name).text == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('[{"a": 1, "b": "x"}, {"a": 2}]', "a: 1\nb: x\n\na: 2"),
        ('{"a": {"b": {"c": true}}, "d": null}', "a.b.c: true\nd: null"),
        ('{"rows": [{"a": 1}, {"a": 2}], "n": 2}', "rows.a: 1\n\nrows.a: 2\n\nn: 2"),
        ('[{"id": 1, "items": [{"p": 1.50}, {"p": 2}], "t": ["x", "y"]}]',
         "id: 1\nitems[0].p: 1.50\nitems[1].p: 2\nt: x, y"),
        ("[1, 2, 3]", "1, 2, 3"),
        ('"only words"', "only words"),
        ('{"n": 1e400, "m": NaN}', "n: 1e400\nm: NaN"),
        ('{"big": ' + "9" * 5_000 + "}", "big: " + "9" * 5_000),
        ('{"a": 1, "a": 2}', "a: 1\na: 2"),
        ('[[1, 2], [3, 4]]', "1, 2\n\n3, 4"),
        ('{"a": "\\ud835 half"}', "a: \ufffd half"),
        ('{"a": {}, "b": []}', "b:"),
    ],
)  # fmt: skip
def test_objects(tmp_path: Path, data: str, text: str) -> None:
    (tmp_path / "a.json").write_text(data)
    assert read_file(tmp_path / "a.json").text == text


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2, "b": "x"}\r\n')
    assert read_file(tmp_path / "a.jsonl").text == "a: 1\n\na: 2\nb: x"
    (tmp_path / "b.ndjson").write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(DocumentError, match=r"line 2 of .*b\.ndjson is not JSON"):
        read_file(tmp_path / "b.ndjson")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", "[" * 200_000, "nested too deeply|not JSON"),
        ("a.json", '{"a":' * 200_000 + "1" + "}" * 200_000, "nested too deeply"),
        ("a.json", "{'a': 1}", "is not JSON"),
        ("a.json", json.dumps({"x" * 900_000: dict.fromkeys(map(str, range(100)), 1)}),
         "unfolds to more than"),
        ("a.csv", "x" * 100_000 + ",y\n" + "1,2\n" * 1_000, "unfolds to more than"),
        ("a.csv", 'a,b\n"1,2', None),
        ("a.csv", "a,b\n" + "x" * 10_000_000 + ",1\n", None),
    ],
)  # fmt: skip
def test_hostile_records(tmp_path: Path, name: str, data: str, message: str | None) -> None:
    (tmp_path / name).write_text(data)
    if message is None:
        assert read_file(tmp_path / name).text.startswith("a: ")
        return
    with pytest.raises(DocumentError, match=message):
        read_file(tmp_path / name)
