"""Fixtures: tiny models only, offline."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

from sharedllm import Document, SharedLLM
from tests.models import make_model, make_tokenizer, shared
from tests.texts import STORY

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other
settings.register_profile("quick", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama and its tokenizer, as a user would have one."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llm() -> SharedLLM:
    """A tiny Llama with trees of chunk 64, height 2."""
    return shared("llama")


@pytest.fixture(scope="session")
def story(tiny_llm: SharedLLM) -> Document:
    """A document of several chunks, the last one cut short."""
    return tiny_llm.remember(STORY, title="The lighthouse", source="lighthouse.txt")
