"""Export and import: what was encoded travels; another model reads the texts again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import DocumentError, TreeMemoryError, TreeMemoryFormatError
from tests.conftest import DOCUMENTS, WIDE, Make
from tests.models import shared
from tests.texts import FERRY

QUICK: dict[str, Any] = {"max_new_tokens": 3, "budget": 200}


@pytest.fixture
def unread(llm: SharedLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be encoded."""

    def refused(*args: Any, **options: Any) -> None:
        raise AssertionError("something was encoded")

    monkeypatch.setattr(llm.encoder.lower, "vectors", refused)
    monkeypatch.setattr(llm.encoder.lower, "encode", refused)


@pytest.mark.parametrize("vectors", ["compact", "exact"])
@pytest.mark.parametrize(
    ("keep", "reads"), [("all", {"coarse": "all"}), ("leaves", {"leaves": "kv"})]
)
def test_an_export_is_a_memory(
    make: Make,
    llm: SharedLLM,
    tmp_path: Path,
    vectors: str,
    keep: str,
    reads: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    memory = make(keep=keep, vectors=vectors)
    memory.add(DOCUMENTS)
    answer = llm.answer("Who kept the light?", memory, **reads, **QUICK)
    request.getfixturevalue("unread")
    memory.export(tmp_path / "all")
    memory.export(tmp_path / "one", ["ferry"])
    request.getfixturevalue("monkeypatch").undo()
    copied = make("all")
    assert [copied.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
    assert copied.verify().clean
    assert llm.answer("Who kept the light?", copied, **reads, **QUICK).text == answer.text
    assert [d.id for d in make("one").list()] == ["ferry"]
    with pytest.raises(TreeMemoryError, match="already; export into a new folder"):
        memory.export(tmp_path / "one")
    with pytest.raises(DocumentError, match="no document 'nobody'"):
        memory.export(tmp_path / "none", ["nobody"])
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("unread")
def test_an_import_copies_what_was_encoded(make: Make, llm: SharedLLM, tmp_path: Path) -> None:
    other = make("other", llm=shared("llama", sizes=WIDE))
    other.add(DOCUMENTS)
    memory = make("new")
    memory.import_from(other.path)
    memory.import_from(other.path, ["ferry"])  # changes nothing
    assert [memory.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
    assert memory.verify().clean


def test_an_import_of_another_model_is_read_again(make: Make, memory: TreeMemory) -> None:
    other = make("other", llm=shared("qwen3", sizes=WIDE))
    other.import_from(memory.path)
    assert [other.get(d.id) for d in DOCUMENTS] == list(DOCUMENTS)
    assert other.verify().clean


def test_an_import_does_not_overwrite(make: Make, memory: TreeMemory, tmp_path: Path) -> None:
    other = make("other")
    other.add(MemoryDocument(id="ferry", text=FERRY + FERRY))
    with pytest.raises(DocumentError, match="already holds a document 'ferry'"):
        other.import_from(memory.path)
    assert other.get("ferry").text == FERRY + FERRY
    with pytest.raises(TreeMemoryFormatError, match="is no memory"):
        other.import_from(tmp_path)
