"""The prefilter of large memories: words, words near them, filters, and an index that keeps up."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import ConfigError, SharedLLMError, TreeMemoryFormatError
from sharedllm.memory import prefilter, word_index
from sharedllm.memory.prefilter import by_near_words, by_words, candidates_of
from sharedllm.memory.word_index import Opened, count
from tests.conftest import Make
from tests.models import shared
from tests.texts import GARDEN

WORDS = "lamp reef tide rope mast keel fog bell dawn gull salt oar net star wind".split()
QUICK: dict[str, Any] = {"max_new_tokens": 2, "budget": 200}
ASKED = "Who grew blue poppies behind the chapel?"


class Synonyms:
    """Near words as a test wants them."""

    def __init__(self, near: Mapping[str, Mapping[str, float]]) -> None:
        self._near = near

    def of(self, word: str) -> Mapping[str, float]:
        return self._near.get(word, {})


NONE: Any = Synonyms({})
SHIPS: Any = Synonyms({"vessel": {"boat": 0.5, "lamp": 0.4}, "purchased": {"bought": 0.6}})


def filler(number: int) -> MemoryDocument:
    draw = random.Random(number)
    text = " ".join(draw.choice(WORDS) for _ in range(60))
    return MemoryDocument(id=f"filler {number}", text=text, metadata={"even": number % 2 == 0})


@pytest.fixture
def large(make: Make) -> TreeMemory:
    memory = make(candidates=8)
    memory.add([filler(i) for i in range(20)])
    memory.add(MemoryDocument(id="garden", text=GARDEN, title="Garden", metadata={"even": True}))
    return memory


@pytest.fixture
def ships(make: Make) -> TreeMemory:
    memory = make()
    memory.add([filler(i) for i in range(12)])
    memory.add(MemoryDocument(id="ship", text="Ida bought a boat", metadata={"even": True}))
    memory.add(MemoryDocument(id="half", text="a boat on a beach"))
    return memory


def names(memory: TreeMemory, chunks: list[prefilter.Chunk]) -> list[str]:
    with memory._database.read() as connection:
        return [
            connection.execute(
                "SELECT d.id FROM placed p JOIN documents d ON d.text = p.text WHERE p.chunk = ?",
                (chunk,),
            ).fetchone()[0]
            for _, chunk in chunks
        ]


def near(memory: TreeMemory, query: str, k: int = 3, filter: Any = None) -> list[str]:
    with memory._database.read() as connection:
        found = by_near_words(Opened([connection]), query, SHIPS, k, filter)
    return names(memory, found)


def test_what_matters_gets_through(large: TreeMemory, llm: SharedLLM) -> None:
    parts = large.documents_for(ASKED, llm)
    assert sum(len(part.forest.roots) for part in parts) <= 8
    assert "garden" in {part.id for part in parts}
    for part in parts:
        whole = large.get(part.id).text
        assert whole[part.offset : part.offset + len(part.text)] == part.text
        assert part.text_of(0, len(part)).strip() == part.text.strip()
    answer = llm.answer(ASKED, large, **QUICK)
    for cited in answer.citations:
        assert large.get(cited.document).text[cited.char_start : cited.char_end] == cited.text


def test_the_best_part_stands_last(large: TreeMemory, llm: SharedLLM) -> None:
    parts = large.documents_for("blue poppies behind the chapel", llm)
    assert parts[-1].id == "garden"


def test_filters_hold_in_every_ranking(large: TreeMemory, llm: SharedLLM) -> None:
    for query in ("lamp reef tide", "zzz qqq"):
        parts = large.documents_for(query, llm, {"even": False})
        assert parts
        assert all(large.get(part.id).metadata["even"] is False for part in parts)
    hits = large.search("lamp reef tide", k=3, filter={"even": True})
    assert all(hit.metadata["even"] is True for hit in hits)


@pytest.mark.parametrize(
    "query",
    ['"', "NOT", "lamp AND (", "*", "...", "' OR 1=1 --", "lamp" * 90, "reef_tide x_1 l'été"],
)
def test_no_query_is_an_operator(large: TreeMemory, query: str) -> None:
    with large._database.read() as connection:
        assert len(by_words(Opened([connection]), query, 5)) <= 5
        assert len(by_near_words(Opened([connection]), query, SHIPS, 5)) <= 5
    assert large.search(f"{query} x", k=1)


def test_words_are_found_as_the_index_spells_them(make: Make) -> None:
    memory = make()
    memory.add([filler(i) for i in range(6)])
    memory.add(
        MemoryDocument(id="cafe", text="Le Café d'Émile, rue snake_case, Größe, GBS-65-146,12/2021")
    )
    with memory._database.read() as connection:
        chunk = connection.execute("SELECT max(chunk) FROM chunks").fetchone()[0]
        spellings = "café|CAFE|emile|snake|snake_case|snakeCase|größe|groesse|gbs-65-146|12/2021"
        for query in (*spellings.split("|"), "\uff23\uff21\uff26\uff25", "(café) OR"):
            assert by_words(Opened([connection]), query, 3) == [(0, chunk)]
            assert by_near_words(Opened([connection]), query, NONE, 3) == [(0, chunk)]
        assert by_words(Opened([connection]), "zebra", 3) == []
        assert by_near_words(Opened([connection]), "zebra", NONE, 3) == []


def test_a_question_without_known_words_is_answered(large: TreeMemory, llm: SharedLLM) -> None:
    """The newest documents fill up what words do not find."""
    for query in ("zzz qqq", "poppies zzz", "\u6f22\u5b57"):
        parts = large.documents_for(query, llm)
        assert sum(len(part.forest.roots) for part in parts) == 8
    assert large.documents_for("poppies zzz", llm)[-1].id == "garden"


def test_common_words_are_not_looked_up(large: TreeMemory) -> None:
    with large._database.read() as connection:
        assert prefilter._rare([count(connection, ["lamp", "reef", "poppies"])]) == ["poppies"]
        assert len(prefilter._rare([count(connection, ["lamp", "reef"])])) == 1


# -- words near the question's ---------------------------------------------------------------------


def test_other_words_of_the_same_meaning_are_found(ships: TreeMemory) -> None:
    assert near(ships, "Who purchased that vessel?") == ["ship", "half"]
    with ships._database.read() as connection:
        assert by_words(Opened([connection]), "Who purchased that vessel?", 3) == []
        found = candidates_of(Opened([connection]), "Who purchased that vessel?", SHIPS, 4)
    assert names(ships, found)[:2] == ["ship", "half"]
    assert len(set(found)) == 4


def test_the_word_itself_counts_more(ships: TreeMemory) -> None:
    ships.add(MemoryDocument(id="own", text="an old vessel"))
    assert near(ships, "vessel", k=1) == ["own"]
    assert set(near(ships, "vessel")) == {"own", "ship", "half"}


def test_common_words_near_a_word_tell_nothing(ships: TreeMemory) -> None:
    assert all("filler" not in name for name in near(ships, "vessel", k=10))  # "lamp" is in most


def test_numbers_and_codes_have_no_near_words(ships: TreeMemory) -> None:
    alike: Any = Synonyms({"48013": {"boat": 0.9}, "ab-12": {"boat": 0.9}, "ab12": {"boat": 0.9}})
    with ships._database.read() as connection:
        for query in ("48013", "AB-12"):
            assert by_near_words(Opened([connection]), query, alike, 3) == []


def test_filters_hold_for_near_words(ships: TreeMemory) -> None:
    assert near(ships, "Who purchased that vessel?", filter={"even": True}) == ["ship"]
    assert near(ships, "Who purchased that vessel?", filter={"even": "never"}) == []


def test_rows_are_bounded(ships: TreeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefilter, "MOST_NEAR_ROWS", 1)
    looked_up: list[int] = []
    holding = word_index.holding

    def counted(connection: sqlite3.Connection, word: str) -> Any:
        rows = holding(connection, word)
        looked_up.append(len(rows))
        return rows

    monkeypatch.setattr(word_index, "holding", counted)
    assert near(ships, "Who purchased that vessel?") == ["ship"]
    assert sum(looked_up) == 1  # "bought", and not "boat", which is in two


def test_every_change_is_found_at_once(ships: TreeMemory) -> None:
    changes = (
        (lambda: ships.delete("half"), ["ship"]),
        (lambda: ships.update(MemoryDocument(id="ship", text="gull " * 30)), []),
        (lambda: ships.add(MemoryDocument(id="third", text="the boat")), ["third"]),
        (ships.compact, ["third"]),
        (lambda: ships.add(MemoryDocument(id="copy", text="the boat")), ["third"]),
    )
    for change, expected in changes:
        change()
        assert near(ships, "Who purchased that vessel?") == expected
    assert ships.verify().clean


def test_another_writer_is_seen(ships: TreeMemory, make: Make) -> None:
    other = make()
    other.add(MemoryDocument(id="late", text="a boat was bought late"))
    assert set(near(ships, "Who purchased that vessel?", k=2)) == {"late", "ship"}
    other.delete(["late", "ship"])
    assert near(ships, "Who purchased that vessel?") == ["half"]


def asked_in(path: str, answers: Any) -> None:
    llm = shared("llama", sizes={"max_position_embeddings": 8192})
    with TreeMemory(path, llm=llm) as memory:
        answers.put(near(memory, "Who purchased that vessel?"))


def test_another_process_finds_the_same(ships: TreeMemory) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    other = context.Process(target=asked_in, args=(str(ships.path), answers))
    other.start()
    try:
        assert answers.get(timeout=120) == near(ships, "Who purchased that vessel?")
    finally:
        other.join(60)


def test_a_memory_that_cannot_be_written_is_searched(ships: TreeMemory, make: Make) -> None:
    path = ships.path
    ships.close()
    held = [path, *path.iterdir()]
    for place in held:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        memory = make()
        assert near(memory, "Who purchased that vessel?") == ["ship", "half"]
        memory.close()
    finally:
        for place in held:
            if place.exists():
                place.chmod(0o755 if place.is_dir() else 0o644)


@pytest.fixture
def broken(ships: TreeMemory) -> TreeMemory:
    """Its index of words lacks a chunk."""
    with ships._database.write() as connection:
        chunk = connection.execute("SELECT max(chunk) FROM chunks").fetchone()[0]
        connection.execute("DELETE FROM words WHERE rowid = ?", (chunk,))
    return ships


def test_a_broken_index_of_words_is_made_anew_from_the_texts(broken: TreeMemory) -> None:
    assert near(broken, "Who purchased that vessel?") == ["ship"]
    assert not broken.verify().clean
    assert broken.verify(repair=True).clean
    assert near(broken, "Who purchased that vessel?") == ["ship", "half"]


def test_rows_of_a_strangers_index_lead_nowhere(ships: TreeMemory, llm: SharedLLM) -> None:
    """An index may name chunks that are not there, under any number."""
    with ships._database.write() as connection:
        for row in (1 << 62, 10**6):
            connection.execute("INSERT INTO words (rowid, text) VALUES (?, 'boat bought')", (row,))
    small = TreeMemory(ships.path, llm=llm, candidates=4)
    found = small.documents_for("boat bought", llm)
    assert {part.id for part in found} & {"ship", "half"}
    small.close()


def test_a_memory_made_before_is_refused(ships: TreeMemory, make: Make) -> None:
    ships.close()
    with sqlite3.connect(ships.path / "memory.sqlite") as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(TreeMemoryFormatError, match="version"):
        make()


@pytest.mark.parametrize("candidates", [0, -1, 1.5, "8", True])
def test_candidates_are_a_positive_number(tmp_path: Path, candidates: Any) -> None:
    with pytest.raises(ConfigError, match="candidates"):
        TreeMemory(tmp_path / "new", candidates=candidates)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("forged", ["'a'", "7", "0.5"])
def test_a_forged_index_of_words_is_named(ships: TreeMemory, forged: str) -> None:
    with ships._database.write() as connection:
        connection.execute(f"UPDATE words_data SET block = {forged} WHERE id = 1")
    with pytest.raises(SharedLLMError), ships._database.read() as connection:
        count(connection, ["boat"])
