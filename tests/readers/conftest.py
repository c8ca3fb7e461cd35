"""A scout that is tiny, and scripted endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from sharedllm import Document, SharedLLM
from sharedllm.readers.address import Endpoint
from sharedllm.readers.endpoint import EndpointReader
from tests.models import shared
from tests.readers.endpoint_server import Reply, Script, serving
from tests.texts import STORY

Elsewhere = Callable[..., tuple[SharedLLM, Script]]


@pytest.fixture(scope="session")
def scout() -> SharedLLM:
    """A tiny Llama, in the place of the embedded model."""
    return shared("llama", sizes={"max_position_embeddings": 8192})


@pytest.fixture(scope="session")
def lighthouse(scout: SharedLLM) -> Document:
    return scout.remember(STORY, title="The lighthouse", source="lighthouse.txt")


@pytest.fixture
def elsewhere(scout: SharedLLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    """Makes a model whose reader is an endpoint that gives `replies`."""
    for name in ("OPENAI_API_KEY", "SHAREDLLM_READER_KEY"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:

        def make(*replies: Reply, models: list[str] | None = None, **options: Any) -> Any:
            script = Script(list(replies), **({} if models is None else {"models": models}))
            stack.enter_context(serving(script))
            endpoint = Endpoint(url=script.url, **{"model": "tiny", "window": 8192, **options})
            reader = EndpointReader(endpoint, scout.tokenizer)
            return SharedLLM(scout.encoder, reader=reader), script

        yield make
