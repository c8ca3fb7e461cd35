"""A memory of parts: searched, filled and answered from as one memory."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sharedllm import MemoryDocument, PartedMemory, SharedLLM, TreeMemory, open_memory
from sharedllm.config import TreeConfig
from sharedllm.errors import (
    DocumentError,
    InputError,
    SectionError,
    SharedLLMError,
    TreeMemoryBusyError,
    TreeMemoryError,
    TreeMemoryFormatError,
    TreeMemoryMismatchError,
)
from sharedllm.memory import prefilter, records
from sharedllm.memory.elsewhere import Lookup
from sharedllm.memory.part_searcher import PartSearcher
from sharedllm.memory.parts_list import LOCK, PartsList, changing
from sharedllm.memory.prefilter import by_words
from sharedllm.memory.word_index import Opened, count
from tests.conftest import DOCUMENTS, Make
from tests.models import shared

WORDS = "lamp reef tide rope mast keel fog bell dawn gull salt oar net star wind hull".split()
RARE = "adder birch cedar daisy ember flint ginger hazel indigo jasper kelp linden".split()
QUICK: dict[str, Any] = {"max_new_tokens": 3}
Parts = Callable[..., PartedMemory]


def small(number: int) -> MemoryDocument:
    """A document of one chunk or several, all different; some words are rare."""
    draw = random.Random(number)
    words = [draw.choice(RARE), *(draw.choice(WORDS) for _ in range(5)), draw.choice(RARE)]
    if number % 5 == 0:
        words = [f"{word} {number}x{at}" for at, word in enumerate(words * 3)]
    text = f"Note {number}. " + " ".join(words).capitalize() + "."
    return MemoryDocument(id=f"note {number}", text=text, metadata={"even": number % 2 == 0})


def questions() -> list[str]:
    draw = random.Random(7)
    asked = [
        f"Where is the {draw.choice(RARE)} beside the {draw.choice(WORDS)}?" for _ in range(24)
    ]
    return [
        *asked,
        *(f"What does note {number} say of {draw.choice(RARE)}?" for number in range(6)),
    ]


@pytest.fixture
def parts(tmp_path: Path, llm: SharedLLM) -> Iterator[Parts]:
    opened: list[PartedMemory] = []

    def open_one(parts: Any = None, name: str = "library", **options: Any) -> PartedMemory:
        opened.append(PartedMemory(tmp_path / name, parts, **{"llm": llm, **options}))
        return opened[-1]

    yield open_one
    for memory in opened:
        memory.close()


@pytest.fixture
def library(parts: Parts) -> PartedMemory:
    """Three documents in three parts."""
    memory = parts(3)
    for document in DOCUMENTS:
        memory.add(document)
    return memory


def away(memory: PartedMemory, number: int) -> Path:
    """Take a part away; give the place that it is at now."""
    folder = memory.parts[number]
    return folder.rename(folder.with_name("elsewhere"))


# -- the same as one memory ------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "candidates"), [(200, 24), (40, 1000)])
def test_documents_in_4_parts_answer_as_in_one(
    make: Make, parts: Parts, llm: SharedLLM, count: int, candidates: int
) -> None:
    one, four = make(candidates=candidates), parts(4, candidates=candidates)
    for first in range(0, count, 20):
        documents = [small(number) for number in range(first, first + 20)]
        one.add(documents)
        four.add(documents)
    assert min(len(TreeMemory(part, llm=llm)) for part in four.parts) > count // 8
    assert [stored.id for stored in four.list()] == [stored.id for stored in one.list()]
    for asked in questions():
        for filter in (None, {"even": True}):
            hits = one.search(asked, 5, filter)
            assert list(four.search(asked, 5, filter)) == list(hits)
    for asked in questions():
        expected = llm.answer(asked, one, budget=200, **QUICK)
        answer = llm.answer(asked, four, budget=200, **QUICK)
        assert (answer.text, answer.citations) == (expected.text, expected.citations)
        assert answer.usage == expected.usage
        assert answer.away == ()


def test_bm25_has_the_statistics_of_all_parts(make: Make, parts: Parts) -> None:
    """The score of a chunk is the one that SQLite gives it in one memory."""
    one, four = make(), parts(4)
    documents = [small(number) for number in range(60)]
    for memory in (one, four):
        memory.add(documents)
    for asked in ("adder birch lamp", "cedar", "note 17 ginger ginger", "reef"):
        with one._database.read() as connection:
            words = prefilter._rare([count(connection, tuple(asked.split()))])
            rows = connection.execute(
                "SELECT rowid, bm25(words) FROM words WHERE words MATCH ?", (" OR ".join(words),)
            ).fetchall()
            ranked = [(0, row) for _, row in sorted((round(score, 9), row) for row, score in rows)]
            keys = prefilter._keys(Opened([connection]), ranked)
        expected = [keys[chunk] for chunk in ranked]
        with ExitStack() as held:
            files = [part.memory._database for part in four._present()[0]]
            connections = [held.enter_context(file.read()) for file in files]
            several = Opened(connections)
            ranked = by_words(several, asked, len(rows))
            keys = prefilter._keys(several, ranked)
        found = [keys[chunk] for chunk in ranked]
        assert found == expected


class Searchers:
    """Two processes that keep the parts of a memory open, as far as a test can have them."""

    def __init__(self) -> None:
        self.own = PartSearcher(), PartSearcher()
        self.asked: list[Lookup] = []
        self.before: Callable[[], object] = lambda: None

    def __call__(self, lookups: Sequence[Lookup]) -> list[Any]:
        self.before()
        self.asked += lookups
        sent = pickle.loads(pickle.dumps(lookups))
        return [self.own[n % 2].answer([one])[0] for n, one in enumerate(sent)]

    def close(self) -> None:
        for one in self.own:
            one.close()


@pytest.fixture
def searchers() -> Iterator[Searchers]:
    made = Searchers()
    yield made
    made.close()


def test_words_may_be_looked_up_by_other_processes(
    make: Make, parts: Parts, searchers: Searchers
) -> None:
    one, four = make(candidates=8), parts(4, candidates=8)
    documents = [small(number) for number in range(60)]
    for memory in (one, four):
        memory.add(documents)
    four.search_elsewhere(searchers)
    for asked in questions():
        for filter in (None, {"even": True}):
            assert list(four.search(asked, 5, filter)) == list(one.search(asked, 5, filter))
    folders = {lookup.folder for lookup in searchers.asked}
    assert folders == {str(part.resolve()) for part in four.parts}
    searchers.asked.clear()
    four.search_elsewhere(None)
    four.search("cedar")
    assert searchers.asked == []


def test_a_change_meanwhile_is_looked_up_again(
    parts: Parts, searchers: Searchers, llm: SharedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    memory = parts(2, candidates=4)
    memory.add([small(number) for number in range(30)])
    memory.search_elsewhere(searchers)
    other = PartedMemory(memory.path, llm=llm)
    later = iter([MemoryDocument(id="late", text="the lamp of the late reef")])

    def change() -> None:
        for document in later:
            other.add(document)

    searchers.before = change
    hits = memory.search("the late reef", 3)
    assert hits[0].id == "late"
    assert "has changed meanwhile" in caplog.text
    other.close()


def test_words_are_looked_up_here_where_nobody_else_can(
    parts: Parts, searchers: Searchers, caplog: pytest.LogCaptureFixture
) -> None:
    memory = parts(2, candidates=4)
    memory.add([small(number) for number in range(30)])
    expected = list(memory.search("cedar", 3))

    def lost() -> None:
        raise ConnectionError("the process has ended")

    searchers.before = lost
    memory.search_elsewhere(searchers)
    assert list(memory.search("cedar", 3)) == expected
    assert "the process has ended" in caplog.text


def test_the_whole_is_read_in_the_order_of_addition(library: PartedMemory, llm: SharedLLM) -> None:
    assert [d.id for d in library.whole_documents(llm)] == ["story", "ferry", "garden"]
    assert [stored.id for stored in library.list()] == ["story", "ferry", "garden"]
    answer = llm.answer("List all ships that are named.", library, **QUICK)
    assert answer.usage.scope == "list"


def test_filters_and_sections_reach_every_part(parts: Parts, llm: SharedLLM) -> None:
    memory = parts(2)
    for number, place in enumerate(("Penmor", "Hull", "Penmor")):
        text = f"# Chapter 1\n\nThe lamp of {place}.\n\n# Chapter 2\n\nThe reef {number}.\n"
        memory.add(MemoryDocument(id=str(number), text=text, metadata={"place": place}))
    hits = memory.search("the reef", 9, {"place": "Penmor"}, section="chapter 2")
    assert {hit.id for hit in hits} == {"0", "2"}
    assert not any("lamp" in hit.text for hit in hits)
    with pytest.raises(SectionError, match="chapter 9"):
        memory.search("the reef", section="chapter 9")
    with pytest.raises(InputError, match="filter"):
        memory.search("the reef", filter={"place": "Rome"})


def test_equal_texts_in_two_parts_are_found_once(make: Make, parts: Parts, llm: SharedLLM) -> None:
    one, memory = make(), parts(2)
    for id in ("a", "b"):
        one.add(MemoryDocument(id=id, text="The cedar stands at the mill."))
        memory.add(MemoryDocument(id=id, text="The cedar stands at the mill."))
    assert sorted(len(TreeMemory(part, llm=llm)) for part in memory.parts) == [1, 1]
    hits = memory.search("cedar", 9)
    assert {hit.id for hit in hits} == {"a"}
    assert list(hits) == list(one.search("cedar", 9))
    assert len(memory.whole_documents(llm)) == 1


# -- documents and the parts that hold them --------------------------------------------------------


def test_documents_go_to_the_smallest_part_and_stay_there(
    library: PartedMemory, llm: SharedLLM
) -> None:
    assert [len(TreeMemory(part, llm=llm)) for part in library.parts] == [1, 1, 1]
    assert len(library) == 3
    assert [library.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
    library.update(MemoryDocument(id="ferry", text="The ferry sank."))
    library.add(DOCUMENTS[0])  # changes nothing
    assert [len(TreeMemory(part, llm=llm)) for part in library.parts] == [1, 1, 1]
    assert library.get("ferry").text == "The ferry sank."
    library.delete(["story", "garden"])
    assert [stored.id for stored in library.list()] == ["ferry"]
    assert "story" not in library
    assert library.verify().clean


def test_one_call_divides_many_documents(parts: Parts, llm: SharedLLM) -> None:
    memory, seen = parts(4), list[tuple[int, int]]()
    documents = [small(number) for number in range(120)]
    memory.add(documents, progress=lambda done, total: seen.append((done, total)))
    assert min(len(TreeMemory(part, llm=llm)) for part in memory.parts) > 5
    assert seen[-1] == (sum(len(one.text) for one in documents),) * 2
    assert sorted(done for done, _ in seen) == [done for done, _ in seen]
    memory.add(documents)
    assert len(memory) == 120


def test_the_same_id_twice_in_a_call_is_one_document(parts: Parts) -> None:
    memory = parts(2)
    long = [MemoryDocument(id=f"n{i % 6}", text="salt wind " * 400 + str(i % 6)) for i in range(12)]
    memory.add(long)
    assert len(memory) == 6
    assert memory.verify().clean


@pytest.mark.parametrize("operation", ["add", "update"])
def test_one_that_is_refused_is_named_and_those_before_it_are_stored(
    library: PartedMemory, operation: str
) -> None:
    new = [MemoryDocument(id=f"new {i}", text="salt wind " * 300 + str(i)) for i in range(3)]
    wrong = MemoryDocument(id="story", text="another text")
    if operation == "update":
        new = [MemoryDocument(id=one, text=f"salt {one}") for one in ("story", "ferry", "garden")]
        wrong = MemoryDocument(id="nowhere", text="a text")
    with pytest.raises(DocumentError, match=rf"'{wrong.id}', number 3 of 4: .*stored"):
        getattr(library, operation)([*new[:2], wrong, new[2]])
    assert [library.get(one.id).text for one in new[:2]] == [one.text for one in new[:2]]
    assert new[2].id not in library or library.get(new[2].id) != new[2]


def test_delete_removes_all_or_none(library: PartedMemory) -> None:
    with pytest.raises(DocumentError, match="nowhere"):
        library.delete(["story", "nowhere"])
    assert len(library) == 3


def test_the_revision_changes_with_every_part(library: PartedMemory) -> None:
    seen = [library.revision]
    library.delete("ferry")
    seen.append(library.revision)
    place = away(library, 0)
    seen.append(library.revision)
    assert len(set(seen)) == 3
    place.rename(library.parts[0])
    assert library.revision == seen[1]


def test_parts_are_merged_by_export_and_taken_in_by_import(
    library: PartedMemory, make: Make, parts: Parts, tmp_path: Path
) -> None:
    library.export(tmp_path / "merged")
    merged = make("merged")
    assert [stored.id for stored in merged.list()] == ["story", "ferry", "garden"]
    asked = "Who kept the light?"
    assert list(merged.search(asked)) == list(library.search(asked))
    other = make("other")
    other.import_from(library.path, ["garden", "story"])
    assert {stored.id for stored in other.list()} == {"garden", "story"}
    with pytest.raises(DocumentError, match="nowhere"):
        other.import_from(library.path, ["nowhere"])
    again = parts(2, name="again")
    again.import_from(merged.path, ["ferry"])
    again.import_from(library.path)
    assert {stored.id for stored in again.list()} == {"story", "ferry", "garden"}
    assert again.verify().clean


# -- parts that are away ---------------------------------------------------------------------------


def test_a_part_that_is_away_is_named_in_the_answer(library: PartedMemory, llm: SharedLLM) -> None:
    place = away(library, 1)
    for answer in (
        llm.answer("Who kept the light?", library, budget=200, **QUICK),
        llm.answer("List all ships that are named.", library, **QUICK),
        llm.answer_batch(["Who kept the light?"], library, budget=200, **QUICK)[0],
    ):
        assert len(answer.away) == 1
        assert "'part-001' is away" in answer.away[0]
        assert "does not exist" in answer.away[0]
        assert "Not searched: part 'part-001'" in answer.answered().warning
        assert answer.to_dict()["away"] == list(answer.away)
    assert "part-001" in library.search("the light").away[0]
    assert "part-001" in llm.passages("the light", library).away[0]
    assert not library.verify().clean
    with pytest.raises(DocumentError, match=r"'ferry'.*part-001"):
        library.get("ferry")
    place.rename(library.parts[1])
    assert llm.answer("Who kept the light?", library, budget=200, **QUICK).away == ()
    assert library.verify().clean


def test_nothing_is_added_while_a_part_may_hold_it(library: PartedMemory) -> None:
    away(library, 1)
    for change in (
        lambda: library.add(MemoryDocument(id="ferry", text="another")),
        lambda: library.update(MemoryDocument(id="story", text="another")),
        library.compact,
        lambda: library.export(library.path / "out"),
    ):
        with pytest.raises(TreeMemoryError, match=r"part-001.*detach"):
            change()
    library.delete("garden")  # it is where it is
    library.detach("part-001")
    library.add(MemoryDocument(id="ferry", text="another"))
    assert {stored.id for stored in library.list()} == {"story", "ferry"}


def test_a_part_that_cannot_be_read_is_away(library: PartedMemory, llm: SharedLLM) -> None:
    library.close()
    for broken in (b"no SQLite file at all " * 200, b""):
        (library.parts[2] / "memory.sqlite").write_bytes(broken)
        memory = PartedMemory(library.path, llm=llm)
        assert [one.startswith("part 'part-002' is away") for one in memory.away] == [True]
        assert memory.search("the light").away == memory.away
        memory.close()


def test_all_parts_away_is_an_error(library: PartedMemory, llm: SharedLLM) -> None:
    for part in library.parts:
        shutil.rmtree(part)
    for asked in (
        lambda: library.search("the light"),
        lambda: llm.answer("the light", library),
        lambda: PartedMemory(library.path),
    ):
        with pytest.raises(TreeMemoryError, match=r"no part .* can be used"):
            asked()


def test_a_part_removed_while_questions_run(parts: Parts, llm: SharedLLM) -> None:
    memory = parts(4, candidates=24)
    memory.add([small(number) for number in range(80)])
    errors: list[BaseException] = []
    named: set[tuple[str, ...]] = set()
    gone = threading.Event()

    def ask() -> None:
        try:
            for number in range(40):
                hits = memory.search(f"where is the {RARE[number % len(RARE)]}?", 3)
                named.add(hits.away)
                assert hits
                if number == 10:
                    gone.set()
        except BaseException as error:
            errors.append(error)
            gone.set()

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for one in asking:
        one.start()
    assert gone.wait(120)
    shutil.rmtree(memory.parts[2])
    for one in asking:
        one.join(120)
    assert errors == []
    assert () in named
    assert any("part-002" in "".join(one) for one in named)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_beside_threads_uses_all_parts(library: PartedMemory) -> None:
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            assert len(library.list()) == 3
            assert not library.leaves_out()

    reading = [threading.Thread(target=read) for _ in range(2)]
    for one in reading:
        one.start()
    try:
        children = []
        for _ in range(8):
            child = os.fork()
            if not child:
                os._exit(0 if len(library.list()) == 3 and not library.leaves_out() else 1)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    finally:
        done.set()
        for one in reading:
            one.join(60)
    assert codes == [0] * 8


# -- wherever a memory is taken --------------------------------------------------------------------


def test_its_folder_is_a_context(library: PartedMemory, llm: SharedLLM) -> None:
    asked = "Who kept the light?"
    expected = llm.answer(asked, library, budget=200, **QUICK)
    opened = open_memory(library.path, llm=llm)
    assert isinstance(opened, PartedMemory)
    assert open_memory(library.path) is opened
    answer = llm.answer(asked, str(library.path), budget=200, **QUICK)
    assert (answer.text, answer.citations) == (expected.text, expected.citations)
    library.detach("part-002")
    assert open_memory(library.path, llm=llm).parts == library.parts
    opened.close()


def test_every_method_of_a_memory_is_its_own() -> None:
    """Nothing falls through to a method that reads the one file of a TreeMemory."""
    for name, value in vars(TreeMemory).items():
        if name.startswith("_") and name not in ("__len__", "__contains__"):
            continue
        code = value.fget if isinstance(value, property) else value
        reads = {"_database", "_working"} & set(inspect.unwrap(code).__code__.co_names)
        assert not reads or name in vars(PartedMemory), name


def test_memories_of_parts_and_of_one_are_asked_together(
    library: PartedMemory, make: Make, llm: SharedLLM
) -> None:
    other = make("other")
    other.add(MemoryDocument(id="mill", text="The mill stands at the river."))
    found = llm.answer("Where is the mill?", [library, other], budget=200, **QUICK)
    assert found.usage.context_tokens == sum(
        stored.tokens for stored in (*library.list(), *other.list())
    )


# -- what is refused -------------------------------------------------------------------------------


def test_a_part_given_twice_is_refused(make: Make, parts: Parts, tmp_path: Path) -> None:
    one = make("one")
    (tmp_path / "link").symlink_to(one.path)
    for given in ([one.path, one.path], [one.path, tmp_path / "link"], [one.path, f"{one.path}/."]):
        with pytest.raises(InputError, match="given twice"):
            parts(given)
    memory = parts([one.path])
    with pytest.raises(InputError, match="given twice"):
        memory.attach(tmp_path / "link")
    assert memory.parts == (one.path,)


def test_parts_of_other_models_and_codecs_are_refused(
    make: Make, parts: Parts, tmp_path: Path
) -> None:
    one = make("one")
    one.add(DOCUMENTS[0])
    others = {
        "tree": TreeMemory(tmp_path / "tree", llm=shared("llama", tree=TreeConfig(chunk=32))),
        "vectors": make("vectors", vectors="exact"),
        "codec": make("codec"),
    }
    others["codec"].add(DOCUMENTS[1])
    with others["codec"]._database.write() as connection:
        row = connection.execute("SELECT * FROM codecs").fetchone()
        changed = (*row[:3], bytes(reversed(row[3])))
        connection.execute(
            "UPDATE codecs SET data = ?, checksum = ? WHERE name = ?",
            (changed[3], records.checksum(*changed), row[1]),
        )
    for name, other in others.items():
        with pytest.raises(TreeMemoryMismatchError, match=f"cannot be a part.*{name}"):
            parts([one.path, other.path])
        other.close()
    assert not (tmp_path / "library").exists()


def test_a_part_that_was_exchanged_is_refused(library: PartedMemory, make: Make) -> None:
    folder = library.parts[1]
    shutil.rmtree(folder)
    make(f"library/{folder.name}", vectors="exact")
    with pytest.raises(TreeMemoryMismatchError, match="part-001"):
        library.search("the light")


def test_an_empty_memory_takes_the_codec_of_the_others(make: Make, parts: Parts) -> None:
    one, two = make("one"), make("two")
    one.add(DOCUMENTS[0])
    memory = parts([two.path, one.path])
    memory.add(DOCUMENTS[1])
    assert len(two) == 1
    assert memory.verify().clean


def test_two_parts_with_one_id_are_refused(make: Make, parts: Parts) -> None:
    one, two = make("one"), make("two")
    one.add(DOCUMENTS)
    two.add(DOCUMENTS[1])
    with pytest.raises(InputError, match="both hold a document 'ferry'"):
        parts([one.path, two.path])
    two.delete("ferry")
    memory = parts([one.path, two.path])
    two.add(DOCUMENTS[1])
    assert "both hold" in memory.verify().problems[0].what


@pytest.mark.parametrize(
    "given",
    [0, -1, True, 2000, [], "one", ["a", 3], [""], [b"a"], {"a": 1.5}.values(), 1.5, ["no"]],
)
def test_wrong_parts_are_refused(parts: Parts, tmp_path: Path, given: Any) -> None:
    with pytest.raises(SharedLLMError, match=r"part|memory"):
        parts(given)
    assert not PartedMemory.is_at(tmp_path / "library")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2}', '{"format": 1, "parts": "a"}', "[" * 5000, "\0", '"x"'],
)
def test_a_broken_list_is_refused(library: PartedMemory, text: str) -> None:
    library.close()
    (library.path / "parts.json").write_text(text)
    with pytest.raises(TreeMemoryFormatError, match=r"parts\.json"):
        PartedMemory(library.path)


def test_what_is_refused_says_what_to_do(
    library: PartedMemory, parts: Parts, tmp_path: Path
) -> None:
    with pytest.raises(TreeMemoryFormatError, match="PartedMemory"):
        TreeMemory(library.path)
    with pytest.raises(TreeMemoryError, match="already"):
        parts(2)
    with pytest.raises(TreeMemoryError, match=r"no parts\.json"):
        parts(name="nowhere")
    with pytest.raises(TreeMemoryMismatchError, match="keep 'text'"):
        parts(keep="leaves")
    assert len(parts(keep="text")) == len(library)  # the settings that it has
    with pytest.raises(InputError, match="only part"):
        parts(1, name="single").detach("part-000")
    with pytest.raises(InputError, match="no part"):
        library.detach("part-009")
    library.close()
    with pytest.raises(TreeMemoryError, match="closed"):
        library.search("the light")


def test_the_list_is_small_and_plain(library: PartedMemory) -> None:
    held = json.loads((library.path / "parts.json").read_text())
    assert held["parts"] == ["part-000", "part-001", "part-002"]
    assert [one.name for one in library.path.iterdir() if one.name.startswith(".")] == [LOCK]


def test_parts_that_are_attached_at_once_are_all_there(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = parts(1)
    with TreeMemory(library.parts[0], create=False) as first:
        for number in range(4):
            first.export(tmp_path / f"own {number}", [])
    wait = threading.Barrier(4)
    written = PartsList.write

    def slowly(self: PartsList, folder: Path) -> None:
        time.sleep(0.05)  # so that all have read the list, if nothing keeps them from it
        written(self, folder)

    monkeypatch.setattr(PartsList, "write", slowly)

    def attach(number: int) -> None:
        with PartedMemory(library.path) as own:
            wait.wait()
            own.attach(tmp_path / f"own {number}")

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(library.parts) == 5
    library.detach(tmp_path / "own 2")
    assert sorted(path.name for path in library.parts) == ["own 0", "own 1", "own 3", "part-000"]


def test_a_list_that_another_changes_is_waited_for(library: PartedMemory, tmp_path: Path) -> None:
    with TreeMemory(library.parts[0], create=False) as first:
        first.export(tmp_path / "own", [])
    with PartedMemory(library.path, busy_s=0.05) as hasty, changing(library.path, 0):
        for change in (lambda: hasty.attach(tmp_path / "own"), lambda: hasty.detach("part-001")):
            with pytest.raises(TreeMemoryBusyError, match="another process"):
                change()
    assert len(library.parts) == 3
    library.attach(tmp_path / "own")
    assert len(library.parts) == 4


@pytest.mark.parametrize("kind", ["link", "folder", "text"])
def test_a_lock_that_is_something_else_is_left_alone(
    library: PartedMemory, tmp_path: Path, kind: str
) -> None:
    there, lock = tmp_path / "mine.txt", library.path / LOCK
    there.write_text("mine" * 300)
    lock.unlink(missing_ok=True)
    if kind == "link":
        lock.symlink_to(there)
    elif kind == "folder":
        lock.mkdir()
    else:
        shutil.copy(there, lock)
    with pytest.raises(TreeMemoryError, match=LOCK):
        library.detach("part-001")
    assert there.read_text() == "mine" * 300
    assert len(library.parts) == 3
