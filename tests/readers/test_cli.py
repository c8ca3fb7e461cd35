"""``sharedllm ask --reader``, and a model of an architecture that the code does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sharedllm import SharedLLM
from sharedllm.cli.main import main
from tests.models import make_model, make_tokenizer
from tests.readers.endpoint_server import Reply, Script, fails, says, serving
from tests.readers.models import save
from tests.texts import STORY


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A file, a question, and the tiny Llama as the model that reads."""
    folder = tmp_path_factory.mktemp("llama")
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    story = folder / "story.txt"
    story.write_text(STORY)
    return ["ask", str(story), "-q", "Who keeps it?", "--model", str(folder)]


def ask(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err.strip().splitlines()[-1] if err.strip() else ""


def test_a_reader_answers(named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Script([says("Ansel ", "Byrd")])) as script:
        code, out, _ = ask(capsys, *named, "--reader", script.url, "--thinking")
        assert code == 0
        assert "Ansel Byrd" in out
        assert "prompt 321, answer 7" in out
        assert script.asked[0]["model"] == "tiny"  # the only one there
        assert script.asked[0]["chat_template_kwargs"]["enable_thinking"] is True
        code, out, _ = ask(capsys, *named, "--reader", script.url, "--json")
        given = json.loads(out)
        assert (given["model"], given["answer"]) == ("tiny", "Ansel Byrd")
        assert given["searched_by"]["model"] == named[-1]


@pytest.mark.parametrize(
    ("reply", "options", "told"),
    [
        (fails(401, "bad key"), [], "refuses the key"),
        (fails(500, "boom"), [], "failed (500: boom)"),
        (Reply(chunks=[], hangs_up=True), [], "broke off"),
        (says("x"), ["--leaves", "kv"], "leaves is 'kv'"),
        (says("x"), ["--injection", "cross"], "injection is 'cross'"),
        (says("x"), ["--reader-window", "many"], "--reader-window is 'many'"),
        (says("x"), ["--reader-window", "70"], "need more than the 70 positions"),
        (says("x"), ["--reader", "localhost"], "give the address"),
        (says("x"), ["--reader", "http://localhost:9/v1"], "start the server"),
        (says("x"), ["--reader-model", " "], "reader_model is empty"),
    ],
)
def test_faults_are_one_line_and_exit_code_2(
    named: list[str],
    reply: Reply,
    options: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(Script([reply])) as script:
        code, _, line = ask(capsys, *named, "--reader", script.url, *options)
    assert code == 2
    assert line.startswith("sharedllm: ")
    assert told in line


def test_nothing_is_read_for_an_endpoint_that_is_down(
    named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*named, "--reader", "http://localhost:9/v1", "--reader-model", "x"]) == 2
    assert "reading story" not in capsys.readouterr().err


def test_a_model_of_an_unknown_architecture(
    named: list[str],
    scout: SharedLLM,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def given(**options: Any) -> Any:
        return scout.encoder

    monkeypatch.setattr("sharedllm.shared_llm.loaded_encoder", given)
    folder = str(save("gpt_neox", tmp_path / "neox"))
    short = ["--max-new-tokens", "4", "--json"]
    code, out, _ = ask(capsys, *named[:-1], folder, *short)
    assert code == 0
    given_out = json.loads(out)
    assert given_out["model"] == folder
    assert given_out["citations"]
    code, _, line = ask(capsys, *named[:-1], folder, "--leaves", "kv")
    assert (code, "reads text only" in line) == (2, True)
    code, _, line = ask(
        capsys, "index", named[1], "--memory", str(tmp_path / "m"), *named[4:5], folder
    )
    assert (code, "can answer from text" in line) == (2, True)
