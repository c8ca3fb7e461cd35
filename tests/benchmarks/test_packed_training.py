"""Packed training computes what the library's training computes; its data have their evidence."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pydantic", reason="needs the extra [train]")

from benchmarks.default_adapter import state
from benchmarks.default_adapter.average import average
from benchmarks.default_adapter.cases import Case, Source
from benchmarks.default_adapter.lessons import Chooser, Drawn
from benchmarks.default_adapter.packed_model import PackedModel, losses
from benchmarks.default_adapter.packing import make_lesson, make_twin, pack
from benchmarks.default_adapter.questions import Bank, Questions, Row, Shares, find_evidence
from benchmarks.default_adapter.records import make_record
from benchmarks.default_adapter.tasks import CASE_MAKERS, kinds, names
from benchmarks.default_adapter.tasks.names import use_words
from benchmarks.default_adapter.train import rate_share, to_device
from sharedllm import SharedLLM
from sharedllm.config import AdapterConfig
from sharedllm.generation.prompt import ABSENT
from sharedllm.hf.lora import Adapter
from sharedllm.training.batch import Choice
from tests.models import TREE, shared
from tests.texts import FERRY, STORY

RANK = 4
CPU = torch.device("cpu")


def cases() -> list[Case]:
    at = STORY.index("lamp")
    story = Source(text=STORY, title="story", evidence=((at, at + 4),))
    ferry = Source(text=FERRY, title="ferry")
    asked = Case(kind="qa", sources=(story,), question="What burned?", answer="the lamp")
    return [
        asked,
        dataclasses.replace(asked, sources=(story, ferry)),
        dataclasses.replace(asked, history=(("Who lived there?", "a keeper"),)),
        Case(kind="lm", sources=(story,), question="", answer="and then the night fell"),
    ]


@pytest.mark.parametrize("form", ["text", "kv", "both"])
@pytest.mark.parametrize("context", [0, 64])
def test_losses_and_gradients_are_the_librarys(form: str, context: int) -> None:
    llm = shared("llama", tree=TREE.replace(context=context))
    adapter = Adapter(llm.model, AdapterConfig(rank=RANK, alpha=2 * RANK))
    for parameter in adapter.parameters().values():
        torch.nn.init.normal_(parameter.data, std=0.1)
    llm.adapt(adapter)
    forms = {"text": (1.0, 0.0, 0.0), "kv": (0.0, 1.0, 0.0), "both": (0.0, 0.0, 1.0)}
    drawn = Drawn(budget=(100, 160), common=0.0, forms=forms[form], coarse=1.0)
    chooser = Chooser(llm.tokenizer, llm.tree, drawn, 3)
    choices = [chooser.choose(case) for case in cases() for _ in range(2)]
    batch = pack([make_lesson(choice, llm.tokenizer) for choice in choices])
    model = PackedModel(llm.model, 2 * RANK, 4 * RANK, compiled=False)
    model.load(adapter.weights())
    arrays = to_device(batch, CPU)
    ours = losses(model(arrays, batch.longest), arrays, len(batch.kinds), 0.0)
    adapter.train()
    both = [one for choice in choices for one in (choice, make_twin(choice)) if one]
    theirs = torch.stack([loss_of(llm, choice) for choice in both])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    ours.mean().backward()
    theirs.mean().backward()
    for key, parameter in model.low.items():
        role, name, side = key.split("_")
        for layer in range(model.layers):
            want = adapter.parameters()[f"{model._module(layer, name)}.{role}.{side}"].grad
            got = torch.zeros(1) if parameter.grad is None else parameter.grad[layer]
            if want is None:
                assert not got.any()
                continue
            got = got[:RANK] if side == "down" else got[:, :RANK]
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-3)


def loss_of(llm: SharedLLM, choice: Choice) -> torch.Tensor:
    """Compute the loss with the library's own two models."""
    plan, memory = choice.plan, []
    for n, document in enumerate(plan.conversation.documents):
        encoded = dict(llm.encoder.lower.encode(document.tokens.ids, plan.requests(n)))
        memory.append(plan.memory(n, encoded))
    prompt = plan.prompt(memory, llm.tokenizer, then=choice.target[:-1])
    (logits,) = llm.upper.logits([prompt])
    count = min(len(choice.target), len(prompt.text[-1]))
    target = torch.tensor(choice.target[-count:])
    return torch.nn.functional.cross_entropy(logits[-count:].float(), target)


def test_a_teacher_adds_to_the_loss_of_its_student_alone() -> None:
    llm = shared("llama")
    drawn = Drawn(budget=(100, 160), common=0.0, forms=(0, 0, 1), coarse=0)
    chooser = Chooser(llm.tokenizer, llm.tree, drawn, 1)
    batch = pack([chooser(case) for case in cases()])
    arrays = to_device(batch, CPU)
    model = PackedModel(llm.model, RANK, 2 * RANK, compiled=False)
    with torch.no_grad():
        logits = model(arrays, batch.longest)
        plain, taught = (losses(logits, arrays, len(batch.kinds), d) for d in (0.0, 1.0))
    students = [n for n, kind in enumerate(batch.kinds) if "/kv" in kind]
    assert all(taught[n] > plain[n] for n in students)
    assert all(taught[n] == plain[n] for n in set(range(len(plain))) - set(students))


