"""MiniLM, a baseline of evaluation; it runs only where the extra "embed" is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from sharedllm.errors import MissingExtraError
from sharedllm.hf import minilm

INSTALLED = importlib.util.find_spec(minilm.PACKAGE) is not None


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"pip install 'sharedllm\[embed\]'"):
        minilm.MiniLM()


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason='needs the extra "embed"')
def test_minilm_embeds() -> None:
    embedder = minilm.MiniLM()
    texts = ["A ship struck the reef.", "Blue flowers in a garden. " * 200, "The boat was wrecked."]
    rows = embedder(texts)
    assert rows.shape == (3, 384)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.allclose(rows[0], embedder(texts[:1])[0], atol=1e-5)  # padding changes nothing
    assert rows[0] @ rows[2] > rows[0] @ rows[1] + 0.2
