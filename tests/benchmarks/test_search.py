"""The search bench: halves, coverage, its table; and the training of the default scorer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.default_scorer.collections import planted
from benchmarks.default_scorer.train import Batch, Example, mean_of
from benchmarks.quality.halves import half_of
from benchmarks.quality.search import kinds, table
from benchmarks.quality.search.__main__ import covers, touches
from sharedllm import SearchConfig
from sharedllm.search.fused import OF_LEAF, OF_QUERY, Network
from sharedllm.search.selection import with_neighbours


class Half(kinds.Sources):
    """One half without files: filler, and no real questions."""

    def __init__(self, half: int) -> None:
        super().__init__(Path(), half)

    def texts(self, name: str) -> list[str]:
        return ["It rained on the hill. The road was long, and nobody came by. " * 900]

    def rows(self, name: str) -> list[dict]:
        return []


def test_a_key_belongs_to_one_half() -> None:
    assert [half_of(seed) for seed in range(4)] == [0, 1, 0, 1]
    assert {half_of(f"context {n}") for n in range(40)} == {0, 1}
    assert half_of("a context") == half_of("a context")


@pytest.mark.parametrize("name", ["records", "hops", "short"])
def test_collections_are_the_same_every_time_and_of_one_half(name: str) -> None:
    first, again, other = (list(kinds.KINDS[name](Half(half), 6)) for half in (0, 0, 1))
    assert [c.key for c in first] == [c.key for c in again]
    assert {c.key for c in first}.isdisjoint(c.key for c in other)
    for collection in first:
        texts = {document.id: document.text for document in collection.documents}
        assert collection.sought
        for sought in collection.sought:
            for document, start, end in (p for places in sought.evidence for p in places):
                assert texts[document][start:end].strip()


def test_records_are_asked_for_by_what_their_evidence_holds() -> None:
    for collection in kinds.records(Half(1), 30):
        texts = {document.id: document.text for document in collection.documents}
        for sought in collection.sought:
            (((document, start, end),),) = sought.evidence
            record = texts[document][start:end]
            asked = str(sought.question).split()
            assert any(
                word.strip("?:") in record
                for word in asked
                if word[0].isupper() or any(map(str.isdigit, word))
            )


def test_evidence_is_covered_by_joined_spans() -> None:
    spans = {"a": [(0, 5), (5, 9)], "b": [(4, 6)]}
    assert covers([("a", 2, 9)], spans)
    assert not covers([("a", 2, 10)], spans)
    assert covers([("b", 0, 5), ("b", 4, 6)], spans)
    assert touches([("b", 0, 5)], spans)
    assert not touches([("b", 6, 9), ("c", 0, 1)], spans)


def test_the_table_compares_with_the_better_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = {"maxsim": (1, 0, 0, 0), "bm25": (1, 1, 0, 0), "fused": (1, 1, 1, 0)}
    right["rounds"] = (1, 1, 1, 1)
    rows = [
        {
            "key": str(n), "kind": "records", "system": system, "first": bool(own[n]),
            "found": {str(budget): own[n] for budget in table.BUDGETS},
        }
        for system, own in right.items()
        for n in range(4)
    ]  # fmt: skip
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table.show(path, out)
    shown = capsys.readouterr().out
    assert "| records | 4 | 25.0 / 25.0 / 25.0; 25.0 | 50.0 / 50.0 / 50.0; 50.0 | 75.0" in shown
    assert "+50.0 ± 56.6" in shown  # over the better part
    assert "+25.0 ± 49.0" in shown  # over one look
    assert json.loads(out.read_text())["records"]["bm25"]["first"] == "100 100 0 0"


def test_planted_statements_answer_their_question() -> None:
    rng = random.Random(3)
    for kind in ("fact", "spelling", "hops"):
        for _ in range(20):
            asked, statements, others = planted(rng, kind, set())
            assert asked.strip()
            assert len(statements) == (2 if kind == "hops" else 1)
            assert not set(statements) & set(others)


def example(seed: int, sizes: tuple[int, ...]) -> Example:
    generator = torch.Generator().manual_seed(seed)
    leaves = sum(sizes)
    return Example(
        kind="fact",
        leaves=torch.randn(leaves, len(OF_LEAF), generator=generator),
        query=torch.randn(len(OF_QUERY), generator=generator),
        right=torch.arange(leaves) == seed,
        needed=True,
        ends=tuple(np.cumsum(sizes).tolist()),
        checked=False,
    )


def test_training_ranks_as_selection_does() -> None:
    examples = [example(1, (3, 1, 5)), example(2, (4, 2))]
    batch = Batch.of(examples, {"fact": 2})
    scores = torch.randn(15, generator=torch.Generator().manual_seed(5))
    near, at = batch.near(scores).numpy(), 0
    for one, start in zip(examples, (0, 9), strict=True):
        own = scores[start : start + len(one.leaves)].numpy()
        for part in np.split(own, one.ends[:-1]):
            expected = with_neighbours(part, SearchConfig().neighbours, float(own.mean()))
            np.testing.assert_allclose(near[at : at + len(part)], expected, atol=1e-5)
            at += len(part)
    sums = batch.logsumexp(scores)
    np.testing.assert_allclose(sums[1], scores[9:].logsumexp(0), rtol=1e-5)


def test_the_mean_of_networks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    leaf, query = len(OF_LEAF), len(OF_QUERY)
    networks = [Network(draw(leaf), draw(leaf + query, 3), draw(3), draw(3)) for _ in range(2)]
    leaves, asked = draw(5, leaf), draw(query)
    path = tmp_path / "network.json"
    mean_of(networks).write(path)
    expected = np.mean([one(leaves, asked) for one in networks], axis=0)
    np.testing.assert_allclose(Network.read(path)(leaves, asked), expected, atol=2e-2)
