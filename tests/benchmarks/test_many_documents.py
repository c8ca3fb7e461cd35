"""The bench of many documents: questions about topics, and rankings that are compared."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from benchmarks.many_documents import behind, fused, show
from benchmarks.quality.plain_words import PLAIN_WORDS
from benchmarks.quality.topics import other_words, plain_words, summaries, titles
from sharedllm.search.bm25 import Asked

LONG = "It tells of many things that a reader may want to know. " * 20


def write(path: Path, rows: list[dict[str, object]]) -> None:
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    agda = f"# Repetitions of values\n\n{LONG}\n\n# The pigeonhole principle\n\n{LONG}"
    code = f'# file: a.py\n# (c)\n"""Fixer for exec."""\n{LONG}\n# file: b.py\nimport a\n{LONG}'
    write(tmp_path / "papers.jsonl.xz", [{"source": "agda-unimath", "text": agda}])
    write(tmp_path / "code.jsonl.xz", [{"source": "python", "text": code}])
    write(tmp_path / "docs.jsonl.xz", [])
    asked = {"question": "Write a summary.", "answer": ["We propose to tell many things. More."]}
    med = {"question": "What is Scurvy?", "answer": ["-"], "context": f"Scurvy\n\n{LONG}"}
    rows = [{"source": "SciTLDR-A", "context": LONG, **asked}, {"source": "MedQuAD", **med}]
    write(tmp_path / "qa.jsonl.xz", rows)
    return tmp_path


def test_facts_in_other_words_share_none() -> None:
    for item in other_words(60, 1):
        asked, told = (set(Asked.of(text).content) for text in (item.question, item.passage))
        assert asked & told <= {"near"}
    assert {i.question for i in other_words(60, 1)} != {i.question for i in other_words(60, 2)}


def test_titles_are_taken_out_of_their_texts(data: Path) -> None:
    found = {item.answers[0]: item for item in titles(data)}
    assert set(found) == {"Repetitions of values", "The pigeonhole principle", "Fixer for exec."}
    for title, item in found.items():
        assert title.rstrip(".") in item.question
        assert title not in item.passage


def test_summaries_and_plain_words(data: Path) -> None:
    (summary,) = summaries(data / "qa.jsonl.xz")
    assert summary.question == "Which text is this a summary of: We propose to tell many things."
    plain = {item.answers[0]: item.question for item in plain_words(data)}
    assert plain == {name: PLAIN_WORDS[name] for name in ("The pigeonhole principle", "Scurvy")}


def test_rankings_are_joined() -> None:
    assert fused([1, 2, 3], [3, 4]) == [3, 1, 2, 4]
    assert behind(list(range(40)), [100, 3])[30:34] == [30, 31, 100, 32]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    depths = {"words": [1, 0, 40], "ours": [1, 90, 2]}
    show({"found": {"summary": depths, "literal": {name: [1] for name in depths}}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| summary | 3 | 33.3 / 66.7 / 66.7 | 66.7 / 66.7 / 100.0 | +33.3")
    assert lines[-1].startswith("| all | 4 |")
