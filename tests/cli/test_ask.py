"""The command line: what it prints, where, and how it says no."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import sharedllm
from sharedllm.answer import Answer, Timings, Usage
from sharedllm.cli import options
from sharedllm.cli.main import main
from sharedllm.config import SCORERS, GenerationConfig, SearchConfig
from sharedllm.display.console import Results, position_bar
from sharedllm.display.picture import Excerpt, Picture, Span
from sharedllm.evaluation.options import BUDGETS
from sharedllm.hf import lora_io
from tests.display.html_tree import check
from tests.models import make_model, make_tokenizer
from tests.texts import BOOK, STORY

TEXT = STORY.replace("\r\n", "\n")  # as it is read from a file
COMMAND = [sys.executable, "-m", "sharedllm"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model in a folder, its window wide enough for the default settings."""
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(TEXT)
    return "story.txt"


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_answer_then_evidence_then_usage(
    model: str, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        ["ask", story, "-q", "Who kept the light?", "--model", model, "--max-new-tokens", "3"],
        capsys,
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"story  story.txt, {len(TEXT):,} characters"
    assert "where it lies" in out
    assert "█" in out
    assert "tokens searched" in lines[-2]
    assert "decode" in lines[-1]
    assert "reading story" in err  # the progress bar
    assert "\x1b" not in out + err  # no terminal, no colours


def test_several_questions_and_documents(
    model: str, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other.md").write_text("# Ferry\nThe ferry leaves at noon.\n")
    code, out, _ = run(
        [
            *("ask", story, "other.md", "-q", "Who keeps it?", "-q", "When does it leave?"),
            *("--model", model, "--max-new-tokens", "2"),
        ],
        capsys,
    )
    assert code == 0
    assert "Who keeps it?" in out
    assert "When does it leave?" in out
    assert out.count("tokens searched") == 2


@pytest.mark.parametrize("scorer", SCORERS)
def test_every_scorer_can_be_named(
    model: str, story: str, scorer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ask", story, "-q", "Who?", "--model", model, "--max-new-tokens", "2", "--json"]
    code, out, err = run([*asked, "--scorer", scorer], capsys)
    assert (code, err) == (0, "")
    assert json.loads(out)["citations"]


def test_json_is_the_answer_and_nothing_else(
    model: str, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        ["ask", story, "-q", "Who?", "--model", model, "--max-new-tokens", "2", "--json"], capsys
    )
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    given = json.loads(out)
    assert list(given) == [
        *("question", "model", "adapter", "answer", "refused", "partial", "reasoning"),
        *("citations", "statements", "unsupported", "usage", "timings"),
    ]
    assert (given["question"], given["model"], given["adapter"]) == ("Who?", model, None)
    citation = given["citations"][0]
    assert citation["source"] == story
    assert TEXT[citation["char_start"] : citation["char_end"]] == citation["text"]
    assert set(given["timings"]) == {"load_s", "remember_s", "search_s", "prefill_s", "decode_s"}


def test_json_of_several_questions_is_an_object_a_line(
    model: str, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ask", story, "-q", "Who?", "-q", "When\nwas it?", "--json"]
    code, out, _ = run([*asked, "--model", model, "--max-new-tokens", "2"], capsys)
    assert code == 0
    given = [json.loads(line) for line in out.splitlines()]
    assert [one["question"] for one in given] == ["Who?", "When\nwas it?"]


def test_a_page_of_all_questions(
    model: str, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ask", story, "-q", "Who kept <b>it</b>?", "-q", "When?", "--html", "page.html"]
    code, out, _ = run([*asked, "--model", model, "--max-new-tokens", "2"], capsys)
    assert code == 0
    assert out.splitlines()[-1] == "page written: page.html"
    page = check(Path("page.html").read_text(encoding="utf-8"), [Path(story).name])
    assert "Who kept <b>it</b>?" in page.text
    assert len(page.every("section")) == 2
    assert page.every("mark")


def test_a_page_beside_json(model: str, story: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["ask", story, "-q", "Who?", "--json", "--html", "page.html"]
    code, out, _ = run([*asked, "--model", model, "--max-new-tokens", "2"], capsys)
    assert (code, out.count("\n")) == (0, 1)
    check(Path("page.html").read_text(encoding="utf-8"), [Path(story).name])


def test_standard_input(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(STORY.encode())))
    code, out, _ = run(
        ["ask", "-", "-q", "Who?", "--model", model, "--max-new-tokens", "1", "--json"], capsys
    )
    assert code == 0
    assert json.loads(out)["citations"][0]["source"] == "standard input"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "0"], "budget is 0"),
        (["--budget", "-5"], "budget is -5"),
        (["--budget", "nan"], "--budget is 'nan'; it must be a whole number"),
        (["--budget", "1.5"], "--budget is '1.5'"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--temperature", "nan"], "temperature is nan; it must be a finite number"),
        (["--temperature", "-1"], "it must be at least 0"),
        (["--temperature", "hot"], "--temperature is 'hot'"),
        (["--scorer", "best"], "scorer is 'best'; allowed: 'fused'"),
        (["--selection", "best"], "selection is 'best'; allowed: 'budget', 'path'"),
        (["--leaves", "best"], "leaves is 'best'; allowed: 'text', 'kv', 'auto'"),
        (["--injection", "best"], "injection is 'best'; allowed: 'joint', 'cross'"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--dtype", "int8"], "dtype is 'int8'"),
        (["--model", "/no/such/folder"], "no such folder: '/no/such/folder'"),
        (["--nonsense"], "No such option"),
        (["-q", " "], "the question is empty"),
        (["-q", "a\udcff"], "character 1 is half of a surrogate pair"),
        (["missing.txt"], "no such file: 'missing.txt'"),
        (["-", "-"], "standard input"),
        (["."], "is a folder"),
        (["--html", "."], "--html is '.', a folder"),
        (["--html", "no/page.html"], "there is no folder 'no'"),
        (["--html", "story.txt"], "name another file"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    options: list[str], message: str, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["ask", story, "-q", "Who?", *options], capsys)
    assert code == 2
    assert out == ""
    assert err.startswith("sharedllm: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask"], "Missing option '-q'"),
        (["ask", "-q", "Who?"], "Missing argument 'PATH': name files, or a memory with --memory"),
        (["ask", "a.txt"], "Missing option '-q'"),
        (["aks"], "No such command 'aks'"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(arguments, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "0"], "budget is 0"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--scorer", "best"], "scorer is 'best'"),
        (["--selection", "best"], "selection is 'best'"),
        (["--leaves", "best"], "leaves is 'best'"),
        (["--injection", "best"], "injection is 'best'"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--dtype", "int8"], "dtype is 'int8'"),
    ],
)
def test_options_are_refused_before_documents_are_read(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["ask", "missing.txt", "-q", "Who?", *options], capsys)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("options", [["--budget", "8190"], ["--max-new-tokens", "9000"]])
def test_no_room_is_said_before_a_document_is_read(
    model: str, story: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["ask", story, "-q", "Who?", "--model", model, *options], capsys)
    assert (code, out) == (2, "")
    assert "reading story" not in err
    assert "need more than the 8,192 positions" in err.splitlines()[-1]


def test_help_states_the_defaults_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run(["ask", "--help"], capsys)
    search, generation = SearchConfig(), GenerationConfig()
    assert lora_io.Manifest.read(options.SHIPPED).search["budget"] == search.budget == "auto"
    shown = (search.scorer, search.selection, search.leaves, search.budget)
    for default in (*shown, generation.max_new_tokens):
        assert f"[default: ({default})]" in out
    assert "bfloat16 where the device multiplies it, else float32" in " ".join(out.split())


@pytest.mark.parametrize("command", ["needle", "qa"])
def test_help_of_eval_states_the_defaults_of_the_settings(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    _, out, _ = run(["eval", command, "--help"], capsys)
    search = SearchConfig()
    assert f"[default: ({options.default_of('coarse')})]" in out
    for default in (search.scorer, search.sentences, f"{GenerationConfig().list_penalty:g}"):
        assert f"[default: ({default})]" in out
    assert ",".join(map(str, BUDGETS)) in out


@pytest.mark.parametrize("columns", [80, 120])
def test_evidence_fits_the_width(columns: int) -> None:
    lines = shown("a/" + "long" * 40, "x " * 99, 999, columns).splitlines()
    assert len(lines) == 6  # the document, its strip, nothing, a heading, a row, how it begins
    assert len(lines[1]) == columns
    assert lines[5].startswith("…x x")
    assert all(len(line) <= columns for line in lines)


def shown(title: str, text: str, characters: int, columns: int) -> str:
    """What a terminal shows of a passage that begins at character 9."""
    from rich.console import Console

    picture = Picture(
        document="d",
        title=title,
        source="a\x1b[2J.txt",
        characters=characters,
        passages=(Span(start=9, end=9 + len(text), level=3, score=12.5, chosen="fine"),),
        excerpts=(Excerpt(start=9, text=text),),
    )
    console = Console(file=io.StringIO(), width=columns)
    console.print(Results((picture,)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_budget_too_small_for_a_node(
    model: str, story: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["ask", story, "-q", "Who?", "--model", model, "--budget", "1"], capsys)
    assert code == 2
    assert err.splitlines()[-1].startswith("sharedllm: budget is 1")


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], capsys) == (0, f"sharedllm {sharedllm.__version__}\n", "")
    code, out, _ = run([], capsys)
    assert code == 0
    assert "sharedllm ask book.txt" in out
    code, out, _ = run(["ask", "--help"], capsys)
    assert code == 0
    assert "Examples" in out


def test_help_loads_no_torch() -> None:
    check = (
        "import sys; from sharedllm.cli.main import main; main(['ask', '--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", check], stdout=subprocess.DEVNULL).returncode == 0


def test_a_reader_that_leaves_is_no_error(model: str, story: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    arguments = ["ask", story, "-q", "Who?", "--model", model, "--max-new-tokens", "2", "--json"]
    process = subprocess.run(
        [*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert process.stderr == ""


def test_an_encoding_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_bytes("Köln".encode("cp850"))
    ask = ["ask", str(tmp_path / "a.txt"), "-q", "Which town?", "--encoding"]
    assert main([*ask, "klingon"]) == 2
    assert "encoding is 'klingon'" in capsys.readouterr().err
    assert main([*ask, "utf-8"]) == 2
    assert "is not UTF-8 text: byte 1 is 0x94" in capsys.readouterr().err


def test_interrupt_is_quiet_and_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], story: str
) -> None:
    def interrupted(path: str, **_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("sharedllm.cli.main.read_file", interrupted)
    assert main(["ask", story, "-q", "Who?"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("start", "end", "length", "bar"),
    [
        (0, 100, 100, "████"),
        (0, 1, 100, "█░░░"),
        (99, 100, 100, "░░░█"),
        (50, 51, 100, "░░█░"),
        (20, 60, 100, "███░"),
        (0, 0, 0, "█░░░"),
    ],
)
def test_position_bar(start: int, end: int, length: int, bar: str) -> None:
    assert position_bar(start, end, length, cells=4) == bar


def test_a_document_cannot_steer_the_terminal() -> None:
    printed = shown("t\x1b[1A", "x\x1b]0;t\x07\ny", 30, 100)
    assert "\x1b" not in printed
    assert "x]0;t y" in printed


def test_summary_says_when_an_answer_was_cut() -> None:
    answer = Answer(
        text="a",
        citations=(),
        usage=Usage(
            context_tokens=1234,
            injected_tokens=0,
            evidence_tokens=5,
            prompt_tokens=6,
            new_tokens=7,
            coarse_ratio=None,
            left_out_chunks=0,
            budget=None,
            looks=0,
            search_rounds=3,
        ),
        timings=Timings(load_s=1, remember_s=2, search_s=3, prefill_s=4, decode_s=5),
        finish_reason="length",
    )
    assert "1,234 tokens searched in 3 rounds" in answer.summary()
    assert "raise --max-new-tokens" in answer.summary("--max-new-tokens")


def test_a_question_about_a_section(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(BOOK.replace("CHAPTER II.", "\fCHAPTER II."))
    command = ["ask", "book.txt", "-q", "When does the ferry leave?", "--model", model]
    command += ["--max-new-tokens", "2", "--section", "chapter 2", "--html", "page.html"]
    code, out, _ = run(command, capsys)
    assert code == 0
    evidence = out.splitlines()
    rows = [line for line in evidence if "CHAPTER II. The Boat, p. 2  book" in line]
    assert rows
    page = check(Path("page.html").read_text(), ["book.txt"])
    assert "CHAPTER II. The Boat, page 2, characters" in page.text


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("chapter 9", "and no document has such a section; the nearest: 'CHAPTER I. The Rock'"),
        ("", "give a section's title or number"),
    ],
)
def test_a_section_that_is_not_there_is_said_before_anything_is_read(
    story: str, capsys: pytest.CaptureFixture[str], section: str, message: str
) -> None:
    Path("book.txt").write_text(BOOK)
    command = ["ask", "book.txt", story, "-q", "Who?", "--model", "nowhere", "--section", section]
    code, out, err = run(command, capsys)
    assert (code, out) == (2, "")
    assert message in err


def test_a_question_about_the_whole_says_what_is_read(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(BOOK.replace("\f", "\n") * 12)
    asked = ["ask", "book.txt", "--model", model, "--max-new-tokens", "8"]
    code, out, _ = run([*asked, "-q", "How many times is the lamp mentioned?"], capsys)
    assert code == 0
    assert "for a count in" in out
    code, out, _ = run([*asked, "-q", "Summarise the book.", "--max-chunks", "1", "--json"], capsys)
    given = json.loads(out)
    assert code == 0
    assert given["partial"] is True
    assert given["usage"]["scope"] == "summary"
    assert given["usage"]["parts_read"] == 1
    code, out, _ = run([*asked, "-q", "Who?", "--scope", "passages", "--json"], capsys)
    assert json.loads(out)["usage"]["scope"] == "passages"
    for wrong in (["--scope", "everything"], ["--max-chunks", "many"], ["--max-seconds", "-1"]):
        code, out, err = run([*asked, "-q", "Who?", *wrong], capsys)
        assert (code, out) == (2, "")
        assert wrong[1] in err
