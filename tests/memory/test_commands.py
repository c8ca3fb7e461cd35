"""The commands that work on memories: what they do, print and refuse."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sharedllm import TreeMemory
from sharedllm.cli.main import main
from sharedllm.memory.files import Search
from sharedllm.registry import forget
from tests.models import make_model, make_tokenizer
from tests.texts import BOOK, FERRY, GARDEN, STORY

TEXT = STORY.replace("\r\n", "\n")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model in a folder, its window wide enough for the default settings."""
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files to read: two in folders, one hidden, one binary."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "in/story.txt": TEXT,
        "in/deep/ferry.md": FERRY,
        "in/.hidden.txt": GARDEN,
        "in/photo.jpg": "no text",
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    return tmp_path


@pytest.fixture
def indexed(library: Path, model: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["index", "in", "--memory", "lib", "--model", model], capsys)[0] == 0
    return "lib"


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def as_json(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Any:
    code, out, err = run([*arguments, "--json"], capsys)
    assert code == 0, err
    return json.loads(out)


def test_index_adds_updates_and_leaves_alone(
    library: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", "in", "--memory", "lib", "--model", model]
    first = as_json(command, capsys)
    assert first["added"] == ["in/deep/ferry.md", "in/story.txt"]
    assert first["documents"] == 2
    forget()
    unnamed = command[:-2]  # nothing to read: no model is loaded
    again = as_json(unnamed, capsys)
    assert again["unchanged"] == ["in/deep/ferry.md", "in/story.txt"]
    Path("in/deep/ferry.md").write_text(FERRY + GARDEN)
    Path("in/new.txt").write_text(GARDEN)
    third = as_json(command, capsys)
    assert third["updated"] == ["in/deep/ferry.md"]
    assert third["added"] == ["in/new.txt"]
    code, out, _ = run(command, capsys)
    assert code == 0
    assert out == (
        "left out: 1 hidden, 1 .jpg\n"
        "0 added, 0 updated, 3 unchanged; the memory holds 3 documents\n"
    )


def test_files_that_cannot_be_read(
    library: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in/binary.txt").write_bytes(b"\0\1\2" * 100)
    code, out, _ = run(["index", "in", "--memory", "lib", "--model", model], capsys)
    assert code == 1
    assert "not read: in/binary.txt is binary" in out
    assert "2 added" in out
    Path("in/more.txt").write_text("One more.")
    named = ["in/binary.txt", "in/gone.txt", "in/more.txt"]
    code, out, _ = run(["index", *named, "--memory", "lib", "--model", model], capsys)
    assert code == 1
    assert "binary.txt is binary" in out
    assert "no such file: 'in/gone.txt'" in out
    assert "1 added" in out


def test_a_document_that_gives_no_token_does_not_stop_the_others(
    library: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in/blank.txt").write_text("\u200b\xad")
    code, out, _ = run(["index", "in", "--memory", "lib", "--model", model], capsys)
    assert code == 1
    assert "(blank): the document has no text" in out
    assert "2 added, 0 updated" in out


def test_nothing_that_is_read(
    library: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("only/a.zip", "only/b.ZIP", "only/c", "only/.d"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"PK")
    command = ["index", "only", "--memory", "lib", "--model", model]
    code, out, _ = run(command, capsys)
    assert code == 1
    assert out.startswith("left out: 2 .zip, ")
    assert "nothing was read" in out
    code, out, _ = run([*command, "--json"], capsys)
    assert code == 1
    assert json.loads(out)["left_out"] == {".zip": 2, "hidden": 1, "no suffix": 1}


def test_an_encoding_is_named(
    library: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old.txt").write_bytes("Gr\xfc\xdfe aus K\xf6ln".encode("cp850"))
    command = ["index", "old.txt", "--memory", "lib", "--model", model]
    assert run(command, capsys)[0] == 1
    assert run([*command, "--encoding", "cp850"], capsys)[0] == 0
    with TreeMemory("lib", create=False) as memory:
        (document,) = memory.list()
        assert memory.get(document.id).text == "Gr\xfc\xdfe aus K\xf6ln"
    code, _, err = run([*command, "--encoding", "klingon"], capsys)
    assert code == 2
    assert "encoding is 'klingon'" in err


def test_folders_are_searched_without_links(library: Path) -> None:
    Path("in/link.txt").symlink_to(library / "in" / "story.txt")
    Path("in/loop").symlink_to(library / "in")
    os.mkfifo("in/pipe.txt")
    search = Search()
    found = list(search.files(["in", "in/story.txt", "in/photo.jpg"]))
    assert found == ["in/deep/ferry.md", "in/story.txt", "in/photo.jpg"]
    assert search.left_out == {"hidden": 1, "link": 2, "not a file": 1, ".jpg": 1}


def test_names_that_are_not_utf8_and_loops_of_links(
    library: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        Path(os.fsdecode(b"in/caf\xe9.txt")).write_text("The barista is Zoe.")
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    Path("round.txt").symlink_to("round.txt")
    command = ["index", "in", "round.txt", "--memory", "lib", "--model", model]
    code, out, _ = run([*command, "--json"], capsys)
    done = json.loads(out)
    assert code == 1
    assert "in/caf\\xe9.txt" in done["added"]
    assert list(done["failed"]) == ["round.txt"]
    again = json.loads(run([*command, "--json"], capsys)[1])
    assert "in/caf\\xe9.txt" in again["unchanged"]


def test_docs_lists_objects(indexed: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(["docs", "--memory", indexed], capsys)
    assert [document["title"] for document in found] == ["ferry", "story"]
    for document in found:
        assert {"id", "title", "source", "tokens", "bytes"} <= set(document)
    code, out, _ = run(["docs", "--memory", indexed], capsys)
    assert code == 0
    assert out.splitlines()[0].split() == ["id", "title", "source", "tokens", "bytes"]
    assert found[0]["id"] in out


def test_ask_names_the_document(
    indexed: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ask", "--memory", indexed, "-q", "When does the ferry leave?"]
    code, _, err = run(command, capsys)  # the memory may be a stranger's
    assert code == 2
    assert f"made with the model '{model}'" in err
    assert "--model" in err
    command += ["--model", model]
    answer = as_json([*command, "--max-new-tokens", "2"], capsys)
    cited = {(c["source"], c["title"]) for c in answer["citations"]}
    assert cited <= {("in/story.txt", "story"), ("in/deep/ferry.md", "ferry")}
    ids = {document["id"] for document in as_json(["docs", "--memory", indexed], capsys)}
    assert {c["document"] for c in answer["citations"]} <= ids
    code, out, _ = run([*command, "in/story.txt", "--max-new-tokens", "2"], capsys)
    assert code == 0
    assert "where it lies" in out
    assert "tokens searched" in out


def test_leaves_are_stored_and_read(
    library: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", "in", "--memory", "lib", "--model", model, "--keep", "leaves"]
    assert as_json(command, capsys)["documents"] == 2
    assert as_json(command, capsys)["documents"] == 2
    held = as_json(["docs", "--memory", "lib"], capsys)
    token = 2 * 3 * 2 * (8 + 2)  # bytes: layers and heads, with heads of 8 and a scale
    assert all(one["bytes"] > token * one["tokens"] for one in held)
    ask = ["ask", "--memory", "lib", "--model", model, "-q", "When does the ferry leave?"]
    ask += ["--max-new-tokens", "2", "--budget", "200"]
    for leaves, entries in (("kv", True), ("text", False), ("auto", False)):  # on a CPU
        answer = as_json([*ask, "--leaves", leaves, "--device", "cpu"], capsys)
        assert (answer["usage"]["injected_tokens"] > 0) is entries
    code, _, err = run([*command[:-1], "branches"], capsys)
    assert code == 2
    assert "keep is 'branches'; allowed: 'text', 'leaves', 'coarse', 'all'" in err


def test_remove(indexed: str, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [document["id"] for document in as_json(["docs", "--memory", indexed], capsys)]
    code, _, err = run(["remove", ids[0], "nobody", "--memory", indexed], capsys)
    assert code == 2
    assert "no document 'nobody'" in err
    removed = as_json(["remove", ids[0], "--memory", indexed], capsys)
    assert removed == {"removed": [ids[0]], "documents": 1}
    code, out, _ = run(["remove", ids[1], "--memory", indexed], capsys)
    assert (code, out) == (0, "1 removed; the memory holds 0 documents\n")
    assert as_json(["compact", "--memory", indexed], capsys) == {"documents": 0}
    code, _, err = run(["ask", "--memory", indexed, "-q", "Who?"], capsys)
    assert code == 2
    assert "holds no document" in err


def test_verify_is_zero_only_when_clean(
    indexed: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = as_json(["verify", "--memory", indexed], capsys)
    assert report["clean"] is True
    assert report["documents"] == 2
    code, out, _ = run(["verify", "--memory", indexed], capsys)
    assert code == 0
    assert out.endswith("bytes: clean\n")
    with sqlite3.connect(Path(indexed, "memory.sqlite")) as connection:
        connection.execute("UPDATE vectors SET data = x'00' WHERE chunk = 1")
    connection.close()
    code, out, _ = run(["verify", "--memory", indexed, "--json"], capsys)
    assert code == 1
    assert json.loads(out)["problems"]
    code, out, _ = run(["verify", "--memory", indexed], capsys)
    assert code == 1
    assert "1 problem\n" in out
    code, _, err = run(["verify", "--repair", "--memory", indexed], capsys)
    assert (code, "--model" in err) == (2, True)
    code, out, _ = run(["verify", "--repair", "--memory", indexed, "--model", model], capsys)
    assert code == 0
    assert "clean, 1 problem mended" in out


@pytest.mark.parametrize("command", ["docs", "verify", "compact", "remove x", "ask -q Who?"])
def test_a_folder_that_is_no_memory(
    library: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for folder, said in (("in", "is no memory"), ("nowhere", "does not exist")):
        code, out, err = run([*command.split(), "--memory", folder], capsys)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
    assert not Path("nowhere").exists()


def test_another_model_needs_to_be_told(
    indexed: str, library: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model("qwen3", max_position_embeddings=8192).save_pretrained("other")
    make_tokenizer().save_pretrained("other")
    other = ["--model", str(library / "other")]
    asked = ["ask", "--memory", indexed, "-q", "Who?", "--max-new-tokens", "1"]
    own = [*asked, "--model", model]
    assert run([*own, "--device", "cpu"], capsys)[0] == 0
    code, _, err = run([*own, "--dtype", "bfloat16"], capsys)
    assert code == 2
    assert "made with dtype 'float32' (given: 'bfloat16')" in err
    command = ["index", "in", "--memory", indexed, *other, "--keep", "coarse"]
    code, _, err = run(command, capsys)
    assert code == 2
    assert "keep 'text' (given: 'coarse')" in err
    assert as_json([*command, "--rebuild"], capsys)["documents"] == 2
    assert as_json(["verify", "--memory", indexed], capsys)["clean"] is True


def test_docs_shows_outlines(library: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/book.txt").write_text(BOOK)
    Path("in/pages.txt").write_text(BOOK.replace("CHAPTER II.", "\fCHAPTER II."))
    assert run(["index", "in", "--memory", "lib", "--model", model], capsys)[0] == 0
    code, out, _ = run(["docs", "--memory", "lib", "--outline"], capsys)
    assert code == 0
    lines = out.splitlines()
    first = lines.index("book")
    assert lines[first + 1] == "  CHAPTER I. The Rock  0"
    assert lines[first + 2] == f"  CHAPTER II. The Boat  {BOOK.index('CHAPTER II.'):,}"
    assert "  CHAPTER II. The Boat  p. 2" in lines
    assert "no headings" in lines[lines.index("ferry") + 1]
    code, out, _ = run(["docs", "--memory", "lib", "--outline", "--json"], capsys)
    found = {one["title"]: one["outline"] for one in map(json.loads, out.splitlines())}
    assert [(s["title"], s["level"], s["number"]) for s in found["book"]] == [
        ("CHAPTER I. The Rock", 1, "1"),
        ("CHAPTER II. The Boat", 1, "2"),
        ("CHAPTER III. The Chapel", 1, "3"),
    ]
    assert found["ferry"] == []
    command = ["ask", "--memory", "lib", "--model", model, "-q", "When does the ferry leave?"]
    answer = as_json([*command, "--section", "chapter 2", "--max-new-tokens", "2"], capsys)
    assert {c["section"] for c in answer["citations"]} == {"CHAPTER II. The Boat"}
    code, _, err = run([*command, "--section", "chapter 9"], capsys)
    assert code == 2
    assert "'CHAPTER III. The Chapel'" in err


def test_memories_are_joined_and_used_as_one(
    indexed: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("garden.txt").write_text(GARDEN)
    assert run(["index", "garden.txt", "--memory", "east", "--model", model], capsys)[0] == 0
    joined = ["parts", "--memory", "all", "--attach", indexed, "--attach", "east"]
    code, out, err = run(joined, capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "2 parts; they hold 3 documents"
    listed = as_json(["docs", "--memory", "all", "--json"], capsys)
    assert len(listed) == 3
    again = as_json(
        ["index", "in", "garden.txt", "--memory", "all", "--model", model, "--json"], capsys
    )
    assert (len(again["unchanged"]), again["documents"]) == (3, 3)
    answer = as_json(
        [
            "ask",
            "--memory",
            "all",
            "-q",
            "Who?",
            "--model",
            model,
            "--max-new-tokens",
            "2",
            "--json",
        ],
        capsys,
    )
    assert answer["away"] == []
    assert run(["verify", "--memory", "all"], capsys)[0] == 0
    assert run(["remove", listed[0]["id"], "--memory", "all"], capsys)[0] == 0
    for wrong in (["--attach", "east"], ["--detach", "nowhere"], ["--attach", "nowhere"]):
        code, _, err = run(["parts", "--memory", "all", *wrong], capsys)
        assert (code, err.count("\n")) == (2, 1), err


def test_a_part_that_is_away_is_named(
    indexed: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", "in/story.txt", "--memory", "east", "--model", model], capsys)[0] == 0
    Path("garden.txt").write_text(GARDEN)
    with TreeMemory("east") as east:
        east.delete(east.list()[0].id)
    assert run(["index", "garden.txt", "--memory", "east", "--model", model], capsys)[0] == 0
    run(["parts", "--memory", "all", "--attach", indexed, "--attach", "east"], capsys)
    Path("east").rename("gone")
    code, out, err = run(["docs", "--memory", "all"], capsys)
    assert code == 0
    assert "story" in out
    assert "east' is away: there is no memory" in err
    asked = ["ask", "--memory", "all", "-q", "Who?", "--model", model, "--max-new-tokens", "2"]
    code, out, err = run(asked, capsys)
    assert code == 0
    assert "Not searched: part" in " ".join(out.split())
    assert len(as_json([*asked, "--json"], capsys)["away"]) == 1
    assert run(["parts", "--memory", "all"], capsys)[0] == 1
    code, out, _ = run(["verify", "--memory", "all"], capsys)
    assert code == 1
    assert "is away" in out
    code, _, err = run(["index", "garden.txt", "--memory", "all", "--model", model], capsys)
    assert code != 0
    assert "--detach" in err
    assert run(["parts", "--memory", "all", "--detach", "east"], capsys)[0] == 0
    assert run(["verify", "--memory", "all"], capsys)[0] == 0
