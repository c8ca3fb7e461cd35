"""A server on Ray whose answers take their time, for tests that end its processes meanwhile."""

from __future__ import annotations

from typing import Any

import torch
from fastapi import FastAPI

from sharedllm_integrations.serving import ServerConfig, create_app, load_model
from sharedllm_integrations.serving.ray_serve import Answering
from tests.integrations.serving.child import Slow


class SlowAnswering(Answering):
    """Answers as the model does, in a second and a half at least."""

    def _made(self, config: ServerConfig) -> FastAPI:
        torch.set_num_threads(1)
        slow: Any = Slow(load_model(config))
        return create_app(config, slow)
