"""benchmarks/speed: what it counts, and one small run of all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.speed import card, costs, leaves, models, ours, presses, report
from tests.guard.counting import count
from tests.guard.test_hot_paths import IDS, ROOTS
from tests.models import shared

ROOT = Path(__file__).parents[2]
PHASES = {
    "remember",
    "ingest",
    "search, float16 vectors",
    "search",
    "first token, evidence as KV",
    "first token, memory on the device",
    "first token, memory in RAM",
    "first token, memory in a file (the system may hold it)",
    "decode",
    "decode, fixed shapes",
    "bare model, first token",
    "bare model, decode",
    "top-k chunks, first token",
    "full attention, first token",
    "full attention, decode",
    "StreamingLLM, reads the context",
    "CEPE's shape, ingest",
    "CEPE's shape, first token",
}


@pytest.mark.parametrize("layers", [1, 3])
def test_what_ingest_costs_is_what_it_does(layers: int) -> None:
    llm = shared("llama", layers=layers)
    size = costs.Size.of(llm.model.config, 4)

    def run() -> None:
        with torch.inference_mode():
            dict(llm.encoder.lower.encode(IDS, ROOTS))

    found = count(run)
    expected = ours.ingest_cost(size, 128, 64, layers, 8.0)
    assert (
        expected.flops == found.linear + found.attention / 2
    )  # causal attention sees half of its square


@pytest.mark.parametrize("form", ["text", "kv"])
@pytest.mark.parametrize("context", [0, 64])
def test_what_leaves_cost_is_what_they_do(form: str, context: int) -> None:
    model, tokenizer = models.made("tiny", torch.device("cpu"), torch.float32)
    llm = ours.opened(model, tokenizer, layers=4, chunk=64, attention="sdpa", context=context)
    size, clock = costs.Size.of(model.config, 4), card.Clock(torch.device("cpu"))
    document = llm.remember(models.text(256))
    asked = leaves.ask(llm, document, form, 128, clock)
    prompt = asked.prompt()
    assert prompt.injected_tokens == (128 if form == "kv" else 0)
    found = count(lambda: llm.upper.start([prompt]))
    cost = leaves.question_cost(size, prompt.text_tokens, prompt.injected_tokens, 4)
    pieces = [len(piece) for piece in prompt.text]
    hidden = 4 * 2 * size.attention * sum(n * n for n in pieces)  # the halves of causal squares
    before = 4 * 4 * size.attention * pieces[0] * prompt.injected_tokens  # does not read the KV
    again = 2 * size.head * (len(pieces) - 1)  # logits of the token before the KV
    assert cost.flops == found.linear + found.attention - hidden + before - again
    if form == "kv":
        fresh, wanted = llm.remember(models.text(256)), asked.requests
        found = count(lambda: llm.encoder.encode(fresh, wanted))
        assert leaves.encoding_cost(size, wanted, 4).flops == found.linear + found.attention / 2


def test_a_budget_as_stored_kv_costs_the_question_alone() -> None:
    at = {row["budget"]: row for row in leaves.counted("llama8b-shaped", (1024, 16384))}
    assert at[16384]["text"] > 100 * at[16384]["kv_stored"]
    assert at[1024]["text"] > 13 * at[1024]["kv_stored"]
    assert at[16384]["kv_stored"] < 2 * at[1024]["kv_stored"]


def test_floors() -> None:
    rates = card.Rates(flops=100.0, copy=10.0, upload=1.0)
    assert rates.floor(200.0, 5.0) == (2.0, "matrix rate")
    assert rates.floor(200.0, 50.0) == (5.0, "copy rate")
    found = ours.row("x", 4.0, costs.Cost(flops=200.0, bytes=5.0), rates)
    assert (found["floor_share"], found["matrix_share"], found["rest_s"]) == (0.5, 0.5, 2.0)


PRESS = """
from contextlib import contextmanager
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

for name in list(ALL_ATTENTION_FUNCTIONS):
    ALL_ATTENTION_FUNCTIONS[name] = None

class SnapKVPress:
    def __init__(self, compression_ratio):
        self.share = 1 - compression_ratio

    def forget(self, module, args, kwargs, output):
        read = len(kwargs["cache_position"])
        assert kwargs["cache_position"][-1] + 1 == kwargs["hidden_states"].shape[1] == read
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        layer.keys, layer.values = (
            x[:, :, : int(self.share * read)] for x in (layer.keys, layer.values)
        )

    @contextmanager
    def __call__(self, model):
        hooks = []
        for layer in model.model.layers:
            layer.self_attn.rotary_emb = model.model.rotary_emb
            hooks.append(layer.self_attn.register_forward_hook(self.forget, with_kwargs=True))
        yield
        for hook in hooks:
            hook.remove()
