"""benchmarks/quality/evaluate.py on a tiny model: RULER, perplexity, chat, and their pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality import evaluate
from benchmarks.quality.chat import run as run_chat
from benchmarks.quality.plot import draw
from sharedllm import SharedLLM
from sharedllm.config import AdapterConfig
from sharedllm.evaluation.baselines import BASELINES
from sharedllm.evaluation.options import Settings
from sharedllm.hf.lora import Adapter
from tests.evaluation.test_commands import COMMON, checked
from tests.texts import FERRY, GARDEN, STORY


@pytest.fixture
def run(folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, make in dict(BASELINES).items():
        monkeypatch.setitem(BASELINES, name, make)  # what the commands add is taken out again
    monkeypatch.setitem(BASELINES, "yarn", BASELINES["full"])
    monkeypatch.setitem(BASELINES, "streaming", BASELINES["full"])

    def run(*arguments: object, code: int = 0, common: bool = True) -> str:
        options = [*map(str, arguments), "--model", folder, *(COMMON if common else [])]
        assert evaluate.main(options) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def test_ruler(run: Any, filler_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ("ruler", "--lengths", "1K,2200", "--items", 2, "--filler", filler_file)
    tasks = ("--tasks", "niah_single_2,niah_multivalue", "--batch", 3)
    printed = json.loads(run(*options, *tasks, "--json", "--out", out))
    written = json.loads(out.read_text())
    assert not out.with_suffix(".partial.jsonl").exists()
    assert printed == written
    checked(printed, "ruler")
    rows = printed["rows"]
    methods = {row["method"] for row in rows}
    assert {"SharedLLM", "full attention", "YaRN", "StreamingLLM", "BM25 windows"} <= methods
    ids = [{r["item"] for r in rows if r["method"] == name} for name in methods]
    assert all(found == ids[0] for found in ids)  # the same items for every method
    assert len(ids[0]) == 8
    by_method = {(r["method"], r["item"]): r for r in rows}
    streamed = by_method["StreamingLLM", "niah_single_2-1024-0"]
    assert streamed["tokens"] <= 1024
    full = {(r["length"], "skipped" in r) for r in rows if r["method"] == "full attention"}
    assert full == {(1024, False), (2200, True)}
    plot = tmp_path / "plot.png"
    draw(printed, plot)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    again = json.loads(run(*options, *tasks, "--json", "--baselines", "none"))
    ours = {
        r["item"]: r["answer"] for r in rows if (r["method"], r["budget"]) == ("SharedLLM", 200)
    }
    same = {r["item"]: r["answer"] for r in again["rows"] if r["budget"] == 200}
    assert same == ours
    assert set(again["cells"][0]["metrics"]) == {"score"}


def test_perplexity(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    text = "\n".join(f"{i}. {STORY} {FERRY}" for i in range(8))
    path.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": GARDEN}) + "\n")
    options = ("--lengths", "0,256,2K", "--running", 300, "--scored", 40, "--items", 2)
    key = ("--key-gain", "0", "--key-sure", "-100")
    result = json.loads(run("perplexity", "--data", path, *options, *key, "--json"))
    checked(result, "perplexity")
    assert result["search"]["scorer"] == "recency"
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


def test_chat_with_an_adapter_compares_with_the_base(folder: str) -> None:
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
        (("ruler", "--lengths", "1K"), "--filler"),
        (("ruler", "--tasks", "niah"), "--tasks"),
        (("ruler", "--tasks", "vt", "--lengths", "300"), "takes at least"),
        (("perplexity",), "--data"),
        (("perplexity", "--data", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_bad_input_gives_code_2(run: Any, arguments: tuple[str, ...], message: str) -> None:
    assert message in run(*arguments, code=2)
