"""Any order of additions, updates and deletions leaves what a plain dict would hold."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import DocumentError
from sharedllm.text.words import searchable

CHUNK = 64  # bytes: the tiny model has a token a byte
BLOCKS = [f"{letter * 3} {number} ".ljust(CHUNK, letter) for number, letter in enumerate("abcde")]
IDS = ("a", "../b", "c d", "C", "é", "'; DROP TABLE documents; --")
ids = st.sampled_from(IDS)
# Whole blocks, so that documents share chunks, and an end that is cut short.
texts = st.builds(
    lambda blocks, end: "".join(blocks) + "x" * end,
    st.lists(st.sampled_from(BLOCKS), max_size=4),
    st.integers(1, 5),
)


class Operations(RuleBasedStateMachine):
    """A memory beside a dict."""

    llm: SharedLLM
    done = 0

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.held: dict[str, MemoryDocument] = {}
        self.steps = 0
        self.open()

    def open(self) -> None:
        self.memory = TreeMemory(self.folder / "memory", llm=self.llm)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            assert self.memory.verify().clean
            self.memory.close()
            shutil.rmtree(self.folder)

    def count(self) -> None:
        self.steps += 1
        Operations.done += 1

    @rule(id=ids, text=texts)
    def add(self, id: str, text: str) -> None:
        document = MemoryDocument(id=id, text=text, metadata={"n": len(text)})
        self.count()
        if self.held.get(id, document) != document:
            with pytest.raises(DocumentError, match="another content"):
                self.memory.add(document)
            return
        self.memory.add(document)
        self.held[id] = document

    @rule(chosen=st.sets(ids, min_size=1, max_size=3))
    def delete(self, chosen: set[str]) -> None:
        self.count()
        if not chosen <= set(self.held):
            with pytest.raises(DocumentError, match="holds no document"):
                self.memory.delete(sorted(chosen))
            return
        self.memory.delete(sorted(chosen))
        for id in chosen:
            del self.held[id]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), text=texts)
    def update(self, data: Any, text: str) -> None:
        self.count()
        id = data.draw(st.sampled_from(sorted(self.held)))
        self.held[id] = MemoryDocument(id=id, text=self.held[id].text[:200] + text)
        self.memory.update(self.held[id])

    @precondition(lambda self: self.steps % 20 == 0)
    @rule(packed=st.booleans())
    def reopen(self, packed: bool) -> None:
        if packed:
            self.memory.compact()
        self.memory.close()
        self.open()

    @invariant()
    def it_holds_what_the_dict_holds(self) -> None:
        if not hasattr(self, "memory"):
            return
        assert {d.id: self.memory.get(d.id) for d in self.memory.list()} == self.held
        pieces = {
            searchable(document.text[at : at + CHUNK])
            for document in self.held.values()
            for at in range(0, len(document.text), CHUNK)
        }
        with self.memory._database.read() as connection:
            stored = {row[0] for row in connection.execute("SELECT text FROM words")}
            counts = [
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("chunks", "vectors")
            ]
        assert stored == pieces
        assert counts == [len(pieces)] * 2


@pytest.mark.parametrize(
    ("runs", "steps"), [(4, 40), pytest.param(60, 300, marks=[pytest.mark.slow])]
)
@pytest.mark.timeout(1800)
def test_a_memory_is_a_dict(llm: SharedLLM, runs: int, steps: int) -> None:
    machine = type("Machine", (Operations,), {"llm": llm})
    Operations.done = 0
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Operations.done >= (10_000 if runs == 60 else 50)