def test_a_state_comes_back_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PIECE", 4096)
    parameters = torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.randn(50, 60))})
    optimizer = torch.optim.AdamW(parameters.values())
    parameters["a"].square().sum().backward()
    optimizer.step()
    state.save(tmp_path / "state.safetensors", parameters, optimizer, {"step": 1})
    state.cut(tmp_path / "state.safetensors", tmp_path / "pieces")
    state.join(tmp_path / "pieces", tmp_path / "again.safetensors")
    other = torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.zeros(50, 60))})
    moments = torch.optim.AdamW(other.values())
    assert state.load(tmp_path / "again.safetensors", other, moments) == {"step": 1}
    torch.testing.assert_close(other["a"], parameters["a"], atol=1e-2, rtol=1e-2)
    assert float(moments.state[other["a"]]["step"]) == 1
    (tmp_path / "pieces" / "state.safetensors.01").unlink()
    with pytest.raises(ValueError, match="missing or damaged"):
        state.join(tmp_path / "pieces", tmp_path / "again.safetensors")


def test_evidence_of_a_record_holds_its_answer() -> None:
    rng = random.Random(0)
    for _ in range(200):
        case = make_record(rng, lambda size: "Nothing of it is known. " * (size // 20), 3000)
        (source,) = case.sources
        shown = " ".join(source.text[a:b] for a, b in source.evidence).replace('"', "")
        if case.answer == ABSENT:
            assert not source.evidence
        elif case.answer not in ("Yes", "No"):
            first = re.split(", | and ", case.answer)[0]
            assert first in shown


def test_questions_keep_their_evidence_wherever_they_are_put(tmp_path: Path) -> None:
    rows = [
        {"kind": "extractive", "context": f"{STORY} The key of room {n} is brass-{n}.",
         "question": f"Which key opens room {n}?", "answer": [f"brass-{n}"]}
        for n in range(30)
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = iter(
        Questions(
            Bank(path),
            {"extractive": 1.0},
            lambda size: "The rain fell on the roof. " * (1 + size // 27),
            lambda: 6000,
            random.Random(2),
            Shares(again=0.2, doubted=0.2, chat=0.2),
        )
    )
    kinds = set()
    for case in (next(made) for _ in range(200)):
        kinds.add((case.kind, len(case.sources) > 1))
        found = [s.text[a:b] for s in case.sources for a, b in s.evidence]
        assert any(case.answer in text for text in found)
    assert {("extractive", False), ("extractive", True), ("again", False)} <= kinds


def test_what_is_absent_has_no_evidence() -> None:
    row = Row(kind="unanswerable", context=STORY, question="Who?", right=(ABSENT,), history=())
    assert find_evidence(row) == ()


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [rate_share(x, 0.1, 0.5, 0.05) for x in np.linspace(0, 1, 101)]
    assert rates[0] < 0.1
    assert max(rates) == 1.0 == rates[30]
    assert rates[-1] == pytest.approx(0.05)


def test_compressed_leaves_keep_every_second_token_and_have_a_teacher() -> None:
    llm = shared("llama", tree=TREE.replace(context=64))
    forms = (0.0, 1.0, 0.0)
    drawn = Drawn(budget=(100, 160), common=0.0, forms=forms, coarse=0.0, ratios=((2, 1.0),))
    chooser = Chooser(llm.tokenizer, llm.tree, drawn, 3)
    for case in cases():
        lesson = chooser(case)
        assert lesson.kind.endswith("/kv2")
        assert lesson.twin is not None
        steps = [np.diff(part[:, 1]) for part in lesson.parts if part.ndim == 2]
        assert steps
        assert np.median(np.concatenate(steps)) == 2


def test_generated_values_come_from_real_texts_too() -> None:
    rng = random.Random(1)
    try:
        use_words({"words": ["zephyr"], "names": ["Quenby"]})
        drawn = [kinds.DRAW[kind](rng) for kind in ("food", "word", "ship", "person") * 40]
    finally:
        use_words({"words": [], "names": []})
    text = " ".join(drawn).lower()
    assert "zephyr" in text
    assert "quenby" in text
    assert any(food in text for food in names.FOODS)


@pytest.mark.parametrize("task", sorted(CASE_MAKERS))
def test_cases_in_conversations_become_lessons(task: str) -> None:
    llm = shared("llama")
    chooser = Chooser(llm.tokenizer, llm.tree, Drawn(miss=0.0), 5)
    for seed in range(3):
        case = CASE_MAKERS[task](random.Random(seed), STORY * 4)
        choice = chooser.choose(case)
        said = llm.tokenizer.decode(choice.target, skip_special_tokens=True)
        assert said.strip() == case.answer
        assert choice.kind.startswith(task)


def test_every_answer_begins_with_the_lead() -> None:
    llm = shared("llama")
    plain, led = (
        Chooser(llm.tokenizer, llm.tree, Drawn(budget=(200, 400), lead=lead), 5)
        for lead in ("", " ")
    )
    space = llm.tokenizer(" ")["input_ids"]
    for case in cases():
        without, within = plain.choose(case).target, led.choose(case).target
        assert list(within) == ([*space, *without] if case.question else list(without))


def test_averaging_shares_each_matrix_and_takes_new_ranks_from_the_newer() -> None:
    older, newer = torch.ones(2, 5), torch.full((4, 5), 3.0)
    mean = average(older, newer, 0.5, 0)
    assert torch.equal(mean, torch.tensor([2.0, 2, 3, 3])[:, None].expand(4, 5))
    up = average(older.T, newer.T, 0.25, 1)
    assert torch.equal(up, torch.tensor([1.5, 1.5, 0.75, 0.75]).expand(5, 4))
    with pytest.raises(SystemExit, match="higher rank"):
        average(newer, older, 0.5, 0)
