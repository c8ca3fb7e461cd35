"""Data of the default adapter: public question sets, cleaned, and the recipes that read them."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic", reason="needs the extra [train]")

from benchmarks.default_adapter import data
from benchmarks.default_adapter.data import PACKED, STREAMED, Subset, clean
from sharedllm.training.train_config import read_config


def row(**changes: Any) -> dict[str, Any]:
    given = {
        "context": "The mill burned down in 1911, and Ada Pell rebuilt it in 1913.",
        "question": "Who rebuilt the mill?",
        "answer": ["Ada Pell"],
    }
    return {**given, **changes}


def cleaned(**changes: Any) -> dict[str, Any] | None:
    return clean(row(**changes), random.Random(0))


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"answer": ["Ada Pell ."]}, "Ada Pell"),
        ({"answer": ["Who rebuilt the mill again? Ada Pell"]}, "Ada Pell"),
        ({"answer": ["It was Ada Pell, as is well known"], "short": "yes"}, "yes"),
        ({"answer": ["UNANSWERABLE"]}, "UNANSWERABLE"),
    ],
)
def test_answers_are_tidied(changes: dict[str, Any], answer: str) -> None:
    found = cleaned(**changes)
    assert found is not None
    assert found["answer"] == [answer]


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": []},
        {"answer": ["of"]},
        {"answer": ["..."]},
        {"answer": ["Ada " * 300]},
        {"answer": ["27.5 percent"]},
        {"question": "Why? " * 100},
        {"question": ""},
        {"context": " "},
    ],
)
def test_rows_of_no_use_are_left_out(changes: dict[str, Any]) -> None:
    assert cleaned(**changes) is None
    assert cleaned() is not None


@pytest.mark.parametrize(
    "wrapped",
    [
        'Question: "{q}"\nAnswer:',
        "Extract the answer to the question from the following context.\nQuestion: {q}",
        "Given the following context:\nanswer the following question:\n{q}",
        "{q}\nAnswer the above question based on the context below:",
        "The following article contains an answer for the question: {q} , can you please find it?",
        "What is the answer for the question: {q} from the following article ?",
        "Given the following passage\nanswer the following question. Note that the answer is "
        "present within the text.\nQuestion: {q}",
    ],
)
def test_prompts_around_questions_are_taken_off(wrapped: str) -> None:
    found = cleaned(question=wrapped.format(q="Who rebuilt the mill ?"))
    assert found is not None
    assert found["question"] == "Who rebuilt the mill?"


@pytest.mark.parametrize("subset", [STREAMED, PACKED], ids=["streamed", "packed"])
def test_prepared_files_hold_cut_documents_and_clean_questions(
    tmp_path: Path, subset: Subset
) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    texts = [{"text": "x" * (subset.longest + 5)}, {"text": "caf\u00e9"}]
    questions = [row(source="SQuAD"), row(source="PolicyQA"), row(source="SQuAD", answer=[])]
    files = dict.fromkeys(subset.characters, texts)
    for name, rows in {**files, "qa": questions, "qa2": questions}.items():
        (given / "train").mkdir(parents=True, exist_ok=True)
        with lzma.open(given / f"train/{name}.jsonl.xz", "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(one) + "\n" for one in rows)
    (out / "train").mkdir(parents=True)
    data.documents(given, out, subset)
    data.questions(given, out, subset)
    found = {path.name: read(path) for path in (out / "train").iterdir()}
    lengths = [len(one["text"]) for one in found[f"books{subset.suffix}"]]
    assert sorted(lengths) == [4, subset.longest]
    kept = [one["source"] for one in found[f"qa{subset.suffix}"]]
    assert kept == (["SQuAD"] if subset is PACKED else ["SQuAD", "PolicyQA"])
    assert found.get("qa2.jsonl") == (questions if subset is PACKED else None)


def read(path: Path) -> list[dict[str, Any]]:
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["train_default", "train_further"])
def test_recipes_are_valid(name: str) -> None:
    path = Path(data.__file__).with_name(f"{name}.toml")
    assert read_config(path).search["coarse"] == "ready"
