from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from sharedllm import Document, SharedLLM
from sharedllm.encoding.document import NodeCache, document_id
from sharedllm.encoding.kv import NodeKV, gather
from sharedllm.encoding.lower_model import NodeRequest
from tests.texts import STORY


def kv(entries: int) -> NodeKV:
    """One layer, one head, 4 bytes a dim: 64 bytes an entry."""
    return NodeKV(keys=torch.zeros(1, 1, entries, 8), values=torch.zeros(1, 1, entries, 8))


def request(start: int) -> NodeRequest:
    return NodeRequest(start=start, end=start + 1, ratio=1.0)


def test_the_cache_drops_what_was_used_longest_ago() -> None:
    cache = NodeCache(64 * 4)
    for start in range(4):
        cache.put(request(start), kv(1))
    assert (len(cache), cache.nbytes) == (4, 256)
    assert cache.get(request(0)) is not None  # used again
    cache.put(request(4), kv(2))
    assert [start for start in range(5) if request(start) in cache] == [0, 3, 4]
    assert cache.nbytes == 256
    assert cache.get(request(1)) is None


def test_the_cache_counts_a_replaced_node_once_and_keeps_the_last_one() -> None:
    cache = NodeCache(64 * 4)
    cache.put(request(0), kv(3))
    cache.put(request(0), kv(2))
    assert (len(cache), cache.nbytes) == (1, 128)
    cache.put(request(1), kv(9))  # larger than the limit: kept all the same, alone
    assert (len(cache), cache.nbytes) == (1, 576)
    assert request(1) in cache


def test_ids_tell_texts_and_settings_apart() -> None:
    ids = [document_id("a"), document_id("b"), document_id("a", 1), document_id("a", 1, "b")]
    assert len(set(ids)) == 4
    assert document_id("a", 1) == ids[2]
    assert all(len(i) == 32 for i in ids)


def test_what_a_document_knows(story: Document) -> None:
    assert len(story) == len(STORY.encode())
    assert story.text_of(0, len(story)) == STORY
    assert story.text_of(5, 5) == ""
    forest = story.forest
    for leaf, node in enumerate(forest.leaves):
        tokens = np.flatnonzero(story.leaf_of_token == leaf)
        assert tokens.tolist() == list(range(forest.start[node], forest.end[node]))
    assert story.vectors.shape == (len(story), 32)
    assert repr(story) == (
        f"Document(id={story.id!r}, title='The lighthouse', source='lighthouse.txt')"
    )


def test_what_is_derived_is_made_once(story: Document) -> None:
    made = [story.derived("test", lambda n=n: [n]) for n in range(2)]
    assert made == [[0], [0]]
    assert made[0] is made[1]


def test_search_vectors_are_centred_on_the_vocabulary(tiny_llm: SharedLLM) -> None:
    lower, ids = tiny_llm.encoder.lower, np.arange(60, 80, dtype=np.int32)
    ((_, states),) = lower.states(ids, [(2, 12)])
    found = lower.vectors(ids, [(2, 12)])
    assert found.shape == (20, 32)
    assert found[:2].abs().max() == found[12:].abs().max() == 0  # outside of the span
    torch.testing.assert_close(found[2:12].float().norm(dim=1), torch.ones(10), atol=2e-3, rtol=0)
    centre = lower._centre(nullcontext)
    raw = found[2:12].float() * (states - centre).norm(dim=1, keepdim=True)
    torch.testing.assert_close(raw + centre, states, atol=2e-2, rtol=0)
    alone = tiny_llm.remember("One line.").vectors
    beside = tiny_llm.remember("One line.").vectors  # no other document shifts it
    assert torch.equal(alone, beside)
    with pytest.raises(ValueError, match="at least one span"):
        lower.vectors(ids, [])


def test_gathering_memory() -> None:
    memory = gather([kv(2), kv(1), kv(3)], [0, 0, 4], 6)
    assert len(memory) == 6
    assert memory.positions("chunk").tolist() == [0, 0, 0, 4, 4, 4]
    assert memory.positions("ordinal").tolist() == [0, 1, 2, 3, 4, 5]
    assert (memory.extent("chunk"), memory.extent("ordinal")) == (6, 6)
    assert gather([kv(2)], [1], 3).extent("chunk") == 3
    with pytest.raises(ValueError, match="at least one"):
        gather([], [], 0)
