"""A tiny model with a window in which long prompts fit, one token a byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharedllm import SharedLLM, TreeConfig
from tests.models import make_model, make_tokenizer, shared
from tests.texts import FERRY, GARDEN, STORY

WINDOW = 2048
TREE = TreeConfig(chunk=256, height=2, ratios=(4, 1), root_ratio=8)


@pytest.fixture(scope="session")
def llm() -> SharedLLM:
    return shared("llama", tree=TREE, sizes={"max_position_embeddings": WINDOW})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model as a user would have it."""
    path = tmp_path_factory.mktemp("model")
    make_model("llama", max_position_embeddings=WINDOW).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def filler_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filler") / "filler.txt"
    path.write_text("\n\n".join(f"Part {i}. {STORY} {FERRY} {GARDEN}" for i in range(40)))
    return path
