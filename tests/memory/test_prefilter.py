"""The prefilter of large memories: embeddings and words, filters, and an index that keeps up."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from sharedllm import MemoryDocument, SharedLLM, TreeMemory
from sharedllm.errors import ConfigError, TreeMemoryMismatchError
from sharedllm.memory import prefilter
from sharedllm.memory.prefilter import DenseIndex, Embedder, by_words, fused
from tests.conftest import Make
from tests.texts import GARDEN

WORDS = "lamp reef tide rope mast keel fog bell dawn gull salt oar net star wind".split()
QUICK: dict[str, Any] = {"max_new_tokens": 2, "budget": 200}


def filler(number: int) -> MemoryDocument:
    draw = random.Random(number)
    text = " ".join(draw.choice(WORDS) for _ in range(60))
    return MemoryDocument(id=f"filler {number}", text=text, metadata={"even": number % 2 == 0})


def letters(texts: list[str]) -> np.ndarray[Any, Any]:
    """An embedder: how often each letter stands in a text."""
    rows = [[text.lower().count(chr(97 + i)) + 0.01 for i in range(26)] for text in texts]
    return np.asarray(rows, np.float32)


@pytest.fixture
def large(make: Make) -> TreeMemory:
    memory = make(candidates=8, embedder=letters)
    memory.add([filler(i) for i in range(20)])
    memory.add(MemoryDocument(id="garden", text=GARDEN, title="Garden", metadata={"even": True}))
    return memory


@pytest.mark.parametrize("prefilter", ["hybrid", "dense", "words"])
def test_what_matters_gets_through(
    large: TreeMemory, make: Make, llm: SharedLLM, prefilter: str
) -> None:
    memory = make(candidates=8, embedder=letters, prefilter=prefilter)
    parts = memory.documents_for("Who grew blue poppies behind the chapel?", llm)
    assert sum(len(part.forest.roots) for part in parts) <= 8
    assert "garden" in {part.id for part in parts}
    for part in parts:
        whole = memory.get(part.id).text
        assert whole[part.offset : part.offset + len(part.text)] == part.text
        assert part.text_of(0, len(part)).strip() == part.text.strip()
    answer = llm.answer("Who grew blue poppies behind the chapel?", memory, **QUICK)
    for cited in answer.citations:
        assert memory.get(cited.document).text[cited.char_start : cited.char_end] == cited.text


def test_the_best_part_stands_last(large: TreeMemory, llm: SharedLLM) -> None:
    parts = large.documents_for("blue poppies behind the chapel", llm)
    assert parts[-1].id == "garden"


def test_filters_hold_in_both_rankings(large: TreeMemory, llm: SharedLLM) -> None:
    parts = large.documents_for("lamp reef tide", llm, {"even": False})
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
        found = by_words(connection, query, 5)
    assert len(found) <= 5
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
            assert by_words(connection, query, 3) == [chunk]
        assert by_words(connection, "zebra", 3) == []


def test_a_question_without_known_words_is_answered(
    large: TreeMemory, make: Make, llm: SharedLLM
) -> None:
    """Embeddings fill up what words do not find."""
    with make(candidates=8, embedder=letters, prefilter="words") as memory:
        for query in ("zzz qqq", "poppies zzz"):
            parts = memory.documents_for(query, llm)
            assert sum(len(part.forest.roots) for part in parts) == 8
        assert parts[-1].id == "garden"


def test_common_words_are_not_looked_up(large: TreeMemory) -> None:
    with large._database.read() as connection:
        assert prefilter._rare(connection, "lamp reef poppies") == ["poppies"]
        assert len(prefilter._rare(connection, "lamp reef")) >= 1


def test_ranks_are_joined() -> None:
    scores = fused([([1, 2, 3], 1), ([3, 4], 1)])
    assert max(scores, key=scores.__getitem__) == 3
    assert scores[1] > scores[2] > 0
    assert fused([([1], 2), ([2], 1)]) == {1: 2 / 61, 2: 1 / 61}
    assert set(scores) == {1, 2, 3, 4}
    assert fused([]) == {}


def nearest(memory: TreeMemory, index: DenseIndex, text: str, k: int = 3) -> list[float]:
    """The similarities of what the index finds: chunks may be equally near."""
    with memory._database.read() as connection:
        found = index.search(connection, Embedder(letters).query(text), k)
    score = similarities(memory, text)
    return [score[chunk] for chunk in found]


def exact(memory: TreeMemory, text: str, k: int = 3) -> list[float]:
    return sorted(similarities(memory, text).values(), reverse=True)[:k]


def similarities(memory: TreeMemory, text: str) -> dict[int, float]:
    with memory._database.read() as connection:
        rows = connection.execute("SELECT chunk, embedding FROM chunks").fetchall()
    query = Embedder(letters).query(text)
    return {chunk: float(np.frombuffer(e, "<f2").astype(np.float32) @ query) for chunk, e in rows}


@pytest.mark.parametrize("flat", [True, False])
def test_the_index_keeps_up_with_changes(
    large: TreeMemory, monkeypatch: pytest.MonkeyPatch, flat: bool
) -> None:
    if not flat:  # clustered, every cluster searched
        monkeypatch.setattr(prefilter, "FLAT_UP_TO", 40)
    index = DenseIndex(large.path, b"x")
    for change in (
        lambda: large.add([filler(i) for i in range(100, 110)]),
        lambda: large.delete(["garden", "filler 3"]),
        lambda: large.update(MemoryDocument(id="filler 5", text="gull " * 50)),
        large.compact,
        lambda: large.delete([f"filler {i}" for i in range(100, 110)]),
        lambda: large.add([filler(i) for i in range(200, 270)]),
    ):
        change()
        for text in ("lamp lamp lamp", "gull", "poppies"):
            assert nearest(large, index, text) == pytest.approx(exact(large, text), abs=1e-3)
    assert hasattr(index._index, "nlist") is not flat


def test_the_saved_index_is_used_and_a_broken_one_made_anew(
    large: TreeMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefilter, "SAVED_FROM", 10)
    first = DenseIndex(large.path, b"x")
    expected = nearest(large, first, "poppies")
    file = large.path / "index" / "chunks.faiss"
    assert file.is_file()
    made: list[str] = []
    make_anew = DenseIndex._make
    monkeypatch.setattr(
        DenseIndex, "_make", lambda self, c: (made.append("made"), make_anew(self, c))[1]
    )
    assert nearest(large, DenseIndex(large.path, b"x"), "poppies") == expected
    assert made == []
    assert nearest(large, DenseIndex(large.path, b"another model"), "poppies") == expected
    assert made == ["made"]
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(bytes(data))
    assert nearest(large, DenseIndex(large.path, b"another model"), "poppies") == expected
    assert made == ["made", "made"]
    assert "made anew" in caplog.text


class LangChainLike:
    model = "letters-1"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [list(map(float, row)) for row in letters(texts)]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class LlamaIndexLike:
    model_name = "letters-2"

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        return LangChainLike().embed_documents(texts)

    def get_query_embedding(self, text: str) -> list[float]:
        return LangChainLike().embed_query(text)


@pytest.mark.parametrize("given", [letters, LangChainLike(), LlamaIndexLike()])
def test_embedders_of_every_kind(make: Make, llm: SharedLLM, given: Any) -> None:
    memory = make(candidates=4, embedder=given)
    memory.add([filler(i) for i in range(8)])
    memory.add(MemoryDocument(id="garden", text=GARDEN))
    assert memory.search("blue poppies behind the chapel", k=1)[0].id == "garden"
    memory.close()
    assert memory._manifest.settings.embedder == Embedder(given).name
    with pytest.raises(TreeMemoryMismatchError, match="was made with the embedder"):
        make(candidates=4).search("poppies")
    with pytest.raises(TreeMemoryMismatchError, match="embedder"):
        make(embedder="states")


def test_the_model_itself_embeds_by_default(make: Make) -> None:
    memory = make(candidates=4)
    memory.add([filler(i) for i in range(8)])
    memory.add(MemoryDocument(id="garden", text=GARDEN))
    assert memory.search("Aunt Odile grew blue poppies behind the chapel", k=1)[0].id == "garden"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("best", "embedder is 'best'; allowed are"),
        (3, "embedder is 3; allowed"),
        (lambda texts: np.zeros((1, 2)), "must return 4 rows"),
        (lambda texts: np.full((len(texts), 2), np.nan), "finite"),
    ],
)
def test_embedders_that_are_none(make: Make, given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make("new", embedder=given).add(MemoryDocument(text="a" * 40))
