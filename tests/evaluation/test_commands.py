"""The commands as a user runs them: tables, JSON, errors; on a tiny model in a folder."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path
from typing import Any

import pytest

from sharedllm.cli.main import main
from sharedllm.errors import ConfigError
from sharedllm.evaluation.filler import Filler
from sharedllm.evaluation.items import frame
from sharedllm.evaluation.needle import STATEMENTS, items
from tests.models import make_tokenizer
from tests.texts import FERRY, GARDEN, STORY

CELL = {
    *("length", "task", "method", "budget", "items", "skipped", "metrics", "tokens"),
    *("prefill_flops", "ingest_flops", "stored_bytes", "seconds"),
}
TOP = {
    *("command", "date", "hardware", "versions", "model", "adapter", "dtype", "window", "settings"),
    *(
        "search",
        "generation",
        "tree",
        "injection",
        "seed",
        "budgets",
        "notes",
        "metrics",
        "cells",
        "rows",
    ),
}
COMMON = ["--adapter", "none", "--device", "cpu", "--budget", "200,300"]


@pytest.fixture
def run(folder: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object, code: int = 0, common: bool = True) -> str:
        options = [*map(str, arguments), "--model", folder, *(COMMON if common else [])]
        assert main(["eval", *options]) == code
        captured = capsys.readouterr()
        if code:
            assert captured.out == ""
            lines = [x for x in captured.err.splitlines() if not x.startswith("note: ")]
            assert len(lines) == 1, captured.err
            return lines[0]
        return captured.out

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "qa.jsonl.xz"
    given = [
        {"context": STORY, "question": "Who kept the lamp?", "answer": ["Ansel Byrd", "Byrd"]},
        {"context": FERRY, "question": "What does a ticket cost?", "answer": "two shillings"},
        {
            "context": GARDEN,
            "question": "What grew behind the chapel?",
            "options": ["roses", "blue poppies", "tulips"],
            "answer": "B",
        },
    ]
    with lzma.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in given)
    return path


def checked(result: dict[str, Any], command: str) -> None:
    assert set(result) == TOP
    assert result["command"] == command
    keys = {metric["key"] for metric in result["metrics"]}
    for cell in result["cells"]:
        assert set(cell) - {"ours_minus_this"} == CELL
        assert set(cell["metrics"]) <= keys
        assert cell["items"] + sum(cell["skipped"].values()) > 0
        if cell["budget"] is not None and cell["items"]:
            assert cell["tokens"] <= cell["budget"]
        for found in cell["metrics"].values():
            assert found["low"] is None or found["low"] <= found["value"] <= found["high"]
    for row in result["rows"]:
        assert row["item"]
        assert "skipped" in row or row["prefill_flops"] > 0


def test_needle(run: Any, filler_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ("needle", "--lengths", "1K,2200", "--items", 4, "--filler", filler_file)
    printed = json.loads(run(*options, "--batch", 3, "--json", "--out", out))
    assert not out.with_suffix(".partial.jsonl").exists()
    assert printed == json.loads(out.read_text())
    checked(printed, "needle")
    rows = printed["rows"]
    methods = {row["method"] for row in rows}
    assert {"SharedLLM", "full attention", "truncated, left", "BM25 windows"} <= methods
    ids = [{r["item"] for r in rows if r["method"] == name} for name in methods]
    assert all(found == ids[0] for found in ids)  # the same items for every method
    assert len(ids[0]) == 8
    full = {(r["length"], "skipped" in r) for r in rows if r["method"] == "full attention"}
    assert full == {(1024, False), (2200, True)}
    assert {r["depth"] for r in rows if "depth" in r} == {0.125, 0.375, 0.625, 0.875}
    again = json.loads(run(*options, "--json", "--baselines", "none"))

    def ours(result: dict[str, Any]) -> dict[str, str]:
        mine = (r for r in result["rows"] if (r["method"], r["budget"]) == ("SharedLLM", 200))
        return {row["item"]: row["answer"] for row in mine}

    assert ours(again) == ours(printed)


def test_planted_statements_stand_at_their_depth_within_the_length(filler_file: Path) -> None:
    tokenizer, filler = make_tokenizer(), Filler([filler_file])
    for item in items(1500, 5, tokenizer, filler, seed=3):
        around = frame(item, tokenizer)
        taken = len(around.head) + len(item.text.encode()) + len(around.tail) + item.new_tokens
        assert 1200 < taken <= 1500
        stated = re.findall(r"The access code of the ([a-z ]+) is (\d{6})\.", item.text)
        assert len(stated) == len(dict(stated)) == STATEMENTS
        asked = dict(stated)[item.query.removeprefix("What is the access code of the ")[:-1]]
        assert item.answers == (asked,)
        depth = item.text.index(asked) / len(item.text)
        assert depth == pytest.approx(float(str(item.notes["depth"])), abs=0.12)
    with pytest.raises(ConfigError, match="give at least"):
        next(items(300, 1, tokenizer, filler, seed=0))


def test_a_run_that_is_stopped_keeps_its_rows(
    folder: str, filler_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sharedllm.evaluation.run import Runner

    whole = Runner.__call__

    def stopped(self: Runner, items: Any) -> Any:
        for number, row in enumerate(whole(self, items)):
            if number == 2:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(Runner, "__call__", stopped)
    out = tmp_path / "out.json"
    options = ["needle", "--lengths", "600", "--items", "2", "--filler", str(filler_file)]
    options += ["--baselines", "bm25", "--model", folder, *COMMON]
    assert main(["eval", *options, "--out", str(out)]) == 130
    assert not out.exists()
    lines = (tmp_path / "out.partial.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["needle"] * 2


def test_the_table_names_what_was_skipped(run: Any, filler_file: Path) -> None:
    options = ("--lengths", "2200", "--items", 1, "--batch", 1)
    text = run("needle", *options, "--filler", filler_file, "--baselines", "full,bm25")
    assert "Planted statements, found in %, 2,200 tokens" in text
    assert "BM25 windows" in text
    assert "prefill TFLOP" in text
    assert "full attention: 1 skipped, beyond the trained window of 2,048" in text


def test_qa(run: Any, data: Path) -> None:
    options = ("--max-new-tokens", 4, "--baselines", "full,bm25,truncated")
    result = json.loads(run("qa", "--data", data, *options, "--items", 3, "--json"))
    checked(result, "qa")
    full = [row for row in result["rows"] if row["method"] == "full attention"]
    assert sum(row["accuracy"] is not None for row in full) == 1
    assert all(row["nll"] > 0 and 0 <= row["f1"] <= 1 for row in full)
    left = [r for r in result["rows"] if r["method"] == "truncated, left" and r["budget"] is None]
    same = ("answer", "nll", "tokens")
    assert [[r[k] for k in same] for r in left] == [[r[k] for k in same] for r in full]


def test_qa_within_longer_text_and_absent(run: Any, data: Path, filler_file: Path) -> None:
    options = ("--max-new-tokens", 3, "--baselines", "none", "--items", 3, "--json")
    within = ("--within", "1K,1500", "--filler", filler_file, "--absent", 0.34)
    result = json.loads(run("qa", "--data", data, *options, *within))
    checked(result, "qa")
    by_length = {n: [r for r in result["rows"] if r["length"] == n] for n in (1024, 1500)}
    for rows in by_length.values():
        assert sum(r["absent"] for r in rows if r["budget"] == 200) == 1
        assert all(("recognised" in r) == r["absent"] for r in rows)
    shown = {
        cell["length"]: set(cell["metrics"]) for cell in result["cells"] if cell["task"] == "all"
    }
    assert {"recognised", "false_refusal", "f1"} <= shown[1024] & shown[1500]
    swapped = json.loads(run("qa", "--data", data, *options, "--absent", 1))
    assert set(swapped["cells"][0]["metrics"]) == {"recognised"}


def test_qa_skips_sources(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    rows = [
        {"context": STORY, "question": "Who kept the lamp?", "answer": "Byrd", "source": "SQuAD 2"},
        {"context": FERRY, "question": "Sum it up.", "answer": "A ferry.", "source": "SciTLDR dev"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    options = ("--data", path, "--max-new-tokens", 3, "--baselines", "none", "--json")
    result = json.loads(run("qa", *options, "--skip", "SciTLDR"))
    assert {row["task"] for row in result["rows"]} == {"SQuAD 2"}
    assert "must begin the name of a source" in run("qa", *options, "--skip", "Other", code=2)
    every = ("--skip", "S")
    assert "one source must be left: SQuAD 2, SciTLDR dev" in run("qa", *options, *every, code=2)


def test_qa_leaves_out_passages_that_do_not_fit(
    run: Any, data: Path, tmp_path: Path, filler_file: Path
) -> None:
    long = tmp_path / "long.jsonl"
    row = {"context": STORY * 20, "question": "Who?", "answer": "Mara"}
    long.write_text(json.dumps(row) + "\n")
    options = ("--max-new-tokens", 3, "--baselines", "none", "--items", 2, "--json")
    within = ("--within", "1K", "--filler", filler_file)
    result = json.loads(run("qa", "--data", data, "--data", long, *options, *within))
    assert any("left out" in note for note in result["notes"])
    text = run("qa", "--data", long, *options, *within, code=2)
    assert "every passage alone is longer" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("needle", "--lengths", "1K"), "--filler"),
        (("needle", "--lengths", "4X"), "--lengths"),
        (("qa", "--data", "DATA", "--baselines", "bm26"), "--baselines"),
        (("needle", "--scorer", "best"), "scorer"),
        (("needle", "--items", "0"), "--items"),
        (("needle", "--out", "no/such/folder.json"), "--out"),
        (("qa", "--data", "DATA", "--budget", "4096"), "--budget"),
        (("qa", "--data", "DATA", "--baseline-adapter"), "none is loaded"),
        (("needle", "--filler", "missing.txt"), "missing.txt"),
        (("qa",), "--data"),
        (("qa", "--data", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    run: Any, arguments: tuple[str, ...], message: str, data: Path
) -> None:
    own = "--budget" not in arguments
    given = [str(data) if argument == "DATA" else argument for argument in arguments]
    assert message in run(*given, code=2, common=own)


def test_rows_that_fit_no_form_are_refused(run: Any, tmp_path: Path, data: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "no question here"}\n')
    assert "row 1 of" in run("qa", "--data", bad, code=2)
    bad.write_text('["a list"]\n')
    assert "must be an object" in run("qa", "--data", bad, code=2)
    bad.write_text("no json\n")
    assert "cannot read rows" in run("qa", "--data", bad, code=2)
    assert "--absent" in run("qa", "--data", data, "--absent", "2", code=2)
    assert "--filler" in run("qa", "--data", data, "--within", "4K", code=2)
