"""The chat: follow-ups, commands, what is kept, and how it is interrupted."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from sharedllm.answer import AnswerStream
from sharedllm.cli.chat import passage_in_context
from sharedllm.cli.chat_file import Conversation, Turn, path_for
from sharedllm.cli.main import main
from sharedllm.errors import ConfigError
from sharedllm.search.citations import Citation
from sharedllm.shared_llm import SharedLLM
from tests.models import make_model, make_tokenizer
from tests.text import samples
from tests.texts import FERRY, STORY

TEXT = STORY.replace("\r\n", "\n")
Chat = Callable[..., tuple[int, str, str]]


class Terminal(io.StringIO):
    """Standard input as a terminal is."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text, where nothing of the user's own is touched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHAREDLLM_DATA", str(tmp_path / "data"))
    Path("story.txt").write_text(TEXT)
    Path("ferry.txt").write_text(FERRY)
    return tmp_path


@pytest.fixture
def piped(model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """Chat with lines of standard input; returns exit code, output, errors."""

    def run(lines: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        code = main(["chat", *arguments, "--model", model, "--max-new-tokens", "4"])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[PipeInput]:
    """What is typed at the prompt."""
    monkeypatch.setattr(sys, "stdin", Terminal())
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The questions that reach the model, as they are given to it."""
    found: list[Any] = []
    stream = SharedLLM.stream

    def noted(self: SharedLLM, question: Any, *given: Any, **options: Any) -> AnswerStream:
        found.append(question)
        return stream(self, question, *given, **options)

    monkeypatch.setattr(SharedLLM, "stream", noted)
    return found


def test_follow_ups_about_a_pdf(piped: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("report.pdf").write_bytes(samples.pdf("The ferry leaves at seven.", "Dogs travel free."))
    questions = asked(monkeypatch)
    code, out, err = piped("When does it leave?\nAnd dogs?\n\nWhy?\n", "report.pdf")
    assert (code, err.count("sharedllm:")) == (0, 0)
    assert out.count("Evidence") == 3
    assert "p. 1" in out or "p. 2" in out
    assert questions[0] == "When does it leave?"
    roles = [message["role"] for message in questions[2]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert [questions[2][n]["content"] for n in (0, 2, 4)] == [
        "When does it leave?",
        "And dogs?",
        "Why?",
    ]


def test_a_conversation_goes_on(piped: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    piped("Who kept the light?\n", "story.txt")
    questions = asked(monkeypatch)
    code, out, _ = piped("/open 1\nAnd then?\n", "./story.txt")
    assert code == 0
    assert "resuming after 1 question; the last was: Who kept the light?" in out
    assert "story, characters" in out
    assert len(questions[0]) == 3
    piped("Who?\n", "story.txt", "--new")
    assert questions[1] == "Who?"
    piped("/new\nWho else?\n", "story.txt")
    assert questions[2] == "Who else?"
    _, out, _ = piped("", "story.txt")
    assert "resuming after 1 question" in out
    _, out, _ = piped("", "ferry.txt")  # another document, another conversation
    assert "resuming" not in out


def test_a_memory_keeps_what_is_added(piped: Chat, place: Path) -> None:
    code, out, _ = piped("When?\n/add story.txt\n/sources\n", "ferry.txt", "--memory", "memory")
    assert code == 0
    assert "1 added, 0 updated, 0 unchanged; the memory holds 2 documents" in out
    assert (
        json.loads((place / "memory" / "chat.json").read_text())["turns"][0]["question"] == "When?"
    )
    code, out, _ = piped("/sources\n/open 1\n", "--memory", "memory")
    assert code == 0
    assert "passages 1" in out
    assert "seven in the morning" in out
    assert not (place / "data").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/open 1", "no answer cites a passage yet"),
        ("/nothing", "no command '/nothing'; there are /open"),
        ("/add", "needs the path"),
        ("/add nothing.txt", "nothing.txt"),
        ("bad \udcff", "not valid Unicode"),
    ],
)
def test_a_bad_line_ends_nothing(piped: Chat, line: str, message: str) -> None:
    code, out, err = piped(f"{line}\n/sources\n", "ferry.txt")
    assert message in err
    assert err.count("sharedllm:") == 1
    assert "ferry.txt" in out.splitlines()[-1]  # the next line was done
    assert code == 2


def test_without_documents(piped: Chat) -> None:
    code, out, err = piped("Who?\n/sources\n/add ferry.txt\nWhen does the ferry leave?\n")
    assert code == 2
    assert err.count("there is no document yet; /add PATH reads one") == 2
    assert out.count("Evidence") == 1


def test_passages_that_are_not_there(piped: Chat) -> None:
    code, _, err = piped(
        "When does the ferry leave?\n/open 99\n/open x\n/quit\n/open\n", "ferry.txt"
    )
    assert code == 2
    assert err.count("give the number of a passage, 1 to") == 2  # and /quit ended it


def test_bad_arguments(piped: Chat) -> None:
    for arguments, message in (
        (["-"], "standard input"),
        (["nothing.txt"], "nothing.txt"),
        (["--memory", "nowhere"], "nowhere"),
        (["ferry.txt", "--budget", "x"], "--budget is 'x'"),
    ):
        code, out, err = piped("Who?\n", *arguments)
        assert (code, out) == (2, "")
        assert message in err


def test_a_damaged_conversation(piped: Chat, place: Path) -> None:
    piped("Who?\n", "ferry.txt")
    kept = path_for(None, ["ferry.txt"])
    for text in ("{", "[]", '{"form": 2, "turns": []}', '{"form": 1, "turns": [{"question": 1}]}'):
        kept.write_text(text)
        code, _, err = piped("Who?\n", "ferry.txt")
        assert code == 2
        assert "move it away, or begin another one with --new" in err
        assert kept.read_text() == text
    assert piped("Who?\n", "ferry.txt", "--new")[0] == 0
    assert len(Conversation.open(kept).turns) == 1


def test_a_conversation_that_cannot_be_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Conversation(tmp_path / "chat.json")
    kept.add(Turn("Who?", "Mara", ()))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match=r"cannot be kept in .*No space left"):
        kept.add(Turn("When?", "1871", ()))
    assert [one.question for one in Conversation.open(tmp_path / "chat.json").turns] == ["Who?"]
    assert [one.name for one in tmp_path.glob(".chat-*")] == []


def test_a_long_conversation_brings_less_along(
    model: str, piped: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Conversation(path_for(None, ["ferry.txt"]))
    kept.turns = [Turn(f"Question {n}?", "word " * 1500, ()) for n in range(20)]
    kept.add(Turn("The last?", "yes", ()))
    questions = asked(monkeypatch)
    code, _, err = piped("When does the ferry leave?\n", "ferry.txt")
    assert code == 0
    assert "asking with the last 8 turns" in err
    assert len(questions[0]) == 2 * 16 + 1
    assert questions[-1][-1]["content"] == "When does the ferry leave?"


def test_what_is_typed(model: str, typed: PipeInput, capsys: pytest.CaptureFixture[str]) -> None:
    typed.send_text("Who kept the light?\rxyz\x03/help\r/open 1\r/open 99\r\x04")
    code = main(["chat", "story.txt", "--model", model, "--max-new-tokens", "4"])
    out, err = capsys.readouterr()
    assert code == 0  # what went wrong was said, and the session went on
    assert "/open N shows a passage" in out
    assert "read one more document" in out
    assert "story, characters" in out
    assert "/open 99: give the number" in err
    assert "xyz" not in out


def test_an_interrupted_answer_does_not_end_the_session(
    model: str,
    typed: PipeInput,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, taken = AnswerStream.__next__, list[int]()

    def interrupted(self: AnswerStream) -> str:
        taken.append(1)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(AnswerStream, "__next__", interrupted)
    typed.send_text("Who kept the light?\rWhen?\r/quit\r")
    assert main(["chat", "story.txt", "--model", model, "--max-new-tokens", "4"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\nstopped\n") == 1
    assert out.count("Evidence") == 1
    [turn] = Conversation.open(path_for(None, ["story.txt"])).turns
    assert turn.question == "When?"


def test_an_interrupt_ends_what_has_no_terminal(
    piped: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: AnswerStream) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(AnswerStream, "__next__", interrupted)
    assert piped("Who?\nWhen?\n", "ferry.txt")[0] == 130


def test_a_passage_in_its_context() -> None:
    text = "one \x1b[31mtwo. " * 100 + "The fox lives\nhere. It is red.\ffour " + "five " * 400
    start = text.index("The fox")
    end = text.index("\ffour")
    one = Citation(
        source="a.txt", char_start=start, char_end=end, level=3, score=1.0, text=text[start:end],
        match_start=start, match_end=start + 19, page=3, section="Part > One",
    )  # fmt: skip
    shown = passage_in_context(one, lambda _: text)
    assert "\x1b" not in shown.plain
    assert shown.plain.startswith(f"a.txt, Part > One, page 3, characters {start:,} to {end:,}")
    bold = [
        shown.plain[span.start : span.end]
        for span in shown.spans
        if str(span.style).startswith("bold")
    ]
    assert "The fox lives here." in bold  # a line breaker's line end
    assert "…" in shown.plain
    for gone in (None, "another text"):
        alone = passage_in_context(one, lambda _, gone=gone: gone).plain  # type: ignore[misc]
        assert "It is red." in alone
        assert "not here, or has changed" in alone
