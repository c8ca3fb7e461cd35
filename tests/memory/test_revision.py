"""The name of what a memory holds."""

from __future__ import annotations

from sharedllm import MemoryDocument, TreeMemory
from tests.conftest import DOCUMENTS, Make


def test_it_changes_with_every_change(memory: TreeMemory) -> None:
    seen = [memory.revision]
    memory.update(MemoryDocument(id="ferry", text="The ferry leaves at nine."))
    seen.append(memory.revision)
    memory.update(MemoryDocument(id="ferry", text="The ferry leaves at nine.", title="Ferry"))
    seen.append(memory.revision)
    memory.delete("garden")
    seen.append(memory.revision)
    memory.add(MemoryDocument(id="new", text="A new text."))
    seen.append(memory.revision)
    assert len(set(seen)) == len(seen)


def test_it_stays_while_nothing_changes(memory: TreeMemory) -> None:
    before = memory.revision
    memory.add(DOCUMENTS)
    memory.search("ferry")
    assert memory.revision == before


def test_another_process_changes_it_too(memory: TreeMemory, make: Make) -> None:
    before = memory.revision
    make().delete("garden")
    assert memory.revision != before


def test_equal_memories_have_one_name(make: Make) -> None:
    one, other = make("one"), make("other")
    one.add(DOCUMENTS)
    other.add(DOCUMENTS)
    assert one.revision == other.revision
