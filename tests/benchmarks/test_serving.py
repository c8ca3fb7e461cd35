from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from benchmarks import serving
from tests.conftest import WIDE
from tests.models import make_model, make_tokenizer


def test_every_document_holds_its_password() -> None:
    own = random.Random(1)
    secrets = [serving.password(own) for _ in range(50)]
    assert len(set(secrets)) == 50
    for secret in secrets[:5]:
        text = serving.document(own, "cellar 1", secret, 2000)
        assert serving.PASSWORD.findall(text) == [secret]
        assert 1500 < len(text) < 2500
    assert serving.PASSWORD.findall(serving.book(own, 100_000)) == []


def test_a_book_repeats_no_paragraph() -> None:
    paragraphs = serving.book(random.Random(1), 3_000_000).split("\n\n")[:-1]
    assert len(set(paragraphs)) == len(paragraphs)


def test_times_and_memory_are_summed_up() -> None:
    assert serving.seconds_of([1.0]) == {"n": 1}
    told = serving.seconds_of([float(n) for n in range(101)])
    assert told == {"n": 101, "p50": 50.0, "p95": 95.0, "p99": 99.0}
    flat = serving.growth([50, 90, 100, 100, 100, 100, 100, 100])
    assert flat["growth"] == 0
    assert serving.growth([100, 100, 150, 200])["growth"] == 1.0
    assert serving.growth([7.0])["growth"] == 0


def test_quick_changes_only_what_is_not_given() -> None:
    full, quick = serving.parsed([]), serving.parsed(["--quick", "--clients", "3"])
    assert (full.clients, full.questions, full.documents) == (50, 1000, 100)
    assert quick.clients == 3
    assert quick.questions < full.questions
    assert serving.parsed(["--serve", "--device", "cuda"]).serve == ["--device", "cuda"]


@pytest.mark.slow
def test_a_small_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    make_model("llama", **WIDE).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    small = "--clients 4 --questions 30 --documents 4 --characters 600 --throughput-clients 3"
    small += " --throughput-questions 6 --ingest-questions 4 --book-characters 60000"
    model = ["--serve", "--model", str(folder), "--adapter", "none"]
    out = tmp_path / "serving.json"
    argv = ["serving", "--quick", *small.split(), "--out", str(out), *model]
    monkeypatch.setattr(sys, "argv", argv)
    serving.main()
    told = json.loads(out.read_text())
    load = told["load"]
    assert load["counts"].get("of_another_tenant", 0) == 0
    assert load["counts"].get("failed", 0) == 0
    assert load["uploads"] == {"lost": 0, "changed": 0, "deleted_but_there": 0}
    assert load["questions"] >= 30
    assert told["throughput"]["ratio"] > 0
    assert told["ingest"]["book"] == {"completed": 1}
    assert told["hardware"]
    assert told["date"]