"""


def test_presses_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presses.kvpress.cache_clear()
    (tmp_path / "kvpress.py").write_text(PRESS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kvpress", raising=False)
    model, _ = models.made("tiny", torch.device("cpu"), torch.float32)
    before = [name for name, _ in model.named_modules()]
    size = costs.Size.of(model.config, 4)
    rates = card.Rates(flops=1e9, copy=1e9, upload=0.0)
    clock = card.Clock(torch.device("cpu"))
    rows = list(presses.pressed("SnapKV", model, 300, (9, 20), 100, size, rates, clock))
    assert [row["phase"] for row in rows] == [
        "SnapKV, first token",
        "SnapKV, warm question",
        "SnapKV, warm text",
        "SnapKV, decode",
    ]
    assert {row["entries"] for row in rows} == {100}
    assert [row.get("running") for row in rows] == [None, 9, 20, 20]
    assert rows[0]["stored"] == 2 * 4 * size.kv * 100 * size.layers
    assert rows[0]["flops"] == costs.prefill(size, 300).flops
    assert None not in ALL_ATTENTION_FUNCTIONS.values()
    assert [name for name, _ in model.named_modules()] == before
    assert not any(module._forward_hooks for module in model.modules())
    plain = [{"phase": "full attention, first token", "seconds": 1.0, "tokens": 300}]
    reached = [row["reached"] for row in report.reached(rows + plain)]
    presses.kvpress.cache_clear()
    assert reached == [f"full prefill / SnapKV, {x}" for x in ("first token", "warm question")]


def test_without_kvpress_the_row_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    presses.kvpress.cache_clear()
    monkeypatch.setattr(presses, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps kvpress==0\.5\.5"):
        presses.kvpress()


def run(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    out = tmp_path / "speed.jsonl"
    command = [sys.executable, "-m", "benchmarks.speed", "--small", f"--out={out}", *options]
    subprocess.run(command, check=True, capture_output=True, timeout=240, cwd=ROOT)
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_one_small_run(tmp_path: Path) -> None:
    rows = run(tmp_path, f"--plot={tmp_path / 'speed.png'}")
    assert rows[0]["rates"]["flops"] > 0
    done = [row for row in rows if "seconds" in row]
    assert {row["phase"] for row in done} == PHASES
    assert all(row["seconds"] > 0 and row["floor_share"] > 0 for row in done)
    for row in done:
        if "parts" in row:
            parts = row["parts"]
            assert parts["matrix"] > 0
            assert sum(parts.values()) == pytest.approx(2 * parts["whole"], rel=0.3)
    whys = [row for row in rows if "why" in row]
    assert {row["phase"] for row in whys} == {"SnapKV", "ExpectedAttention"}
    assert all("kvpress is not installed" in row["why"] for row in whys)
    assert {row["attention"] for row in done if "attention" in row} == {"sdpa", "reference"}
    # a length: four for each M, three for each place of the memory, decoding, evidence as KV
    assert len([row for row in rows if "reached" in row]) == 3 * (3 * 4 + 3 * 3 + 1 + 1)
    stored = {r["tokens"]: r["stored"] for r in done if r["phase"] == "ingest" and "sweep" not in r}
    assert stored[2048] == 2 * stored[1024] == 4 * stored[512]
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_one_small_run_of_leaves(tmp_path: Path) -> None:
    rows = [row for row in run(tmp_path, "--leaves=1") if "phase" in row]
    assert [row["phase"] for row in rows] == [
        "leaves, added to the memory",
        *(
            f"leaves as {form}, first token"
            for form in (
                "text",
                "KV encoded now",
                "KV stored",
                "KV not in the page cache",
                "KV on the device",
            )
        ),
    ]
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[0]["disk"] > 512 * 2 * 4 * 32 * 2  # a byte for each number of the leaves' KV
    assert [row["entries"] for row in rows[1:]] == [0, 64, 64, 64, 64]


@pytest.mark.slow
def test_a_run_cut_short_says_so(tmp_path: Path) -> None:
    rows = run(tmp_path, "--minutes=0")
    assert not [row for row in rows if "seconds" in row]
    assert "minutes were over" in rows[2]["why"]
