"""The bench of budgets: what is asked, how prompts are batched, and its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality import budgets_table as table
from benchmarks.quality.budgets import BATCH, MOST, batches, is_judged, right
from benchmarks.quality.search.kinds import arguments_of
from benchmarks.quality.search.sought import Sought
from sharedllm.injection.positions import Prompt


def asked(kind: str, *answers: str, question: str = "Who?") -> Sought:
    return Sought(kind=kind, question=question, evidence=(), answers=answers)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("(self, left, right: int = 3):", ("left", "right")),
        ("(a, *rest, **named)", ("a", "rest", "named")),
        ("(self):", ()),
        (" = 3", ()),
        ("(int left, int right) {", ()),  # a type comes first: unclear
        ("(a, b, c, d, e, f, g)", ()),
    ],
)
def test_arguments(code: str, names: tuple[str, ...]) -> None:
    assert arguments_of(f"def f{code}", 5) == names


def test_questions_without_a_short_answer_are_left_out() -> None:
    assert is_judged(asked("real, passages", "Olga"))
    assert not is_judged(asked("real, passages", "x" * 90))
    assert is_judged(asked("real, passages", "x" * 90, "Olga"))
    assert is_judged(asked("chains", "AAAAA", "BBBBB"))
    assert not is_judged(asked("identifiers in code"))
    assert not is_judged(asked("quoted phrases", "Olga"))


def test_several_things_are_judged_by_their_share() -> None:
    assert right(asked("chains", "AB", "CD"), "ab, xy") == 0.5
    assert right(asked("real, passages", "Olga", "Nora"), "It was Nora.") == 1
    assert right(asked("yes/no", "Yes"), "No") == 0


def test_batches_hold_every_prompt_once_and_are_bounded() -> None:
    prompts = [
        Prompt(text=((1,) * n,), memory=(), reads=True)
        for n in (3000, 10, 5000, 20, *range(100, 120))
    ]
    found = list(batches(prompts))
    assert sorted(p.text_tokens for b in found for p in b) == sorted(p.text_tokens for p in prompts)
    for batch in found:
        longest = max(p.text_tokens for p in batch)
        assert len(batch) <= BATCH
        assert len(batch) == 1 or len(batch) * longest <= MOST


def rows(path: Path) -> Path:
    """Two kinds; "auto" is right where 192 is, and once more."""
    lines = []
    for kind, n in (("literal", 4), ("chains", 3)):
        for at in range(n):
            key = f"{kind}{at}"
            lines.append({"key": key, "kind": kind, "near": [1.0]})
            for system, budget, good, tokens in (
                ("ours", "192", at % 2, 190),
                ("ours", "1024", 0, 1000),
                ("ours", "auto", int(at % 2 or not at), 300),
                ("bm25", "256", 0, 256),
            ):
                lines.append(
                    {"key": key, "kind": kind, "system": system, "budget": budget, "looks": 1,
                     "right": good, "evidence": None if kind == "chains" else 1, "tokens": tokens}
                )  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(tmp_path / "rows.jsonl")
    items = table.read(path)
    kinds = table.kinds_of(items)
    assert {kind: len(keys) for kind, keys in kinds.items()} == {
        "literal": 4,
        "chains": 3,
        "all single answers": 4,
        "all of several things": 3,
        "all questions": 7,
    }
    assert table.best_of(items, kinds["literal"], "ours") == "192"
    assert table.difference(items, kinds["literal"], ("ours", "auto"), ("ours", "192")) == (
        "+25.0 ± 49.0"
    )
    table.show(path)
    out = capsys.readouterr().out
    assert "| literal | 4 | 50.0 | 0.0 | 75.0 | 0.0 |" in out
    assert "| all single answers | 192: +25.0 ± 49.0 | +75.0 ± 49.0 | 256: +75.0 ± 49.0 |" in out
