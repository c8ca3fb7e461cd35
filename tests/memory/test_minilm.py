"""MiniLM as the prefilter's embedder; only where the extra "embed" is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from sharedllm import MemoryDocument
from sharedllm.errors import MissingExtraError
from sharedllm.hf import minilm
from tests.conftest import DOCUMENTS, Make

INSTALLED = importlib.util.find_spec(minilm.PACKAGE) is not None


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"pip install 'sharedllm\[embed\]'"):
        minilm.MiniLM()


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason='needs the extra "embed"')
def test_minilm_embeds_and_finds(make: Make) -> None:
    embedder = minilm.MiniLM()
    texts = ["A ship struck the reef.", "Blue flowers in a garden. " * 200, "The boat was wrecked."]
    rows = embedder(texts)
    assert rows.shape == (3, 384)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.allclose(rows[0], embedder(texts[:1])[0], atol=1e-5)  # padding changes nothing
    assert rows[0] @ rows[2] > rows[0] @ rows[1] + 0.2
    memory = make(embedder="minilm", prefilter="dense", candidates=2)
    memory.add(DOCUMENTS)
    memory.add(
        MemoryDocument(id=str(i), text=f"Invoice {i}: {i * 7} tons of coal") for i in range(20)
    )
    memory.close()
    again = make(prefilter="dense", candidates=2)  # the memory knows its embedder
    assert again.search("flowers that nobody else could grow", k=1)[0].id == "garden"
