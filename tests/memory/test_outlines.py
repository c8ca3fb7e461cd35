"""Outlines of a memory: kept with its documents, searched by, mended, and read from old files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from sharedllm import MemoryDocument, SectionError, SharedLLM, TreeMemory
from sharedllm.errors import ConfigError, DocumentError, TreeMemoryDamagedError
from sharedllm.memory import records
from tests.conftest import DOCUMENTS, Make
from tests.texts import BOOK, FERRY, STORY

CHAPTERS = ["CHAPTER I. The Rock", "CHAPTER II. The Boat", "CHAPTER III. The Chapel"]
MANUAL = "# Boats\n\n" + "".join(
    f"## {name}\n\n{f'The {name.lower()} boat has the number {n}. ' * 30}\n\n"
    for n, name in enumerate(("Red", "Green", "Blue", "White", "Black", "Brown"))
)


@pytest.fixture(params=[128, 3])
def books(request: pytest.FixtureRequest, make: Make) -> TreeMemory:
    """Documents with and without an outline; the second time they count as many."""
    memory = make(candidates=request.param)
    memory.add([*DOCUMENTS, MemoryDocument(id="book", text=BOOK, title="A book")])
    memory.add(MemoryDocument(id="manual", text=MANUAL, title="A manual"))
    return memory


def without_outlines(memory: TreeMemory) -> None:
    """Let the memory be one that was made before outlines were kept."""
    memory.close()
    with closing(sqlite3.connect(memory.path / "memory.sqlite")) as file, file:
        file.execute("DROP TABLE outlines")
        file.execute("DROP TABLE notes")
        file.execute("PRAGMA user_version = 3")


def test_outlines_are_kept(books: TreeMemory, make: Make) -> None:
    assert [s.title for s in books.outline("book")] == CHAPTERS
    assert books.outline("story") == ()
    assert books.get("book").outline == books.outline("book")
    books.close()
    again = make()
    assert [s.title for s in again.outline("book")] == CHAPTERS
    with pytest.raises(DocumentError, match="'nothing'"):
        again.outline("nothing")
    again.update(MemoryDocument(id="book", text=STORY))
    assert again.outline("book") == ()
    again.delete(["manual", "book"])
    assert again.verify().clean


def test_a_given_outline_is_kept_and_changes_alone(make: Make) -> None:
    memory = make()
    own = MemoryDocument(id="book", text=BOOK)
    some = MemoryDocument(id="book", text=BOOK, outline=(own.outline or ())[:1])
    memory.add(some)
    before = memory.revision
    assert [s.title for s in memory.outline("book")] == CHAPTERS[:1]
    memory.add(own)  # the same content: nothing is read again, and the outline is the new one
    assert [s.title for s in memory.outline("book")] == CHAPTERS
    assert memory.revision != before
    with pytest.raises(DocumentError, match="a text of 5"):
        MemoryDocument(text="short", outline=own.outline)


@pytest.mark.parametrize("section", ["chapter 2", "The Boat", "II"])
def test_search_stays_in_the_section(books: TreeMemory, llm: SharedLLM, section: str) -> None:
    chapter = books.outline("book")[1]
    for query in ("When does the ferry leave?", "the lamp", "poppies", "zzz"):
        hits = books.search(query, k=50, section=section)
        assert hits
        for hit in hits:
            assert (hit.id, hit.section) == ("book", CHAPTERS[1])
            assert chapter.start <= hit.char_start < hit.char_end <= chapter.end
    answer = llm.answer("When does it leave?", books, section=section, max_new_tokens=2, budget=200)
    assert {c.section for c in answer.citations} == {CHAPTERS[1]}
    assert 0 < answer.usage.context_tokens <= len(BOOK[chapter.start : chapter.end].encode())


def test_a_long_section_is_searched_by_its_words(books: TreeMemory) -> None:
    (hit,) = books.search("Which number has the brown boat?", k=1, section="boats")
    assert hit.section == "Boats > Brown"
    (hit,) = books.search("the brown boat", k=1, section="boats > white")
    assert hit.section == "Boats > White"


def test_filters_and_sections_hold_together(books: TreeMemory) -> None:
    assert books.search("boat", section="chapter 2", filter={"id": "book"})
    with pytest.raises(SectionError, match=r"nearest: 'Boats'"):
        books.search("boat", section="chapter 2", filter={"id": "manual"})
    with pytest.raises(SectionError, match="'The lighthouse' has no outline"):
        books.search("boat", section="chapter 2", filter={"id": "story"})


def test_sections_that_are_not_there(books: TreeMemory, llm: SharedLLM) -> None:
    with pytest.raises(SectionError, match=r"'A book' has 'CHAPTER I. The Rock'.*'A manual' has"):
        books.search("boat", section="chapter 9")
    with pytest.raises(SectionError, match="nearest"):
        llm.answer("boat?", books, section="chapter 9")
    # what one has is enough
    both = [books, llm.remember(FERRY)]
    assert llm.select("boat?", both, section="chapter 2", budget=200).nodes
    for wrong in ("", " "):
        with pytest.raises(ConfigError, match="section is"):
            books.search("boat", section=wrong)


def test_an_old_memory_is_read_and_gets_outlines_when_it_is_written_to(
    books: TreeMemory, make: Make, llm: SharedLLM
) -> None:
    without_outlines(books)
    old = make()
    assert old.outline("book") == ()
    assert old.get("book").outline == ()
    assert old.search("the lamp", k=1)[0].section == ""
    with pytest.raises(SectionError, match="no document has an outline"):
        old.search("the lamp", section="chapter 1")
    assert old.verify().clean
    old.add(MemoryDocument(id="new", text=BOOK + "\n\nThe end."))
    assert [s.title for s in old.outline("new")] == CHAPTERS
    assert old.outline("book") == ()
    old.add(MemoryDocument(id="book", text=BOOK, title="A book"))
    assert [s.title for s in old.outline("book")] == CHAPTERS
    assert old.verify().clean


def test_an_old_memory_that_cannot_be_written_is_read(books: TreeMemory, llm: SharedLLM) -> None:
    without_outlines(books)
    file = books.path / "memory.sqlite"
    file.chmod(0o444)
    books.path.chmod(0o555)
    try:
        with TreeMemory(books.path, llm=llm, create=False) as old:
            assert old.search("the lamp", k=1)
            assert old.outline("book") == ()
    finally:
        books.path.chmod(0o755)
        file.chmod(0o644)


def test_documents_of_an_old_memory_are_taken_in_with_their_outline(
    books: TreeMemory, make: Make
) -> None:
    without_outlines(books)
    other = make("other")
    other.import_from(books.path)
    assert [s.title for s in other.outline("book")] == CHAPTERS
    other.export(other.path.parent / "copy")
    assert [s.title for s in make("copy").outline("book")] == CHAPTERS


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE outlines SET sections = '[]' WHERE document = 4",
        "UPDATE outlines SET sections = 'nothing', checksum = 0 WHERE document = 4",
        "INSERT INTO outlines VALUES (99, '[]', 0)",
    ],
)
def test_broken_outlines_are_found_and_mended(books: TreeMemory, make: Make, damage: str) -> None:
    books.close()
    with closing(sqlite3.connect(books.path / "memory.sqlite")) as file, file:
        file.execute(damage)
    memory = make()
    report = memory.verify()
    assert {problem.table for problem in report.problems} == {"outlines"}
    assert memory.verify(repair=True).clean
    assert [s.title for s in memory.outline("book")] == CHAPTERS


def test_an_outline_that_lies_is_refused(books: TreeMemory, make: Make) -> None:
    """The file may be a stranger's: sections must lie in their text."""
    for rows in ('[["A", 1, 0, 99999, ""]]', '[["A", 1, 0, 5', '{"a": 1}', "[" * 100_000):
        values: tuple[Any, ...] = (4, rows)
        with books._database.write() as connection:
            connection.execute(
                "UPDATE outlines SET sections = ?, checksum = ? WHERE document = 4",
                (rows, records.checksum(*values)),
            )
        for use in (lambda: books.outline("book"), lambda: books.search("x", section="chapter 1")):
            with pytest.raises(TreeMemoryDamagedError, match="outline of document 'book'"):
                use()
    assert books.verify(repair=True).clean
    assert books.search("x", section="chapter 1")
