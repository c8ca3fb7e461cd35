"""Stored leaves: written when a document is added, read where they are selected, as KV."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from sharedllm import Document, MemoryDocument, SearchConfig, SharedLLM, TreeConfig, TreeMemory
from sharedllm.encoding.document import NodeCache
from sharedllm.encoding.kv import NodeKV
from sharedllm.encoding.lower_model import NodeRequest
from sharedllm.errors import ConfigError, TreeMemoryDamagedError, TreeMemoryMismatchError
from sharedllm.memory import ingest, tables
from sharedllm.memory.codes import kept_nodes, kv_from_bytes, kv_to_bytes
from sharedllm.memory.manifest import MemorySettings
from sharedllm.search.finding import leaves_of
from tests.conftest import DOCUMENTS, WIDE, Make
from tests.memory import attacks
from tests.models import TREE, shared
from tests.texts import FERRY, STORY

QUESTION = "Who kept the light?"
AS_KV: dict[str, Any] = {"leaves": "kv", "budget": 64, "max_new_tokens": 6}
TREES = (
    TREE,
    TREE.replace(context=64),  # every node from one pass over its chunk
    TREE.replace(ratios=(4, 2)),  # leaves with every second token
    TreeConfig(chunk=32, height=0, ratios=(), root_ratio=1),
)


@pytest.fixture
def stored(make: Make) -> TreeMemory:
    """Three documents with their leaves."""
    memory = make(keep="leaves")
    memory.add(DOCUMENTS)
    return memory


def leaves(document: Document, ratio: float = 1.0) -> list[NodeRequest]:
    return [document.request(int(leaf), ratio) for leaf in document.forest.leaves]


def whole(document: Document, llm: SharedLLM) -> Document:
    """`document` in RAM, its leaves encoded now and rounded as they are stored."""
    out = replace(document, nodes=NodeCache(1 << 30))
    for request, kv in llm.encoder.encode(out, leaves(document)).items():
        shape = kv.keys.shape
        assert len(shape) == 4
        read = kv_from_bytes(kv_to_bytes(kv, "int8"), tuple(shape), "int8", torch.float32)
        out.nodes.put(request, read)
    return out


@torch.inference_mode()
def first_logits(llm: SharedLLM, document: Document) -> torch.Tensor:
    prompt = llm.prepare(QUESTION, document, **AS_KV).prompt
    assert prompt.injected_tokens >= 32
    (logits,) = llm.upper.logits([prompt], keep=1)
    return logits


@pytest.mark.parametrize("tree", TREES, ids=["alone", "in context", "2:1", "chunks"])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 40, 64])
def test_every_leaf_is_kept_as_a_selected_one_is_read(length: int, tree: TreeConfig) -> None:
    length = min(length, tree.chunk)
    llm = shared("llama", tree=tree, sizes=WIDE)
    document = llm.remember(STORY[:length].ljust(length, "."))
    assert len(document) == length
    asked = llm.select(QUESTION, document, leaves="kv", budget=length)
    wanted = [document.request(node.node, node.ratio) for node in asked.nodes]
    assert set(wanted) == set(kept_nodes(length, tree, "leaves"))
    assert list(kept_nodes(length, tree, "leaves")) == leaves(document, tree.leaf_ratio)


def test_leaves_are_stored_in_int8_unless_told() -> None:
    assert MemorySettings.of({"keep": "leaves"}).kv == "int8"
    assert MemorySettings.of({"keep": "leaves", "kv": "bf16"}).kv == "bf16"
    assert MemorySettings.of({"keep": "all"}).kv == MemorySettings.of({}).kv == "bf16"
    held = MemorySettings.of({"keep": "all", "kv": "int4"})
    assert MemorySettings.of({"keep": "leaves"}, held).kv == "int8"  # it begins to store them
    held = MemorySettings.of({"keep": "leaves", "kv": "bf16"})
    assert MemorySettings.of({"keep": "leaves"}, held).kv == "bf16"
    assert MemorySettings.of({}, held) == held
    with pytest.raises(ConfigError, match="keep is 'leafs'; allowed: 'text', 'leaves', 'coarse'"):
        MemorySettings.of({"keep": "leafs"})


@pytest.mark.parametrize("tree", TREES[:3], ids=["alone", "in context", "2:1"])
def test_what_is_read_is_what_is_encoded_now_within_half_a_step(
    make: Make, tree: TreeConfig
) -> None:
    llm = shared("llama", tree=tree, sizes=WIDE)
    memory = make(llm=llm, keep="leaves")
    memory.add(DOCUMENTS)
    story = memory.documents_for(QUESTION, llm)[0]
    fresh = llm.encoder.encode(llm.remember(STORY), leaves(story, tree.leaf_ratio))
    for request, now in fresh.items():
        kept = story.nodes.get(request)
        assert kept is not None
        for found, expected in ((kept.keys, now.keys), (kept.values, now.values)):
            largest = expected.abs().amax(-1, keepdim=True)
            assert float(((found - expected).abs() / largest).max()) <= 1 / 250


def test_an_answer_is_that_of_leaves_rounded_now(stored: TreeMemory, llm: SharedLLM) -> None:
    story = stored.documents_for(QUESTION, llm)[0]
    rounded = whole(story, llm)
    expected = llm.answer(QUESTION, rounded, **AS_KV)
    answer = llm.answer(QUESTION, story, **AS_KV)
    assert (answer.text, answer.usage) == (expected.text, expected.usage)
    logits = first_logits(llm, story)
    assert torch.allclose(logits, first_logits(llm, rounded), atol=1e-3)
    exact = first_logits(llm, replace(story, nodes=NodeCache(1 << 30)))
    assert 0 < float((logits - exact).abs().max()) < 0.05 * float(exact.std())


def test_only_what_is_selected_is_read_and_nothing_is_encoded(
    stored: TreeMemory, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []
    node_row = tables.node_row

    def counted(connection: sqlite3.Connection, chunk: int, node: int) -> Any:
        read.append((chunk, node))
        return node_row(connection, chunk, node)

    def refused(ids: Any, requests: Any, **_: Any) -> Any:
        assert not requests
        return iter(())

    monkeypatch.setattr(tables, "node_row", counted)
    monkeypatch.setattr(llm.encoder.lower, "encode", refused)
    llm.answer(QUESTION, stored, budget=64, max_new_tokens=2)
    assert read == []
    answer = llm.answer(QUESTION, stored, **AS_KV)
    assert answer.selection is not None
    assert len(read) == len(set(read)) == len(answer.selection.nodes)
    llm.answer(QUESTION, stored, **AS_KV)
    assert len(read) == len(answer.selection.nodes)  # they are in memory now


@pytest.mark.parametrize("rows", ["chunk = 1 AND node = 1", "chunk > 2", "1"])
def test_lost_leaves_are_named_and_encoded_again(
    stored: TreeMemory, llm: SharedLLM, rows: str
) -> None:
    def data() -> list[Any]:
        with stored._database.read() as connection:
            sql = "SELECT chunk, node, length(data) FROM kv ORDER BY chunk, node"
            return [count for _, _, count in connection.execute(sql)]

    before = data()
    attacks.execute(stored.path, f"DELETE FROM kv WHERE {rows}")
    assert any("some KV of a chunk is missing" in p.what for p in stored.verify().problems)
    assert stored.verify(repair=True).clean
    assert sorted(data()) == sorted(before)
    assert llm.answer(QUESTION, stored, **AS_KV).usage.injected_tokens > 0


def test_a_broken_leaf_is_refused_where_it_is_read(stored: TreeMemory, llm: SharedLLM) -> None:
    attacks.execute(stored.path, "UPDATE kv SET data = zeroblob(length(data))")
    assert llm.answer(QUESTION, stored, budget=64, max_new_tokens=2).citations  # text reads none
    with pytest.raises(TreeMemoryDamagedError, match=r"its KV is not what was written.*--repair"):
        llm.answer(QUESTION, stored, **AS_KV)
    assert stored.verify(repair=True).clean
    assert llm.answer(QUESTION, stored, **AS_KV).citations


def test_equal_chunks_are_stored_once_and_go_with_the_last(stored: TreeMemory) -> None:
    def count() -> int:
        with stored._database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM kv").fetchone()[0])

    before = count()
    stored.add(MemoryDocument(id="again", text=STORY))
    assert count() == before
    stored.delete(["again", "story"])
    assert 0 < count() < before
    stored.delete(["ferry", "garden"])
    assert count() == 0


def test_leaves_of_another_context_are_refused(stored: TreeMemory, make: Make) -> None:
    stored.close()
    other = shared("llama", tree=TREE.replace(context=64), sizes=WIDE)
    with pytest.raises(TreeMemoryMismatchError, match=r'"context": 0.*"context": 64'):
        make(llm=other)
    rebuilt = make(llm=other, rebuild=True)
    assert rebuilt.verify().clean
    assert other.answer(QUESTION, rebuilt, **AS_KV).usage.injected_tokens > 0


def test_a_memory_of_text_begins_to_store_leaves(make: Make, llm: SharedLLM) -> None:
    make().add(DOCUMENTS)
    with pytest.raises(TreeMemoryMismatchError, match=r"keep 'text' \(given: 'leaves'\)"):
        make(keep="leaves")
    memory = make(keep="leaves", rebuild=True)
    assert memory._manifest.settings.kv == "int8"
    assert memory.verify().clean
    story = memory.documents_for(QUESTION, llm)[0]
    assert all(one in story.nodes for one in leaves(story))
    smaller = make(keep="text", rebuild=True)
    assert leaves(story)[0] not in smaller.documents_for(QUESTION, llm)[0].nodes


def test_a_batch_holds_little_kv(
    make: Make, llm: SharedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    node_kv = llm.encoder.node_kv

    def counted(ids: Any, requests: Any) -> Any:
        taken.append(sum(r.end - r.start for r in requests))
        return node_kv(ids, requests)

    monkeypatch.setattr(llm.encoder, "node_kv", counted)
    token = 2 * 3 * 2 * 8 * 4  # bytes: layers, heads, head dim, float32
    monkeypatch.setattr(ingest, "KV_AT_ONCE", 128 * token)
    text = " ".join(str(n * n) for n in range(200))
    memory = make(keep="leaves")
    memory.add(MemoryDocument(id="numbers", text=text))
    assert sum(taken) == len(text)
    assert max(taken) <= 128
    assert memory.verify().clean


def ready(keeps: bool) -> Document:
    """Stands for a document whose leaves are stored, or not."""
    document = shared("llama").remember(FERRY)
    document.nodes.keeps_leaves = keeps
    return document


@pytest.mark.parametrize(
    ("given", "stored", "device", "expected"),
    [
        ("auto", (True,), "cuda", "kv"),
        ("auto", (True, True), "cuda", "kv"),
        ("auto", (True, False), "cuda", "text"),
        ("auto", (False,), "cuda", "text"),
        ("auto", (), "cuda", "text"),
        ("auto", (True,), "cpu", "text"),
        ("text", (True,), "cuda", "text"),
        ("kv", (False,), "cpu", "kv"),
    ],
)
def test_auto_reads_kv_where_all_of_it_is_stored_on_a_gpu(
    given: str, stored: tuple[bool, ...], device: str, expected: str
) -> None:
    search = SearchConfig.from_dict({"leaves": given})
    assert leaves_of(search, [ready(keeps) for keeps in stored], device) == expected


@pytest.mark.parametrize("keep", ["text", "leaves", "all"])
def test_auto_of_a_memory(
    make: Make, llm: SharedLLM, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make(keep=keep)
    memory.add(DOCUMENTS)

    def read() -> Any:
        return llm.answer(QUESTION, memory, leaves="auto", budget=64, max_new_tokens=2)

    assert read().usage.injected_tokens == 0  # on a CPU
    monkeypatch.setattr("sharedllm.search.finding.leaves_of", _on_a_gpu(leaves_of))
    assert (read().usage.injected_tokens > 0) is (keep == "leaves")


def _on_a_gpu(decide: Callable[..., str]) -> Callable[..., str]:
    return lambda search, documents, device: decide(search, documents, "cuda")


def test_node_kv_of_a_deleted_document_is_encoded(stored: TreeMemory, llm: SharedLLM) -> None:
    story = stored.documents_for(QUESTION, llm)[0]
    stored.delete("story")
    (request, *_) = leaves(story)
    assert story.nodes.get(request) is None
    found = llm.encoder.encode(story, [request])[request]
    assert isinstance(found, NodeKV)


@pytest.mark.gpu
def test_stored_leaves_on_a_card(make: Make) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    llm = shared("llama", device="cuda", sizes=WIDE)
    memory = make(llm=llm, keep="leaves")
    memory.add(DOCUMENTS)
    story = memory.documents_for(QUESTION, llm)[0]
    fresh = llm.encoder.encode(replace(story, nodes=NodeCache(1 << 30)), leaves(story))
    for request, kept in story.nodes.get_all(leaves(story)).items():
        assert kept.keys.is_cuda
        largest = fresh[request].values.abs().amax(-1, keepdim=True)
        error = (kept.values - fresh[request].values).abs() / largest
        assert float(error.max()) <= 1 / 250
    options: dict[str, Any] = {"budget": 64, "max_new_tokens": 2}
    assert llm.answer(QUESTION, memory, leaves="auto", **options).usage.injected_tokens > 0
    assert llm.answer(QUESTION, memory, leaves="text", **options).usage.injected_tokens == 0
