"""Bad values in every argument of every public name: they work, or an error of ours says why not.

    pytest -m slow tests/fuzz

A raw error of Python, numpy, torch or SQLite fails, and so does a refused call that has changed a
memory. The names are those of `__all__`, their methods, and what they are built of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sharedllm
import sharedllm_integrations.langchain
import sharedllm_integrations.llamaindex
from sharedllm import SharedLLM, TreeMemory
from tests.conftest import DOCUMENTS, WIDE
from tests.fuzz.judge import outcome
from tests.fuzz.targets import GROUPS, Place, Target
from tests.fuzz.values import VALUES
from tests.models import make_model, make_tokenizer
from tests.texts import STORY

# What cannot be called, or is only made by a call that is fuzzed.
LEFT_OUT = {
    *("Document", "Answer", "Citation", "Usage", "Timings", "SharedLLMError", "SectionError"),
    "Section",  # given ones are checked by what takes an outline
    *("DocumentsReadEvent", "Hit", "ToolCall", "ToolResult", "ToolFormat"),
}


@pytest.fixture
def place(llm: SharedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    make_model("llama", **WIDE).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    with TreeMemory(tmp_path / "other", llm=llm) as other:
        other.add(DOCUMENTS)
    document = llm.remember(STORY, title="The lighthouse")
    answer = llm.answer("Who kept the light?", document, max_new_tokens=1)
    with TreeMemory(tmp_path / "memory", llm=llm) as memory:
        memory.add(DOCUMENTS)
        yield Place(tmp_path, model, llm, document, memory, answer)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: str(group.__name__))
def test_no_raw_error(place: Place, group: Any) -> None:
    raw = [
        f"{name}({argument}={value}): {what}"
        for name, target in group(place).items()
        for argument in target.arguments
        for value, what in problems(target, argument, place.memory)
    ]
    assert not raw, f"{len(raw)} raw errors:\n" + "\n".join(raw)


def problems(target: Target, argument: str, memory: TreeMemory) -> Iterator[tuple[str, str]]:
    """Call `target` with every bad value of one argument; yield those with which it went wrong."""
    for name, make in VALUES.items():
        before = memory.revision
        error = outcome(target.call, {**target.arguments, argument: make()})
        if error:
            yield name, error.encode("utf-8", "backslashreplace").decode()
            if memory.revision != before:
                yield name, "the memory has changed"
        if target.writes:
            memory.add([one for one in DOCUMENTS if one.id not in memory])


def test_every_public_name_is_fuzzed(place: Place) -> None:
    names = {name for group in GROUPS for name in group(place)}
    known = {part.split(".")[0] for name in names for part in name.split()}
    modules = (sharedllm, sharedllm_integrations.langchain, sharedllm_integrations.llamaindex)
    public = {name for module in modules for name in module.__all__}
    assert public - known - LEFT_OUT == set()
