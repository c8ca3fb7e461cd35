"""The commands as a user runs them: tables, JSON, plots, errors; on a tiny model in a folder."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from sharedllm import SharedLLM
from sharedllm.cli.main import main
from tests.texts import FERRY, GARDEN, STORY

CELL = {
    *("length", "task", "method", "budget", "items", "skipped", "metrics", "entries"),
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
COMMON = ["--adapter", "none", "--device", "cpu", "--budget", "200,300", "--streaming-window", "64"]


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
            assert cell["entries"] <= cell["budget"]
        for found in cell["metrics"].values():
            assert found["low"] is None or found["low"] <= found["value"] <= found["high"]
    for row in result["rows"]:
        assert row["item"]
        assert "skipped" in row or row["prefill_flops"] > 0


def test_needle(run: Any, filler_file: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "plot.png"
    options = ("needle", "--lengths", "1K,2200", "--items", 2, "--filler", filler_file)
    tasks = ("--tasks", "niah_single_2,niah_multivalue", "--batch", 3)
    printed = json.loads(run(*options, *tasks, "--json", "--out", out, "--plot", plot))
    written = json.loads(out.read_text())
    assert not out.with_suffix(".partial.jsonl").exists()
    assert printed == written
    checked(printed, "needle")
    rows = printed["rows"]
    methods = {row["method"] for row in rows}
    assert {"SharedLLM", "full attention", "YaRN", "StreamingLLM", "BM25 windows"} <= methods
    ids = [{r["item"] for r in rows if r["method"] == name} for name in methods]
    assert all(found == ids[0] for found in ids)  # the same items for every method
    assert len(ids[0]) == 8
    by_method = {(r["method"], r["item"]): r for r in rows}
    streamed = by_method["StreamingLLM", "niah_single_2-1024-0"]
    assert streamed["entries"] == 68
    assert streamed["answer"] != by_method["full attention", "niah_single_2-1024-0"]["answer"]
    full = {(r["length"], "skipped" in r) for r in rows if r["method"] == "full attention"}
    assert full == {(1024, False), (2200, True)}
    assert plot.read_bytes()[:4] == b"\x89PNG"
    again = json.loads(run(*options, *tasks, "--json", "--baselines", "none"))
    ours = {
        r["item"]: r["answer"] for r in rows if (r["method"], r["budget"]) == ("SharedLLM", 200)
    }
    same = {r["item"]: r["answer"] for r in again["rows"] if r["budget"] == 200}
    assert same == ours
    assert set(again["cells"][0]["metrics"]) == {"score"}


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
    options += ["--tasks", "niah_single_2", "--baselines", "bm25", "--model", folder, *COMMON]
    assert main(["eval", *options, "--out", str(out)]) == 130
    assert not out.exists()
    lines = (tmp_path / "out.partial.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["niah_single_2"] * 2


def test_the_table_names_what_was_skipped(run: Any, filler_file: Path) -> None:
    options = ("--lengths", "2200", "--items", 1, "--tasks", "niah_single_2", "--batch", 1)
    text = run("needle", *options, "--filler", filler_file, "--baselines", "full,bm25")
    assert "RULER, string_match_all in %, 2,200 tokens" in text
    assert "BM25 windows" in text
    assert "prefill TFLOP" in text
    assert "full attention: 1 skipped, beyond the trained window of 2,048" in text


def test_qa(run: Any, data: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    options = ("--max-new-tokens", 4, "--baselines", "full,bm25,truncated", "--plot", plot)
    result = json.loads(run("qa", "--data", data, *options, "--items", 3, "--json"))
    checked(result, "qa")
    full = [row for row in result["rows"] if row["method"] == "full attention"]
    assert sum(row["accuracy"] is not None for row in full) == 1
    assert all(row["nll"] > 0 and 0 <= row["f1"] <= 1 for row in full)
    left = [r for r in result["rows"] if r["method"] == "truncated, left" and r["budget"] is None]
    same = ("answer", "nll", "entries")
    assert [[r[k] for k in same] for r in left] == [[r[k] for k in same] for r in full]
    assert plot.read_text().startswith("<?xml")


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


def test_perplexity(run: Any, tmp_path: Path) -> None:
    path, plot = tmp_path / "texts.jsonl", tmp_path / "plot.png"
    text = "\n".join(f"{i}. {STORY} {FERRY}" for i in range(8))
    path.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": GARDEN}) + "\n")
    options = ("--lengths", "0,256,2K", "--running", 300, "--scored", 40, "--items", 2)
    key = ("--key-gain", "0", "--key-sure", "-100", "--plot", plot)
    result = json.loads(run("perplexity", "--data", path, *options, *key, "--json"))
    checked(result, "perplexity")
    assert result["search"]["policy"] == "right"
    rows = [row for row in result["rows"] if "skipped" not in row]
    assert {row["nll_last_tokens"] for row in rows} == {40}
    assert {row["nll_running_tokens"] for row in rows} == {299}
    assert all((row["gained_running"] == 0) == (row["length"] == 0) for row in rows)
    keys = {(row["item"].split("-")[0], row["nll_key_tokens"]) for row in rows}
    assert len(keys) == 2  # one judgement for all pasts and methods
    assert all(0 < n < 40 for _, n in keys)
    whole = [row for row in rows if row["method"] != "StreamingLLM"]  # whose window is shorter
    at_0 = [row["nll_running"] for row in whole if row["item"] == "0-0"]
    assert max(at_0) - min(at_0) < 0.01  # nothing to remember: all are the base
    full = {row["length"] for row in rows if row["method"] == "full attention"}
    assert full == {0, 256}
    assert "Perplexity: PPL of the last 40 tokens, by tokens of past" in run(
        "perplexity", "--data", path, *options, "--baselines", "none"
    )


def test_chat(run: Any, tmp_path: Path) -> None:
    options = ("--adapter", "none", "--device", "cpu", "--items", 4, "--json")
    result = json.loads(run("chat", *options, common=False))
    checked(result, "chat")
    assert result["notes"] == ["no adapter is loaded: both rows are the base"]
    used = next(c for c in result["cells"] if c["method"] == "with adapter")
    assert used["metrics"]["nll_again"]["value"] == pytest.approx(1)
    assert used["items"] == 4
    path = tmp_path / "rows.jsonl"
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye")]
    messages = [
        {"role": role, "content": text} for role, text in (*turns, ("assistant", "See you"))
    ]
    rows = [{"messages": messages}, {"question": "One?", "answer": ["Two."]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = json.loads(run("chat", "--data", path, *options, common=False))
    assert {row["question"] for row in result["rows"]} == {"Bye", "One?"}


def test_chat_with_an_adapter_compares_with_the_base(tmp_path: Path, folder: str) -> None:
    import torch

    from sharedllm.config import AdapterConfig
    from sharedllm.evaluation.settings import Settings
    from sharedllm.evaluation.tasks import run_chat
    from sharedllm.hf.lora import Adapter

    llm = SharedLLM.from_pretrained(folder, adapter=None, device="cpu")
    adapter = Adapter(llm.model, AdapterConfig(rank=2))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.normal_(0, 0.3)
    llm.adapt(adapter)
    result = run_chat(Settings(items=3, budgets=(100,), as_json=True), [], llm)
    ratios = {
        c["method"]: c["metrics"]["nll_again"]["value"]
        for c in result["cells"]
        if "nll_again" in c["metrics"]
    }
    assert ratios["with adapter"] == pytest.approx(1)  # without documents the base answers
    assert ratios["adapter forced on"] != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("needle", "--lengths", "1K"), "--filler"),
        (("needle", "--lengths", "4X"), "--lengths"),
        (("needle", "--tasks", "niah"), "--tasks"),
        (("needle", "--tasks", "vt", "--lengths", "300"), "takes at least"),
        (("needle", "--tasks", "vt", "--baselines", "bm26"), "--baselines"),
        (("needle", "--tasks", "vt", "--policy", "best"), "policy"),
        (("needle", "--tasks", "vt", "--items", "0"), "--items"),
        (("needle", "--tasks", "vt", "--out", "no/such/folder.json"), "--out"),
        (("needle", "--tasks", "vt", "--plot", "plot.xyz"), "--plot"),
        (("needle", "--tasks", "vt", "--budget", "4096"), "--budget"),
        (("needle", "--tasks", "vt", "--baseline-adapter"), "none is loaded"),
        (("needle", "--filler", "missing.txt"), "missing.txt"),
        (("qa",), "--data"),
        (("qa", "--data", "missing.jsonl"), "missing.jsonl"),
        (("perplexity", "--data", "missing.jsonl"), "missing.jsonl"),
        (("perplexity",), "--data"),
        (("chat", "--data", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    run: Any, arguments: tuple[str, ...], message: str
) -> None:
    own = "--budget" not in arguments and arguments[0] != "chat"
    assert message in run(*arguments, code=2, common=own)


def test_rows_that_fit_no_form_are_refused(run: Any, tmp_path: Path, data: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "no question here"}\n')
    assert "row 1 of" in run("qa", "--data", bad, code=2)
    assert "row 1 of" in run("chat", "--data", bad, code=2, common=False)
    bad.write_text('["a list"]\n')
    assert "must be an object" in run("qa", "--data", bad, code=2)
    bad.write_text("no json\n")
    assert "cannot read rows" in run("qa", "--data", bad, code=2)
    bad.write_text('{"text": "short"}\n')
    assert "give longer texts" in run(
        "perplexity", "--data", bad, "--running", 100, "--scored", 9, code=2
    )
    assert "--absent" in run("qa", "--data", data, "--absent", "2", code=2)
    assert "--filler" in run("qa", "--data", data, "--within", "4K", code=2)
