"""Progress, answers, errors, prompts' shape, and the public names."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import sharedllm
from sharedllm import Answer, Citation, Timings, Usage, errors
from sharedllm.injection.positions import Prompt
from sharedllm.progress import reporter

ROOT = Path(__file__).parents[1]


def test_progress_goes_to_a_function() -> None:
    calls: list[tuple[int, int]] = []
    with reporter(lambda done, total: calls.append((done, total)), 10, "reading") as report:
        report(3)
        report(7)
    assert calls == [(3, 10), (10, 10)]


@pytest.mark.parametrize(("progress", "total"), [(None, 10), (False, 10), (True, 0)])
def test_no_progress(capsys: pytest.CaptureFixture[str], progress: bool | None, total: int) -> None:
    with reporter(progress, total, "reading") as report:
        report(3)
    assert capsys.readouterr() == ("", "")


def test_a_bar_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(True, 1000, "reading x") as report:
        report(400)
        report(600)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading x" in err
    assert "1,000/1,000 tokens" in err


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_a_bar_takes_one_line(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with reporter(True, 157358, "reading [/b] a\x1b[2J " + "title" * 30) as report:
        report(100000)
        report(57358)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "157,358/157,358 tokens" in lines[0]
    assert "reading [/b]" in lines[0] or columns == "60"
    assert "\x1b" not in lines[0]


def test_an_answer_as_plain_values() -> None:
    citation = Citation(source="a", char_start=1, char_end=2, level=3, score=0.5, text="b")
    usage = Usage(
        context_tokens=1,
        injected_tokens=2,
        evidence_tokens=3,
        prompt_tokens=4,
        new_tokens=5,
        coarse_ratio=None,
        left_out_chunks=6,
        budget=None,
        looks=0,
        search_rounds=2,
    )
    timings = Timings(load_s=1, remember_s=2, search_s=3, prefill_s=4, decode_s=5)
    answer = Answer(
        text="yes", citations=(citation,), usage=usage, timings=timings, finish_reason="stop"
    )
    values = answer.to_dict()
    assert {"answer", "citations", "usage", "timings"} <= set(values)
    assert values["answer"] == str(answer) == "yes"
    (cited,) = values["citations"]
    assert list(cited)[:6] == ["source", "char_start", "char_end", "level", "score", "text"]
    places = ["document", "title", "page", "end_page", "match_start", "match_end"]
    assert list(cited)[6:] == [*places, "round", "sought", "section"]
    needed = ["context_tokens", "injected_tokens", "evidence_tokens", "prompt_tokens", "new_tokens"]
    assert list(values["usage"])[:5] == needed
    assert list(values["timings"]) == ["load_s", "remember_s", "search_s", "prefill_s", "decode_s"]
    assert values["usage"]["evidence_tokens"] == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.text = "no"  # type: ignore[misc]


def test_errors_are_what_their_drawing_says() -> None:
    parents = {
        name: [base.__name__ for base in value.__bases__]
        for name, value in vars(errors).items()
        if isinstance(value, type)
    }
    assert parents == {
        "SharedLLMError": ["Exception"],
        "ConfigError": ["SharedLLMError", "ValueError"],
        "BudgetError": ["ConfigError"],
        "InputError": ["SharedLLMError", "ValueError"],
        "DocumentError": ["InputError"],
        "SectionError": ["InputError"],
        "WindowError": ["InputError"],
        "ModelError": ["SharedLLMError"],
        "ModelNotFoundError": ["ModelError"],
        "ModelTooLargeError": ["ModelError"],
        "UnsupportedModelError": ["ModelError"],
        "AdapterError": ["ModelError"],
        "ReaderError": ["ModelError"],
        "TreeMemoryError": ["SharedLLMError"],
        "TreeMemoryFormatError": ["TreeMemoryError"],
        "TreeMemoryMismatchError": ["TreeMemoryError"],
        "TreeMemoryBusyError": ["TreeMemoryError"],
        "TreeMemoryDamagedError": ["TreeMemoryError"],
        "MissingExtraError": ["SharedLLMError", "ImportError"],
    }
    drawn = (errors.__doc__ or "").split()
    assert all(name in drawn for name in parents)
    assert "pip install 'sharedllm[pdf]'" in str(errors.MissingExtraError("pypdf", "pdf"))


@pytest.mark.parametrize(
    ("text", "memory"), [(((1,), (2,)), ()), (((1,),), (None,)), (((1,), ()), (None,)), (((),), ())]
)
def test_prompts_of_another_shape(
    text: tuple[tuple[int, ...], ...], memory: tuple[None, ...]
) -> None:
    with pytest.raises(ValueError, match="the last not empty"):
        Prompt(text=text, memory=memory)


def test_the_public_names() -> None:
    assert sharedllm.__all__ == [
        "SharedLLM",
        "loaded",
        "loaded_for",
        "Document",
        "TreeMemory",
        "PartedMemory",
        "PartSearcher",
        "open_memory",
        "MemoryDocument",
        "Hit",
        "Answer",
        "Citation",
        "Usage",
        "Timings",
        "TreeConfig",
        "InjectionConfig",
        "SearchConfig",
        "GenerationConfig",
        "read_file",
        "join_pages",
        "find_outline",
        "Section",
        "query_of",
        "Asked",
        "ToolCall",
        "ToolResult",
        "ToolFormat",
        "SharedLLMError",
        "SectionError",
    ]
    assert set(sharedllm.__all__) <= set(dir(sharedllm))
    for name in sharedllm.__all__:
        assert getattr(sharedllm, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Tree'"):
        sharedllm.Tree  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, sharedllm, sharedllm.config; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "sharedllm.config" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "numpy", "rich", "typer", "pypdf"})
