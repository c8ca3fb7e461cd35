"""What opening, adding and reading cost as a memory grows."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.memory import tables
from tests.conftest import Make


@pytest.fixture(scope="module")
def thousand(llm: SharedLLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of 1,000 documents, closed."""
    folder = tmp_path_factory.mktemp("thousand") / "memory"
    with TreeMemory(folder, llm=llm) as memory:
        memory.add(
            MemoryDocument(id=str(i), text=f"note {i * i} of the keeper") for i in range(1000)
        )
    return folder


def test_opening_a_thousand_documents(
    thousand: Path, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("search vectors were read")

    monkeypatch.setattr(tables, "vectors_of", touched)
    started = time.perf_counter()
    with TreeMemory(thousand, llm=llm) as memory:
        assert len(memory) == 1000
        assert memory.get("17").text == "note 289 of the keeper"
        assert time.perf_counter() - started < 1


def test_a_question_touches_the_candidates_alone(
    thousand: Path, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    vectors_of = tables.vectors_of

    def counted(connection: sqlite3.Connection, chunks: list[int]) -> dict[int, bytes]:
        read.extend(chunks)
        return vectors_of(connection, chunks)

    monkeypatch.setattr(tables, "vectors_of", counted)
    with TreeMemory(thousand, llm=llm, candidates=10) as memory:
        hits = memory.search("note 289", k=1)
    assert hits[0].id == "17"
    assert len(read) == 10


def statements(memory: TreeMemory, document: MemoryDocument) -> list[str]:
    """The SQL that adding `document` runs, values included."""
    ran: list[str] = []
    connection: sqlite3.Connection = memory._database._connection
    connection.set_trace_callback(ran.append)
    memory.add(document)
    connection.set_trace_callback(None)
    return ran


def test_adding_costs_the_same_in_a_large_memory(
    thousand: Path, make: Make, llm: SharedLLM
) -> None:
    """As many statements, and none of them reads a whole table."""
    small = make()
    document = MemoryDocument(id="new", text="something else entirely")
    with TreeMemory(thousand, llm=llm) as large:
        for memory in (small, large):  # which fits its codec once
            memory.add(MemoryDocument(id="first", text="first"))
        ran = statements(large, document)
        assert len(ran) == len(statements(small, document))
        with large._database.read() as connection:
            plans = {
                row[3]: sql
                for sql in ran
                if sql.startswith(("SELECT", "UPDATE", "DELETE")) and "'main'" not in sql
                for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")
            }
        large.delete(["new", "first"])
    assert plans
    assert [sql for plan, sql in plans.items() if "SCAN" in plan] == []
