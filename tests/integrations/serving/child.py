"""A server in a process of its own, over the tiny model, for tests that end it with a signal.

``python -m tests.integrations.serving.child MEMORY [slow]`` prints its port.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from sharedllm import SharedLLM
from sharedllm_integrations.serving import ServerConfig, bound_socket, run
from tests.models import shared

WIDE = {"max_position_embeddings": 8192}  # as the tests' own model
PIECES, PIECE_S = 150, 0.01


class Slow:
    """A model whose answers take their time."""

    def __init__(self, core: SharedLLM) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def stream(self, asked: Any, context: Any = (), **options: Any) -> Any:
        return _Slowly(self._core.answer(asked, context, max_new_tokens=1))


class _Slowly:
    def __init__(self, answer: Any) -> None:
        self.answer, self.citations = answer, answer.citations

    def __iter__(self) -> Iterator[str]:
        for _ in range(PIECES):
            time.sleep(PIECE_S)
            yield "x"


def main(memory: str, *more: str) -> None:
    torch.set_num_threads(1)
    llm: Any = shared("llama", sizes=WIDE)
    config = ServerConfig.of(memory=memory, port=0)
    with bound_socket(config) as bound:
        sys.stdout.write(f"{bound.getsockname()[1]}\n")
        sys.stdout.flush()
        run(config, Slow(llm) if more else llm, bound)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
