"""Notes that are taken before a question needs them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sharedllm import Document, MemoryDocument, SharedLLM, TreeMemory
from sharedllm.cli.main import main
from sharedllm.encoding.document_encoder import HasEncoder
from sharedllm.errors import ConfigError, InputError, SectionError, TreeMemoryError
from sharedllm.memory import folder, notes
from sharedllm.whole import note_taking
from sharedllm.whole.note_taking import NotesTaken
from sharedllm.whole.notes import statements_of
from tests.whole.test_whole import MEMBERS, QUESTION, club, first_sentence, novel

Make = Callable[..., SharedLLM]
SUMMARY = "Summarise the documents."


def memory_of(folder: Path, llm: SharedLLM | None, **texts: str) -> TreeMemory:
    memory = TreeMemory(folder, llm=llm)
    memory.add([MemoryDocument(id=name, title=name, text=text) for name, text in texts.items()])
    return memory


def parts_read(llm: SharedLLM, context: Any, question: str = SUMMARY, **options: Any) -> int:
    return llm.answer(question, context, max_new_tokens=60, **options).usage.parts_read


@pytest.mark.parametrize("judges", [False, True])
def test_a_summary_after_notes_reads_no_chunk(saying: Make, tmp_path: Path, judges: bool) -> None:
    llm = saying(first_sentence, judges=judges)
    with memory_of(tmp_path / "m", llm, one=club(MEMBERS[:2]), two=club(MEMBERS[2:])) as memory:
        revision = memory.revision
        taken = llm.take_notes(memory).result()
        assert taken.taken > 2
        assert (taken.kept, taken.left) == (0, 0)
        assert memory.revision == revision
        assert not memory.verify().problems
        again = llm.take_notes(memory).result()
        assert again == NotesTaken(taken=0, kept=taken.taken, left=0)
    with TreeMemory(tmp_path / "m", llm=llm) as memory:  # as another process would
        answer = llm.answer(SUMMARY, memory, max_new_tokens=200)
        assert answer.usage.parts_read == 0
        assert answer.usage.parts_kept == taken.taken
        assert "Ada Wren is a member of the Heron Society." in answer.text
        assert parts_read(llm, memory, "What are the main points of the texts?") == 0
        one = memory.whole_documents(llm, {"id": "one"})  # notes are of a document, not of a set
        assert parts_read(llm, one) == 0


def test_notes_are_taken_at_ingestion(saying: Make, tmp_path: Path) -> None:
    llm = saying(first_sentence)
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        seen: list[tuple[int, int]] = []
        one = MemoryDocument(id="one", text=club())
        memory.add(one, notes=True, progress=lambda done, total: seen.append((done, total)))
        assert seen[0][1] == len(one.text)
        assert seen[-1][0] == seen[-1][1] < len(one.text)
        assert parts_read(llm, memory) == 0
        memory.add(MemoryDocument(id="two", text=novel()))
        assert parts_read(llm, memory.whole_documents(llm, {"id": "two"})) > 0
        changed = MemoryDocument(id="one", text=club() + "Zed Zorn is a member of the Heron.\n")
        before = len(llm.reader.asked)  # type: ignore[attr-defined]
        memory.update(changed, notes=True)
        new = llm.reader.asked[before:]  # type: ignore[attr-defined]
        assert 0 < len(new) <= 3  # the end alone has changed
        assert parts_read(llm, memory) == 0


def test_notes_by_another_model_than_the_memory_s_own(saying: Make, tmp_path: Path) -> None:
    llm = saying(first_sentence)
    with TreeMemory(tmp_path / "m", llm=llm.encoder) as memory:
        one = MemoryDocument(id="one", text=club())
        with pytest.raises(ConfigError, match=r"without a model that writes.*give notes=llm"):
            memory.add(one, notes=True)
        for wrong in ("yes", 1, None, llm.encoder, object()):
            with pytest.raises(ConfigError, match="give True, False, or the SharedLLM"):
                memory.add(one, notes=wrong)  # type: ignore[arg-type]
        assert len(memory) == 0
        memory.add(one, notes=llm)
        assert parts_read(llm, memory) == 0
        other = saying(lambda question, text: "It rained on the harbour.")
        other.reader.identity = ("another",)  # type: ignore[misc]
        assert parts_read(other, memory) > 0  # they are another's notes
        assert parts_read(llm, memory) == 0


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError])
def test_what_was_taken_before_an_end_stays(
    saying: Make, tmp_path: Path, end: type[BaseException]
) -> None:
    llm = saying(first_sentence)
    text = club() + club(MEMBERS[::-1]) + "\n".join(club((name,)) for name in MEMBERS)

    def stop(done: int, total: int) -> None:
        if done > 8:
            raise end

    with memory_of(tmp_path / "m", llm, one=text) as memory:
        with pytest.raises(end):
            llm.take_notes(memory, progress=stop)
        assert len(llm.reader.asked) == 16  # type: ignore[attr-defined]
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        rest = llm.take_notes(memory).result()
        assert rest.kept >= 16  # some parts of a chunk have the same words
        assert rest.taken > 0
        assert parts_read(llm, memory) == 0


def test_a_limit_leaves_the_rest_for_later(saying: Make) -> None:
    llm = saying(first_sentence)
    document = llm.remember(club() * 3)
    none = llm.take_notes(document, max_seconds=0).result()
    assert none.left > 0
    assert none.taken == 0
    rest = llm.take_notes(document).result()
    assert rest == NotesTaken(taken=none.left, kept=0, left=0)
    assert parts_read(llm, document) == 0


def test_notes_in_the_background_wait_for_questions_and_can_be_cancelled(saying: Make) -> None:
    llm = saying(first_sentence)
    document = llm.remember(club() * 4)
    with llm.encoder.lock.question():
        waiting = llm.take_notes(document, background=True)
        dropped = llm.take_notes(document, background=True)
        assert not waiting.done()
        assert llm.reader.asked == []  # type: ignore[attr-defined]
        assert dropped.cancel()
    taken = waiting.result(timeout=60)
    assert taken.taken > 8
    assert taken.left == 0
    with pytest.raises(CancelledError):
        dropped.result()
    for thread in threading.enumerate():
        if thread.name == "sharedllm-notes":
            thread.join(timeout=60)
    assert parts_read(llm, document) == 0


def test_an_error_in_the_background_is_the_future_s(saying: Make, tmp_path: Path) -> None:
    llm = saying(first_sentence)
    memory = memory_of(tmp_path / "m", llm, one=club())
    with llm.encoder.lock.question():
        taking = llm.take_notes(memory, background=True)
        memory.close()
    with pytest.raises(TreeMemoryError, match="was closed"):
        taking.result(timeout=60)


def test_a_memory_that_cannot_keep_notes_says_so(
    saying: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = saying(first_sentence)
    memory_of(tmp_path / "m", llm, one=club()).close()
    monkeypatch.setattr(folder, "is_writable", lambda path: False)
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        with pytest.raises(TreeMemoryError, match="cannot be written here"):
            llm.take_notes(memory)
        assert len(llm.reader.asked) <= 8  # type: ignore[attr-defined]
        assert parts_read(llm, memory) > 0
        assert parts_read(llm, memory) == 0  # an answer needs no writing


def test_a_section_s_notes_are_kept_with_its_document(saying: Make, tmp_path: Path) -> None:
    llm = saying(first_sentence)
    with memory_of(tmp_path / "m", llm, one=novel()) as memory:
        assert parts_read(llm, memory, "Summarise chapter 3.") > 0
        assert llm.take_notes(memory, section="chapter 2").result().taken > 0
        with pytest.raises(SectionError, match="CHAPTER IV"):
            llm.take_notes(memory, section="chapter 9")
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        assert parts_read(llm, memory, "Summarise chapter 3.") == 0
        assert parts_read(llm, memory, "Summarise it all.", section="chapter 2") == 0
        assert parts_read(llm, memory, "Summarise chapter 4.") > 0


def test_answers_do_not_take_the_place_of_notes(
    saying: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "NOTES_OF_CHUNK", 2)
    llm = saying(first_sentence)
    with memory_of(tmp_path / "m", llm, one=club()) as memory:
        llm.take_notes(memory)
        for society in ("Heron", "Crane", "Stork"):
            assert parts_read(llm, memory, f"List all members of the {society} Society.") > 0
    with TreeMemory(tmp_path / "m", llm=llm) as memory:
        assert parts_read(llm, memory) == 0
        assert parts_read(llm, memory, QUESTION) > 0  # the oldest answers went


def test_notes_go_with_an_export(saying: Make, tmp_path: Path) -> None:
    llm = saying(first_sentence)
    with memory_of(tmp_path / "m", llm, one=club()) as memory:
        llm.take_notes(memory)
        memory.export(tmp_path / "copy")
    with TreeMemory(tmp_path / "copy", llm=llm) as copy:
        assert parts_read(llm, copy) == 0
    with memory_of(tmp_path / "third", llm, one=club()) as there:  # the document is there already
        there.import_from(tmp_path / "copy")
        assert not there.verify().problems
    with TreeMemory(tmp_path / "third", llm=llm) as there:
        assert parts_read(llm, there) == 0


class Finder:
    """Finds something for a question, and cannot give all that it has."""

    def documents_for(self, query: str, llm: HasEncoder) -> Sequence[Document]:
        raise AssertionError(query)


def test_notes_are_refused_where_there_is_nothing_to_take_them_of(
    saying: Make, tmp_path: Path
) -> None:
    llm = saying(first_sentence)
    with pytest.raises(InputError, match="no document to search"):
        llm.take_notes([])
    with pytest.raises(InputError, match="holds no document"):
        llm.take_notes(TreeMemory(tmp_path / "m", llm=llm))
    with pytest.raises(InputError, match="Finder finds documents for a question only"):
        llm.take_notes(Finder())
    with pytest.raises(InputError, match="no memory in a folder"):
        llm.take_notes("nowhere")
    document = llm.remember(club())
    for wrong in ({"max_seconds": -1}, {"section": " "}, {"background": "yes"}):
        with pytest.raises(ConfigError):
            llm.take_notes(document, **wrong)  # type: ignore[arg-type]


def test_the_command_line_takes_notes_and_goes_on_where_it_ended(
    saying: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm = saying(first_sentence)
    monkeypatch.setattr("sharedllm.registry.loaded_for", lambda memory, **named: llm)
    (tmp_path / "club.txt").write_text(club())
    monkeypatch.chdir(tmp_path)
    TreeMemory("m", llm=llm).close()
    monkeypatch.setattr("sharedllm.cli.memory.opened", lambda *a, **b: TreeMemory("m", llm=llm))
    command = ["index", "club.txt", "--memory", "m", "--notes"]
    monkeypatch.setattr(note_taking.PartReader, "note", interrupted(note_taking.PartReader.note))
    assert main(command) == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharedllm.registry.loaded_for", lambda memory, **named: llm)
    monkeypatch.setattr("sharedllm.cli.memory.opened", lambda *a, **b: TreeMemory("m", llm=llm))
    capsys.readouterr()
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "0 added, 0 updated, 1 unchanged" in out
    there = int(re.findall(r"taken, (\d+) there already", err)[0])
    assert 8 <= there < 16  # one batch, of which some stand twice in a chunk
    assert main([*command, "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert given["notes"] == asdict(NotesTaken(taken=0, kept=given["notes"]["kept"], left=0))
    assert given["notes"]["kept"] > 8
    assert main(["index", "club.txt", "--memory", "m", "--reader", "http://x/v1"]) == 2
    assert "add --notes" in capsys.readouterr().err


def interrupted(note: Callable[..., Any]) -> Callable[..., Any]:
    """Let Ctrl-C come after the first batch of notes."""

    def first(*given: Any) -> Any:
        yield next(note(*given))
        raise KeyboardInterrupt

    return first


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("The maid went home.", True),
        ("The maid went home!", True),
        ('"I went home," said the maid.', True),
        ("\u201cThe maid went home.\u201d", True),
        ("Was the maid at home?", False),
        ('Was it done quiet-like?"', False),
        ('The maid went home."', False),
        ("The maid went ho", False),
        ("\u201cThe maid went home.", False),
        ("女仆回家了\u3002", True),
    ],
)
def test_a_note_s_sentences_state_something(told: str, kept: bool) -> None:
    source = 'Was the maid at home? "I went home," said she. 女仆回家了\u3002 Quiet-like done.'
    assert list(statements_of(told, source)) == [told] * kept
