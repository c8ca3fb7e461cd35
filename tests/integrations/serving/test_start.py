"""The start of a server: its model, and the memory that is there already."""

from __future__ import annotations

from pathlib import Path

import uvicorn

from sharedllm import open_memory
from sharedllm_integrations.serving import ServerConfig, create_app
from tests.integrations.serving.conftest import client_of, read, running
from tests.texts import FERRY, GARDEN


def test_a_memory_is_served_again_with_the_model_that_is_named(
    model_folder: Path, tmp_path: Path
) -> None:
    named = {"model": str(model_folder), "adapter": None, "dtype": "float32", "device": "cpu"}
    config = ServerConfig.of(memory=tmp_path / "memory", **named)
    for text in (GARDEN, FERRY):  # the second time the memory is there, and was opened for its name
        own = uvicorn.Config(create_app(config), port=0, log_level="error", lifespan="on")
        with running(uvicorn.Server(own)) as address, client_of(address) as client:
            assert read(client, "vs_main", text, "a.txt")
        open_memory(config.memory).close()  # a new process has none open
